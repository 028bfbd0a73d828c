"""DeepSpeed's VariableSparsityConfig, which draws keys; torch with explicit masks."""

import random

import numpy as np
from frame import generator, heads_qkv, qkv_case, tensor, torch_attention
from recipes.sparse_fixed import deepspeed, np_rows


def cases(peer_dir):
    import torch

    cases = {}

    def add(peer, name, qkv, mask, indices, *, causal=False, key_mask=None):
        n, m = qkv[0].shape[-2], qkv[1].shape[-2]
        call = {"indices": indices, "causal": causal}
        lists = np.broadcast_to(indices, (2, 2, *indices.shape[-2:]))

        def keys(b, h, position):
            return [j for j in lists[b, h, position - m + n] if j <= position or not causal]

        if causal:
            mask = mask & torch.ones(n, m, dtype=torch.bool).tril(m - n)
        if key_mask is not None:
            call["key_mask"], mask = key_mask[:, None, :], mask & tensor(key_mask)[:, None, None, :]
        restated = np_rows(*qkv, keys, key_mask=key_mask)
        cases[name] = qkv_case(peer, qkv, torch_attention(*qkv, mask)[0], restated, call)

    for name, shared, causal in (("drawn", True, False), ("drawn_per_head_causal", False, True)):
        random.seed(name)
        config = deepspeed(peer_dir).VariableSparsityConfig(
            2, block=1, different_layout_per_head=not shared, num_random_blocks=3, local_window_blocks=[1],
            global_block_indices=[])
        layout = config.make_layout(15).bool()
        qkv = heads_qkv(generator("random_tokens/" + name), 15, 15)
        # three drawn keys and the token itself, which may be among them: places left over are empty
        order = np.argsort(~layout.numpy(), axis=-1, kind="stable")[..., :4]
        listed = np.where(np.take_along_axis(layout.numpy(), order, -1), order, -1)
        add("DeepSpeed", name, qkv, layout, listed[0] if shared else listed, causal=causal)

    def add_torch(name, n, m, r, lead=(), **options):
        rng = generator("random_tokens/" + name)
        qkv, indices = heads_qkv(rng, n, m), rng.integers(-1, m, (*lead, n, r))
        mask = torch.zeros(*lead, n, m + 1, dtype=torch.bool)
        mask.scatter_(-1, tensor(np.where(indices < 0, m, indices)), True)  # the last column is cut off
        add("torch", name, qkv, mask[..., :m], indices, **options)

    seen = generator("random_tokens/masks").random((2, 17)) < 0.6
    add_torch("more_keys", 12, 17, 4)
    add_torch("more_queries_per_batch_entry", 15, 9, 3, (2, 1))
    add_torch("causal_per_head", 13, 13, 3, (2,), causal=True)
    add_torch("key_mask_per_entry", 12, 17, 2, (2, 2), key_mask=seen)
    return cases
