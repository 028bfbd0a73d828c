"""The comparison helper must fail on wrong answers: nothing else in this folder is worth more than that."""

import numpy as np
import pytest
from compare import allowance, assert_matches, expected

import xfref


def right():
    """A right answer, the reference and the truth for it: float32, some rows of zeros, (2, 4, 4)."""
    rng = np.random.default_rng(5)
    q, k, v = (rng.standard_normal((2, 4, 4)).astype(np.float32) for _ in range(3))
    mask = np.ones((4, 4), bool)
    mask[2] = False
    return expected(lambda package, args, kwargs: package.attention(*args, **kwargs), (q, k, v),
                    dict(mask=mask))


def altered(change):
    reference, truth = right()
    out = reference.copy()
    change(out)
    return out, reference, truth


def add_little(out):
    out[1, 3, 2] += np.float32(1e-5)


def put_nan(out):
    out[0, 0, 0] = np.nan


def put_inf(out):
    out[0, 1, 0] = np.inf


def fill_empty_row(out):
    out[0, 2] = 1e-5


def swap_rows(out):
    out[:, [0, 1]] = out[:, [1, 0]]


def zero(out):
    out[...] = 0


def all_nan(out):
    out[...] = np.nan


@pytest.mark.parametrize("change", [add_little, put_nan, put_inf, fill_empty_row, swap_rows, zero, all_nan],
                         ids=lambda change: change.__name__)
def test_wrong_numbers_fail(change):
    with pytest.raises(AssertionError):
        assert_matches(*altered(change))


@pytest.mark.parametrize("change", [
    lambda out: out.swapaxes(-1, -2).copy(), lambda out: out.astype(np.float64),
    lambda out: out.astype(np.float16), lambda out: out[:1], lambda out: out[:, :1], lambda out: out[..., :0],
    lambda out: out[None], lambda out: out.tolist(), lambda out: (out,), lambda out: None, lambda out: -out,
    lambda out: out.reshape(2, 16), lambda out: out.reshape(4, 2, 4), lambda out: np.float32(0),
], ids=["transposed", "float64", "float16", "broadcastable", "one row", "empty", "an axis more", "list",
        "tuple", "nothing", "negative", "flat", "reshaped", "a number"])
def test_wrong_forms_fail(change):
    reference, truth = right()
    with pytest.raises(AssertionError):
        assert_matches(change(reference), reference, truth)


def test_empty_against_full_fails():
    reference, truth = right()
    with pytest.raises(AssertionError):
        assert_matches(reference, reference[:0], truth[:0])


def test_a_wrong_sign_of_infinity_fails():
    minus = np.full(3, -np.inf, np.float32)
    with pytest.raises(AssertionError):
        assert_matches(-minus, minus, minus.astype(np.float64))


def test_one_wrong_result_of_two_fails():
    reference, truth = right()
    with pytest.raises(AssertionError, match=r"\[1\]"):
        assert_matches((reference, reference + 1), (reference, reference), (truth, truth))
    with pytest.raises(AssertionError):
        assert_matches((reference,), (reference, reference), (truth, truth))


def test_one_wrong_boolean_fails():
    truth = np.eye(3, dtype=bool)
    assert_matches(truth.copy(), truth, truth)
    with pytest.raises(AssertionError):
        assert_matches(~truth, truth, truth)


def test_a_truth_of_the_same_dtype_is_none():
    reference, _ = right()
    with pytest.raises(AssertionError, match="no truth"):
        assert_matches(reference, reference, reference)


def test_a_reference_that_fails_allows_nothing():
    reference, truth = right()
    reference[0, 0, 0] = np.nan
    with pytest.raises(AssertionError, match="reference"):
        assert_matches(truth.astype(np.float32), reference, truth)


def test_right_answers_pass():
    reference, truth = right()
    assert_matches(reference, reference, truth)
    assert_matches(truth.astype(np.float32), reference, truth)
    for x in (reference, truth):
        x[0, 0, 0] = np.nan
    assert_matches(reference, reference, truth)  # NaN where NaN is due


def test_the_allowance_is_four_errors_and_sixteen_roundings():
    truth = np.array([1.0, -2.0, np.inf])
    reference = np.array([1.5, -2.0, np.inf], np.float32)
    assert allowance(reference, truth) == 4 * 0.5 + 16 * np.finfo(np.float32).eps * 2.0


def test_the_truth_is_wider_and_gets_rounded_parameters():
    x = np.array([1.0, 2.0, 4.0], np.float32)
    gain = np.full(3, 1 / 3)  # float64 beside a float32 input: rounded first, as the function does
    reference, truth = expected(lambda package, args, kwargs: package.layer_norm(*args, **kwargs),
                                (x,), dict(gain=gain, bias=np.zeros(3)))
    assert reference.dtype == np.float32 and truth.dtype == np.float64
    third = np.float64(np.float32(1 / 3))
    np.testing.assert_array_equal(truth, xfref.layer_norm(x.astype(float), np.full(3, third), np.zeros(3)))
