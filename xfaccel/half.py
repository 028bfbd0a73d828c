"""The door before all functions: numbers of 16 bits, which become float32, and arrays of a GPU.

float16 and bfloat16 (of the package ml_dtypes) in, the same type out. Follows `xfref.half`: everything in
between is float32, and a result is rounded once. Functions that hand q, k and v to an engine untouched
(`UNTOUCHED`) leave it to that, which reads numbers of 16 bits where it gains by it. Called with float32 or
float64, a function is what it was; the door costs it a look at one dtype. What `device` does with arrays of
CuPy costs nothing without CuPy.
"""

import functools
import inspect
import itertools
import sys
from collections.abc import Callable

import numpy as np

from xfaccel import device
from xfaccel.arrays import describe, distinct, is_half, on_gpu

Array = np.ndarray
UNTOUCHED = {"attention", "attention_lse", "block_local", "sliding_window"}


def any_float(function: Callable, wide: tuple[int, ...] = ()) -> Callable:
    """`function`, also for q, k, v (or its first argument) of float16 or bfloat16.

    Parameters may be of any float type, as ever. The results named by their place in `wide` stay float32:
    denominators and running sums, which are to be used again.
    """
    signature = inspect.signature(function)
    names = list(signature.parameters)
    positional = sum(x.kind is x.POSITIONAL_OR_KEYWORD for x in signature.parameters.values())
    place = names.index("q") if "q" in names else 0
    like = names[place]
    data = {name for name in names if name in ("q", "k", "v", "qk")} | {names[place]}

    def named(args, kwargs):
        # as `bind` does, which takes longer than all checks
        if len(args) <= positional and not kwargs.keys() & names[:len(args)]:
            return dict(zip(names, args, strict=False)) | kwargs
        return signature.bind(*args, **kwargs).arguments  # which says what is wrong

    @functools.wraps(function)
    def called(*args, **kwargs):
        first = args[place] if len(args) > place else kwargs.get(names[place])
        if "cupy" in sys.modules:
            if on_gpu(first):
                return device.call(function, named(args, kwargs), like, wide)
            device.refuse((*zip(names, args, strict=False), *kwargs.items()), like)
        if type(first) is not np.ndarray or not is_half(first):
            return function(*args, **kwargs)
        for name, x in (*zip(names, args, strict=False), *kwargs.items()):
            if name in data and not isinstance(x, tuple) and (
                    type(x) is not np.ndarray or x.dtype != first.dtype):
                raise TypeError(f"{name} needs a numpy.ndarray of the dtype of {like}, {first.dtype}, got "
                                f"{describe(x)}; convert with numpy.asarray(x, dtype={like}.dtype)")
        as_they_are = data if function.__name__ in UNTOUCHED else ()
        placed = itertools.zip_longest(names[:len(args)], args)
        result = function(*(x if name in as_they_are else widened(x) for name, x in placed),
                          **{name: x if name in as_they_are else widened(x) for name, x in kwargs.items()})
        if isinstance(result, tuple):
            return tuple(x if number in wide else _narrow(x, first.dtype) for number, x in enumerate(result))
        return _narrow(result, first.dtype)
    called.__module__ = __name__.partition(".")[0]  # where pickle will find it
    return called


def widened(x: object) -> object:
    """Arrays of 16 bits as float32, also within tuples and lists; all else as it is."""
    if isinstance(x, tuple | list):
        return type(x)(map(widened, x))
    if type(x) is not np.ndarray or not is_half(x):
        return x
    from xfaccel.engine.cpu import half  # compiles kernels, which most processes do without
    return np.broadcast_to(half.widen(distinct(x) if x.ndim > 1 else x), x.shape)


def _narrow(x: Array, dtype: np.dtype) -> Array:
    from xfaccel.engine.cpu import half
    return half.narrow(x, dtype) if x.dtype == np.float32 else x
