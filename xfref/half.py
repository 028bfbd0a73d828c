"""Numbers of 16 bits: float16 and bfloat16 (of the package ml_dtypes) in, the same type out.

A book of equations has no use for the rounding of every step: everything in between is float32, and a
result is rounded once.
"""

import functools
import inspect
from collections.abc import Callable, Mapping

import numpy as np

from xfref.core import describe

Array = np.ndarray


def any_float(function: Callable, wide: tuple[int, ...] = ()) -> Callable:
    """`function`, also for q, k, v (or its first argument) of float16 or bfloat16.

    Parameters may be of any float type, as ever. The results named by their place in `wide` stay float32:
    denominators and running sums, which are to be used again.

    Raises: beside what `function` raises, TypeError if q, k and v are not of one type.
    """
    names = list(inspect.signature(function).parameters)
    place = names.index("q") if "q" in names else 0
    data = {name for name in names if name in ("q", "k", "v", "qk")} | {names[place]}

    @functools.wraps(function)
    def called(*args, **kwargs):
        first = args[place] if len(args) > place else kwargs.get(names[place])
        if not _is_half(first):
            return function(*args, **kwargs)
        for name, x in (*zip(names, args, strict=False), *kwargs.items()):
            if name in data and not isinstance(x, tuple) and (
                    type(x) is not np.ndarray or x.dtype != first.dtype):
                like = names[place]
                raise TypeError(f"{name} needs a numpy.ndarray of the dtype of {like}, {first.dtype}, got "
                                f"{describe(x)}; convert with numpy.asarray(x, dtype={like}.dtype)")
        result = function(*map(_wide, args), **{name: _wide(x) for name, x in kwargs.items()})
        if isinstance(result, tuple):
            return tuple(x if number in wide else _narrow(x, first.dtype) for number, x in enumerate(result))
        return _narrow(result, first.dtype)
    called.__module__ = __name__.partition(".")[0]  # where pickle will find it
    return called


def _is_half(x: object) -> bool:
    """Whether `x` is an array of float16 or bfloat16, which is no type of NumPy's own: its name tells."""
    return (type(x) is np.ndarray and x.dtype.itemsize == 2 and x.dtype.name in ("float16", "bfloat16")
            and x.dtype.isnative)


def _wide(x: object) -> object:
    """Arrays of 16 bits as float32, also within tuples, lists and weights by name; all else as it is."""
    if isinstance(x, tuple | list):
        return type(x)(map(_wide, x))
    if isinstance(x, Mapping):
        return {name: _wide(part) for name, part in x.items()}
    return x.astype(np.float32) if _is_half(x) else x


def _narrow(x: object, dtype: np.dtype) -> object:
    if type(x) is not np.ndarray or x.dtype != np.float32:
        return x
    with np.errstate(over="ignore"):  # what is too large for the type is an infinity
        return x.astype(dtype)
