"""Laws that hold the packages from outside: limits, causality, symmetry, streaming, hand-worked numbers.

No law takes its right-hand side from the function it is about. Laws of one paper alone are in `laws/`.
"""

import itertools
import math
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import scipy.special
import scipy.stats
from cases import PATTERNS, STEPS, VARIANTS, Shape, dense, draw_qkv, fit, function_of, options_of
from lawbook import close, holds, law, loops, qkv

import xfref

LENGTHS = [(12, 12), (7, 12), (12, 7), (1, 5)]


# hand-worked numbers


@law("softmax")
def test_softmax_by_hand(package):
    close(package.softmax(np.log([1.0, 2.0, 5.0])), np.array([0.125, 0.25, 0.625]))
    close(package.softmax(np.array([[0.0, 0.0], [-np.inf, 3.0], [-np.inf, -np.inf]])),
          np.array([[0.5, 0.5], [0.0, 1.0], [0.0, 0.0]]))
    close(package.softmax(np.log([[1.0, 4.0], [3.0, 4.0]]), axis=0), np.array([[0.25, 0.5], [0.75, 0.5]]))


@law("softmax")
def test_softmax_against_scipy(package, rng):
    scores = rng.standard_normal((3, 5, 7))
    for axis in (0, 1, -1):
        close(package.softmax(scores, axis), scipy.special.softmax(scores, axis))


@law("layer_norm")
def test_layer_norm_by_hand(package):
    # mean 3, variance ((4 + 0 + 4) / 3): with eps = 1/3 the divisor is sqrt(3)
    x, gain, bias = np.array([[1.0, 3.0, 5.0]]), np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 30.0])
    close(package.layer_norm(x, gain, bias, eps=1 / 3),
          np.array([[10 - 2 / math.sqrt(3), 20.0, 30 + 6 / math.sqrt(3)]]))


@law("layer_norm")
def test_layer_norm_ignores_shift_and_scale(package, rng):
    x = rng.standard_normal((4, 9))
    gain, bias = rng.standard_normal((2, 9))
    close(package.layer_norm(3 * x + 7, gain, bias, eps=0.0), package.layer_norm(x, gain, bias, eps=0.0))
    rows = package.layer_norm(x, np.ones(9), np.zeros(9), eps=0.0)
    close(rows.mean(axis=-1), np.zeros(4))
    close(rows.std(axis=-1), np.ones(4))


@law("attention", "attention_lse")
def test_attention_by_hand(package):
    q = np.array([[math.log(2.0), 0.0], [0.0, math.log(3.0)]])
    k = np.array([[1.0, 0.0], [0.0, 1.0]])
    v = np.array([[6.0], [12.0]])
    # the first query weighs the keys 2 : 1, the second 1 : 3
    out, lse = package.attention_lse(q, k, v, scale=1.0)
    close(out, np.array([[8.0], [10.5]]))
    close(lse, np.log([3.0, 4.0]))
    close(package.attention(q, k, v, scale=1.0, causal=True), np.array([[6.0], [10.5]]))
    close(package.attention(q, k, v, scale=1.0, bias=np.log([[3.0, 2.0]])), np.array([[7.5], [12 - 6 / 3]]))


@law("quantize_rows")
def test_quantize_rows_by_hand(package):
    x = np.array([[127.0, -0.5, 1.5, 2.5, -64.4], [0.0, 0.0, 0.0, 0.0, 0.0], [-6.35, 0.26, 0.024, 0.0, 6.34]])
    codes, scales = package.quantize_rows(x)
    assert codes.dtype == np.int8
    assert codes.tolist() == [[127, 0, 2, 2, -64], [0, 0, 0, 0, 0], [-127, 5, 0, 0, 127]]
    close(scales, np.array([1.0, 0.0, 0.05]))


@law("quantize_rows")
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_codes_are_off_by_half_a_scale_at_most(package, rng, dtype):
    x = (10.0 ** rng.integers(-3, 4, (2, 50, 1)) * rng.standard_normal((2, 50, 33))).astype(dtype)
    codes, scales = package.quantize_rows(x)
    assert scales.dtype == (np.float32 if x.itemsize == 2 else dtype)
    assert codes.shape == x.shape and scales.shape == x.shape[:-1]
    wide, scales = x.astype(np.float64), scales.astype(np.float64)
    assert (np.abs(codes).max(axis=-1) == 127).all()
    assert (np.abs(wide - codes * scales[..., None]) <= 0.5001 * scales[..., None]).all()
    # turned or scaled by a power of two, a row has the same digits
    for factor in (-1, 4):
        other = package.quantize_rows(x * x.dtype.type(factor))
        np.testing.assert_array_equal(other[0], np.sign(factor) * codes)
        close(other[1].astype(np.float64), abs(factor) * scales, 0)


@law("quantize_rows")
def test_codes_of_the_smallest_numbers_do_not_wrap(package):
    x = np.finfo(np.float32).smallest_subnormal * np.array([[190, -190, 1], [60, 1, 0]], np.float32)
    assert package.quantize_rows(x)[0].tolist() == [[127, -127, 1], [0, 0, 0]]


