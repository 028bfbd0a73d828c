"""Required attention span: closed forms, a double loop, and the features' form against the weights'."""

from functools import partial

import numpy as np
import pytest
from lawbook import close

import xfaccel
import xfref
from xfaccel.arena import lra, measure
from xfaccel.arena.variants import VARIANTS
from xfref.lra import (
    required_span,
    required_span_linear,
    required_span_of,
    required_span_softmax,
    uniform_span,
)


def by_a_double_loop(weights):
    n, m = weights.shape
    spans = []
    for i in range(n):
        total = sum(float(w) for w in weights[i])
        if total:
            spans.append(sum(float(weights[i, j]) * abs(i + m - n - j) for j in range(m)) / total)
    return sum(spans) / len(spans) if spans else 0.0


@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_closed_forms(n):
    assert required_span(np.eye(n)) == 0
    ones, uniform = np.ones((n, 1)), (n**2 - 1) / (3 * n)
    assert required_span(np.full((n, n), 1 / n)) == pytest.approx(uniform, rel=1e-12)
    assert uniform_span(n) == uniform
    zeros = np.zeros((n, 3))  # scores are alike
    assert required_span_softmax(zeros, zeros) == pytest.approx(uniform, rel=1e-9)
    assert required_span_softmax(zeros, zeros, causal=True) == pytest.approx((n - 1) / 4, rel=1e-9)
    assert required_span_of(lambda v: v, n) == 0
    assert required_span_of(lambda v: np.roll(v, 1, axis=0), n) == pytest.approx(2 * (n - 1) / n)
    assert required_span_linear(ones, ones) == pytest.approx(uniform, rel=1e-12)
    # the causal row i is uniform over distances 0 .. i: span i / 2, mean (n - 1) / 4
    causal = (n - 1) / 4
    assert required_span(np.tril(np.ones((n, n)))) == pytest.approx(causal, rel=1e-12)
    assert required_span_linear(ones, ones, causal=True) == pytest.approx(causal, rel=1e-12)
    # one-hot features are the identity
    assert required_span_linear(np.eye(n), np.eye(n)) == 0
    # the next position on a ring: n - 1 rows of distance 1, the last of distance n - 1
    assert required_span(np.roll(np.eye(n), 1, axis=1)) == pytest.approx(2 * (n - 1) / n)
    assert required_span_linear(np.eye(n), np.roll(np.eye(n), -1, axis=1).T) == pytest.approx(2 * (n - 1) / n)


def test_one_query_at_the_end_of_the_keys():
    """The last query stands on the last key."""
    assert required_span([[1.0, 0, 0, 0, 0]]) == 4
    assert required_span([[0.5, 0, 0, 0, 0.5]]) == 2
    assert required_span_linear([[1.0]], [[1.0], [0], [0], [0], [0]]) == 4
    # more queries than keys: the first stand before the first key
    assert required_span([[1.0], [1.0], [1.0]]) == 1
    assert required_span_linear([[1.0], [1.0], [1.0]], [[1.0]]) == 1
    assert required_span_linear([[1.0], [1.0], [1.0]], [[1.0]], causal=True) == 0


@pytest.mark.parametrize(("n", "m"), [(1, 1), (5, 5), (3, 8), (8, 3), (13, 13)])
def test_weights_against_a_double_loop(n, m):
    weights = np.random.default_rng(n * m).random((2, 3, n, m))
    weights /= weights.sum(axis=-1, keepdims=True)
    spans = required_span(weights)
    assert spans.shape == (2, 3) and spans.dtype == np.float64
    for lead in np.ndindex(2, 3):
        assert spans[lead] == pytest.approx(by_a_double_loop(weights[lead]), rel=1e-12)
    assert required_span(weights.astype(np.float32)) == pytest.approx(spans, rel=1e-6)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (6, 6), (3, 8), (8, 3), (17, 17)])
def test_features_against_a_double_loop(n, m, causal):
    rng = np.random.default_rng(n + m)
    q, k = rng.random((2, 1, n, 4)), rng.random((3, m, 4))  # one set of keys for two leading entries
    spans = required_span_linear(q, k, causal=causal)
    assert spans.shape == (2, 3)
    seen = np.tri(n, m, m - n) if causal else 1
    for a, b in np.ndindex(2, 3):
        assert spans[a, b] == pytest.approx(by_a_double_loop(q[a, 0] @ k[b].T * seen), rel=1e-12)


def test_signed_features_agree_with_their_products():
    """Products that are negative in places, as trigonometric features give; here no row sums to near zero."""
    rng = np.random.default_rng(1)
    q, k = rng.normal(1, 1, (40, 8)), rng.normal(1, 1, (40, 8))
    assert (q @ k.T < 0).any()
    assert required_span_linear(q, k) == pytest.approx(by_a_double_loop(q @ k.T), rel=1e-9)


