"""torch's scaled_dot_product_attention and logsumexp."""

import numpy as np
from frame import DOUBLE, generator, heads_qkv, np_attention, qkv_case, table, tensor, torch_attention


def cases(_):
    import torch

    cases = {}

    def add(name, qkv, peer_mask, visible, call, *, bias=None, scale=None):
        out, lse = torch_attention(*qkv, peer_mask, bias=bias, scale=scale)
        restated, lse_restated = np_attention(
            *qkv, visible, bias=0.0 if bias is None else bias, scale=scale
        )
        np.testing.assert_allclose(lse, lse_restated, rtol=0, atol=DOUBLE[0])
        cases[name] = qkv_case("torch", qkv, out, restated, call, lse=lse)

    def corner(n, m):
        return torch.ones(n, m, dtype=torch.bool).tril(m - n)

    past = lambda p, j: j <= p
    qkv = heads_qkv(generator("attention/full"), 12, 15)
    add("full", qkv, None, True, {})

    rng = generator("attention/one_kv_head")
    q, k, v = heads_qkv(rng, 12, 15)
    add("one_kv_head", (q, k[:, :1], v[:, :1]), None, True, {})

    q, k, v = qkv = heads_qkv(generator("attention/causal"), 14, 14)
    add("causal", qkv, corner(14, 14), table(14, 14, past), {"causal": True})
    built_in = torch.nn.functional.scaled_dot_product_attention(*map(tensor, qkv), is_causal=True)
    np.testing.assert_allclose(built_in, cases["causal"][0]["out"], rtol=0, atol=DOUBLE[0])

    for name, n, m in (("causal_more_keys", 9, 14), ("causal_more_queries", 13, 9)):
        add(name, heads_qkv(generator("attention/" + name), n, m), corner(n, m), table(n, m, past),
            {"causal": True})

    rng = generator("attention/key_mask")
    qkv, key_mask = heads_qkv(rng, 12, 15), rng.random((2, 1, 15)) < 0.6
    add("key_mask", qkv, key_mask[:, :, None, :], key_mask[:, :, None, :], {"key_mask": key_mask})

    rng = generator("attention/bias")
    qkv, bias = heads_qkv(rng, 12, 15), rng.standard_normal((2, 12, 15))
    add("bias", qkv, None, True, {"bias": bias}, bias=bias)

    rng = generator("attention/mask")
    qkv, mask = heads_qkv(rng, 12, 15), rng.random((2, 1, 12, 15)) < 0.4
    mask[0, 0, 3], mask[1, 0, 7] = False, True
    add("mask", qkv, mask, mask, {"mask": mask})

    rng = generator("attention/together")
    qkv, bias = heads_qkv(rng, 10, 14), rng.standard_normal((2, 10, 14))
    key_mask = rng.random(14) < 0.7
    key_mask[0] = True
    add("together", qkv, corner(10, 14) & tensor(key_mask), table(10, 14, past) & key_mask,
        {"causal": True, "key_mask": key_mask, "bias": bias, "scale": 0.3}, bias=bias, scale=0.3)
    return cases
