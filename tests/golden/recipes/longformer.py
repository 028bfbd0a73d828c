"""transformers' LongformerSelfAttention; torch with explicit masks."""

import contextlib
from unittest import mock

import numpy as np
from frame import (
    DOUBLE,
    SINGLE_SOFTMAX,
    generator,
    heads_qkv,
    np_attention,
    qkv_case,
    randomise,
    tensor,
    torch_attention,
)


def np_longformer(q, k, v, globals_, global_qkv, side, *, dilation=(1, 1), causal=False, valid=None):
    """Row by row from the lists of keys: a local query sees its band and the global keys, each once."""
    batch, heads, n, _ = q.shape
    valid = np.ones((batch, n), bool) if valid is None else valid
    out = np.zeros((batch, heads, n, v.shape[-1]))
    for b, h, i in np.ndindex(batch, heads, n):
        every = set(range(n))
        chosen = {j for j in every if globals_[b, j]}
        band = {i + hop * dilation[h] for hop in range(-side, side + 1)} & every
        seen = every if i in chosen else band | chosen
        seen = sorted(j for j in seen if valid[b, j] and (j <= i or not causal))
        source = global_qkv if i in chosen else (q, k, v)
        if seen:
            row, keys, values = source[0][b, h, i], source[1][b, h, seen], source[2][b, h, seen]
            out[b, h, i] = np_attention(row[None], keys, values)[0][0]
    return out


def cases(_):
    import torch
    from transformers import LongformerConfig
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    cases = {}

    def arguments(window, is_global, global_qkv, **call):
        call = {"window": window} | call
        if is_global.any():
            call["global_tokens"] = is_global[:, None, :]
            call |= {"global_" + c: x for c, x in zip("qkv", global_qkv, strict=True)}
        return call

    def softmax(x, dim, dtype):
        """The peer asks for float32 whatever it is given; kept in float64, its numbers are sharp."""
        return torch.softmax(x, dim)

    def add_hf(name, n, window, is_global, valid, *, released=False):
        rng = generator("longformer/" + name)
        config = LongformerConfig(
            hidden_size=8, num_attention_heads=2, attention_window=[window], attention_probs_dropout_prob=0.0
        )
        layer = randomise(LongformerSelfAttention(config, 0), rng)
        x = tensor(0.5 * rng.standard_normal((2, n, 8)))
        marks = tensor(np.where(valid, np.where(is_global, 1e4, 0.0), -1e4))
        sharp = mock.patch.object(torch.nn.functional, "softmax", softmax)
        with contextlib.nullcontext() if released else sharp:
            (out,) = layer(x, marks, marks < 0, marks > 0, bool(is_global.any()))
        per_head = lambda y: y.unflatten(-1, (2, 4)).transpose(1, 2).contiguous().numpy()
        qkv, global_qkv = (
            [per_head(getattr(layer, c + suffix)(x)) for c in ("query", "key", "value")]
            for suffix in ("", "_global")
        )
        restated = np_longformer(*qkv, is_global, global_qkv, window // 2, valid=valid)
        call = arguments(window, is_global, global_qkv)
        extra = {}
        if not valid.all():
            call["key_mask"] = valid[:, None, :]
            # The peer zeroes the rows of padded queries.
            extra["rows"] = np.repeat(valid[:, None, :], 2, axis=1)
        cases[name] = qkv_case(
            "transformers", qkv, per_head(out), restated, call,
            tolerance=SINGLE_SOFTMAX if released else DOUBLE, **extra,
        )

    def marked(n, *rows):
        is_global = np.zeros((2, n), bool)
        for b, row in enumerate(rows):
            is_global[b, list(row)] = True
        return is_global

    everything, padded = np.ones((2, 16), bool), np.arange(24) < np.array([[24], [19]])
    add_hf("hf_local", 16, 4, marked(16), everything)
    add_hf("hf_global", 16, 4, marked(16, (0, 7), (5,)), everything)
    add_hf("hf_padded", 24, 8, marked(24, (0,), (3, 11)), padded)
    add_hf("hf_released", 16, 8, marked(16, (2, 9), (0,)), everything, released=True)

    def add_torch(name, n, window, is_global, *, causal=False, dilation=1, key_mask=None):
        rng = generator("longformer/" + name)
        qkv, global_qkv = heads_qkv(rng, n, n), heads_qkv(rng, n, n)
        steps = np.broadcast_to(dilation, 2)
        distance = torch.arange(n) - torch.arange(n)[:, None]
        hops = torch.arange(window + 1) - window // 2
        band = torch.stack([torch.isin(distance, hops * int(g)) for g in steps])
        mark = tensor(is_global)
        allowed = torch.ones(n, n, dtype=torch.bool)
        if causal:
            allowed = allowed.tril()
        if key_mask is not None:
            allowed = allowed & tensor(key_mask)[:, None, None, :]
        local, _ = torch_attention(*qkv, (band | mark[:, None, None, :]) & allowed)
        wide, _ = torch_attention(*global_qkv, allowed.expand(2, 1, n, n))
        out = np.where(is_global[:, None, :, None], wide, local)
        restated = np_longformer(
            *qkv, is_global, global_qkv, window // 2, dilation=steps, causal=causal, valid=key_mask
        )
        call = arguments(window, is_global, global_qkv, causal=causal, dilation=dilation)
        if key_mask is not None:
            call["key_mask"] = key_mask[:, None, :]
        cases[name] = qkv_case("torch", qkv, out, restated, call)

    add_torch("causal", 15, 6, marked(15, (2, 9), (0,)), causal=True)
    add_torch("dilated", 15, 4, marked(15, (1,), (8, 14)), dilation=2)
    add_torch("dilated_per_head_causal", 15, 4, marked(15, (4,), (4, 5)), causal=True,
              dilation=np.array([3, 1]))
    # Masked queries keep their rows here. Where the whole band is masked, the first sequence still sees its
    # global key 0 (key 7 is global but masked); the second has none, and gives zeros.
    gap = (np.arange(15) < 5) | (np.arange(15) > 11)
    add_torch("key_mask", 15, 4, marked(15, (0, 7), ()), key_mask=np.stack([gap, gap]))
    return cases