@law("attention", "attention_lse", "quantize_rows")
@pytest.mark.parametrize("n", [3, 12])
def test_attention_to_codes_is_that_to_what_they_stand_for(package, rng, n):
    q, k, v = qkv(rng, n, 300)
    (k, k_scales), (v, v_scales) = pairs = [package.quantize_rows(x) for x in (k, v)]
    seen = rng.random((2, 1, 300)) < 0.7
    out, lse = package.attention_lse(q, *pairs, key_mask=seen, scale=0.7)
    for place in np.ndindex(2, 3):
        restored = (codes[place] * scales[place][:, None] for codes, scales in ((k, k_scales), (v, v_scales)))
        keys, values = restored
        close(out[place], loops(q[place], keys, values, lambda i, j: True, 0.7, seen[place[0], 0]))
        hidden = np.where(seen[place[0], 0], 0.7 * q[place] @ keys.T, -np.inf)
        close(lse[place], scipy.special.logsumexp(hidden, axis=-1))


@law("linear_transformer", "linear_transformer_step")
def test_linear_transformer_by_hand(package):
    # features: elu(1) + 1 = 2, elu(0) + 1 = 1, elu(-log 2) + 1 = 1/2
    q, k = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0], [-math.log(2.0), 0.0]])
    v = np.array([[6.0], [18.0]])
    # weights: (2, 1) . (1, 2) = 4 and (2, 1) . (1/2, 1) = 2
    close(package.linear_transformer(q, k, v), np.array([[10.0]]))
    x = np.array([[0.0], [1.0]])
    # causal: second row weighs 2 * 1 and 2 * 2
    close(package.linear_transformer(x, x, v, causal=True), np.array([[6.0], [14.0]]))
    close(package.linear_transformer_step(None, x, x, v)[1], np.array([[6.0], [14.0]]))


@law("performer", "performer_step")
def test_performer_by_hand(package):
    w, v = np.array([[math.log(2.0)]]), np.array([[3.0], [6.0]])
    q, k = np.array([[1.0]]), np.array([[0.0], [1.0]])
    # positive: f(0) = 1, f(1) = 2 exp(-1/2); the factor of the query cancels
    weights = np.array([1.0, 2 * math.exp(-0.5)])
    close(package.performer(q, k, v, projection=w, scale=1.0), weights @ v[None] / weights.sum())
    # hyperbolic: f(x) = exp(-x^2 / 2) (2^x, 2^-x)
    weights = np.array([2 + 1 / 2, math.exp(-0.5) * (4 + 1 / 4)])
    close(package.performer(q, k, v, projection=w, scale=1.0, features="hyperbolic"),
          weights @ v[None] / weights.sum())
    # trigonometric: cos a cos b + sin a sin b = cos(a - b)
    weights = np.array([math.cos(math.log(2)), math.exp(0.5)])
    close(package.performer(q, k, v, projection=w, scale=1.0, features="trigonometric"),
          weights @ v[None] / weights.sum())
    # relu: 1 sees 0 with weight 0
    close(package.performer(q, k, v, projection=w, scale=1.0, features="relu"), np.array([[6.0]]))
    close(package.performer_step(None, k, k, v, projection=w, scale=1.0, features="relu")[1],
          np.array([[0.0], [6.0]]))


@law("linformer")
def test_linformer_by_hand(package):
    q, k = np.array([[1.0]]), np.array([[0.0], [math.log(2.0)], [math.log(3.0)]])
    v, first = np.array([[1.0], [2.0], [3.0]]), np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    # slots with the keys 0 and log 6, and the values 1 + 2 and 3
    second = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    out = package.linformer(q, k, v, key_projection=first, value_projection=second)
    close(out, np.array([[3.0]]))
    out = package.linformer(q, k, v, key_projection=first, value_projection=first)
    close(out, np.array([[(1 * 1 + 6 * 5) / 7]]))


# who sees whom, in plain loops


@law("attention")
@pytest.mark.parametrize("n, m", LENGTHS)
def test_attention_in_loops(package, n, m, rng):
    args, key_mask = qkv(rng, n, m), rng.random(m) < 0.7
    holds(package.attention, args, {}, lambda p, j, *_: True)
    holds(package.attention, args, dict(causal=True, scale=0.7), lambda p, j, *_: j <= p)
    holds(package.attention, args, dict(causal=True, key_mask=key_mask), lambda p, j, *_: j <= p)
    mask = rng.random((3, n, m)) < 0.4
    holds(package.attention, args, dict(mask=mask), lambda p, j, b, h: mask[h, p - m + n, j])


@law("block_local")
@pytest.mark.parametrize("n, m", LENGTHS)
@pytest.mark.parametrize("block, before, after", [(1, 0, 0), (3, 0, 0), (5, 1, 0), (2, 1, 2), (4, 0, 1),
                                                  (20, 0, 0)])
