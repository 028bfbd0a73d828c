"""How a room is measured. A room lists what is called, as `Variant`s; this file makes its benchmarks.

asv draws one tile per benchmark function and one line per parameter, so a room has four functions, whatever
the number of its papers. asv runs `setup` before every single timed call: arrays are therefore drawn, and
kernels compiled, once per process, and `setup` finds them done.

A commit that lacks a name cannot be measured: `setup` raises NotImplementedError, which asv shows as n/a.
"""

import functools
import inspect
import multiprocessing
import re
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from numbers import Number
from typing import NamedTuple

import numpy as np

from . import THREADS, pin_blas

try:  # here, not in `setup`: asv forks the process that has imported this, once per benchmark
    import xfaccel
    import xfref
    from xfaccel.engine.cpu.threads import available, limited
except ModuleNotFoundError as error:
    xfaccel = xfref = None
    MISSING = str(error)

Array = np.ndarray
HEADS, WIDTH = 8, 64
LENGTHS = [1024, 4096]
RATIO_LENGTH = 1024   # where xfref takes tenths of a second, so that enough turns are taken
ERROR_LENGTH = 300    # several tiles of 64 and a rest
PAGE = 4096           # bytes; below this, memory is the bookkeeping of Python objects
# an expression, the functions that it defines for others, and words that go on after a semicolon
MEMORY = re.compile(r"Memory: (.+?)(?:, where (.+?))?[.;](?: |$)")
ROUNDS, TURNS_SECONDS, LEAST_TURNS, DRAWS = 3, 2.0, 4, 2  # of a ratio; all but the first in each process


def normal(*shape: int) -> Array:
    """Normal numbers, float32: the same at every call, but other ones for another shape."""
    return np.random.default_rng(shape).standard_normal(shape, np.float32)


def qkv(n: int) -> tuple[Array, ...]:
    return tuple(normal(3, HEADS, n, WIDTH))


def plain(package, name: str, arguments: tuple, options: dict):
    return getattr(package, name)(*arguments, **options)


class Variant(NamedTuple):
    """What is called: the function's name, and how its arguments are made for n tokens."""

    function: str
    options: Callable[[int], dict] = lambda n: {}
    arguments: Callable[[int], tuple] = qkv
    call: Callable = plain          # (package, name, arguments, options) -> the result
    letters: Callable[[int], dict] = lambda n: {}  # of the docstring, for its formula of memory
    single: Callable | None = None  # one call, if `call` makes many: its memory is measured


@functools.lru_cache
def prepared(package, variant: Variant, n: int, dtype: type = np.float32) -> Callable[[], object]:
    """A call without arguments, of which everything but the call is done."""
    arguments, options = variant.arguments(n), variant.options(n)
    arguments = tuple(x.astype(dtype) for x in arguments)
    options = {name: x.astype(dtype) if getattr(x, "dtype", None) == np.float32 else x
               for name, x in options.items()}
    return lambda: variant.call(package, variant.function, arguments, options)


@functools.lru_cache
def warmed(variant: Variant, n: int, threads: int = THREADS) -> Callable[[], object]:
    """The fast twin's call, compiled; raises NotImplementedError if this commit has none."""
    if xfaccel is None:
        raise NotImplementedError(f"this commit cannot be measured: {MISSING}")
    if not hasattr(xfaccel, variant.function):
        raise NotImplementedError(f"xfaccel has no {variant.function} in this commit")
    call = prepared(xfaccel, variant, n)

    def on_threads():
        with limited(threads):
            return call()

    on_threads()
    return on_threads


def benchmarks(room: str, title: str, variants: dict[str, Variant]) -> tuple[Callable, ...]:
    """Time, memory, error and ratio of all variants of a room, as asv wants them."""

    def seconds(name, n):
        warmed(variants[name], n)()

    def memory(name, n):
        return workspace(variants[name], n)

    def error(name):
        return _error(variants[name])

    def ratio(name, n):
        return _ratio(variants[name], n)

    names = list(variants)
    by_length = dict(params=[names, LENGTHS], param_names=["variant", "n"],
                     setup=lambda name, n: warmed(variants[name], n))
    on_one_thread = dict(params=[names, [RATIO_LENGTH]], param_names=["variant", "n"],
                         setup=lambda name, n: warmed(variants[name], n, threads=1))

    return (
        _described(seconds, f"time_{room}", f"{title}: time", **by_length,
                   rounds=2, repeat=(10, 200, 0.5), warmup_time=0.1),
        _described(memory, f"track_{room}_memory", f"{title}: memory beside the result", **by_length,
                   unit="bytes", version="2"),
        _described(error, f"track_{room}_error", f"{title}: error against float64",
                   params=[names], param_names=["variant"],
                   setup=lambda name: warmed(variants[name], ERROR_LENGTH), unit="of the largest value"),
        _described(ratio, f"track_{room}_ratio", f"{title}: time as a share of xfref's",
                   **on_one_thread, unit="of xfref's time", version="3"),
    )


def _described(function: Callable, name: str, title: str, **attributes) -> Callable:
    """`function` with what asv reads from it. `version` is what results belong to: raise it when a benchmark
    no longer measures the same; without it any edit of these lines would cut the history."""
    function.__name__, function.pretty_name = name, title
    vars(function).update({"version": "1"} | attributes)
    return function


