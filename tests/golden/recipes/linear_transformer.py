"""pytorch-fast-transformers' linear attentions; long-range-arena's."""

import numpy as np
from frame import (
    DOUBLE,
    SINGLE,
    generator,
    heads_qkv,
    lra_module,
    np_kernel_attention,
    qkv_case,
    swap_heads,
    table,
    tensor,
)


def np_elu_features(x):
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def cases(peer_dir):
    import torch
    from fast_transformers.attention.causal_linear_attention import CausalLinearAttention
    from fast_transformers.attention.linear_attention import LinearAttention
    from fast_transformers.masking import FullMask, LengthMask, TriangularCausalMask
    from fast_transformers.recurrent.attention.self_attention.linear_attention import RecurrentLinearAttention

    cases = {}

    def restate(q, k, v, visible=True, floor=0.0):
        q, k, v = (x.astype(np.float64) for x in (q, k, v))
        return np_kernel_attention(np_elu_features(q), np_elu_features(k), v, visible, floor=floor)

    def add(name, n=14, m=14, *, causal=False, lengths=None, released=False):
        qkv = heads_qkv(generator("linear_transformer/" + name), n, m)
        if causal:
            qkv = tuple(x.astype(np.float32) for x in qkv)
        layer = (CausalLinearAttention if causal else LinearAttention)(4, eps=1e-6 if released else 0.0)
        mask = TriangularCausalMask(n) if causal else FullMask(n, m)
        valid = LengthMask(torch.tensor(lengths or (m, m)), max_len=m)
        inputs = [tensor(swap_heads(x)) for x in qkv]
        out = swap_heads(layer(*inputs, mask, LengthMask(torch.tensor((n, n))), valid))
        call = {"causal": causal}
        visible = table(n, m, lambda p, j: j <= p or not causal)
        if lengths:
            key_mask = np.arange(m) < np.array(lengths)[:, None]
            call["key_mask"], visible = key_mask[:, None, :], visible & key_mask[:, None, None, :]
        restated = restate(*qkv, visible, 1e-6 if released else 0.0)
        paper = restate(*qkv, visible) if released else None
        cases[name] = qkv_case(
            "pytorch-fast-transformers", qkv, out, restated, call, paper=paper,
            tolerance=SINGLE if causal else DOUBLE,
        )

    add("full", 11, 15)
    add("key_mask", 11, 15, lengths=(15, 9))
    add("causal", causal=True)
    add("causal_key_mask", causal=True, lengths=(14, 8))
    add("released", 11, 15, released=True)
    add("released_causal", causal=True, released=True)

    q, k, v = heads_qkv(generator("linear_transformer/steps"), 14, 14)
    layer, state, rows = RecurrentLinearAttention(4, eps=0.0), None, []
    for t in range(14):
        row, state = layer(*(tensor(x[..., t, :]) for x in (q, k, v)), state=state)
        rows.append(row.numpy())
    call = {"function": "linear_transformer_step"}
    restated = restate(q, k, v, table(14, 14, lambda p, j: j <= p))
    cases["steps"] = qkv_case("pytorch-fast-transformers", (q, k, v), np.stack(rows, -2), restated, call)

    lra = lra_module(peer_dir, "linear_transformer/linear_attention.py")
    qkv = heads_qkv(generator("linear_transformer/lra"), 11, 15)
    out = swap_heads(lra.linear_attention(*map(swap_heads, qkv), eps=0.0))
    cases["lra"] = qkv_case("long-range-arena", qkv, out, restate(*qkv))
    return cases
