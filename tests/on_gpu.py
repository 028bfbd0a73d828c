"""The cases of the table on arrays of CuPy: its stand-in in the tests, CuPy itself in `make gpu`.

`cupy` is the module that has the arrays. Nothing here needs pytest.
"""

import ml_dtypes
import numpy as np
from cases import CASES, generator
from compare import HALF, assert_matches, expected

import xfaccel
from xfaccel import device

ON_ARRAYS = [case for case in CASES if not case.function.startswith("patterns.")]  # which take none
TOO_LARGE = {"softmax: large scores", "synthesizer: large logits",
             "quantize_rows: rows of very different sizes"}  # for float16
# what is attended to has been rounded to 16 bits before
ROUNDED = {"memory_compressed", "sinkhorn", "sinkhorn_cut", "transformer_xl",
           "compressive_transformer"}
# computed in float32 from numbers of 16 bits, and rounded once
SUMS = {"linear_transformer", "linear_transformer_step", "performer", "performer_step"}


def on_arrays(types):
    """Every case in each of the types that can hold its numbers."""
    return [(case, dtype) for case in ON_ARRAYS for dtype in types
            if dtype != np.float16 or case.name not in TOO_LARGE]


def moved(cupy, x):
    """Arrays of the host on the GPU, also within tuples; all else as it is."""
    if isinstance(x, tuple):
        return tuple(moved(cupy, part) for part in x)
    return cupy.asarray(x) if isinstance(x, np.ndarray) else x


def returned(cupy, x):
    if isinstance(x, tuple):
        return tuple(returned(cupy, part) for part in x)
    assert isinstance(x, cupy.ndarray), f"an array of the GPU is due, got {type(x).__name__}"
    return cupy.asnumpy(x)


class OnGPU:
    """`xfaccel` on the GPU: data is moved there and results back, parameters are left to the function."""

    patterns = xfaccel.patterns

    def __init__(self, cupy):
        self.cupy = cupy

    def __getattr__(self, name):
        def called(*args, **kwargs):
            given = tuple(moved(self.cupy, x) for x in args)
            out = returned(self.cupy, getattr(xfaccel, name)(*given, **kwargs))
            for x, y in zip(args, given, strict=True):
                if isinstance(x, np.ndarray):
                    assert x.tobytes() == returned(self.cupy, y).tobytes(), "an argument was written to"
            return out

        return called


def check(cupy, case, dtype):
    """Assert that a case of the table gives on the GPU what it gives in `xfref`."""
    args, kwargs = case.draw(generator(case), dtype)
    # what codes of 8 bits stand for are numbers of float32
    as_they_are = dtype in HALF and not (case.function in SUMS or device.in_float32(case.function, kwargs)
                                         or isinstance(args[-1], tuple))
    if as_they_are:  # for the kernels, which take parameters in the same type
        kwargs = {name: rounded(x, dtype) for name, x in kwargs.items()}
    reference, truth = expected(case.call, args, kwargs)
    if case.function == "quantize_rows" and dtype in HALF:
        truth = reference[0], truth[1]  # what is halfway between two codes in float32 need not be in float64
    out = case.call(OnGPU(cupy), args, kwargs)
    if as_they_are:
        values = args[0 if case.function == "synthesizer" else -1]  # behind which its logits come
        assert_near(out, reference, truth, values, case)
    else:
        assert_matches(out, reference, truth, case.name)


def rounded(x, dtype):
    """Floats in the numbers that `dtype` has, also within tuples; all else as it is."""
    if isinstance(x, tuple):
        return tuple(rounded(part, dtype) for part in x)
    return x.astype(dtype).astype(x.dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x


def assert_near(out, reference, truth, values, case):
    """The rule for the matrix units: weights and results are rounded to 16 bits, denominators are not."""
    if isinstance(out, tuple):
        for parts in zip(out, reference, truth, strict=True):
            assert_near(*parts, values, case)
        return
    if out.dtype == np.float32:
        assert_matches(out, reference, truth, case.name)
        return
    assert out.dtype == reference.dtype and out.shape == truth.shape
    assert np.array_equal(np.isnan(out), np.isnan(truth))
    rounding = (2 if case.function in ROUNDED else 1) * 2.0**(-8 if out.dtype == ml_dtypes.bfloat16 else -11)
    error, *sizes = (np.abs(x).max(initial=0, where=np.isfinite(x)) for x in (
        out.astype(np.float64) - truth, values, truth))  # there may be NaN under a mask
    allowed = rounding * sum(sizes)
    assert error <= allowed, f"off by {error}, {allowed} allowed"
