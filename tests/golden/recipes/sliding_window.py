"""local-attention's exact windows; torch with explicit masks."""

import numpy as np
from frame import (
    generator,
    heads_qkv,
    local_attention,
    np_attention,
    qkv_case,
    table,
    tensor,
    torch_attention,
)


def cases(_):
    import torch

    cases = {}

    def add_local(name, n, window, before, after, causal=False, key_mask=None):
        qkv = heads_qkv(generator("sliding_window/" + name), n, n)
        out = local_attention(
            *qkv, window=window, before=before, after=after, causal=causal, exact=True, key_mask=key_mask
        )
        call = {"left": window * before, "right": window * after}
        sees = table(n, n, lambda p, j: -call["left"] <= j - p <= call["right"])
        if key_mask is not None:
            sees, call["key_mask"] = sees & key_mask[:, None, None, :], key_mask[:, None, :]
        cases[name] = qkv_case("local-attention", qkv, out, np_attention(*qkv, sees)[0], call)

    add_local("both_sides", 16, 4, 1, 1)
    add_local("two_to_one", 18, 3, 2, 1)
    add_local("causal", 16, 4, 1, 0, causal=True)
    add_local("ragged", 17, 4, 1, 1, key_mask=np.ones((2, 17), bool))

    def add_torch(name, n, m, left, right, dilation=1, key_mask=None):
        qkv = heads_qkv(generator("sliding_window/" + name), n, m)
        call = {"left": left, "right": right, "dilation": dilation}
        steps = np.broadcast_to(dilation, 2)
        distance = torch.arange(m) - (torch.arange(n)[:, None] + m - n)
        hops = torch.arange(-left, right + 1)
        mask = torch.stack([torch.isin(distance, hops * int(g)) for g in steps])
        sees = np.stack([
            table(n, m, lambda p, j, g=g: (j - p) % g == 0 and -left * g <= j - p <= right * g) for g in steps
        ])
        if key_mask is not None:
            mask, sees, call["key_mask"] = mask & tensor(key_mask), sees & key_mask, key_mask
        out, _ = torch_attention(*qkv, mask)
        cases[name] = qkv_case("torch", qkv, out, np_attention(*qkv, sees)[0], call)

    add_torch("dilated", 17, 17, 3, 2, dilation=2)
    add_torch("dilated_per_head", 17, 17, 2, 2, dilation=np.array([1, 3]))
    add_torch("more_keys", 10, 17, 4, 1)
    add_torch("more_keys_dilated_causal", 10, 17, 3, 0, dilation=np.array([2, 1]))
    add_torch("empty_rows", 14, 14, 2, 1, key_mask=np.arange(14) // 4 != 1)
    return cases
