"""Laws of the adaptive span: the soft mask by distance, what is out of reach, the dynamic span, the penalty.
"""

import itertools
import math

import numpy as np
import pytest
from lawbook import close, law, qkv

import xfref

LENGTHS = [(12, 12), (7, 12), (1, 5)]


def soft_mask(x, span, ramp):
    return min(max((ramp + span - x) / ramp, 0), 1)


def in_loops(q, k, v, span, ramp, positions=None, key_mask=None, scale=None):
    """The definition for (n,d), (m,d), (m,e), with one span per row, and positions (S + 1, d)."""
    n, m, scale = len(q), len(k), q.shape[-1] ** -0.5 if scale is None else scale
    out = np.zeros((n, v.shape[-1]))
    for i in range(n):
        weights = {}
        for j in range(i + m - n):
            x = i + m - n - j
            if (positions is None or x < len(positions)) and (key_mask is None or key_mask[j]):
                key = k[j] if positions is None else k[j] + positions[x]
                score = scale * sum(a * b for a, b in zip(q[i], key, strict=True))
                weights[j] = soft_mask(x, span[i], ramp) * math.exp(score)
        total = sum(weights.values())
        for j, weight in weights.items():
            if total:
                out[i] += weight / total * v[j]
    return out


@law("adaptive_span")
@pytest.mark.parametrize("n, m", LENGTHS)
@pytest.mark.parametrize("ramp", [0.4, 1, 3.7])
def test_adaptive_span_in_loops(package, n, m, ramp, rng):
    args, key_mask, positions = qkv(rng, n, m), rng.random(m) < 0.7, rng.standard_normal((3, 6, 4))
    spans = {"number": 2.6, "none": 0, "per head": 5 * rng.random((3, 1)), "per token": 5 * rng.random(n),
             "per entry and token": 5 * rng.random((2, 1, n))}
    for span in spans.values():
        rows = np.broadcast_to(span, (2, 3, n))
        plain = package.adaptive_span(*args, span=span, ramp=ramp)
        full = package.adaptive_span(*args, span=span, ramp=ramp, position_keys=positions, key_mask=key_mask,
                                     scale=0.8)
        for b, h in np.ndindex(2, 3):
            own = [x[b, h] for x in args]
            close(plain[b, h], in_loops(*own, rows[b, h], ramp))
            close(full[b, h], in_loops(*own, rows[b, h], ramp, positions[h], key_mask, 0.8))


@law("adaptive_span")
def test_adaptive_span_by_hand(package):
    q, k = np.ones((5, 1)), np.log([[1.0], [2.0], [4.0], [3.0], [7.0]])
    v = np.array([[1.0], [0.0], [0.0], [10.0], [100.0]])
    # a ramp of 4 from span 0 weighs the distances 1, 2, 3, 4 by 3/4, 1/2, 1/4, 0
    last = (3 / 4 * 3 * 10) / (3 / 4 * 3 + 1 / 2 * 4 + 1 / 4 * 2)
    third = (1 / 2 * 1) / (3 / 4 * 2 + 1 / 2 * 1)
    fourth = (1 / 4 * 1) / (3 / 4 * 4 + 1 / 2 * 2 + 1 / 4 * 1)
    out = package.adaptive_span(q, k, v, span=0, ramp=4, scale=1.0)
    close(out, np.array([[0.0], [1.0], [third], [fourth], [last]]))
    # position keys: log 5 at distance 1 and log 1/2 at distance 2, beyond which nothing is seen
    positions = np.log([[1.0], [5.0], [0.5]])
    last = (5 * 3 * 10) / (5 * 3 + 0.5 * 4)
    third = (0.5 * 1) / (5 * 2 + 0.5 * 1)
    out = package.adaptive_span(q, k, v, span=9, ramp=1, position_keys=positions, scale=1.0)
    close(out, np.array([[0.0], [1.0], [third], [0.0], [last]]))


@law("adaptive_span")
@pytest.mark.parametrize("n, m", LENGTHS)
def test_a_wide_span_is_attention_to_all_before(package, n, m, rng):
    args, key_mask = qkv(rng, n, m), rng.random(m) < 0.7
    before = np.arange(m) < np.arange(n)[:, None] + m - n
    for span in (m, 1e6, np.full((3, 1), 40.0)):
        close(package.adaptive_span(*args, span=span, ramp=2, key_mask=key_mask),
              package.attention(*args, mask=before, key_mask=key_mask))