def test_block_local_in_loops(package, n, m, block, before, after, rng):
    def sees(p, j, *_):
        return any(j // block == p // block + step for step in range(-before, after + 1))

    args, options = qkv(rng, n, m), dict(block=block, before=before, after=after)
    holds(package.block_local, args, options, sees)
    holds(package.block_local, args, options | dict(causal=True), lambda p, j, *_: sees(p, j) and j <= p)
    holds(package.block_local, args, options | dict(key_mask=rng.random(m) < 0.6), sees)


@law("sliding_window")
@pytest.mark.parametrize("n, m", LENGTHS)
@pytest.mark.parametrize("left, right", [(0, 0), (3, 0), (2, 1), (0, 2), (30, 30)])
@pytest.mark.parametrize("dilation", [1, 2, 5])
def test_sliding_window_in_loops(package, n, m, left, right, dilation, rng):
    def sees(p, j, *_):
        return j in [p + hop * dilation for hop in range(-left, right + 1)]

    args, options = qkv(rng, n, m), dict(left=left, right=right, dilation=dilation)
    holds(package.sliding_window, args, options, sees)
    holds(package.sliding_window, args, options | dict(key_mask=rng.random(m) < 0.6), sees)


@law("sliding_window")
def test_sliding_window_in_loops_with_one_dilation_per_head(package, rng):
    dilation = np.array([1, 3, 4])
    holds(package.sliding_window, qkv(rng), dict(left=2, right=1, dilation=dilation),
          lambda p, j, b, h: j - p in (-2 * dilation[h], -dilation[h], 0, dilation[h]))


@law("longformer")
@pytest.mark.parametrize("n, m", LENGTHS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window, dilation", [(0, 1), (4, 1), (4, 3)])
def test_longformer_in_loops(package, n, m, causal, window, dilation, rng):
    args, wide = qkv(rng, n, m), qkv(rng, n, m)
    is_global = rng.random((2, m)) < 0.25
    near = [hop * dilation for hop in range(-(window // 2), window // 2 + 1)]

    def sees(p, j, b, h):
        own = p >= 0 and is_global[b, p]
        return (j - p in near or is_global[b, j] or own) and (j <= p or not causal)

    options = dict(window=window, dilation=dilation, causal=causal, global_tokens=is_global[:, None])
    holds(package.longformer, args, options, sees)
    # projections of their own: each row comes whole from one or the other
    own = dict(zip(("global_q", "global_k", "global_v"), wide, strict=True))
    out = package.longformer(*args, **options, **own)
    for b, h in np.ndindex(2, 3):
        local, far = (loops(*(x[b, h] for x in source), lambda p, j, b=b, h=h: sees(p, j, b, h))
                      for source in (args, wide))
        row_is_global = np.array([i + m - n >= 0 and is_global[b, i + m - n] for i in range(n)])
        close(out[b, h], np.where(row_is_global[:, None], far, local))


@law("longformer")
def test_global_projections_are_shared_by_the_leading_axes_they_lack(package, rng):
    args, shared = qkv(rng, lead=(2, 3)), qkv(rng, lead=())
    options = dict(window=4, global_tokens=[2, 7])
    names = ("global_q", "global_k", "global_v")
    whole = [np.broadcast_to(x, (2, 3, *x.shape)).copy() for x in shared]
    close(package.longformer(*args, **options, **dict(zip(names, shared, strict=True))),
          package.longformer(*args, **options, **dict(zip(names, whole, strict=True))))


@law("patterns")
@pytest.mark.parametrize("n, m", [*LENGTHS, (70, 66)])
def test_patterns_in_loops(package, n, m):
    def listed(sees):
        return np.array([[bool(sees(i + m - n, j)) for j in range(m)] for i in range(n)]).reshape(n, m)

    def same(pattern, sees):
        np.testing.assert_array_equal(dense(pattern), listed(sees), strict=True)

    p = package.patterns
    same(p.past(n, m), lambda i, j: j <= i)
    same(p.window(n, m, left=3, right=1), lambda i, j: -3 <= j - i <= 1)
    same(p.window(n, m, left=2, right=2, dilation=3), lambda i, j: j - i in (-6, -3, 0, 3, 6))
    same(p.past(n, m) & p.window(n, m, left=5, right=5), lambda i, j: 0 <= i - j <= 5)
    same(p.past(n, m) | p.window(n, m, left=0, right=4), lambda i, j: j - i <= 4)
    if n == m:
        same(p.same_block(n, 5), lambda i, j: i // 5 == j // 5)
        same(p.same_block(n, 2, 1, 2), lambda i, j: -1 <= j // 2 - i // 2 <= 2)
        same(p.hubs(n, [0, 3]), lambda i, j: i in (0, 3) or j in (0, 3))
        same(p.strided(n, 5), lambda i, j: (i - j) % 5 == 0)
        same(p.summaries(n, 5, 2), lambda i, j: j % 5 in (3, 4))
        same(p.summaries(n, 5, 2, 1), lambda i, j: j % 5 in (1, 2))
        table = np.array([[1, 1], [0, -1], [-1, -1]])
        same(p.blocks(table, 4, n), lambda i, j: j // 4 in table[i // 4])
        indices = np.arange(3 * n).reshape(n, 3) * 7 % (n + 1) - 1
        same(p.scattered(n, indices), lambda i, j: j in indices[i])


@law("patterns")
@pytest.mark.parametrize("n, m", LENGTHS)
def test_patterns_of_each_head_in_loops(package, n, m):
    p, each = package.patterns, np.array([0, 3, 1])
    q, k, v = np.zeros((3, n, 1)), np.zeros((3, m, 1)), np.stack([np.eye(m)] * 3)
    for pattern, sees in [
            (p.window(n, m, left=1, right=1, dilation=each + 1), lambda h, i, j: abs(j - i) in (0, h + 1)),
            (p.summaries(n, 4, 1, each, m), lambda h, i, j: j % 4 == 3 - h)]:
        weights = package.attention(q, k, v, mask=pattern)  # scores are equal: whoever is seen has one
        for h, i, j in np.ndindex(weights.shape):
            assert (weights[h, i, j] > 0) == sees(each[h], i + m - n, j)


@law("patterns")
def test_patterns_of_no_tokens(package):
    p, none = package.patterns, np.zeros((0, 2), int)
    for pattern in (p.past(0), p.window(0, left=1, right=0), p.same_block(0, 3), p.hubs(0, []),
                    p.strided(0, 2), p.summaries(0, 2, 1), p.blocks(none, 4, 0), p.scattered(0, none)):
        assert dense(pattern).shape == (0, 0)
    assert dense(p.past(2, 0)).shape == dense(p.scattered(2, np.full((2, 1), -1), 0)).shape == (2, 0)


@law("patterns")
@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_and_its_boolean_array_are_the_same_mask(package, name, rng):
    pattern, n, m = PATTERNS[name]
    args, pattern = qkv(rng, n, m, lead=(2,)), pattern(package.patterns)
    for other in ({}, dict(causal=True), dict(key_mask=rng.random(m) < 0.7)):
        for a, b in zip(package.attention_lse(*args, mask=pattern, **other),
                        package.attention_lse(*args, mask=dense(pattern), **other), strict=True):
            close(a, b)


@law("patterns")
def test_to_csr_is_a_boolean_csr_matrix_of_the_visible_pairs():
    import scipy.sparse

    import xfaccel

    for pattern, n, m in PATTERNS.values():
        pattern, matrix = pattern(xfref.patterns), pattern(xfaccel.patterns).to_csr()
        assert scipy.sparse.issparse(matrix) and matrix.format == "csr" and matrix.dtype == bool
        assert matrix.shape == (n, m) and matrix.nnz == pattern.sum() and matrix.data.all()
        assert matrix.has_sorted_indices


@law("patterns")
def test_patterns_made_a_few_queries_at_a_time(rng, monkeypatch):
    import xfaccel

    monkeypatch.setattr(xfaccel.engine.ranges, "ROOM", 1)
    for name, (pattern, n, m) in PATTERNS.items():
        if n > 100:
            made, seen = pattern(xfaccel.patterns), pattern(xfref.patterns)
            new = xfaccel.patterns.Pattern(made.shape, made.parts)
            np.testing.assert_array_equal(dense(new), seen, err_msg=name)
            args = qkv(rng, n, m, lead=())
            for a, b in zip(xfaccel.attention_lse(*args, mask=new), xfref.attention_lse(*args, mask=seen),
                            strict=True):
                close(a, b)


FAR_PATTERNS = {  # of n tokens
    "window": lambda p, n: p.window(n, left=128, right=128),
    "window, dilated": lambda p, n: p.window(n, left=64, right=64, dilation=4),
    "same_block": lambda p, n: p.same_block(n, 50, 1, 1),
    "strided": lambda p, n: p.strided(n, 64),
    "strided, past": lambda p, n: p.strided(n, 64) & p.past(n),
    "summaries, past": lambda p, n: p.summaries(n, 256, 8) & p.past(n),
    "blocks": lambda p, n: p.blocks(np.random.default_rng(0).integers(0, n // 64, (n // 64, 3)), 64, n),
    "window and stride": lambda p, n: (p.window(n, left=63, right=0) | p.strided(n, 64)) & p.past(n),
    "window and summaries": lambda p, n: p.window(n, left=63, right=0) | p.summaries(n, 256, 8),
    "dilated window and hubs": lambda p, n: p.window(n, left=64, right=64, dilation=4) | p.hubs(n, [0, 5000]),
    "window and hubs": lambda p, n: p.window(n, left=64, right=64) | p.hubs(n, range(100, n, 1000)),
}


@law("patterns")
@pytest.mark.parametrize("name", FAR_PATTERNS)
def test_a_pattern_costs_what_its_pairs_do(name):
    """In scores that the engine computes, and in bytes: those held, and those that it takes to make it."""
    import xfaccel

    n = 8192
    tracemalloc.start()
    try:
        pattern = FAR_PATTERNS[name](xfaccel.patterns, n)
        lists = [tile_list for _, tile_list in pattern.tile_lists()]
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # in tiles of 64, half of a window of 64 keys is hidden
    assert sum(tile_list.scores for tile_list in lists) <= 2.1 * pattern.to_csr().nnz
    assert held <= 100 * n and peak <= 1000 * n, f"{held / n:.0f} and {peak / n:.0f} bytes per query"


@law("patterns")
def test_a_pattern_is_made_once_for_equal_arguments(rng):
    from xfaccel import patterns as p

    table, keys = rng.integers(-1, 4, (2, 4, 2)), rng.integers(-1, 16, (16, 3))

    def some(table, keys, hops, hubs):
        return [p.past(16), p.window(16, left=3, right=0), p.window(16, left=3, right=0, dilation=hops),
                p.same_block(16, 4, 1), p.hubs(16, hubs), p.strided(16, 4), p.summaries(16, 4, 1),
                p.summaries(16, 4, 1, hops), p.blocks(table, 4, 16), p.scattered(16, keys),
                p.window(16, left=3, right=0) | p.hubs(16, hubs), p.blocks(table, 4, 16) & p.past(16)]

    first = some(table, keys, [1, 2], [0, 3])
    again = some(table.copy(), keys.copy(), np.array([1, 2]), np.array([3, 0, 3]))
    assert all(a is b for a, b in zip(first, again, strict=True))
    other = some(np.flip(table, axis=-2), np.flip(keys, axis=-2), [2, 1], [0, 4])
    assert [a is b for a, b in zip(first, other, strict=True)] == [
        True, True, False, True, False, True, True, False, False, False, False, False]


@law("patterns")
@pytest.mark.parametrize("listed", [2, 10_000])
def test_a_pattern_does_not_change_with_its_table(listed, rng):
    """A large table is not remembered, but copied all the same."""
    import xfaccel

    table, args = rng.integers(-1, 16, (16, listed)), qkv(rng, 16)
    right = xfref.attention(*args, mask=xfref.patterns.scattered(16, table))
    made = [xfaccel.patterns.scattered(16, table), xfaccel.patterns.blocks(table, 1, 16)]
    table[...] = 3
    for pattern in made:
        close(xfaccel.attention(*args, mask=pattern), right)


# limits


@law("sliding_window", "block_local", "longformer")
@pytest.mark.parametrize("n, m", LENGTHS)
def test_a_window_of_everything_is_attention(package, n, m, rng):
    args, mask = qkv(rng, n, m), dict(key_mask=rng.random((2, 1, m)) < 0.7)
    full = package.attention(*args, **mask)
    far = 2 * max(n, m)
    close(package.sliding_window(*args, left=far, right=far, **mask), full)
    close(package.longformer(*args, window=2 * far, **mask), full)
    close(package.longformer(*args, window=0, global_tokens=range(m), **mask), full)
    close(package.longformer(*args, window=0, global_tokens=np.ones((2, 1, m), bool), **mask), full)
    if m >= n:
        close(package.block_local(*args, block=far, **mask), full)
    close(package.block_local(*args, block=2, before=far, after=far, **mask), full)


@law("sliding_window", "block_local", "longformer")
@pytest.mark.parametrize("n, m", LENGTHS)
def test_a_window_of_the_whole_past_is_causal_attention(package, n, m, rng):
    args, far = qkv(rng, n, m), 2 * max(n, m)
    causal = package.attention(*args, causal=True)
    close(package.sliding_window(*args, left=far, right=0), causal)
    close(package.longformer(*args, window=2 * far, causal=True), causal)
    close(package.block_local(*args, block=2, before=far, after=far, causal=True), causal)


@law("sliding_window", "block_local", "longformer")
def test_a_token_that_sees_itself_alone_returns_its_value(package, rng):
    q, k, v = qkv(rng)
    close(package.sliding_window(q, k, v, left=0, right=0), v)
    close(package.block_local(q, k, v, block=1), v)
    close(package.longformer(q, k, v, window=0), v)


@law("longformer", "sliding_window")
@pytest.mark.parametrize("n, m", LENGTHS)
def test_longformer_without_global_tokens_is_a_window(package, n, m, rng):
    args, dilation = qkv(rng, n, m), np.array([1, 2, 3])
    close(package.longformer(*args, window=6, dilation=dilation),
          package.sliding_window(*args, left=3, right=3, dilation=dilation))


@law("linformer")
@pytest.mark.parametrize("n, m", LENGTHS)
def test_linformer_with_identities_is_attention(package, n, m, rng):
    args, eye = qkv(rng, n, m), np.eye(m)
    close(package.linformer(*args, key_projection=eye, value_projection=eye), package.attention(*args))
    # the masked keys are zeroed, not hidden: a zero key has weight exp(0), a zero value adds nothing
    mask = rng.random(m) < 0.6
    q, k, v = args
    close(package.linformer(*args, key_projection=eye, value_projection=eye, key_mask=mask),
          package.attention(q, k * mask[:, None], v * mask[:, None]))


@law("linformer")
def test_linformer_with_a_choice_of_tokens_is_attention_to_them(package, rng):
    q, k, v = qkv(rng)
    chosen = np.array([7, 0, 3])
    rows = np.eye(12)[chosen]
    close(package.linformer(q, k, v, key_projection=rows, value_projection=rows),
          package.attention(q, k[..., chosen, :], v[..., chosen, :]))


@law("attention", "linear_transformer", "performer", "linformer")
def test_equal_keys_give_the_plain_mean(package, rng):
    q, k, v = qkv(rng)
    k = np.repeat(k[..., :1, :], 12, axis=-2)
    mean = np.broadcast_to(v.mean(axis=-2, keepdims=True), v.shape)
    past = v.cumsum(axis=-2) / np.arange(1, 13)[:, None]
    w = rng.standard_normal((9, 4))
    close(package.attention(q, k, v), mean)
    close(package.attention(q, k, v, causal=True), past)
    close(package.linear_transformer(q, k, v), mean)
    close(package.linear_transformer(q, k, v, causal=True), past)
    close(package.performer(q, k, v, projection=w), mean)
    close(package.performer(q, k, v, projection=w, causal=True), past)


@law("linear_transformer")
@pytest.mark.parametrize("n, m", LENGTHS)
def test_linear_transformer_in_loops(package, n, m, rng):
    q, k, v = qkv(rng, n, m, lead=())

    def feature(x):
        return [a + 1 if a > 0 else math.exp(a) for a in x]

    for causal in (False, True):
        out = np.zeros((n, 5))
        for i in range(n):
            weights = [sum(a * b for a, b in zip(feature(q[i]), feature(k[j]), strict=True)) for j in range(m)
                       if j <= i + m - n or not causal]
            for j, weight in enumerate(weights):
                out[i] += weight * v[j] / sum(weights)
        close(package.linear_transformer(q, k, v, causal=causal), out)


# causality

CAUSAL = {label: dict(causal=True) for label, variant in VARIANTS.items() if variant.causal}
CAUSAL |= {label: {} for label, variant in VARIANTS.items() if variant.always_causal}


@law(*{VARIANTS[label].function for label in CAUSAL})
@pytest.mark.parametrize("label", CAUSAL)
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda dtype: dtype.__name__)
def test_the_past_does_not_depend_on_the_future(package, label, dtype, rng):
    shape = fit(label, Shape(78, 81, 4, 5, (2,), (2,)))
    n, m = shape.n, shape.m
    args = draw_qkv(rng, dtype, shape, VARIANTS[label].size)
    options = options_of(label, rng, shape) | CAUSAL[label]
    function = function_of(package, label)

    def rows_before(t, arrays):
        outs = function(*arrays, **options)
        return [np.take(x, range(t), axis=1) for x in (outs if isinstance(outs, tuple) else (outs,))]

    for t, size in itertools.product((1, 40, 64, 65, 77), (1.0, 1e4)):
        q, k, v = (x.copy() for x in args)
        for x, start in ((q, t), (k, t + m - n), (v, t + m - n)):
            x[..., start:, :] = size * rng.standard_normal(x[..., start:, :].shape)
        for before, after in zip(rows_before(t, args), rows_before(t, (q, k, v)), strict=True):
            assert before.tobytes() == after.tobytes(), f"rows before {t} saw the future"


@law("performer", "linear_transformer")
@pytest.mark.parametrize("label", [label for label in CAUSAL if label.startswith(("performer", "linear"))])
def test_an_enormous_last_key_leaves_the_rows_before_it_alone(package, label, rng):
    variant = VARIANTS[label]
    q, k, v = draw_qkv(rng, np.float32, Shape(70, 70, 4, 5, (2,), (2,)), variant.size)
    options = variant.options(rng, 70, 70, 4, 5) | dict(causal=True)
    function = getattr(package, variant.function)
    before = function(q, k, v, **options)
    for direction in (-1e15, 1e15, 30, 1e5):
        k[..., -1, :] = direction * rng.standard_normal(4).astype(np.float32)
        after = function(q, k, v, **options)
        assert before[:, :-1].tobytes() == after[:, :-1].tobytes()
        assert np.isfinite(after).all()


@law("attention")
@pytest.mark.parametrize("label", [x for x, variant in VARIANTS.items() if variant.by_key
                                   and variant.sees_itself])
def test_a_visible_key_is_seen(package, label, rng):
    """The counterpart of causality: a change of the past does change the rows that see it."""
    variant = VARIANTS[label]
    q, k, v = draw_qkv(rng, np.float64, Shape(12, 12, 4, 5, (), ()), variant.size)
    options = variant.options(rng, 12, 12, 4, 5) | (dict(causal=True) if variant.causal else {})
    function = function_of(package, label)
    before = function(q, k, v, **options)
    for place in range(12):
        changed = v.copy()
        changed[place] += 1
        after = function(q, k, changed, **options)
        first, second = (x[0] if isinstance(x, tuple) else x for x in (before, after))
        assert np.abs(second - first)[place].max() > 0 or "relu" in label  # relu may give a weight of zero


# symmetry


@law("attention", "attention_lse", "linear_transformer", "performer", "linformer", "longformer")
@pytest.mark.parametrize("n, m", LENGTHS)
def test_the_order_of_keys_does_not_matter(package, n, m, rng):
    q, k, v = qkv(rng, n, m, size=0.3)
    order, mask = rng.permutation(m), rng.random(m) < 0.7
    moved = q, k[..., order, :], v[..., order, :]
    for label in ("attention", "linear_transformer", "performer", "performer, hyperbolic",
                  "performer, trigonometric", "performer, relu"):
        variant = VARIANTS[label]
        function, options = getattr(package, variant.function), variant.options(rng, n, m, 4, 5)
        close(function(*moved, key_mask=mask[order], **options),
              function(q, k, v, key_mask=mask, **options), 1e-11)
    e, f = rng.standard_normal((2, 5, m))
    close(package.linformer(*moved, key_projection=e[:, order], value_projection=f[:, order],
                            key_mask=mask[order]),
          package.linformer(q, k, v, key_projection=e, value_projection=f, key_mask=mask))


@law("attention", "linear_transformer", "performer", "linformer")
def test_each_query_is_answered_for_itself(package, rng):
    q, k, v = qkv(rng, size=0.3)
    order = rng.permutation(12)
    for label in ("attention", "linformer", "linear_transformer", "performer", "performer, hyperbolic",
                  "performer, trigonometric", "performer, relu"):
        variant = VARIANTS[label]
        function, options = getattr(package, variant.function), variant.options(rng, 12, 12, 4, 5)
        close(function(q[..., order, :], k, v, **options), function(q, k, v, **options)[..., order, :], 1e-11)


LINEAR = [label for label, variant in VARIANTS.items() if not variant.own_values]


@law(*{VARIANTS[label].function for label in LINEAR})
@pytest.mark.parametrize("label", LINEAR)
def test_the_output_is_linear_in_the_values(package, label, rng):
    variant = VARIANTS[label]
    q, k, v = qkv(rng, size=variant.size)
    w, options = rng.standard_normal(v.shape), variant.options(rng, 12, 12, 4, 5)

    def out(values):
        result = function_of(package, label)(q, k, values, **options)
        return result[0] if isinstance(result, tuple) else result

    close(out(2 * v - 3 * w), 2 * out(v) - 3 * out(w), 1e-11)


@law("attention")
def test_a_score_added_to_a_whole_row_changes_nothing(package, rng):
    q, k, v = qkv(rng)
    close(package.attention(q, k, v, bias=np.full((12, 12), 3.0)), package.attention(q, k, v))
    shifted, lse = package.attention_lse(q, k, v, bias=np.full((12, 12), 3.0))
    close(lse, package.attention_lse(q, k, v)[1] + 3)


# lse and merge


@law("attention_lse")
@pytest.mark.parametrize("n, m", LENGTHS)
def test_lse_against_scipy(package, n, m, rng):
    q, k, v = qkv(rng, n, m)
    scores = np.einsum("...id,...jd->...ij", q, k) / 2  # d = 4
    close(package.attention_lse(q, k, v)[1], scipy.special.logsumexp(scores, axis=-1))
    scores = np.where(np.arange(m) > np.arange(n)[:, None] + m - n, -np.inf, scores)
    close(package.attention_lse(q, k, v, causal=True)[1], scipy.special.logsumexp(scores, axis=-1))


@law("merge", "attention_lse")
def test_two_halves_merge_to_the_whole(package, rng):
    q, k, v = qkv(rng)
    for split in (0, 1, 5, 11, 12):
        halves = (package.attention_lse(q, k[..., part, :], v[..., part, :], causal=False)
                  for part in (slice(None, split), slice(split, None)))
        merged = package.merge(*itertools.chain(*halves))
        for a, b in zip(merged, package.attention_lse(q, k, v), strict=True):
            close(a, b)
    mask = rng.random((12, 12)) < 0.3  # with rows that one side or both do not see
    mask[4], mask[6] = False, True
    past = np.tri(12, dtype=bool)
    sides = (package.attention_lse(q, k, v, mask=m & past) for m in (mask, ~mask))
    for a, b in zip(package.merge(*itertools.chain(*sides)), package.attention_lse(q, k, v, causal=True),
                    strict=True):
        close(a, b)


@law("merge")
def test_merge_by_hand(package):
    out, lse = package.merge(np.array([[4.0]]), np.log([3.0]), np.array([[8.0]]), np.log([1.0]))
    close(out, np.array([[5.0]]))
    close(lse, np.log([4.0]))
    minus = np.array([-np.inf])
    out, lse = package.merge(np.array([[4.0]]), np.array([2.0]), np.array([[0.0]]), minus)
    close(out, np.array([[4.0]]))
    close(lse, np.array([2.0]))
    out, lse = package.merge(np.zeros((1, 1)), minus, np.zeros((1, 1)), minus)
    close(out, np.zeros((1, 1)))
    assert lse == -np.inf


# streaming


@law(*STEPS)
@pytest.mark.parametrize("function, label", [(f, label) for f, labels in STEPS.items() for label in labels])
@pytest.mark.parametrize("splits", [[75], [1] * 75, [64, 11], [1, 63, 1, 10], [3, 3, 60, 9]],
                         ids=lambda splits: "+".join(map(str, splits)) if len(splits) < 9 else "ones")
def test_streaming_is_parallel(package, function, label, splits, rng):
    variant = VARIANTS[label]
    args = qkv(rng, sum(splits), lead=(2,), size=variant.size)
    options = variant.options(rng, sum(splits), sum(splits), 4, 5)
    state, outs = None, []
    for end, c in zip(np.cumsum(splits), splits, strict=True):
        state, out = getattr(package, function)(state, *(x[..., end - c:end, :] for x in args), **options)
        outs.append(out)
    # trigonometric denominators come near zero: their digits are lost in any order of summation
    close(np.concatenate(outs, axis=-2), getattr(package, variant.function)(*args, causal=True, **options),
          1e-8 if "trigonometric" in label else 1e-11)


# random features


def estimates(rng, kind, q, k, draws, rows):
    """f(q) . f(k) / rows for many projections, from the formulas of the paper."""
    found = []
    for _ in range(draws):
        w = xfref.favor_projection(rng, rows, len(q))
        if kind == "trigonometric":
            each = math.exp((q @ q + k @ k) / 2) * np.cos(w @ (q - k))
        else:
            each = math.exp(-(q @ q + k @ k) / 2) * np.exp(w @ (q + k))
            if kind == "hyperbolic":
                each = (each + math.exp(-(q @ q + k @ k) / 2) * np.exp(-w @ (q + k))) / 2
        found.append(each.mean())
    return np.array(found)


@law("performer", "favor_projection")
@pytest.mark.parametrize("kind", ["positive", "hyperbolic", "trigonometric"])
@pytest.mark.parametrize("rows, d", [(4, 4), (6, 4), (3, 4)],
                         ids=["a block", "one and a half", "a short block"])
def test_the_mean_over_projections_is_the_exponential(kind, rows, d, rng):
    q, k = np.array([0.8, 0.0, 0.0, 0.0]), np.array([0.6, 0.4, 0.2, -0.3])
    found = estimates(rng, kind, q, k, 4_000, rows)
    # the mean of 4000 draws lies within four of its standard errors, each below 3 %
    error = found.std() / math.sqrt(len(found))
    assert error < 0.03 * math.exp(q @ k)
    assert abs(found.mean() - math.exp(q @ k)) < 4 * error


@law("performer")
@pytest.mark.parametrize("kind", ["positive", "hyperbolic", "trigonometric"])
def test_many_directions_approach_exact_attention(package, kind, rng):
    q, k, v = qkv(rng, 9, 11, size=0.5)
    w = xfref.favor_projection(rng, 10_000, 4)
    for causal in (False, True):
        out = package.performer(q, k, v, projection=w, features=kind, causal=causal)
        # 10000 directions leave about 10000^-0.5 = 1 % per weight
        close(out, package.attention(q, k, v, causal=causal), 0.06)


@law("performer")
def test_orthogonal_directions_have_less_variance(rng):
    q, k, d = np.array([0.8, 0.0, 0.4, 0.1]), np.array([0.6, 0.4, 0.2, 0.5]), 4
    apart = [np.exp(rng.standard_normal((d, d)) @ (q + k)).mean() for _ in range(4_000)]
    together = [np.exp(xfref.favor_projection(rng, d, d) @ (q + k)).mean() for _ in range(4_000)]
    assert np.var(together) < 0.9 * np.var(apart)


@law("favor_projection")
def test_directions_are_orthogonal_in_blocks_with_lengths_chi(rng):
    d, blocks = 5, 400
    w = xfref.favor_projection(rng, blocks * d, d)
    lengths = np.linalg.norm(w, axis=-1)
    units = (w / lengths[:, None]).reshape(blocks, d, d)
    close(units @ units.swapaxes(-1, -2), np.broadcast_to(np.eye(d), (blocks, d, d)))
    assert scipy.stats.kstest(lengths, scipy.stats.chi(d).cdf).pvalue > 0.01
    # Haar: a coordinate of a direction is distributed as sqrt of a beta variable, with either sign alike
    for row in range(d):
        for column in range(d):
            entry = units[:, row, column]
            assert scipy.stats.kstest(entry**2, scipy.stats.beta(0.5, (d - 1) / 2).cdf).pvalue > 1e-4
            assert abs(np.sign(entry).mean()) < 4 / math.sqrt(blocks)
    short = xfref.favor_projection(rng, 7, 5)
    assert short.shape == (7, 5)
    close(short[:5] @ short[:5].T, np.diag(np.sum(short[:5] ** 2, axis=-1)))
    close(short[5:] @ short[5:].T, np.diag(np.sum(short[5:] ** 2, axis=-1)))


@law("favor_projection")
def test_directions_that_are_not_orthogonal_are_normal(rng):
    w = xfref.favor_projection(rng, 500, 5, orthogonal=False)
    assert scipy.stats.kstest(w.ravel(), scipy.stats.norm.cdf).pvalue > 0.01
    assert np.abs(w[0] @ w[1]) > 1e-6


# around attention


@law("pooling_projection")
def test_pooling_takes_means_of_equal_stretches():
    close(xfref.pooling_projection(6, 3) @ np.arange(6.0), np.array([0.5, 2.5, 4.5]))
    for n, r in itertools.product(range(1, 12), range(1, 12)):
        if r <= n:
            pool = xfref.pooling_projection(n, r)
            close(pool.sum(axis=-1), np.ones(r))
            members = (pool > 0).sum(axis=-1)
            assert members.max() - members.min() <= 1 and ((pool > 0).sum(axis=0) == 1).all()


@law("sinusoidal_positions")
def test_positions_by_hand_and_by_rotation():
    table = xfref.sinusoidal_positions(5, 6)
    for p, i in itertools.product(range(5), range(3)):
        angle = p / 10000 ** (2 * i / 6)
        close(table[p, 2 * i:2 * i + 2], np.array([math.sin(angle), math.cos(angle)]))
    close(xfref.sinusoidal_positions(3, 6, offset=2), table[2:])
    close(table @ table[:1].T, (table[:, 1::2].sum(axis=-1))[:, None])


@law("multi_head", "multi_head_weights")
def test_multi_head_with_identities_is_attention_on_slices(package, rng):
    width = 6
    weights = xfref.multi_head_weights(rng, width)
    assert set(weights) == {"wq", "wk", "wv", "wo", "bq", "bk", "bv", "bo"}
    eye = {name: np.eye(width) if name[0] == "w" else np.zeros(width) for name in weights}
    for lead in ((), (2,), (2, 2)):
        x, context = rng.standard_normal((*lead, 5, width)), rng.standard_normal((*lead, 7, width))
        out = xfref.multi_head(x, context, eye, heads=3, attend=package.attention)
        for head in range(3):
            part = slice(2 * head, 2 * head + 2)
            close(out[..., part], package.attention(*(np.ascontiguousarray(y[..., part])
                                                      for y in (x, context, context))))


@law("feed_forward", "feed_forward_weights", "encoder_block", "encoder_block_weights")
def test_an_encoder_block_is_its_parts(package, rng):
    weights = xfref.encoder_block_weights(rng, 6, 10)
    weights = {name: w + 0.1 * rng.standard_normal(w.shape) for name, w in weights.items()}
    x = rng.standard_normal((2, 5, 6))

    def norm(y, place):
        centred = y - y.mean(axis=-1, keepdims=True)
        spread = np.sqrt(y.var(axis=-1, keepdims=True) + 1e-5)
        return centred / spread * weights[f"g{place}"] + weights[f"n{place}"]

    def mix(y):
        return xfref.multi_head(y, y, weights, heads=2, attend=package.attention)

    def feed(y):
        return np.maximum(y @ weights["w1"] + weights["b1"], 0) @ weights["w2"] + weights["b2"]

    close(xfref.feed_forward(x, weights), feed(x))
    y = norm(x + mix(x), 1)
    close(xfref.encoder_block(x, weights, heads=2, attend=package.attention), norm(y + feed(y), 2))
    y = x + mix(norm(x, 1))
    close(xfref.encoder_block(x, weights, heads=2, attend=package.attention, norm="pre"),
          y + feed(norm(y, 2)))


@law("lra")
def test_required_span_of_a_window_is_its_mean_distance(package):
    weights = dense(package.patterns.window(9, left=2, right=0)).astype(float)
    rows = [0.0, 0.5] + [1.0] * 7  # mean distance in a row that sees itself and at most two before it
    close(xfref.lra.required_span(weights), np.asarray(np.mean(rows)).reshape(()))
