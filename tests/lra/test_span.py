"""Required attention span: closed forms, a double loop, and the features' form against the weights'."""

import numpy as np
import pytest

from xfref.lra import required_span, required_span_linear


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
