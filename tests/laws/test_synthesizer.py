"""Laws of the Synthesizer: its logits from any source, and the four kinds of them."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from lawbook import close, law, qkv

import xfaccel
import xfref

LENGTHS = [(12, 12), (7, 12), (12, 7), (1, 5)]


@law("synthesizer")
def test_synthesizer_by_hand(package):
    # the second row weighs the values 1 : 3 : 4, the first 1 : 1 : 2
    v, logits = np.array([[8.0], [16.0], [24.0]]), np.log([[1.0, 1.0, 2.0], [1.0, 3.0, 4.0]])
    close(package.synthesizer(v, logits), np.array([[18.0], [19.0]]))
    # the last query sits on the last value
    close(package.synthesizer(v, logits, causal=True), np.array([[12.0], [19.0]]))
    close(package.synthesizer(v, logits, key_mask=np.array([True, False, True])),
          np.array([[(8 + 48) / 3], [(8 + 96) / 5]]))


@law("synthesizer")
@pytest.mark.parametrize("n, m", LENGTHS)
def test_synthesizer_in_loops(package, n, m, rng):
    v, logits, key_mask = rng.standard_normal((m, 5)), rng.standard_normal((n, m)), rng.random(m) < 0.7
    for causal, known in itertools.product((False, True), (None, key_mask)):
        out = np.zeros((n, 5))
        for i in range(n):
            weights = {j: math.exp(logits[i, j]) for j in range(m)
                       if (not causal or j <= i + m - n) and (known is None or known[j])}
            for j, weight in weights.items():
                out[i] += weight * v[j] / sum(weights.values())
        close(package.synthesizer(v, logits, causal=causal, key_mask=known), out)


@law("synthesizer")
@pytest.mark.parametrize("n, m", LENGTHS)
def test_scores_as_logits_are_attention(package, n, m, rng):
    q, k, v = qkv(rng, n, m)
    scores = np.einsum("...id,...jd->...ij", q, k)
    mask = dict(key_mask=rng.random((2, 1, m)) < 0.7)
    for options in ({}, mask, dict(causal=True), mask | dict(causal=True)):
        close(package.synthesizer(v, scores / 2, **options), package.attention(q, k, v, **options))  # d = 4
    # a mixture is a sum of logits
    table = rng.standard_normal((3, n, m))
    close(package.synthesizer(v, scores / 2 + table), package.attention(q, k, v, bias=table))


@law("synthesizer")
def test_equal_logits_give_the_plain_mean_of_the_past(package, rng):
    v = rng.standard_normal((2, 3, 12, 5))
    close(package.synthesizer(v, np.full((12, 12), 7.0), causal=True),
          v.cumsum(axis=-2) / np.arange(1, 13)[:, None])


@law("synthesizer")
def test_leading_axes_of_values_and_logits_broadcast(package, rng):
    for v_lead, own in (((2, 3), (3,)), ((), (2, 3)), ((3,), (2, 1)), ((2, 1), (3,))):
        v, logits = rng.standard_normal((*v_lead, 9, 5)), rng.standard_normal((*own, 7, 9))
        wide_v, wide = np.broadcast_to(v, (2, 3, 9, 5)), np.broadcast_to(logits, (2, 3, 7, 9))
        out = package.synthesizer(v, logits)
        for place in np.ndindex(2, 3):
            weights = np.exp(wide[place])
            close(out[place], weights @ wide_v[place] / weights.sum(axis=-1, keepdims=True))


@law("synthesizer")
def test_logits_of_minus_infinity_hide(package, rng):
    v, logits = rng.standard_normal((9, 5)), rng.standard_normal((7, 9))
    logits[2] = -np.inf
    logits[3, 1:] = -np.inf
    out = package.synthesizer(v, logits)
    assert not out[2].any()
    close(out[3], v[0])


@law("synthesizer")
def test_no_array_of_the_size_of_the_logits_is_made(rng):
    table = rng.standard_normal((1000, 1000), np.float32)
    v = rng.standard_normal((1000, 4), np.float32)
    for logits in (table, table.T, np.broadcast_to(table[:1], table.shape)):
        xfaccel.synthesizer(v, logits)
        tracemalloc.start()
        try:
            xfaccel.synthesizer(v, logits)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < table.nbytes / 10


@law("dense_logits", "factorized_dense_logits")
@pytest.mark.parametrize("lead", [(), (3,), (2, 1)])
def test_dense_logits_in_loops(lead, rng):
    d, h, a, b, n = 4, 5, 2, 4, 7
    x = rng.standard_normal((2, 3, n, d))
    w1, b1 = rng.standard_normal((*lead, d, h)), rng.standard_normal((*lead, h))
    wa, ba = rng.standard_normal((*lead, h, a)), rng.standard_normal((*lead, a))
    wb, bb = rng.standard_normal((*lead, h, b)), rng.standard_normal((*lead, b))
    long, cut = xfref.dense_logits(x, w1, b1, wb, bb, m=3), xfref.dense_logits(x[..., :3, :], w1, b1, wb, bb)
    product = xfref.factorized_dense_logits(x, w1, b1, wa, ba, wb, bb)
    wide = xfref.factorized_dense_logits(x, w1, b1, wa, ba, wb, bb, m=8)
    assert cut.shape == (2, 3, 3, 3)
    assert xfref.factorized_dense_logits(x, w1, b1, wa, ba, wb, bb, m=0).shape == (2, 3, n, 0)

    def own(matrix, place):
        """The matrix of one batch entry and head."""
        return np.broadcast_to(matrix, (2, 3, *matrix.shape[len(lead):]))[place]

    for place in np.ndindex(2, 3):
        for i in range(n):
            token = x[place][i]
            hidden = [max(0.0, sum(token[t] * own(w1, place)[t, s] for t in range(d)) + own(b1, place)[s])
                      for s in range(h)]
            first, second = ([sum(hidden[s] * own(w, place)[s, j] for s in range(h)) + own(bias, place)[j]
                              for j in range(width)] for w, bias, width in ((wa, ba, a), (wb, bb, b)))
            close(long[place][i], np.array(second[:3]))
            if i < 3:
                close(cut[place][i], np.array(second[:3]))
            # tiled: 0 1 0 1 0 1 0 1; repeated: 0 0 1 1 2 2 3 3
            both = np.array([first[j % a] * second[j // a] for j in range(8)])
            close(product[place][i], both[:7])
            close(wide[place][i], both)


@law("factorized_dense_logits")
def test_factorized_dense_logits_by_hand():
    x, one, zero = np.array([[1.0], [-1.0]]), np.ones((1, 1)), np.zeros(1)
    out = xfref.factorized_dense_logits(x, one, zero, np.array([[2.0, 3.0]]), np.array([0.0, 1.0]),
                                        np.array([[5.0, 7.0, 11.0]]), np.array([1.0, 0.0, 0.0]), m=6)
    # rows (2, 4) and (6, 7, 11) for 1; for -1, whose hidden layer is 0, (0, 1) and (1, 0, 0)
    close(out, np.array([[12.0, 24.0, 14.0, 28.0, 22.0, 44.0], [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]]))


@law("dense_logits", "factorized_dense_logits")
def test_a_row_of_dense_logits_depends_on_its_own_token(rng):
    x = rng.standard_normal((7, 4))
    layers = [rng.standard_normal(shape) for shape in ((4, 5), (5,), (5, 4), (4,), (5, 4), (4,))]
    changed = x.copy()
    changed[3] += 1
    for function, count in ((xfref.dense_logits, 4), (xfref.factorized_dense_logits, 6)):
        before, after = (function(y, *layers[:count], m=4) for y in (x, changed))
        assert (np.abs(after - before).max(axis=-1) > 0).tolist() == [i == 3 for i in range(7)]


@law("random_logits", "factorized_random_logits")
def test_random_logits_are_the_corner_of_a_table(rng):
    table = rng.standard_normal((3, 12, 12))
    for n in (0, 1, 7, 12):
        out = xfref.random_logits(table, n)
        np.testing.assert_array_equal(out, table[:, :n, :n], strict=True)
        assert not np.shares_memory(out, table)
    r1, r2 = rng.standard_normal((2, 3, 12, 4))
    table = np.array([[[sum(r1[h, i, t] * r2[h, j, t] for t in range(4)) for j in range(12)]
                       for i in range(12)] for h in range(3)])
    for n in (0, 1, 7, 12):
        close(xfref.factorized_random_logits(r1, r2, n), table[:, :n, :n])
    assert np.linalg.matrix_rank(xfref.factorized_random_logits(r1, r2, 9)).tolist() == [4, 4, 4]


@law("dense_logits", "factorized_dense_logits", "random_logits", "factorized_random_logits")
def test_logits_keep_the_dtype_of_their_input(rng):
    x, layer, bias = rng.standard_normal((4, 4)), rng.standard_normal((4, 4)), rng.standard_normal(4)
    for dtype in (np.float32, np.float64):
        y = x.astype(dtype)
        for logits in (xfref.dense_logits(y, layer, bias, layer, bias),
                       xfref.factorized_dense_logits(y, layer, bias, layer, bias, layer, bias),
                       xfref.random_logits(y, 3), xfref.factorized_random_logits(y, y, 3)):
            assert logits.dtype == dtype
