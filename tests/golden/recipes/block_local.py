"""local-attention's LocalAttention; torch with explicit masks."""

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

    def visible(n, m, block, before, after, causal):
        near = lambda p, j: -before <= j // block - p // block <= after
        return table(n, m, lambda p, j: near(p, j) and (j <= p or not causal))

    def add_local(name, n, block, before, after, causal=False, key_mask=None):
        qkv = heads_qkv(generator("block_local/" + name), n, n)
        out = local_attention(
            *qkv, window=block, before=before, after=after, causal=causal, key_mask=key_mask
        )
        sees = visible(n, n, block, before, after, causal)
        call = {"block": block, "before": before, "after": after, "causal": causal}
        if key_mask is not None:
            call["key_mask"], sees = key_mask[:, None, :], sees & key_mask[:, None, None, :]
        cases[name] = qkv_case("local-attention", qkv, out, np_attention(*qkv, sees)[0], call)

    add_local("own_block", 15, 5, 0, 0)
    add_local("own_block_causal", 15, 5, 0, 0, causal=True)
    add_local("neighbours", 16, 4, 1, 1)
    add_local("before_causal", 16, 4, 1, 0, causal=True)
    add_local("two_before_one_after", 18, 3, 2, 1)
    add_local("ragged", 17, 4, 1, 1, key_mask=np.ones((2, 17), bool))
    key_mask = generator("block_local/mask").random((2, 18)) < 0.6
    key_mask[:, ::4] = True  # the peer returns a plain mean where a query sees no key
    add_local("key_mask", 18, 4, 1, 0, key_mask=key_mask)

    def add_torch(name, n, m, block, before, after, causal, key_mask):
        qkv = heads_qkv(generator("block_local/" + name), n, m)
        blocks = -(-m // block)
        near = torch.ones(blocks, blocks, dtype=torch.int64).tril(after).triu(-before)
        mask = torch.kron(near, torch.ones(block, block, dtype=torch.int64)).bool()[m - n : m, :m]
        if causal:
            mask = mask & torch.ones(n, m, dtype=torch.bool).tril(m - n)
        sees = visible(n, m, block, before, after, causal) & key_mask
        call = {"block": block, "before": before, "after": after, "causal": causal, "key_mask": key_mask}
        out, _ = torch_attention(*qkv, mask & tensor(key_mask))
        cases[name] = qkv_case("torch", qkv, out, np_attention(*qkv, sees)[0], call)

    add_torch("more_keys", 11, 18, 4, 1, 1, False, np.ones(18, bool))
    add_torch("more_keys_causal", 11, 18, 4, 1, 0, True, np.ones(18, bool))
    add_torch("empty_block", 14, 14, 4, 0, 0, False, np.arange(14) // 4 != 1)
    return cases
