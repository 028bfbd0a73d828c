"""Laws of sparse_strided and sparse_fixed."""

import numpy as np
import pytest
from lawbook import close, holds, law, qkv

LENGTHS = [(12, 12), (7, 12), (12, 7), (1, 5)]
PARTS = ["local", "summary", "merged"]


def joined(part, local, summary):
    """A predicate of (position of the query, position of the key, batch entry, head)."""
    return {"local": local, "summary": summary, "merged": lambda *at: local(*at) or summary(*at)}[part]


def hold_in_all_forms(function, args, options, sees, rng):
    """Causal by default, both sides on demand, each with a key mask too."""
    for causal, form in ((True, options), (False, options | dict(causal=False, scale=0.3))):
        for mask in ({}, dict(key_mask=rng.random(args[1].shape[-2]) < 0.6)):
            holds(function, args, form | mask,
                  lambda p, j, *at, causal=causal: sees(p, j, *at) and (j <= p or not causal))


def seen_by(function, n, **options):
    """Which keys each of n queries sees, from the weights that equal scores give."""
    return function(np.zeros((n, 1)), np.zeros((n, 1)), np.eye(n), **options) > 0


@law("sparse_strided")
@pytest.mark.parametrize("n, m", LENGTHS)
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("stride", [1, 2, 5, 30])
def test_sparse_strided_in_loops(package, n, m, part, stride, rng):
    sees = joined(part, lambda p, j, *_: abs(p - j) < stride, lambda p, j, *_: (p - j) % stride == 0)
    hold_in_all_forms(package.sparse_strided, qkv(rng, n, m, lead=(1, 2)), dict(stride=stride, part=part),
                      sees, rng)


