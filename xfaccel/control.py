"""What a user decides for a whole process: how many threads calls may use, and when kernels are compiled."""

import contextlib
import importlib
import itertools
from collections.abc import Sequence

import numpy as np

from xfaccel.arrays import count as whole_number
from xfaccel.engine.cpu import threads

# which of the three switches of a driver's kernel are given in the forms that calls use
_FORMS = {
    "softmax": list(itertools.product((False, True), repeat=3)),
    "decode": [(False, False, False)],
    "gather": [(False, False, False)],
    "scan": [(kind, factors, mask) for kind, factors in ((False, False), (True, False), (True, True))
             for mask in (False, True)],
    "steps": [(False, False, False), (True, False, False)],
    "product": [(False, False, False), (True, False, False)],
    "hashing": [(False, False, False)],
    "half": [(False, False, False)],
}


def set_threads(count: int | None) -> contextlib.AbstractContextManager[None]:
    """Let every call of this process use at most `count` threads from now on; None takes the limit away.

    In a `with` statement the limit holds until the end of the block, and then what was set before. It bounds
    xfaccel alone, not NumPy's own products. Fewer are used where affinity, cgroup quota or NUMBA_NUM_THREADS
    allow no more; results are the same bits for any number.

    Raises: TypeError if `count` is no integer, ValueError if it is below 1.

    >>> with set_threads(1):
    ...     pass
    """
    before = threads.set_limit(None if count is None else whole_number("count", count))
    stack = contextlib.ExitStack()
    stack.callback(threads.set_limit, before)
    return stack


def warmup(engines: Sequence[str] | None = None, *, dtype: type | np.dtype = np.float32) -> None:
    """Compile the kernels now, and keep them on disk, so that no later call has to wait for them.

    Every call of xfaccel runs on one of the engines "softmax", "decode" (few queries), "gather" (scattered
    keys), "scan", "steps" (streaming), "product" (low rank), "hashing" and "half" (numbers of 16 bits);
    default all. What lies in the cache already (`~/.cache/xfaccel`) is only loaded.

    Raises: ValueError for other engines and for any dtype but float32 and float64.
    Cost: up to a minute of one core for all of a dtype, less than a second if they are in the cache.
    """
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise ValueError("dtype needs to be float32 or float64 (numbers of 16 bits run as float32), "
                         f"got {dtype}")
    engines = tuple(_FORMS) if engines is None else engines
    for name in [engines] if isinstance(engines, str) else engines:
        if name not in _FORMS or isinstance(engines, str):
            raise ValueError(f"engines needs a list of {', '.join(_FORMS)}, got {name!r}")
    for name in engines:
        kernel = importlib.import_module(f"xfaccel.engine.cpu.{name}")._work
        for given in _FORMS[name]:
            threads.prepare(kernel, tuple(not switch for switch in given), dtype)
