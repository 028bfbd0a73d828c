"""sparse_attention's dense attention and layouts; long-range-arena's masks; torch with explicit masks."""

import numpy as np
from frame import generator, heads_qkv, lra_module, qkv_case, swap_heads, tensor, torch_attention
from recipes.sparse_fixed import np_rows, openai


def strided_keys(m, stride, part="merged", causal=True):
    """The lists of the strided pattern, counted off from the query."""
    def keys(_, head, position):
        steps = range(m + stride)
        local = [position - t for t in range(stride)] + [position + t for t in range(stride)]
        far = [position - t * stride for t in steps] + [position + t * stride for t in steps]
        seen = {"local": local, "summary": far, "merged": local + far}[part]
        return [j for j in seen if j <= position or not causal]

    return keys


def cases(peer_dir):
    import torch

    cases = {}

    def add(peer, name, qkv, out, **call):
        restated = np_rows(*qkv, strided_keys(qkv[1].shape[-2], **call))
        cases[name] = qkv_case(peer, qkv, out, restated, call)

    def drawn(name, n, m=None):
        return heads_qkv(generator("sparse_strided/" + name), n, n if m is None else m)

    released = openai(peer_dir)

    def whole(x):
        """(B,H,n,w) -> (B,n,H*w), as the peer takes it."""
        return swap_heads(x).reshape(len(x), x.shape[-2], -1)

    for mode, part in (("local", "local"), ("strided", "summary")):
        qkv = drawn("released_" + mode, 15)
        out = released.attention_impl(*map(whole, qkv), heads=2, attn_mode=mode, local_attn_ctx=4)
        out = swap_heads(out.reshape(2, 15, 2, 5))
        add("sparse_attention", "released_" + mode, qkv, out, stride=4, part=part)

    # the kernels run strided attention on a transposed sequence
    qkv = drawn("released_transposed", 24)
    mask = released.get_blocksparse_obj(24, 2, "strided", blocksize=2, local_attn_ctx=6)
    turned = [swap_heads(released.strided_transpose(whole(x), 24, 6, 2).reshape(2, 24, 2, -1)) for x in qkv]
    out, _ = torch_attention(*turned, mask)
    out = out.reshape(2, 2, 6, 4, 5).swapaxes(2, 3).reshape(2, 2, 24, 5)
    add("sparse_attention", "released_transposed", qkv, out, stride=6, part="summary")

    lra = lra_module(peer_dir, "sparse_transformer/sparse_attention.py")
    qkv = drawn("lra_merged", 17)
    mask = np.array(lra.build_mask(17, [lra.LocalPattern(4), lra.StridedPattern(4)]))[0, 0]
    add("long-range-arena", "lra_merged", qkv, torch_attention(*qkv, mask)[0], stride=4)

    def add_torch(name, n, m, key_mask=None, **call):
        qkv = drawn(name, n, m)
        options = {"part": "merged", "causal": True} | call
        distance = torch.arange(n)[:, None] + m - n - torch.arange(m)
        local, far = distance.abs() < call["stride"], distance % call["stride"] == 0
        mask = {"local": local, "summary": far, "merged": local | far}[options["part"]]
        if options["causal"]:
            mask = mask & (distance >= 0)
        restated = np_rows(*qkv, strided_keys(m, **call), key_mask=key_mask)
        if key_mask is not None:
            mask = mask & tensor(key_mask)[:, None, None, :]
            call["key_mask"] = key_mask[:, None, :]
        cases[name] = qkv_case("torch", qkv, torch_attention(*qkv, mask)[0], restated, call)

    # a gap that hides the whole band of some queries, and a sequence that hides everything else of theirs
    gap = np.stack([(np.arange(17) < 4) | (np.arange(17) > 12), np.arange(17) > 13])
    add_torch("both_sides", 15, 15, stride=4, causal=False)
    add_torch("more_keys_key_mask", 11, 17, gap, stride=3)
    add_torch("more_queries", 17, 11, stride=5)
    add_torch("local_both_sides", 12, 17, gap, stride=2, part="local", causal=False)
    return cases
