"""Laws of the Set Transformer's blocks: their parts, the order of a set, and masks that shorten it."""

import math

import numpy as np
import pytest
from lawbook import close, law

import xfref

WIDTH = 6


def drawn(rng, make=xfref.mab_weights):
    """Weights whose biases and gains are not 0 and 1, which would hide a swap."""
    return {name: w + 0.3 * rng.standard_normal(w.shape) for name, w in make(rng, WIDTH).items()}


def norm(x, weights, place):
    centred = x - x.mean(axis=-1, keepdims=True)
    spread = np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
    return centred / spread * weights[f"g{place}"] + weights[f"n{place}"]


def row_wise(x, weights, name):
    return np.maximum(x @ weights[f"w{name}"] + weights[f"b{name}"], 0)


def by_parts(x, y, weights, attend):
    h = norm(x + xfref.multi_head(x, y, weights, heads=2, attend=attend), weights, 1)
    return norm(h + row_wise(h, weights, "f"), weights, 2)


BLOCKS = ["mab", "sab", "isab", "pma"]


def on_set(block, attend, rng):
    """A block with everything bound but the set and its mask, and whether it gives a row for each element."""
    own, other, pool = drawn(rng), drawn(rng), drawn(rng, xfref.pma_weights)
    seeds, bound = rng.standard_normal((3, WIDTH)), dict(heads=2, attend=attend)
    return {
        "mab": (lambda x, **mask: xfref.mab(seeds, x, own, **bound, **mask), False),
        "sab": (lambda x, **mask: xfref.sab(x, own, **bound, **mask), True),
        "isab": (lambda x, **mask: xfref.isab(x, seeds, own, other, **bound, **mask), True),
        "pma": (lambda x, **mask: xfref.pma(x, seeds, pool, **bound, **mask), False),
    }[block]


@law("mab", "sab", "isab", "pma")
def test_the_blocks_are_their_parts(package, rng):
    attend = package.attention
    x, y, seeds = rng.standard_normal((2, 5, WIDTH)), rng.standard_normal((2, 7, WIDTH)), rng.standard_normal(
        (2, 3, WIDTH))
    own, other, pool = drawn(rng), drawn(rng), drawn(rng, xfref.pma_weights)
    close(xfref.mab(x, y, own, heads=2, attend=attend), by_parts(x, y, own, attend))
    close(xfref.sab(x, own, heads=2, attend=attend), by_parts(x, x, own, attend))
    inner = by_parts(seeds, x, own, attend)
    close(xfref.isab(x, seeds, own, other, heads=2, attend=attend), by_parts(x, inner, other, attend))
    close(xfref.pma(x, seeds, pool, heads=2, attend=attend),
          by_parts(seeds, row_wise(x, pool, "z"), pool, attend))


@law("mab", "sab")
def test_mab_by_hand(package):
    weights = {f"{kind}{name}": np.zeros((2, 2)) if kind == "w" else np.zeros(2)
               for kind in "wb" for name in "qkvof"}
    weights |= dict(wv=np.eye(2), wo=np.eye(2), g1=np.ones(2), n1=np.array([0.0, 1.0]), g2=np.ones(2),
                    n2=np.zeros(2), bf=np.array([3.0, -9.0]))
    # equal scores: the mean of the set is (4, 2), and x with it (10, 2), which the norm takes to (1, -1)
    x, y = np.array([[6.0, 0.0]]), np.array([[8.0, 1.0], [0.0, 3.0]])
    shrink = 4 / math.sqrt(16 + 1e-5)
    h = np.array([shrink, 1 - shrink])
    row = h + np.array([3.0, 0.0])
    spread = math.sqrt(((row[0] - row[1]) / 2) ** 2 + 1e-5)
    close(xfref.mab(x, y, weights, heads=1, attend=package.attention),
          np.array([[(row[0] - row[1]) / 2, (row[1] - row[0]) / 2]]) / spread)


@law("mab", "sab", "isab", "pma")
@pytest.mark.parametrize("block", BLOCKS)
def test_the_order_of_a_set_moves_its_rows_and_nothing_else(package, block, rng):
    function, rows = on_set(block, package.attention, rng)
    x, order, key_mask = rng.standard_normal((2, 9, WIDTH)), rng.permutation(9), rng.random((2, 9)) < 0.6
    for mask, moved in (({}, {}), (dict(key_mask=key_mask), dict(key_mask=key_mask[:, order]))):
        out = function(x, **mask)
        close(function(x[:, order], **moved), out[:, order] if rows else out, 1e-11)