@law("adaptive_span")
@pytest.mark.parametrize("n, m", LENGTHS)
def test_a_ramp_of_1_is_a_window_without_the_token_itself(package, n, m, rng):
    args, offset = qkv(rng, n, m), np.arange(m) - np.arange(n)[:, None] - m + n
    for span in range(5):
        close(package.adaptive_span(*args, span=span, ramp=1),
              package.attention(*args, mask=(-span <= offset) & (offset < 0)))
    # the mask is exactly 1 up to the span and exactly 0 from span + ramp on, whatever lies between
    near, far = (package.attention(*args, mask=(-reach <= offset) & (offset < 0)) for reach in (2, 3))
    out = package.adaptive_span(*args, span=2, ramp=2)  # distance 3 has half a weight
    assert np.all(np.abs(out - near) <= np.abs(far - near) + 1e-12)
    if (n, m) == (12, 12):
        assert np.abs(out - near).max() > 1e-3 < np.abs(out - far).max()


@law("adaptive_span")
def test_a_hidden_key_takes_no_weight_however_well_it_fits(package, rng):
    """Masking after a softmax over all keys would leave nothing for those in reach."""
    for dtype in (np.float32, np.float64):
        q, k, v = np.ones((6, 1), dtype), np.zeros((6, 1), dtype), rng.standard_normal((6, 2)).astype(dtype)
        k[0] = 1e4
        close(package.adaptive_span(q, k, v, span=2, ramp=1, scale=1.0)[4:],
              np.stack([v[2:4].mean(axis=0), v[3:5].mean(axis=0)]), 1e-6)


@law("adaptive_span")
def test_a_token_is_no_key_of_its_own_query(package, rng):
    q, k, v = qkv(rng)
    positions = rng.standard_normal((13, 4))
    for options in ({}, dict(position_keys=positions)):
        before = package.adaptive_span(q, k, v, span=4, ramp=3, **options)
        assert not before[..., 0, :].any()
        for place in range(12):
            other_k, other_v = k.copy(), v.copy()
            other_k[..., place, :] += 3
            other_v[..., place, :] += 3
            after = package.adaptive_span(q, other_k, other_v, span=4, ramp=3, **options)
            changed = np.abs(after - before).max(axis=(0, 1, 3)) > 1e-9
            assert not changed[:place + 1].any() and changed[place + 1:place + 7].all()
            assert not changed[place + 7:].any()


@law("adaptive_span")
def test_row_0_of_the_position_keys_is_never_read(package, rng):
    q, k, v = qkv(rng, 70)
    positions = rng.standard_normal((6, 4))
    positions[0] = np.nan
    out = package.adaptive_span(q, k, v, span=3, ramp=9, position_keys=positions)
    assert np.isfinite(out).all()
    close(out[1, 2], in_loops(q[1, 2], k[1, 2], v[1, 2], [3] * 70, 9, positions))
    # a span far beyond the longest one that the position keys know of
    out = package.adaptive_span(q, k, v, span=60, ramp=9, position_keys=positions)
    close(out[1, 2], in_loops(q[1, 2], k[1, 2], v[1, 2], [60] * 70, 9, positions))


@law("dynamic_span")
def test_dynamic_span_by_hand():
    x, log3 = np.array([[0.0, 5.0], [1.0, 0.0], [-2.0, 1.0]]), math.log(3.0)
    close(xfref.dynamic_span(x, np.array([log3, 0.0]), 0.0, 8), np.array([4.0, 6.0, 8 / 10]))
    close(xfref.dynamic_span(x, np.array([0.0, 0.0]), -log3, 8), np.array([2.0, 2.0, 2.0]))
    heads = xfref.dynamic_span(x[:2], np.array([[log3, 0.0], [0.0, 0.0], [-log3, 0.0]]),
                               np.array([0.0, log3, 0.0]), 8.0)
    close(heads, np.array([[4.0, 6.0], [6.0, 6.0], [4.0, 2.0]]))


