"""Laws of relative positions: offsets and their clipping, tables of equal rows, queries that see nothing."""

import math

import numpy as np
import pytest
from lawbook import close, law, qkv

LENGTHS = [(12, 12), (7, 12), (12, 7), (1, 5)]


def in_loops(q, k, v, key_table, value_table=None, causal=False, key_mask=None, scale=None):
    """The definition for (n,d), (m,d), (m,e) and tables of 2c + 1 rows."""
    n, m, c = len(q), len(k), len(key_table) // 2
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    out = np.zeros((n, v.shape[-1]))
    for i in range(n):
        p, weights = i + m - n, {}
        for j in range(m):
            if (j <= p or not causal) and (key_mask is None or key_mask[j]):
                row = max(-c, min(c, j - p)) + c
                pairs = zip(q[i], k[j] + key_table[row], strict=True)
                weights[j, row] = math.exp(scale * sum(a * b for a, b in pairs))
        for (j, row), weight in weights.items():
            value = v[j] if value_table is None else v[j] + value_table[row]
            out[i] += weight / sum(weights.values()) * value
    return out


@law("shaw")
@pytest.mark.parametrize("n, m", LENGTHS)
@pytest.mark.parametrize("clip", [0, 1, 3, 30])
def test_shaw_in_loops(package, n, m, clip, rng):
    args, key_mask = qkv(rng, n, m), rng.random((2, 1, m)) < 0.7
    keys, values = rng.standard_normal((3, 2 * clip + 1, 4)), rng.standard_normal((2 * clip + 1, 5))
    for options in (dict(), dict(causal=True), dict(key_mask=key_mask, scale=0.8),
                    dict(key_mask=key_mask, causal=True)):
        for value_table in (None, values):
            out = package.shaw(*args, key_table=keys, value_table=value_table, **options)
            for b, h in np.ndindex(2, 3):
                own = options | (dict(key_mask=key_mask[b, 0]) if "key_mask" in options else {})
                close(out[b, h], in_loops(*(x[b, h] for x in args), keys[h], value_table, **own))


@law("shaw")
def test_shaw_by_hand(package):
    q, k, v = np.ones((3, 1)), np.zeros((3, 1)), np.array([[0.0], [10.0], [20.0]])
    keys = np.log([[2.0], [1.0], [3.0]])  # before, itself, after
    values = np.array([[100.0], [200.0], [300.0]])
    weights = np.array([[1, 3, 3], [2, 1, 3], [2, 2, 1]]) / np.array([[7], [6], [5]])
    close(package.shaw(q, k, v, key_table=keys, scale=1.0), weights @ v)
    added = np.array([[200 + 2 * 3 * 300], [2 * 100 + 200 + 3 * 300], [2 * 2 * 100 + 200]])
    close(package.shaw(q, k, v, key_table=keys, value_table=values, scale=1.0),
          weights @ v + added / np.array([[7], [6], [5]]))
    # one query that sits on the last of three keys
    close(package.shaw(q[:1], k, v, key_table=keys, scale=1.0), np.array([[(2 * 10 + 20) / 5]]))
    close(package.shaw(q, k, v, key_table=keys, causal=True, scale=1.0),
          np.array([[0.0], [10 / 3], [(2 * 10 + 20) / 5]]))


@law("shaw")
@pytest.mark.parametrize("n, m", LENGTHS)
@pytest.mark.parametrize("clip", [0, 2, 20])
def test_rows_that_are_all_alike_leave_attention_as_it_is(package, n, m, clip, rng):
    args, key_mask = qkv(rng, n, m), rng.random(m) < 0.7
    for options in (dict(), dict(causal=True), dict(key_mask=key_mask)):
        full = package.attention(*args, **options)
        # the same vector in every key shifts all scores of a query; in every value, the output
        keys, values = (np.repeat(rng.standard_normal((1, w)), 2 * clip + 1, axis=0) for w in (4, 5))
        close(package.shaw(*args, key_table=0 * keys, **options), full)
        close(package.shaw(*args, key_table=keys, **options), full)
        sees = np.abs(full).max(axis=-1, keepdims=True) > 0
        close(package.shaw(*args, key_table=keys, value_table=values, **options), full + sees * values[0])


@law("shaw")
@pytest.mark.parametrize("n, m, clip", [(90, 100, 4), (100, 90, 70), (520, 530, 260)])
def test_a_score_by_distance_alone_is_a_bias(package, n, m, clip, rng):
    q, k, v = qkv(rng, n, m, lead=(2,))
    q[..., 3], k[..., 3] = 1, 0  # the last entry of a query asks for the last entry of a row of the table
    keys = np.zeros((2 * clip + 1, 4))
    keys[:, 3] = rng.standard_normal(2 * clip + 1)
    offset = np.arange(m) - np.arange(n)[:, None] - m + n
    for causal in (False, True):
        close(package.shaw(q, k, v, key_table=keys, causal=causal), package.attention(
            q, k, v, bias=keys[np.clip(offset, -clip, clip) + clip, 3] / 2, causal=causal))


@law("shaw")
def test_the_rows_of_a_table_are_in_the_order_of_j_minus_i(package, rng):
    q, k, v = np.ones((9, 1)), np.zeros((9, 1)), rng.standard_normal((9, 2))
    for offset in (-2, -1, 0, 1):
        keys = np.zeros((7, 1))
        keys[offset + 3] = 1e3
        rows = slice(max(0, -offset), 9 - max(0, offset))
        close(package.shaw(q, k, v, key_table=keys, scale=1.0)[rows], np.roll(v, -offset, axis=0)[rows])


@law("shaw")
def test_a_row_that_sees_nothing_has_no_value_of_any_offset(package, rng):
    args, keys, values = qkv(rng, 12, 7), rng.standard_normal((5, 4)), rng.standard_normal((5, 5))
    out = package.shaw(*args, key_table=keys, value_table=values, causal=True)
    assert not out[..., :5, :].any() and out[..., 5:, :].any(axis=-1).all()
    hidden = np.zeros(7, bool)
    assert not package.shaw(*args, key_table=keys, value_table=values, key_mask=hidden).any()


@law("shaw")
@pytest.mark.parametrize("n, clip", [(140, 6), (520, 260)])
def test_each_offset_in_reach_finds_its_own_row(package, n, clip, rng):
    """With equal keys, the output is the mean of the rows of the offsets that a query sees."""
    q, k, v = np.ones((n, 1)), np.zeros((n, 1)), np.zeros((n, 3))
    values = rng.standard_normal((2 * clip + 1, 3))
    rows = np.clip(np.arange(n) - np.arange(n)[:, None], -clip, clip) + clip
    keys = np.zeros((2 * clip + 1, 1))
    close(package.shaw(q, k, v, key_table=keys, value_table=values), values[rows].mean(axis=1))
    past = np.tri(n)[..., None]
    close(package.shaw(q, k, v, key_table=keys, value_table=values, causal=True),
          (past * values[rows]).sum(axis=1) / past.sum(axis=1))