def workspace(variant: Variant, n: int) -> int:
    """Bytes that one call takes beside its result."""
    call = warmed(_single(variant), n)
    return min(_extra(call) for _ in range(2))


def _single(variant: Variant) -> Variant:
    return variant._replace(call=variant.single or variant.call)


def _extra(call: Callable) -> int:
    """Bytes at the peak of a call for which nothing is kept, less those of its result and of a page."""
    _forget()
    tracemalloc.start()
    try:
        result = call()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return max(peak - sum(x.nbytes for x in _parts(result)) - PAGE, 0)


def _forget() -> None:
    """Drop what calls keep for the next one, but compiled kernels: scratch, tile lists, patterns."""
    vars(xfaccel.arrays._SCRATCH).clear()
    for name, module in list(sys.modules.items()):
        if name.startswith("xfaccel") and not name.startswith("xfaccel.engine.cpu"):
            for x in vars(module).values():
                if hasattr(x, "cache_clear"):
                    x.cache_clear()


def documented(variant: Variant, n: int) -> float:
    """The same bytes by the formula that the docstring states, which the tests hold every variant to."""
    function = getattr(xfaccel, variant.function)
    formula = MEMORY.search(" ".join((inspect.getdoc(function) or "").split()))
    if not formula:
        raise ValueError(f"the docstring of xfaccel.{variant.function} states no memory")
    scope = _letters(function, variant, n)
    for definition in _definitions():
        name, letters, body = re.fullmatch(r"(\w+)\((.*?)\) = (.+)", definition).groups()
        scope[name] = eval(f"lambda {letters}: {body}", scope)
    return eval(formula[1], scope)


def _letters(function: Callable, variant: Variant, n: int) -> dict:
    """Numbers and words among the arguments as they are, of all others whether they are given; shapes."""
    with limited(THREADS):
        shapes = dict(n=n, m=n, d=WIDTH, e=WIDTH, heads=HEADS, planes=1, size=4, threads=available())
    given = {name: x.default for name, x in inspect.signature(function).parameters.items()}
    given |= variant.options(n)
    given = {name: x if isinstance(x, Number | str | None) else True for name, x in given.items()}
    return given | shapes | variant.letters(n)


@functools.cache
def _definitions() -> list[str]:
    """What docstrings define for each other: `name(letters) = expression`."""
    texts = (" ".join((inspect.getdoc(getattr(xfaccel, name)) or "").split()) for name in xfaccel.__all__)
    return [part for text in texts for found in MEMORY.finditer(text) if found[2]
            for part in found[2].split(" and ")]


def _error(variant: Variant) -> float:
    """The largest error of the results in float32, as a share of the largest value of the result it is in."""
    results = _parts(warmed(variant, ERROR_LENGTH)())
    truths = _parts(prepared(xfref, variant, ERROR_LENGTH, np.float64)())
    worst = 0.0
    for x, truth in zip(results, truths, strict=True):
        if not np.isfinite(x).all():  # NaN would be drawn as a gap, not as a fault
            raise ArithmeticError(f"{variant.function} gave numbers that are not finite")
        worst = max(worst, float(np.abs(x - truth).max() / np.abs(truth).max()))
    return worst


def _ratio(variant: Variant, n: int) -> float:
    """The time of the fast twin over that of xfref, taken in turns, each on one thread: a geometric mean.

    What slows the machine slows both, but not by as much: who shares a core costs vector kernels more than
    NumPy, for seconds at a time. And some calls are faster at one place in memory than at another. So the
    mean is over turns on all cores, at several times, of new processes with operands of their own.
    """
    crews = (_in_processes(lambda: _turns(variant, n)) for _ in range(ROUNDS))
    return statistics.geometric_mean(ratio for crew in crews for ratios in crew for ratio in ratios)


def _turns(variant: Variant, n: int) -> list[float]:
    pin_blas(1)
    draws = []
    for _ in range(DRAWS):
        prepared.cache_clear()
        draws.append((warmed.__wrapped__(variant, n, threads=1), prepared(xfref, variant, n)))
    ratios, start = [], time.perf_counter()
    while len(ratios) < LEAST_TURNS or time.perf_counter() - start < TURNS_SECONDS:
        fast, slow = draws[len(ratios) % DRAWS]
        slow_time, fast_times = _seconds(slow), []
        while len(fast_times) < 3 or sum(fast_times) < slow_time / 3:
            fast_times.append(_seconds(fast))
        ratios.append(statistics.fmean(fast_times) / slow_time)
    return ratios


def _in_processes(function: Callable) -> list:
    """What `function` returns in one forked process for each thread, all at the same time."""
    context = multiprocessing.get_context("fork")
    ends = []
    for _ in range(THREADS):
        receiver, sender = context.Pipe(duplex=False)
        context.Process(target=lambda end=sender: end.send(function())).start()
        sender.close()  # so that `recv` raises EOFError if the process ends without an answer
        ends.append(receiver)
    return [end.recv() for end in ends]


def _seconds(call: Callable) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _parts(result) -> tuple[Array, ...]:
    return result if isinstance(result, tuple) else (result,)