@law("dynamic_span")
def test_dynamic_span_in_loops_and_in_range(rng):
    x, weight, bias = rng.standard_normal((2, 1, 7, 5)), rng.standard_normal((3, 5)), rng.standard_normal(3)
    span = xfref.dynamic_span(x, weight, bias, 20)
    assert span.shape == (2, 3, 7)
    for b, h, t in itertools.product(range(2), range(3), range(7)):
        logit = sum(a * c for a, c in zip(weight[h], x[b, 0, t], strict=True)) + bias[h]
        close(span[b, h, t], np.float64(20 / (1 + math.exp(-logit))))
    for dtype in (np.float32, np.float64):
        ends = xfref.dynamic_span(np.array([[-1e9], [1e9]], dtype), np.ones(1), 0, 20)
        assert ends.dtype == dtype and ends.tolist() == [0.0, 20.0]


@law("dynamic_span", "adaptive_span")
def test_a_dynamic_span_is_a_span_of_each_head_and_token(package, rng):
    args, x = qkv(rng), rng.standard_normal((2, 1, 12, 6))
    span = xfref.dynamic_span(x, rng.standard_normal((3, 6)), rng.standard_normal(3), 9)
    out = package.adaptive_span(*args, span=span, ramp=2)
    for place in np.ndindex(2, 3):
        close(out[place], in_loops(*(y[place] for y in args), span[place], 2))


@law("dynamic_span")
@pytest.mark.parametrize("error, words, wrong", [
    (TypeError, "x needs.*list", dict(x=[[1.0]])),
    (ValueError, "x needs.*2 axes", dict(x=np.ones(4))),
    (ValueError, r"weight needs.*lead\.\.\., 4.*\(3,\)", dict(weight=np.ones(3))),
    (ValueError, r"weight needs.*\(\)", dict(weight=np.ones(()))),
    (TypeError, "weight needs.*list", dict(weight=[1.0] * 4)),
    (ValueError, r"weight needs leading axes.*\(2,\).*\(3, 4\)", dict(weight=np.ones((3, 4)))),
    (ValueError, r"bias needs.*\(lead\.\.\.\).*\(2,\)", dict(bias=np.ones(2))),
    (ValueError, r"bias needs.*\(2, 1\)", dict(weight=np.ones((2, 4)), bias=np.ones((2, 1)))),
    (TypeError, "bias needs a number.*'0'", dict(bias="0")),
    (TypeError, "bias needs.*int64", dict(bias=np.ones((), int))),
    (TypeError, "max_span needs a number.*None", dict(max_span=None)),
    (ValueError, "max_span needs.*positive.*0", dict(max_span=0)),
])
def test_dynamic_span_says_what_does_not_fit(error, words, wrong):
    good = dict(x=np.ones((2, 5, 4)), weight=np.ones(4), bias=0.5, max_span=8)
    assert xfref.dynamic_span(**good).shape == (2, 5)
    with pytest.raises(error, match=f"(?s){words}"):
        xfref.dynamic_span(**good | wrong)


@law("span_penalty")
def test_span_penalty_is_the_mean_span_of_the_heads():
    assert xfref.span_penalty(np.array([[1.0], [2.0], [6.0]]), 0.5) == 1.5
    assert xfref.span_penalty(7, 2) == 14
    assert xfref.span_penalty(np.arange(24.0).reshape(2, 3, 4), 2e-6) == pytest.approx(23e-6)
    assert xfref.span_penalty(np.ones(3, np.float32), 0.1).dtype == np.float32


@law("span_penalty")
@pytest.mark.parametrize("error, words, wrong", [
    (TypeError, "span needs.*list", dict(span=[1.0])),
    (TypeError, "span needs.*int64", dict(span=np.ones(3, int))),
    (TypeError, "span needs a number.*True", dict(span=True)),
    (ValueError, r"span needs at least one entry.*\(0, 1\)", dict(span=np.zeros((0, 1)))),
    (TypeError, "coefficient needs a number.*str", dict(coefficient="1")),
    (ValueError, "coefficient needs.*finite.*nan", dict(coefficient=float("nan"))),
])
def test_span_penalty_says_what_does_not_fit(error, words, wrong):
    with pytest.raises(error, match=f"(?s){words}"):
        xfref.span_penalty(**dict(span=np.ones(3), coefficient=1.0) | wrong)