@law("mab", "sab", "isab", "pma")
@pytest.mark.parametrize("block", BLOCKS)
def test_a_masked_set_is_a_smaller_set(package, block, rng):
    function, rows = on_set(block, package.attention, rng)
    x, key_mask = rng.standard_normal((2, 9, WIDTH)), np.arange(9) % 3 != 1
    few = function(x[:, key_mask])
    x[:, ~key_mask] = np.nan
    for mask in (key_mask, np.stack([key_mask, key_mask])):
        out = function(x, key_mask=mask)
        close(out[:, key_mask] if rows else out, few)
    # each entry of a batch with a mask of its own
    first = function(x[:1], key_mask=key_mask)
    x[1] = rng.standard_normal((9, WIDTH))
    both = function(x, key_mask=np.stack([key_mask, np.ones(9, bool)]))
    close(both[0], first[0])
    close(both[1], function(x[1:])[0])


@law("mab", "pma")
def test_an_empty_set_leaves_the_seeds_to_themselves(package, rng):
    pool, seeds = drawn(rng, xfref.pma_weights), rng.standard_normal((3, WIDTH))
    h = norm(seeds + pool["bo"], pool, 1)
    alone = norm(h + row_wise(h, pool, "f"), pool, 2)
    x = rng.standard_normal((9, WIDTH))
    for out in (xfref.pma(x, seeds, pool, heads=2, attend=package.attention, key_mask=np.zeros(9, bool)),
                xfref.pma(x[:0], seeds, pool, heads=2, attend=package.attention),
                xfref.mab(seeds, x[:0], pool, heads=2, attend=package.attention)):
        close(out, alone)


@law("isab", "pma", "mab")
def test_points_and_seeds_are_shared_or_one_set_per_entry(package, rng):
    own, other, pool = drawn(rng), drawn(rng), drawn(rng, xfref.pma_weights)
    x, seeds = rng.standard_normal((2, 4, 9, WIDTH)), rng.standard_normal((3, WIDTH))
    each = np.broadcast_to(seeds, (2, 4, 3, WIDTH))
    bound = dict(heads=3, attend=package.attention)
    out, pooled = xfref.isab(x, seeds, own, other, **bound), xfref.pma(x, seeds, pool, **bound)
    close(out, xfref.isab(x, each, own, other, **bound))
    close(pooled, xfref.pma(x, each[:1], pool, **bound))
    assert pooled.shape == (2, 4, 3, WIDTH)
    for place in np.ndindex(2, 4):
        close(out[place], xfref.isab(x[place], seeds, own, other, **bound))
        close(pooled[place], xfref.pma(x[place], seeds, pool, **bound))
    # more axes on the side that attends
    close(xfref.mab(x, x[0, 0], own, **bound), xfref.mab(x, np.broadcast_to(x[0, 0], x.shape), own, **bound))


@law("mab", "sab", "isab", "pma")
@pytest.mark.parametrize("block", BLOCKS)
def test_any_attention_fits_in(package, block, rng):
    x, key_mask = rng.standard_normal((2, 9, WIDTH)), np.arange(9) < 5
    plain, _ = on_set(block, package.attention, np.random.default_rng(5))
    other, rows = on_set(block, package.linear_transformer, np.random.default_rng(5))
    out = other(x, key_mask=key_mask)
    close(out[:, :5] if rows else out, other(x[:, :5]))
    assert np.abs(other(x) - plain(x)).max() > 1e-3


@law("mab_weights", "pma_weights")
def test_weights_have_the_shapes_of_the_blocks(rng):
    mab, pma = xfref.mab_weights(rng, 30), xfref.pma_weights(rng, 30)
    assert set(mab) == {*(kind + name for kind in "wb" for name in "qkvof"), "g1", "n1", "g2", "n2"}
    assert set(pma) == {*mab, "wz", "bz"}
    for name, w in (mab | pma).items():
        assert w.dtype == np.float64 and w.shape == ((30, 30) if name[0] == "w" else (30,))
        if name[0] == "w":
            assert abs(w.std() * 30**0.5 - 1) < 0.1 and abs(w.mean()) < 0.03
        else:
            assert (w == (name[0] == "g")).all()
    assert len({w.tobytes() for name, w in pma.items() if name[0] == "w"}) == 6


@law("mab", "sab", "isab", "pma")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_blocks_keep_the_dtype_of_the_set(package, dtype, rng):
    x = rng.standard_normal((2, 9, WIDTH)).astype(dtype)
    mab, pma, seeds = drawn(rng), drawn(rng, xfref.pma_weights), rng.standard_normal((3, WIDTH))
    bound = dict(heads=2, attend=package.attention)
    for out in (xfref.mab(x, x, mab, **bound), xfref.sab(x, mab, **bound), xfref.pma(x, seeds, pma, **bound),
                xfref.isab(x, seeds, mab, mab, **bound)):
        assert out.dtype == dtype