def test_long_sequences_lose_no_digits():
    """Features all 0.1 (no binary fraction), n = 65 536, where the weights would take 32 GB."""
    n = 2**16
    features = np.full((n, 1), 0.1)
    assert required_span_linear(features, features) == pytest.approx((n**2 - 1) / (3 * n), rel=1e-11)
    assert required_span_linear(features, features, causal=True) == pytest.approx((n - 1) / 4, rel=1e-11)


def test_padding_takes_no_part():
    rng = np.random.default_rng(2)
    weights = np.zeros((9, 9))
    weights[:6, :6] = rng.random((6, 6))
    assert required_span(weights) == pytest.approx(by_a_double_loop(weights[:6, :6]), rel=1e-12)
    q, k = rng.random((9, 3)), rng.random((9, 3))
    q[6:] = k[6:] = 0
    expected = by_a_double_loop(q[:6] @ k[:6].T)
    assert required_span_linear(q, k) == pytest.approx(expected, rel=1e-12)
    # a padded query among keys that count is left out, not counted as zero
    assert required_span([[0.0, 0.0], [1.0, 0.0]]) == 1


@pytest.mark.parametrize("shape", [(4, 4), (0, 4), (4, 0), (0, 0), (2, 3, 0, 5)])
def test_nothing_attended_is_zero(shape):
    assert np.array_equal(required_span(np.zeros(shape)), np.zeros(shape[:-2]))


def test_empty_features():
    for n, m, r in [(0, 3, 2), (3, 0, 2), (3, 3, 0), (0, 0, 0)]:
        for causal in (False, True):
            assert required_span_linear(np.ones((n, r)), np.ones((m, r)), causal=causal) == 0


def test_nan_is_not_hidden():
    assert np.isnan(required_span([[np.nan, 1.0], [0, 1.0]]))


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (np.ones(3), ValueError, r"weights must have at least two axes, got shape \(3,\)"),
        (-np.eye(3), ValueError, "weights must not be negative"),
        (np.eye(3) + 0j, TypeError, "real numbers, got dtype complex128"),
        ([["a"]], TypeError, "real numbers, got dtype <U1"),
    ],
)
def test_wrong_weights(weights, error, message):
    with pytest.raises(error, match=message):
        required_span(weights)


@pytest.mark.parametrize(
    ("q_shape", "k_shape", "message"),
    [
        (3, (3, 1), "q_features must have at least two axes"),
        ((3, 1), 3, "k_features must have at least two axes"),
        ((3, 2), (3, 4), "q_features has width 2, k_features 4"),
        ((2, 3, 4), (5, 3, 4), r"do not broadcast: q_features \(2, 3, 4\), k_features \(5, 3, 4\)"),
    ],
)
def test_wrong_features(q_shape, k_shape, message):
    with pytest.raises(ValueError, match=message):
        required_span_linear(np.ones(q_shape), np.ones(k_shape))


def test_inputs_are_not_written():
    weights, q, k = np.full((4, 4), 0.25), np.ones((4, 2)), np.ones((4, 2))
    for array in (weights, q, k):
        array.flags.writeable = False
    required_span(weights)
    required_span_linear(q, k)


ALONE = {"shaw", "memory_compressed"}  # whose results are more than weights times values: read off without


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_the_span_of_every_variant(variant, rng):
    """From columns of the identity, beside a double loop over all weights at once."""
    q, k, v = qkv = rng.standard_normal((3, 2, 70, 8), dtype=np.float32)

    def result(values, change=lambda arguments, width: arguments):
        arguments = change(measure.drawn(variant, (q, k, values)), values.shape[-1])
        return lra.rows(xfref, variant, arguments, q, k, values)

    weights = result(np.stack([np.eye(70, dtype=np.float32)] * 2), variant.linear)
    if variant.name not in ALONE:
        close(weights @ v, result(v), 1e-5)
    assert (weights < -1e-6).any() == (variant.name == "linformer")
    expected = [by_a_double_loop(np.abs(head)) for head in weights]
    assert lra.span(xfref, variant, qkv) == pytest.approx(expected, rel=1e-5)
    assert lra.span(xfaccel, variant, qkv) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (6, 6), (3, 8), (8, 3), (17, 17)])
def test_softmax_against_a_double_loop(package, n, m, causal):
    rng = np.random.default_rng(n + m)
    q, k = 3 * rng.standard_normal((2, 1, n, 4)), 3 * rng.standard_normal((3, m, 4))
    shown = rng.random(m) < 0.7
    seen = (np.tri(n, m, m - n) if causal else 1) * shown
    spans = required_span_softmax(q, k, causal=causal, attend=partial(package.attention_lse, key_mask=shown))
    assert spans.shape == (2, 3) and spans.dtype == np.float64
    for a, b in np.ndindex(2, 3):
        expected = by_a_double_loop(np.exp(q[a, 0] @ k[b].T / 2) * seen)
        assert spans[a, b] == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.pattern is not None], ids=lambda v: v.name)
