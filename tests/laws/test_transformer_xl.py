"""Laws of Transformer-XL."""

import math

import numpy as np
import pytest
from lawbook import close, law, qkv

LENGTHS = [(12, 12), (7, 12), (1, 5), (1, 1), (0, 4)]


def parameters(rng, m, d=4, lead=(3,)):
    return dict(relative_keys=rng.standard_normal((*lead, m, d)),
                content_bias=rng.standard_normal((*lead, d)), position_bias=rng.standard_normal((*lead, d)))


def four_terms(q, k, v, relative_keys, content_bias, position_bias, *, longest=None, scale=None,
               key_mask=None):
    """One leading entry in plain loops: the four terms one by one, for the distances 0 to `longest`."""
    n, m, d = len(q), len(k), q.shape[-1]
    out = np.zeros((n, v.shape[-1]))
    for i in range(n):
        weights = {}
        for j in range(m):
            distance = i + m - n - j
            if 0 <= distance <= (m if longest is None else longest) and (key_mask is None or key_mask[j]):
                terms = [sum(a * b for a, b in zip(x, y, strict=True)) for x, y in (
                    (q[i], k[j]), (q[i], relative_keys[distance]), (content_bias, k[j]),
                    (position_bias, relative_keys[distance]))]
                weights[j] = math.exp((d**-0.5 if scale is None else scale) * sum(terms))
        for j, weight in weights.items():
            out[i] += weight * v[j] / sum(weights.values())
    return out


@law("transformer_xl")
def test_by_hand(package):
    q, k = np.array([[1.0], [2.0]]), np.array([[0.0], [math.log(2)], [0.0]])
    v = np.array([[1.0], [2.0], [4.0]])
    # the first query, on the second key, weighs 3 : 2; the second query 9^2 : 4 * 9 : 1
    r = math.log(3) * np.arange(3.0)[:, None]
    out = package.transformer_xl(q, k, v, relative_keys=r, scale=1.0)
    close(out, np.array([[(3 * 1 + 2 * 2) / 5], [(81 * 1 + 36 * 2 + 1 * 4) / 118]]))
    # one more in each query, on either side of the scores
    out = package.transformer_xl(q, k, v, relative_keys=r, scale=1.0, content_bias=np.ones(1))
    close(out, np.array([[(3 * 1 + 4 * 2) / 7], [(81 * 1 + 72 * 2 + 1 * 4) / 154]]))
    out = package.transformer_xl(q, k, v, relative_keys=r, scale=1.0, position_bias=np.ones(1))
    close(out, np.array([[(9 * 1 + 2 * 2) / 11], [(729 * 1 + 108 * 2 + 1 * 4) / 838]]))
    # as many keys for the second query as for the first
    out = package.transformer_xl(q, k, v, relative_keys=r, scale=1.0, same_length=True)
    close(out, np.array([[(3 * 1 + 2 * 2) / 5], [(36 * 2 + 1 * 4) / 37]]))


@law("transformer_xl")
@pytest.mark.parametrize("n, m", LENGTHS)
@pytest.mark.parametrize("same_length", [False, True])
def test_in_loops(package, n, m, same_length, rng):
    args, own, key_mask = qkv(rng, n, m), parameters(rng, m), rng.random((2, 1, m)) < 0.7
    for other in ({}, dict(scale=0.7), dict(key_mask=key_mask)):
        out = package.transformer_xl(*args, **own, same_length=same_length, **other)
        for b, h in np.ndindex(2, 3):
            known = other | (dict(key_mask=key_mask[b, 0]) if "key_mask" in other else {})
            close(out[b, h], four_terms(*(x[b, h] for x in args), *(x[h] for x in own.values()),
                                        longest=m - n if same_length else None, **known))


@law("transformer_xl")
def test_a_bias_that_is_not_given_is_zero(package, rng):
    args, own = qkv(rng, 7, 12), parameters(rng, 12)
    for names in ((), ("content_bias",), ("position_bias",)):
        given = {name: own[name] for name in ("relative_keys", *names)}
        filled = {name: x if name in given else np.zeros_like(x) for name, x in own.items()}
        out = package.transformer_xl(*args, **given)
        for b, h in np.ndindex(2, 3):
            close(out[b, h], four_terms(*(x[b, h] for x in args), *(x[h] for x in filled.values())))