@law("sparse_fixed")
@pytest.mark.parametrize("n, m", LENGTHS)
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("stride, summary, sub_block", [(1, 1, 0), (4, 2, 1), (5, 1, [0, 4, 2]), (30, 10, 2)])
def test_sparse_fixed_in_loops(package, n, m, part, stride, summary, sub_block, rng):
    further = np.broadcast_to(sub_block, 3)

    def cell(p, j, b, h):
        last = stride - further[h] * summary
        return j % stride in range(last - summary, last)

    sees = joined(part, lambda p, j, *_: p // stride == j // stride, cell)
    options = dict(stride=stride, summary=summary, sub_block=sub_block, part=part)
    hold_in_all_forms(package.sparse_fixed, qkv(rng, n, m, lead=(1, 3)), options, sees, rng)


@law("sparse_strided", "sparse_fixed")
def test_the_default_is_causal_and_merged(package, rng):
    args = qkv(rng)
    holds(package.sparse_strided, args, dict(stride=4),
          lambda p, j, *_: j <= p and (p - j < 4 or (p - j) % 4 == 0))
    holds(package.sparse_fixed, args, dict(stride=4, summary=1),
          lambda p, j, *_: j <= p and (p // 4 == j // 4 or j % 4 == 3))


@law("sparse_strided", "sparse_fixed")
def test_sparse_transformer_by_hand(package):
    q, k = np.array([[np.log(2.0)]]), np.array([[9.0], [1.0], [9.0], [9.0], [0.0], [2.0], [3.0]])
    v = np.array([[70.0], [12.0], [90.0], [80.0], [1.0], [6.0], [3.0]])

    def strided(part):  # the query sits at position 6
        return package.sparse_strided(q, k, v, stride=2, part=part, scale=1.0)

    def fixed(part, sub_block=0):  # the query sits at position 5, in the block of the keys 4 and 5
        return package.sparse_fixed(q, k[1:], v[1:], stride=4, summary=1, part=part, sub_block=sub_block,
                                    scale=1.0)

    close(strided("local"), np.array([[(4 * 6 + 8 * 3) / 12]]))
    weights, values = np.array([512.0, 512.0, 1.0, 8.0]), np.array([70.0, 90.0, 1.0, 3.0])
    close(strided("summary"), np.array([[weights @ values / weights.sum()]]))
    close(strided("merged"), np.array([[(weights @ values + 4 * 6) / (weights.sum() + 4)]]))
    close(fixed("local"), np.array([[(4 * 6 + 8 * 3) / 12]]))
    close(fixed("summary"), np.array([[1.0]]))  # the cell at the end of the first block: position 3
    close(fixed("merged"), np.array([[(1 * 1 + 4 * 6 + 8 * 3) / 13]]))
    close(fixed("summary", 1), np.array([[80.0]]))
    close(fixed("summary", 3), np.array([[(2 * 12 + 4 * 6) / 6]]))  # the first position of either block


@law("sparse_fixed")
def test_what_comes_later_sees_the_ends_of_blocks(package):
    """Section 4.3 of the paper: with a stride of 128 and c = 8, what comes later attends to 120 .. 127."""
    seen = seen_by(package.sparse_fixed, 257, stride=128, summary=8, part="summary")
    assert not seen[:120].any()
    np.testing.assert_array_equal(np.flatnonzero(seen[200]), np.arange(120, 128))
    np.testing.assert_array_equal(np.flatnonzero(seen[256]), [*range(120, 128), *range(248, 256)])


@law("sparse_strided", "sparse_fixed")
@pytest.mark.parametrize("n, m", LENGTHS)
def test_strides_that_leave_nothing_out_are_attention(package, n, m, rng):
    args, far = qkv(rng, n, m), 2 * max(n, m)
    for causal in (True, False):
        full = package.attention(*args, causal=causal)
        for part in ("summary", "merged"):
            close(package.sparse_strided(*args, stride=1, part=part, causal=causal), full)
            close(package.sparse_fixed(*args, stride=3, summary=3, part=part, causal=causal), full)
        for part in ("local", "merged"):
            close(package.sparse_strided(*args, stride=far, part=part, causal=causal), full)
            if causal or m >= n:  # the block of a query before position 0 has no keys
                close(package.sparse_fixed(*args, stride=far, summary=1, part=part, causal=causal), full)


@law("sparse_strided")
def test_the_strided_part_is_attention_down_the_columns_of_a_table(package, rng):
    """Section 5.5 of the paper: transpose a table `stride` wide, and a stride becomes a neighbour."""
    args, stride = qkv(rng, 30), 5
    columns = [x.reshape(2, 3, 30 // stride, stride, -1).swapaxes(-2, -3) for x in args]
    for causal in (True, False):
        out = package.attention(*columns, causal=causal).swapaxes(-2, -3).reshape(2, 3, 30, 5)
        close(package.sparse_strided(*args, stride=stride, part="summary", causal=causal), out)


@law("sparse_strided", "sparse_fixed")
def test_the_local_parts_are_a_window_and_blocks(package, rng):
    args = qkv(rng, 11, 14)
    close(package.sparse_strided(*args, stride=4, part="local"),
          package.sliding_window(*args, left=3, right=0))
    close(package.sparse_fixed(*args, stride=4, summary=1, part="local"),
          package.block_local(*args, block=4, causal=True))


@law("sparse_strided", "sparse_fixed")
@pytest.mark.parametrize("stride", [1, 2, 5, 7])
def test_two_steps_lead_from_any_token_to_any_later_one(package, stride):
    """Section 4.2 of the paper: a query sees the key itself, or a summary that has seen it."""
    for function, options in [(package.sparse_strided, {}), (package.sparse_fixed, dict(summary=1))]:
        local, summary = (seen_by(function, 23, stride=stride, part=part, **options)
                          for part in ("local", "summary"))
        np.testing.assert_array_equal(summary @ local | local, np.tri(23, dtype=bool))


@law("sparse_fixed")
def test_a_query_before_the_first_summary_sees_nothing(package, rng):
    out = package.sparse_fixed(*qkv(rng), stride=5, summary=2, part="summary")
    assert not out[..., :3, :].any() and out[..., 3:, :].any(axis=-1).all()


@law("sparse_strided", "sparse_fixed")
@pytest.mark.parametrize("causal", [True, False])
def test_a_key_in_both_parts_counts_once(package, causal):
    """Equal scores give the plain mean of the keys that are seen, however many parts hold them."""
    for function, options in [(package.sparse_strided, dict(stride=3)),
                              (package.sparse_fixed, dict(stride=4, summary=2))]:
        out = function(np.zeros((12, 1)), np.zeros((12, 1)), np.eye(12), causal=causal, **options)
        close(out, (out > 0) / (out > 0).sum(axis=-1, keepdims=True))