def test_a_pattern_s_span_by_softmax_is_that_of_the_variant(variant, rng):
    q, k, v = qkv = rng.standard_normal((3, 2, 70, 8))
    arguments = measure.drawn(variant, qkv)
    expected = lra.span(xfref, variant, qkv)
    for head in range(2):
        mask = variant.pattern(70, head, **arguments)
        fast = required_span_softmax(q[head], k[head], attend=partial(xfaccel.attention_lse, mask=mask))
        assert fast == pytest.approx(expected[head], rel=1e-6)


def test_softmax_at_length_16384():
    """A window in float32, nearly uniform: 128 * 129 / 257; the weights of all pairs would take a GB."""
    q, k = np.random.default_rng(0).standard_normal((2, 2**14, 8), dtype=np.float32) / 8
    near = xfaccel.patterns.window(2**14, left=128, right=128)
    found = required_span_softmax(q, k, attend=partial(xfaccel.attention_lse, mask=near))
    assert found == pytest.approx(128 * 129 / 257, rel=5e-3)


def test_kernel_attention_by_columns_and_by_sums_is_the_same(rng):
    q, k = rng.standard_normal((2, 2, 40, 4))
    elu = lambda x: np.where(x > 0, x + 1, np.exp(x))
    for causal in (False, True):
        by_columns = required_span_of(partial(xfref.linear_transformer, q, k, causal=causal), 40, block=7)
        assert by_columns == pytest.approx(required_span_linear(elu(q), elu(k), causal), rel=1e-10)


def test_queries_that_do_not_count(rng):
    """Padded rows, or that of a CLS token in front: as if they were not there."""
    q, k = rng.standard_normal((2, 3, 9, 4))
    weights = np.exp(q @ k.swapaxes(-1, -2) / 2)
    cls, padded = np.arange(9) > 0, np.arange(9) < [[6], [9], [0]]
    softmax = partial(required_span_softmax, q, k)
    columns = partial(required_span_of, partial(xfref.attention, q, k), 9)
    features = rng.random((2, 3, 9, 4))
    linear, products = partial(required_span_linear, *features), features[0] @ features[1].swapaxes(-1, -2)
    for span, rows in ((partial(required_span, weights), weights), (softmax, weights), (columns, weights),
                       (linear, products)):
        without_cls = [by_a_double_loop(head[1:]) for head in rows]  # the last row stays on the last key
        assert span(query_mask=cls) == pytest.approx(without_cls, rel=1e-9)
        expected = [by_a_double_loop(np.where(padded[head][:, None], rows[head], 0)) for head in range(3)]
        assert span(query_mask=padded) == pytest.approx(expected, rel=1e-9)
        with pytest.raises(TypeError, match="query_mask needs a boolean array"):
            span(query_mask=np.ones(9))
        with pytest.raises(ValueError, match="query_mask"):
            span(query_mask=np.ones(8, bool))


def test_a_query_mask_of_several_leading_axes(rng):
    weights, mask = rng.random((2, 3, 5, 5)), rng.random((2, 3, 5)) < 0.6
    spans = required_span(weights, mask)
    for lead in np.ndindex(2, 3):
        expected = by_a_double_loop(np.where(mask[lead][:, None], weights[lead], 0))
        assert spans[lead] == pytest.approx(expected, rel=1e-12)


def test_memory_is_that_of_one_block_and_of_no_copy():
    shapes, weights = [], np.ones((4, 4))
    assert required_span_of(lambda v: shapes.append(v.shape) or v, 65) == 0
    assert shapes == [(65, 64), (65, 1)]
    assert xfref.lra.span._real("weights", weights) is weights


def test_wrong_arguments_of_the_forms_without_weights():
    ones = np.ones((4, 2))
    with pytest.raises(ValueError, match="q must have at least two axes"):
        required_span_softmax(np.ones(4), ones)
    with pytest.raises(TypeError, match="k must hold real numbers"):
        required_span_softmax(ones, ones + 0j)
    with pytest.raises(ValueError, match="m needs to be at least 1, got 0"):
        required_span_of(lambda v: v, 0)
    with pytest.raises(ValueError, match="block needs to be at least 1, got 0"):
        required_span_of(lambda v: v, 4, block=0)
    with pytest.raises(ValueError, match="the result must have at least two axes"):
        required_span_of(lambda v: v[0], 4)
    nan = np.array([[np.nan, 1.0], [0.0, 1.0]])
    assert np.isnan(required_span_of(lambda v: nan @ v, 2))
    assert np.isnan(required_span_softmax(nan, np.ones((2, 2))))
