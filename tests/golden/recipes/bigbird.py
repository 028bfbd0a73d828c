"""transformers' BigBirdBlockSparseAttention; the Long Range Arena's Big Bird; torch with explicit masks."""

import contextlib
from unittest import mock

import numpy as np
from frame import (
    generator,
    heads_qkv,
    lra_module,
    np_attention,
    qkv_case,
    randomise,
    swap_heads,
    tensor,
    torch_attention,
)


def key_blocks(t, number, chosen):
    """The list that block t gathers, in the order of the released code: repeated blocks stay repeated."""
    if t in (0, number - 1):
        return list(range(number))
    return [*dict.fromkeys([0, t - 1, t, t + 1, number - 1]), *chosen]


def np_bigbird(q, k, v, block, random_blocks, *, key_mask=None, once=True):
    """Block by block; keys that are listed several times count as often, or `once`."""
    batch, heads, n, _ = q.shape
    number = -(-n // block)
    table = np.broadcast_to(random_blocks, (batch, heads, number, random_blocks.shape[-1]))
    out = np.zeros((batch, heads, n, v.shape[-1]))
    for b, h, t in np.ndindex(batch, heads, number):
        listed = key_blocks(t, number, table[b, h, t].tolist())
        listed = sorted(set(listed)) if once else listed
        keys = [j for s in listed for j in range(s * block, min((s + 1) * block, n))
                if key_mask is None or key_mask[b, j]]
        rows = slice(t * block, (t + 1) * block)
        if keys:
            out[b, h, rows] = np_attention(q[b, h, rows], k[b, h, keys], v[b, h, keys])[0]
    return out


@contextlib.contextmanager
def recorded(owner, name):
    """What the function of this name returns while it is in use: here the blocks that a peer drew."""
    function, results = getattr(owner, name), []

    def call(*args, **kwargs):
        results.append(function(*args, **kwargs))
        return results[-1]

    with mock.patch.object(owner, name, call):
        yield results


def with_unused_rows(tables):
    """The peers' tables lack the first and the last row, which are never read."""
    return np.pad(np.stack(tables), ((0, 0), (1, 1), (0, 0)))


def cases(peer_dir):
    import torch
    from transformers import BigBirdConfig, BigBirdModel
    from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention

    cases = {}

    def add_hf(name, n, block, r, *, valid=None, training=True, size=1.0):
        rng = generator("bigbird/" + name)
        config = BigBirdConfig(hidden_size=8, num_attention_heads=2, block_size=block, num_random_blocks=r)
        layer = randomise(BigBirdBlockSparseAttention(config, seed=7), rng).train(training)
        x = tensor(size * rng.standard_normal((2, n, 8)))
        shown = np.ones((2, n), bool) if valid is None else valid
        blocked, band, rows, keys = BigBirdModel.create_masks_for_block_sparse_attn(
            tensor(shown).double(), block)
        with recorded(layer, "_bigbird_block_rand_mask_with_head") as drawn:
            out, _ = layer(x, band_mask=band, from_mask=rows, to_mask=keys, from_blocked_mask=blocked,
                           to_blocked_mask=blocked)
        per_head = lambda y: y.unflatten(-1, (2, 4)).transpose(1, 2).contiguous().numpy()
        qkv = [per_head(getattr(layer, c)(x)) for c in ("query", "key", "value")]
        table = with_unused_rows(drawn[0])  # one per head; block 0 throughout where the peer does not train
        call, extra = {"block": block, "random_blocks": table}, {}
        if valid is not None:
            call["key_mask"] = valid[:, None, :]
            # the peer zeroes the rows of padded queries
            extra["rows"] = np.repeat(valid[:, None, :], 2, axis=1)
        restated = np_bigbird(*qkv, block, table, key_mask=valid, once=False)
        if not training:
            extra["paper"] = np_bigbird(*qkv, block, table)
        record, gap = qkv_case("transformers", qkv, per_head(out), restated, call, **extra)
        if not training:
            record["reason"] = np.asarray("without training the peer counts block 0 once more for each random"
                                          f" block, which moves the result by {record['moved']:.1e}")
        cases[name] = record, gap

    add_hf("hf_training", 20, 2, 2)
    add_hf("hf_training_few_blocks", 14, 2, 2)
    add_hf("hf_padded", 20, 2, 2, valid=np.arange(20) < np.array([[20], [15]]))
    add_hf("hf_inference", 15, 3, 1, training=False, size=0.1)

    def add_lra(name, n, block, r, *, valid=None):
        module = lra_module(peer_dir, "bigbird/bigbird_attention.py")
        qkv = heads_qkv(generator("bigbird/" + name), n, n, e=4)
        with recorded(module, "get_block_rand_mask") as drawn:
            out = module.sparse_dot_product_attention(
                *map(swap_heads, qkv), connectivity_seed=3, block_size=block, num_rand_blocks=r,
                input_mask=None if valid is None else valid.astype(float))
        table = with_unused_rows(drawn)
        call, extra = {"block": block, "random_blocks": table}, {}
        if valid is not None:
            call["key_mask"] = valid[:, None, :]
            extra["rows"] = np.repeat(valid[:, None, :], 2, axis=1)
        restated = np_bigbird(*qkv, block, table, key_mask=valid, once=False)
        cases[name] = qkv_case("long-range-arena", qkv, swap_heads(out), restated, call, **extra)

    add_lra("lra", 20, 2, 3)
    add_lra("lra_padded", 20, 2, 2, valid=np.arange(20) < np.array([[16], [20]]))

    def add_torch(name, n, block, table, *, key_mask=None):
        qkv = heads_qkv(generator("bigbird/" + name), n, n)
        number = -(-n // block)
        own = torch.arange(n) // block
        ends = (own == 0) | (own == number - 1)
        near = (own[:, None] - own).abs() <= 1
        chosen = (tensor(table)[..., None] == own).any(-2)[..., own, :]
        seen = near | ends | ends[:, None] | chosen
        call = {"block": block, "random_blocks": table}
        if key_mask is not None:
            seen = seen & tensor(key_mask)[:, None, None, :]
            call["key_mask"] = key_mask[:, None, :]
        out, _ = torch_attention(*qkv, seen.expand(2, 2, n, n))
        restated = np_bigbird(*qkv, block, table, key_mask=key_mask)
        cases[name] = qkv_case("torch", qkv, out, restated, call)

    draw = generator("bigbird/tables")
    add_torch("short_last_block", 22, 4, draw.integers(0, 6, (2, 6, 2)))
    add_torch("no_random_blocks", 15, 2, np.zeros((8, 0), int))
    add_torch("four_blocks", 14, 4, draw.integers(0, 4, (4, 1)))
    add_torch("tokens", 11, 1, draw.integers(0, 11, (2, 1, 11, 2)))
    # a block that is global, near or named twice counts once
    add_torch("repeated", 20, 3, np.array([[0, 0], [1, 6], [4, 4], [0, 2], [1, 1], [4, 2], [5, 5]]))
    # the second sequence hides all that its third block sees: zeros
    hidden = ~np.isin(np.arange(20) // 3, [0, 1, 2, 3, 6])
    add_torch("key_mask", 20, 3, np.zeros((7, 0), int), key_mask=np.stack([draw.random(20) < 0.7, hidden]))
    return cases
