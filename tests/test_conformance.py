"""Every case of the table in every dtype on every device: xfaccel against xfref in a wider dtype."""

import numpy as np
import pytest
from cases import CASES, generator
from compare import HALF, LONGEST_DOUBLE, assert_matches, expected

import xfaccel

assert len({case.name for case in CASES}) == len(CASES), "two cases share a name"

DTYPES = [np.float32, np.float64]
# numbers of 16 bits go through one door before all functions: a few cases of each
IN_HALF = ("square", "causal, several tiles", "key mask per batch entry, garbage under it", "in steps of 7",
           "codes, few queries", "codes, more queries")
DEVICES = ["cpu"]  # a GPU joins as "gpu": inputs through cupy.asarray, results back through cupy.asnumpy


def rows():
    for case in CASES:
        for dtype in DTYPES:
            marks = [pytest.mark.unjitted] if case.unjitted and dtype == np.float32 else []
            yield pytest.param(case, dtype, id=f"{case.name}, {dtype.__name__}", marks=marks)
        for dtype in HALF:
            what = case.name.partition(": ")[2]
            if what in IN_HALF or what.startswith("pattern "):
                yield pytest.param(case, dtype, id=f"{case.name}, {dtype.name}")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case, dtype", list(rows()))
def test_case(case, dtype, device):
    args, kwargs = case.draw(generator(case), dtype)
    reference, truth = expected(case.call, args, kwargs)
    out = case.call(xfaccel, args, kwargs)
    assert_matches(out, reference, truth, case.name)


def test_outputs_are_filled_with_nan_before_the_kernels_run(empty_calls):
    q = np.ones((2, 3, 4), np.float32)
    assert np.isfinite(xfaccel.attention(q, q, q)).all()
    assert np.isfinite(xfaccel.linear_transformer(q, q, q)).all()
    assert len(empty_calls) >= 2, "no output went through xfaccel.arrays.empty"
    assert all(np.isnan(filled) for filled in empty_calls)


def test_no_case_is_beyond_the_truth():
    for case in CASES:
        args, _ = case.draw(generator(case), np.float64)
        assert all(length <= LONGEST_DOUBLE for x in args if isinstance(x, np.ndarray) for length in x.shape)
