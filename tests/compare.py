"""How close is close enough: an answer may err four times as much as the reference does in the same dtype.

Allowed: max|out - truth| <= 4 max|reference in this dtype - truth| + 16 eps max|truth|. The truth is the
reference computed in a wider dtype: float64 for float32, longdouble for float64. For float16 and bfloat16,
whose results are those of float32 rounded once, it is twice the reference's error, and eps that of float32.
"""

import ml_dtypes
import numpy as np

import xfref

WIDER = {np.dtype(np.float32): np.float64, np.dtype(np.float64): np.longdouble}
HALF = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
LONGEST_DOUBLE = 257  # longdouble has no fast matmul: beyond this length only float32 is checked


def assert_matches(out, reference, truth, what=""):
    """Fail unless `out` has the shape and dtype of `reference` and is as close to `truth` as it may be."""
    if isinstance(reference, tuple):
        assert isinstance(out, tuple), f"{what}: a tuple is due, got {type(out).__name__}"
        assert len(out) == len(reference), f"{what}: {len(reference)} results are due, got {len(out)}"
        for place, parts in enumerate(zip(out, reference, truth, strict=True)):
            assert_matches(*parts, what=f"{what}[{place}]")
        return
    assert isinstance(out, np.ndarray), f"{what}: an array is due, got {type(out).__name__}"
    assert out.dtype == reference.dtype, f"{what}: {reference.dtype} is due, got {out.dtype}"
    # compared as tuples, since NumPy would broadcast what does not fit
    assert reference.shape == truth.shape, f"{what}: reference {reference.shape} but truth {truth.shape}"
    assert out.shape == truth.shape, f"{what}: the shape {truth.shape} is due, got {out.shape}"
    if out.dtype in HALF:
        out = out.astype(np.float32)
    elif out.dtype.kind != "f":
        assert np.array_equal(out, truth), f"{what}: {np.sum(out != truth)} of {out.size} entries differ"
        return
    assert truth.dtype == WIDER[out.dtype], f"{what}: {truth.dtype} is no truth for {out.dtype}"
    _same_places(out, truth, np.isnan, "NaN", what)
    _same_places(out, truth, np.isposinf, "inf", what)
    _same_places(out, truth, np.isneginf, "-inf", what)
    finite = np.isfinite(truth)
    if not finite.any():
        return
    error = np.where(finite, np.abs(_difference(out, truth)), 0)
    allowed = allowance(reference, truth)
    assert np.max(error) <= allowed, (
        f"{what}: off by {np.max(error):.3e} at {np.unravel_index(np.argmax(error), error.shape)}, "
        f"allowed {allowed:.3e}; {np.sum(error > allowed)} of {out.size} entries are too far")


def allowance(reference, truth):
    """The largest error that is allowed: four times that of the reference, and some roundings."""
    finite = np.isfinite(truth)
    own_error = np.max(np.abs(_difference(reference, truth)), where=finite, initial=0)
    size = np.max(np.abs(truth), where=finite, initial=0)
    # a reference that fails in this dtype must not allow everything
    assert np.isfinite(own_error), "the reference is not finite where the truth is"
    if reference.dtype in HALF:
        return 2 * own_error + 16 * np.finfo(np.float32).eps * size
    return 4 * own_error + 16 * np.finfo(reference.dtype).eps * size


def expected(call, args, kwargs):
    """What `call(package, args, kwargs)` gives in the reference: in the dtype of `args`, and the truth."""
    dtype = next(x.dtype for x in args if _is_float(x))
    if dtype == np.float64:
        assert all(length <= LONGEST_DOUBLE for x in args if isinstance(x, np.ndarray) for length in x.shape)
    reference = call(xfref, args, kwargs)
    wide_args = tuple(_widen(x, dtype) for x in args)
    wide_kwargs = {name: _widen(x, dtype) for name, x in kwargs.items()}
    return reference, call(xfref, wide_args, wide_kwargs)


def _widen(x, dtype):
    """Float arrays as the wider dtype; a parameter is rounded before to what the functions compute in."""
    if _is_float(x):
        dtype = np.dtype(np.float32) if dtype in HALF else dtype
        return x.astype(dtype).astype(WIDER[dtype])
    return tuple(_widen(part, dtype) for part in x) if isinstance(x, tuple) else x


def _is_float(x):
    return isinstance(x, np.ndarray) and (x.dtype.kind == "f" or x.dtype in HALF)


def _difference(x, truth):
    with np.errstate(invalid="ignore"):  # inf - inf
        return x.astype(truth.dtype) - truth


def _same_places(out, truth, test, word, what):
    wrong = test(out) != test(truth)
    assert not wrong.any(), (f"{what}: {word} in {np.sum(test(out))} entries, due in {np.sum(test(truth))}; "
                             f"the first difference is at {tuple(map(int, np.argwhere(wrong)[0]))}")
