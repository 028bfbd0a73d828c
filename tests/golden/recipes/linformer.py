"""linformer's LinformerSelfAttention."""

import numpy as np
from frame import generator, np_attention, qkv_case, randomise, tensor


def cases(_):
    from linformer import LinformerSelfAttention

    cases = {}

    def add(name, n, m, longest, *, one_kv_head=False, share_kv=False, padded=0):
        rng = generator("linformer/" + name)
        module = LinformerSelfAttention(
            8, longest, k=6, heads=2, one_kv_head=one_kv_head, share_kv=share_kv
        )
        module = randomise(module, rng)
        module.to_out.weight.copy_(tensor(np.eye(8)))  # so that the output is the concatenated heads
        module.to_out.bias.zero_()
        x, context = tensor(rng.standard_normal((2, n, 8))), tensor(rng.standard_normal((2, m, 8)))
        per_head = lambda y: y.unflatten(-1, (-1, 4)).transpose(1, 2).contiguous().numpy()
        out = per_head(module(x, context))
        q, k = per_head(module.to_q(x)), per_head(module.to_k(context))
        # share_kv shares the projected keys with the values, not only the projection along the sequence
        v = k if share_kv else per_head(module.to_v(context))
        key_projection = module.proj_k.numpy().T
        value_projection = key_projection if share_kv else module.proj_v.numpy().T
        short_k, short_v = (p[:, :m] @ x for p, x in ((key_projection, k), (value_projection, v)))
        restated, _ = np_attention(q, short_k, short_v)
        call = {"key_projection": key_projection, "value_projection": value_projection}
        if padded:  # a masked suffix must equal the shorter sequence that the peer was given
            k, v = (np.concatenate([y, rng.standard_normal((2, 2, padded, 4))], axis=-2) for y in (k, v))
            call["key_mask"] = np.arange(m + padded) < m
        cases[name] = qkv_case("linformer", (q, k, v), out, restated, call)

    add("full_length", 16, 16, 16)
    add("shorter", 13, 13, 20)
    add("more_keys", 9, 17, 17)
    add("one_kv_head", 14, 14, 14, one_kv_head=True)
    add("shared", 14, 14, 16, share_kv=True)
    add("masked_suffix", 12, 12, 18, padded=5)
    return cases
