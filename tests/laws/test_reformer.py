"""Laws of Reformer: the hash, who sees whom in plain loops, limits, the union of rounds, and what leaks."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
from lawbook import close, law, qkv

import xfref


def order_of(buckets):
    """Positions by bucket, then by position, of one round."""
    return sorted(range(len(buckets)), key=lambda i: (buckets[i], i))


def window_of(i, buckets, chunk, before, after, across=True):
    """The keys that one round shows to query i, itself among them."""
    order = order_of(buckets)
    own = order.index(i) // chunk
    near = [j for place, j in enumerate(order) if own - before <= place // chunk <= own + after]
    return {j for j in near if across or buckets[j] == buckets[i]}


def row(i, keys, qk, v, scale):
    """Softmax over a set of keys, each divided by its length."""
    if not keys:
        return np.zeros(v.shape[-1])
    keys = sorted(keys)
    scores = [scale * sum(qk[i] * qk[j]) / math.sqrt(sum(qk[j] ** 2)) for j in keys]
    weights = np.exp(np.array(scores) - max(scores))
    return weights @ v[keys] / weights.sum()


def in_loops(qk, v, buckets, chunk, before=1, after=0, *, across_buckets=True, causal=False, key_mask=None,
             scale=None):
    """Section 2 for (n,d), (n,e) and (R,n), set by set."""
    n, scale = len(qk), qk.shape[-1] ** -0.5 if scale is None else scale
    out = []
    for i in range(n):
        union = set().union(*(window_of(i, row, chunk, before, after, across_buckets) for row in buckets))
        union = {j for j in union if (j <= i or not causal) and (key_mask is None or key_mask[j])}
        out.append(row(i, union - {i} or union, qk, v, scale))
    return np.array(out)


def drawn(rng, n=13, rounds=2, number=4, lead=(2, 3)):
    qk, _, v = qkv(rng, n, lead=lead)
    return qk, v, rng.integers(0, number, (*lead, rounds, n))


def holds(function, qk, v, buckets, **options):
    out = function(qk, v, buckets=buckets, **options)
    for place in np.ndindex(qk.shape[:-2]):
        close(out[place], in_loops(qk[place], v[place], buckets[place], **options))


# the hash


@law("lsh_buckets")
def test_buckets_by_hand(package):
    x = np.array([[3.0, 1.0], [-3.0, 1.0], [1.0, 2.0], [1.0, -2.0]])
    axes = np.eye(2)[:, None]
    np.testing.assert_array_equal(package.lsh_buckets(x, axes), [[0, 2, 1, 3]])
    # two rounds, each with its own directions: the second has one, (1, 1)
    rotations = np.stack([np.array([[1.0], [0.0]]), np.array([[1.0], [1.0]])], axis=1)
    np.testing.assert_array_equal(package.lsh_buckets(x, rotations), [[0, 1, 0, 0], [0, 1, 0, 1]])


@law("lsh_buckets")
def test_of_equal_products_the_first_counts(package):
    rotations = np.ones((1, 1, 3))
    x = np.array([[2.0], [0.0], [-2.0], [np.nan]])
    # (2, 2, 2, -2, -2, -2), six zeros, (-2, -2, -2, 2, 2, 2), and the first NaN
    np.testing.assert_array_equal(package.lsh_buckets(x, rotations), [[0, 0, 3, 0]])
    # vectors of no entries have products of zero
    np.testing.assert_array_equal(package.lsh_buckets(np.zeros((3, 0)), np.zeros((0, 1, 2))), [[0, 0, 0]])


@law("lsh_buckets")
def test_buckets_in_loops(package, rng):
    x, rotations = rng.standard_normal((2, 3, 9, 4)), rng.standard_normal((3, 4, 2, 5))
    out = package.lsh_buckets(x, rotations)
    assert out.shape == (2, 3, 2, 9) and out.dtype.kind == "i"
    for b, h, r, i in np.ndindex(out.shape):
        products = [sum(x[b, h, i] * sign * rotations[h, :, r, t]) for sign in (1, -1) for t in range(5)]
        assert out[b, h, r, i] == products.index(max(products))


@law("lsh_buckets")
def test_a_bucket_is_a_direction(package, rng):
    x, rotations = rng.standard_normal((3, 40, 6)), rng.standard_normal((6, 2, 4))
    buckets = package.lsh_buckets(x, rotations)
    np.testing.assert_array_equal(package.lsh_buckets(7 * x, rotations), buckets)
    np.testing.assert_array_equal(package.lsh_buckets(-x, rotations), (buckets + 4) % 8)
    # rotations may come in another dtype; they are cast to that of x
    np.testing.assert_array_equal(package.lsh_buckets(x, rotations.astype(np.float32)),
                                  package.lsh_buckets(x, rotations.astype(np.float32).astype(float)))


@law("lsh_buckets", "lsh_rotations")
def test_near_vectors_share_a_bucket_more_often_than_far_ones(package, rng):
    d, rounds = 8, 4_000
    rotations = xfref.lsh_rotations(rng, d, rounds, 8)
    x = np.zeros((3, d))
    for i, angle in enumerate((0.0, 0.3, 1.5)):
        x[i, :2] = math.cos(angle), math.sin(angle)
    buckets = package.lsh_buckets(x, rotations)
    near, far = (buckets[:, 0] == buckets[:, i] for i in (1, 2))
    assert near.mean() > 0.6 and far.mean() < 0.25
    # each of the 8 buckets is as likely as any other
    counts = np.bincount(buckets[:, 0], minlength=8)
    assert scipy.stats.chisquare(counts).pvalue > 0.01


@law("lsh_rotations")
def test_rotations_are_normal_and_differ_by_round(rng):
    rotations = xfref.lsh_rotations(rng, 20, 3, 40)
    assert rotations.shape == (20, 3, 20) and rotations.dtype == np.float64
    assert scipy.stats.kstest(rotations.ravel(), scipy.stats.norm.cdf).pvalue > 0.01
    flat = rotations.swapaxes(0, 1).reshape(3, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(3)).max() < 0.2
    for wrong in ((4, 2, 3), (4, 0, 2), (0, 2, 2), (4, 2, 0)):
        with pytest.raises(ValueError, match="needs"):
            xfref.lsh_rotations(rng, *wrong)
    with pytest.raises(TypeError, match="d needs an integer"):
        xfref.lsh_rotations(rng, 4.0, 2, 2)


# who sees whom


@law("reformer")
@pytest.mark.parametrize("n", [1, 2, 12, 13])
@pytest.mark.parametrize("chunk, before, after", [(1, 0, 0), (1, 2, 1), (3, 1, 0), (4, 0, 0), (4, 0, 1),
                                                  (5, 2, 2), (20, 1, 0), (3, 30, 0)])
def test_reformer_in_loops(package, n, chunk, before, after, rng):
    qk, v, buckets = drawn(rng, n, lead=(2,))
    options = dict(chunk=chunk, before=before, after=after)
    holds(package.reformer, qk, v, buckets, **options)
    holds(package.reformer, qk, v, buckets, causal=True, scale=0.7, **options)
    holds(package.reformer, qk, v, buckets, across_buckets=False, **options)
    holds(package.reformer, qk, v, buckets, across_buckets=False, causal=True, **options)
    mask = rng.random(n) < 0.6
    holds(package.reformer, qk, v, buckets, key_mask=mask, **options)
    holds(package.reformer, qk, v, buckets, key_mask=mask, causal=True, across_buckets=False, **options)


@law("reformer")
def test_reformer_by_hand(package):
    qk = np.array([[1.0, 0.0], [0.0, 3.0], [2.0, 0.0], [0.0, 1.0], [math.log(3.0), 0.0]])
    v = np.array([[1.0], [2.0], [4.0], [8.0], [16.0]])
    # the order is 0 2 4 1 3, in chunks 0 2, 4 1 and the short one, 3
    own = package.reformer(qk, v, buckets=np.array([[0, 1, 0, 1, 0]]), chunk=2, before=0, scale=1.0)
    close(own, np.array([[4.0], [16.0], [1.0], [8.0], [2.0]]))
    # looking back, token 4 sees 0 and 2 with weight 3 each and 1 with 1; token 3 sees 4 and 1, 1 : e
    back = package.reformer(qk, v, buckets=np.array([[0, 1, 0, 1, 0]]), chunk=2, scale=1.0)
    close(back[[0, 2]], own[[0, 2]])
    close(back[[4]], np.array([[(3 * 1 + 3 * 4 + 2) / 7]]))
    close(back[[3]], np.array([[(16 + math.e * 2) / (1 + math.e)]]))


@law("reformer")
def test_a_token_sees_itself_only_if_it_sees_nothing_else(package, rng):
    qk, v, buckets = drawn(rng)
    close(package.reformer(qk, v, buckets=buckets, chunk=1, before=0), v)
    # in causal order the first token has no other
    out = package.reformer(qk, v, buckets=buckets, chunk=50, causal=True)
    close(out[..., 0, :], v[..., 0, :])
    close(out[..., 1, :], v[..., 0, :])
    # where all others are hidden; and nothing is left where it is hidden itself
    only = np.arange(13) == 5
    out = package.reformer(qk, v, buckets=buckets, chunk=50, key_mask=only)
    close(out, np.broadcast_to(v[..., 5:6, :], v.shape))
    out = package.reformer(qk, v, buckets=buckets, chunk=1, before=0, key_mask=only)
    close(out, v * only[:, None])


@law("reformer")
def test_nothing_lies_before_the_first_chunk_or_after_the_last(package, rng):
    qk, v, _ = drawn(rng, 12, lead=())
    buckets = np.stack([np.arange(12), np.arange(12)[::-1]])
    for rounds, first, last in ((buckets[:1], 0, 11), (buckets[1:], 11, 0)):
        moved = v.copy()
        moved[last] += 1
        for options in (dict(before=2), dict(before=0, after=2)):
            changed = np.abs(package.reformer(qk, moved, buckets=rounds, chunk=3, **options)
                             - package.reformer(qk, v, buckets=rounds, chunk=3, **options)).max(axis=-1) > 0
            assert not changed[first] and changed[abs(last - 1)]


@law("reformer")
def test_a_masked_token_keeps_its_place_in_the_order(package, rng):
    qk, v, _ = drawn(rng, 6, lead=())
    options = dict(buckets=np.arange(6)[None], chunk=2, key_mask=~np.isin(np.arange(6), [1, 2]))
    moved = v.copy()
    moved[0] += 1
    changed = package.reformer(qk, moved, **options) != package.reformer(qk, v, **options)
    # in the order 0 3 4 5 tokens 4 and 5 would see 0 too
    np.testing.assert_array_equal(changed.any(axis=-1), [True, True, True, True, False, False])


@law("reformer")
@pytest.mark.parametrize("n", [256, 257])
@pytest.mark.parametrize("across", [True, False])
def test_chunks_far_apart_are_not_taken_for_neighbours(package, n, across, rng):
    """256 and 257 chunks: their numbers, and those of positions, just fit a byte, or just do not."""
    qk, _, v = qkv(rng, n, lead=())
    # the first and the last position are neighbours in the second round alone
    middle = np.arange(n)
    middle[[0, -1]] = n // 2 - 1, n // 2
    middle[1:-1] = np.delete(np.arange(n), [n // 2 - 1, n // 2])
    buckets = np.stack([np.arange(n), middle if across else (middle + 1) // 2])
    options = dict(buckets=buckets, chunk=1, after=1, across_buckets=across)
    for key, query in ((0, n - 1), (n - 1, 0)):
        moved = v.copy()
        moved[key] += 1
        changed = package.reformer(qk, moved, **options) != package.reformer(qk, v, **options)
        assert changed[query].all()


# limits


@law("reformer")
@pytest.mark.parametrize("options", [dict(chunk=13), dict(chunk=100, before=0),
                                     dict(chunk=2, before=6, after=6)])
def test_one_chunk_is_attention_to_all_others(package, options, rng):
    qk, v, buckets = drawn(rng)
    keys = qk / np.linalg.norm(qk, axis=-1, keepdims=True)
    mask = rng.random((2, 1, 13)) < 0.7
    full = package.attention(qk, keys, v, mask=~np.eye(13, dtype=bool), key_mask=mask)
    close(package.reformer(qk, v, buckets=buckets, key_mask=mask, **options), full)


@law("reformer")
def test_chunks_above_the_buckets_leave_attention_within_buckets(package, rng):
    """Section 2: if no bucket has as many tokens as a chunk, all of its keys lie in the window."""
    qk, v, buckets = drawn(rng, 24, number=6)
    largest = max(np.bincount(one).max() for one in buckets.reshape(-1, 24))
    same = (buckets[..., :, None] == buckets[..., None, :]).any(axis=-3) & ~np.eye(24, dtype=bool)
    assert same.any(axis=-1).all()
    keys = qk / np.linalg.norm(qk, axis=-1, keepdims=True)
    close(package.reformer(qk, v, buckets=buckets, chunk=int(largest) + 1, after=1, across_buckets=False),
          package.attention(qk, keys, v, mask=same))


@law("reformer")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("across", [False, True])
def test_the_rounds_together_are_those_of_appendix_a(package, causal, across, rng):
    """Eq. 13 to 16: rounds apart, each pair with weight 1 / N_ij, joined by their partition functions."""
    n, rounds = 14, 3
    qk, v, buckets = drawn(rng, n, rounds, lead=())
    sees = np.array([[[j in window_of(i, one, 4, 1, 0, across) and (j <= i or not causal) for j in range(n)]
                      for i in range(n)] for one in buckets])
    scores = qk @ (qk / np.linalg.norm(qk, axis=-1, keepdims=True)).T / 2  # d = 4
    times = np.maximum(sees.sum(axis=0), 1)
    masked = np.where(np.eye(n, dtype=bool), scores - 1e5, scores - np.log(times))
    masked = np.where(sees, masked, -np.inf)
    z = scipy.special.logsumexp(masked, axis=-1)
    apart = np.exp(masked - z[..., None]) @ v
    joined = (np.exp(z - scipy.special.logsumexp(z, axis=0))[..., None] * apart).sum(axis=0)
    out = package.reformer(qk, v, buckets=buckets, chunk=4, causal=causal, across_buckets=across)
    close(out, joined, 1e-9)  # the penalty takes five of sixteen digits


@law("reformer")
def test_rounds_are_a_set(package, rng):
    qk, v, buckets = drawn(rng, rounds=3)
    for across in (True, False):
        options = dict(chunk=3, across_buckets=across)
        out = package.reformer(qk, v, buckets=buckets, **options)
        for again in ([2, 0, 1], [0, 1, 2, 0], [1, 1, 0, 2, 2, 2]):
            close(package.reformer(qk, v, buckets=buckets[..., again, :], **options), out)
    # other numbers for the same order are the same buckets
    for renamed in (3 * buckets + 7, buckets.astype(np.int8), buckets.astype(np.uint64) << np.uint64(60)):
        close(package.reformer(qk, v, buckets=renamed, chunk=3, across_buckets=False), out)


@law("reformer")
def test_where_no_bucket_has_two_tokens_their_order_does_not_matter(package, rng):
    qk, v, _ = drawn(rng)
    buckets, moved = rng.permuted(np.tile(np.arange(13), (2, 3, 2, 1)), axis=-1), rng.permutation(13)
    close(package.reformer(qk[..., moved, :], v[..., moved, :], buckets=buckets[..., moved], chunk=3),
          package.reformer(qk, v, buckets=buckets, chunk=3)[..., moved, :])


# lengths of vectors


@law("reformer")
def test_the_length_of_a_vector_is_the_temperature_of_its_query_alone(package, rng):
    qk, v, buckets = drawn(rng)
    options = dict(buckets=buckets, chunk=4)
    out = package.reformer(qk, v, **options)
    close(package.reformer(3 * qk, v, **options), package.reformer(qk, v, scale=1.5, **options))
    longer = qk.copy()
    longer[..., 6, :] *= 5
    changed = package.reformer(longer, v, **options)
    close(np.delete(changed, 6, axis=-2), np.delete(out, 6, axis=-2))
    assert np.abs(changed - out)[..., 6, :].max() > 1e-3
    # a key of zeros has no direction: its score is 0
    qk[..., 2, :] = 0
    lone = np.broadcast_to(np.arange(13) == 2, (2, 3, 13))
    mixed = package.reformer(qk, v, buckets=buckets, chunk=13, key_mask=lone | (np.arange(13) == 4))
    scores = np.sum(qk[..., 7, :] * qk[..., 4, :], -1) / np.linalg.norm(qk[..., 4, :], axis=-1) / 2
    weight = 1 / (1 + np.exp(scores))[..., None]
    close(mixed[..., 7, :], weight * v[..., 2, :] + (1 - weight) * v[..., 4, :])


@law("reformer")
def test_keys_of_any_size_have_length_one(package, rng):
    """No epsilon, and no square that is too large or too small for the dtype."""
    qk, v, buckets = drawn(rng)
    for dtype, sizes in ((np.float32, (1e-37, 1e-25, 1e25, 1e37)), (np.float64, (1e-300, 1e300))):
        x, values = qk.astype(dtype), v.astype(dtype)
        plain = package.reformer(x, values, buckets=buckets, chunk=4, scale=1.0)
        for size in sizes:
            out = package.reformer(dtype(size) * x, values, buckets=buckets, chunk=4, scale=1 / size)
            assert out.dtype == dtype
            close(out, plain, 1e-4 if dtype == np.float32 else 1e-12)


# masks and the future


@law("reformer")
@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e38])
def test_garbage_under_a_mask_stays_in_its_own_row(package, garbage, rng):
    """A hidden token is no key; as a query it has a row of its own, which asks with what it holds."""
    qk, v, buckets = drawn(rng)
    for dtype in (np.float32, np.float64):
        x, values, mask = qk.astype(dtype), v.astype(dtype), rng.random((2, 3, 13)) < 0.6
        options = dict(buckets=buckets, chunk=3, key_mask=mask)
        clean = package.reformer(x, values, **options)
        x[~mask], values[~mask] = garbage, garbage
        with np.errstate(invalid="ignore"):
            dirty = package.reformer(x, values, **options)
            nothing = package.reformer(x, values, buckets=buckets, chunk=1, before=0, key_mask=mask)
        assert clean[mask].tobytes() == dirty[mask].tobytes()
        assert not nothing[~mask].any()


@law("reformer")
def test_a_visible_nan_reaches_the_rows_that_see_it(package, rng):
    qk, v, buckets = drawn(rng)
    qk[..., 4, 1] = np.nan
    out = package.reformer(qk, v, buckets=buckets, chunk=13, causal=True)
    # row 4 asks with it, later rows see it as a key
    assert np.isnan(out[..., 4:, :]).all() and np.isfinite(out[..., :4, :]).all()
    # and where it sees itself alone
    out = package.reformer(qk, v, buckets=buckets, chunk=1, before=0)
    assert np.isnan(out[..., 4, :]).all()
    close(np.delete(out, 4, axis=-2), np.delete(v, 4, axis=-2))


@law("reformer", "lsh_buckets")
def test_the_bucket_of_a_later_token_reaches_earlier_rows(package):
    """Causal attention is causal for fixed buckets only: a token that moves shifts the chunks of others."""
    v, chunk = np.arange(1.0, 7.0)[:, None], dict(chunk=2, before=0, causal=True)
    rotations = np.eye(2)[:, None]
    qk = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, -1.0], [0.0, -1.0]])
    buckets = package.lsh_buckets(qk, rotations)
    out = package.reformer(qk, v, buckets=buckets, **chunk)
    qk[5] = 1.0, 0.0  # now comes first, so that 0 and 1 part
    moved = package.lsh_buckets(qk, rotations)
    assert (moved[..., :5] == buckets[..., :5]).all()
    close(out[:2], np.array([[1.0], [1.0]]))
    close(package.reformer(qk, v, buckets=moved, **chunk)[:2], np.array([[1.0], [2.0]]))
    # for fixed buckets nothing leaks
    close(package.reformer(qk, v, buckets=buckets, **chunk)[:5], out[:5])


# leading axes and pieces


@law("reformer")
def test_buckets_broadcast_against_the_leading_axes(package, rng):
    qk, v, _ = drawn(rng)
    for lead in ((), (3,), (2, 1), (1, 3), (2, 3)):
        buckets = rng.integers(0, 4, (*lead, 2, 13))
        wide = np.broadcast_to(buckets, (2, 3, 2, 13))
        close(package.reformer(qk, v, buckets=buckets, chunk=3),
              package.reformer(qk, v, buckets=wide.copy(), chunk=3))
    shared = package.reformer(qk[:, :1], v, buckets=wide, chunk=3)
    close(shared, package.reformer(np.repeat(qk[:, :1], 3, axis=1), v, buckets=wide, chunk=3))


# the reversible block


@law("reversible_block")
@pytest.mark.parametrize("causal", [False, True])
def test_a_reversible_block_is_its_parts(package, causal, rng):
    weights = xfref.encoder_block_weights(rng, 6, 10)
    weights = {name: w + 0.1 * rng.standard_normal(w.shape) for name, w in weights.items()}
    x1, x2 = rng.standard_normal((2, 2, 5, 6))

    def attend(q, k, v):
        return package.attention(q, k, v, causal=causal)

    def norm(x, place):
        units = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
        return units * weights[f"g{place}"] + weights[f"n{place}"]

    inner = norm(x2, 1)
    y1 = x1 + xfref.multi_head(inner, inner, weights, heads=2, attend=attend)
    hidden = np.maximum(norm(y1, 2) @ weights["w1"] + weights["b1"], 0)
    y2 = x2 + hidden @ weights["w2"] + weights["b2"]
    out = xfref.reversible_block(x1, x2, weights, heads=2, attend=attend)
    assert isinstance(out, tuple) and len(out) == 2
    close(out[0], y1)
    close(out[1], y2)


@law("reversible_block", "reversible_inverse")
def test_the_inverse_gives_the_inputs_back(package, rng):
    rotations = xfref.lsh_rotations(rng, 4, 2, 4)

    def attend(q, _, v):
        return package.reformer(q, v, buckets=package.lsh_buckets(q, rotations), chunk=3)

    layers = [xfref.encoder_block_weights(rng, 8, 10) for _ in range(4)]
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 1e-4)):
        x = y = tuple(rng.standard_normal((2, 2, 11, 8)).astype(dtype))
        for weights in layers:
            y = xfref.reversible_block(*y, weights, heads=2, attend=attend)
        assert np.abs(y[0] - x[0]).max() > 0.1
        for weights in reversed(layers):
            y = xfref.reversible_inverse(*y, weights, heads=2, attend=attend)
        for back, given in zip(y, x, strict=True):
            close(back, given, tolerance)


@law("reversible_block", "reversible_inverse")
def test_reversible_blocks_name_what_does_not_fit(rng):
    weights, x = xfref.encoder_block_weights(rng, 4, 6), np.zeros((3, 4))
    for block, name in ((xfref.reversible_block, "x"), (xfref.reversible_inverse, "y")):
        for key in weights:
            missing = {other: w for other, w in weights.items() if other != key}
            with pytest.raises(ValueError, match=f"weights needs the key '{key}'"):
                block(x, x, missing, heads=2)
        with pytest.raises(ValueError, match=rf"{name}1 and {name}2 need equal shapes.*\(3, 4\).*\(2, 4\)"):
            block(x, x[:2], weights, heads=2)
        with pytest.raises(TypeError, match=f"{name}2 needs the dtype"):
            block(x, x.astype(np.float32), weights, heads=2)
        with pytest.raises(TypeError, match=f"{name}1 needs a numpy.ndarray"):
            block([[1.0]], x, weights, heads=2)
        with pytest.raises(ValueError, match="heads needs to divide"):
            block(x, x, weights, heads=3)