@law("transformer_xl")
@pytest.mark.parametrize("n, m", LENGTHS)
def test_distances_that_are_all_alike_leave_causal_attention(package, n, m, rng):
    q, k, v = qkv(rng, n, m)
    mask = dict(key_mask=rng.random((2, 1, m)) < 0.7)
    alike, bias = np.repeat(rng.standard_normal((1, 4)), m, axis=0), rng.standard_normal((3, 4))
    for relative_keys in (np.zeros((m, 4)), alike):
        close(package.transformer_xl(q, k, v, relative_keys=relative_keys, **mask),
              package.attention(q, k, v, causal=True, **mask))
        close(package.transformer_xl(q, k, v, relative_keys=relative_keys, content_bias=bias,
                                     position_bias=bias, **mask),
              package.attention(q + bias[:, None], k, v, causal=True, **mask))
        close(package.transformer_xl(q, k, v, relative_keys=relative_keys, same_length=True, **mask),
              package.sliding_window(q, k, v, left=m - n, right=0, **mask))


@law("transformer_xl")
def test_keys_that_are_all_alike_leave_distances(package, rng):
    q, k, v = qkv(rng, 7, 12)
    w, bias = rng.standard_normal((12, 4)), rng.standard_normal(4)
    out = package.transformer_xl(q, np.repeat(k[..., :1, :], 12, axis=-2), v, relative_keys=w,
                                 position_bias=bias)
    for i in range(7):  # a row for itself, in the order of distance
        near = v[..., i + 5::-1, :]
        close(out[..., i:i + 1, :], package.attention(q[..., i:i + 1, :] + bias, w[:i + 6], near))


@law("transformer_xl")
@pytest.mark.parametrize("lengths", [[12], [1] * 12, [5, 4, 3], [1, 10, 1]])
def test_segments_with_all_of_the_past_as_memory_are_one_sequence(package, lengths, rng):
    q, k, v = qkv(rng, 12)
    own = parameters(rng, 12)
    whole, outs = package.transformer_xl(q, k, v, **own), []
    for end, length in zip(np.cumsum(lengths), lengths, strict=True):
        known = own | dict(relative_keys=own["relative_keys"][:, :end])
        outs.append(package.transformer_xl(q[..., end - length:end, :], k[..., :end, :], v[..., :end, :],
                                           **known))
    close(np.concatenate(outs, axis=-2), whole)


@law("transformer_xl")
def test_a_memory_of_one_length_for_every_query_is_a_sliding_memory(package, rng):
    """With `same_length` a query gets what it would get alone with its own m - n older keys."""
    q, k, v = qkv(rng, 7, 12)
    own = parameters(rng, 12)
    out = package.transformer_xl(q, k, v, **own, same_length=True)
    near = own | dict(relative_keys=own["relative_keys"][:, :6])
    for i in range(7):
        close(out[..., i:i + 1, :], package.transformer_xl(
            q[..., i:i + 1, :], k[..., i:i + 6, :], v[..., i:i + 6, :], **near))


@law("transformer_xl")
@pytest.mark.parametrize("same_length", [False, True])
def test_a_row_depends_on_the_distances_it_reaches_alone(package, same_length, rng):
    """The reshaping trick leaves the next row's scores where a key is in the future: none may be felt."""
    q, k, v = qkv(rng, 70, 80, lead=(2,))
    own = parameters(rng, 80, lead=())
    before = package.transformer_xl(q, k, v, **own, same_length=same_length)
    for distance in (0, 1, 10, 11, 40, 79):
        changed = own["relative_keys"].copy()
        changed[distance] = np.nan
        after = package.transformer_xl(q, k, v, **own | dict(relative_keys=changed), same_length=same_length)
        touched = (after != before).any(axis=(0, 2))
        reach = np.arange(70) + 10
        assert (touched == ((reach >= distance) & (distance <= 10 if same_length else True))).all()


@law("transformer_xl")
def test_an_older_key_that_is_hidden_counts_as_absent(package, rng):
    q, k, v = qkv(rng, 7, 12)
    own = parameters(rng, 12)
    shorter = own | dict(relative_keys=own["relative_keys"][:, :9])
    close(package.transformer_xl(q, k, v, **own, key_mask=np.arange(12) >= 3),
          package.transformer_xl(q, k[..., 3:, :], v[..., 3:, :], **shorter))


@law("transformer_xl")
def test_the_fast_twin_keeps_the_scores_of_one_block():
    import tracemalloc

    import xfaccel
    from xfaccel.engine.cpu.threads import limited  # a helper that has not woken yet holds on to its block

    rng = np.random.default_rng(0)
    q, k, v = (x.astype(np.float32) for x in qkv(rng, 640, 700, d=8, e=8, lead=(16,)))
    relative_keys = rng.standard_normal((700, 8))
    row = 4 * 16 * 64  # bytes for a key: float32, 16 heads, a block of 64 queries
    for same_length, keys in ((False, 700), (True, 64 + 60)):
        options = dict(relative_keys=relative_keys, same_length=same_length)
        with limited(1):
            out = xfaccel.transformer_xl(q, k, v, **options)
            tracemalloc.start()
            try:
                xfaccel.transformer_xl(q, k, v, **options)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
        assert peak - out.nbytes < row * keys + 500_000  # scratch and small arrays
