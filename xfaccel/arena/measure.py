"""The arena's checks and times: a row is checked against xfref first, and only one that agrees is timed."""

import platform
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import NamedTuple

import numpy as np

import xfaccel
import xfref
from xfaccel.arena import sparse
from xfaccel.arena.variants import VARIANTS, Variant
from xfaccel.engine.cpu import threads
from xfref.lra import listops, text

Array = np.ndarray
CHECK_LENGTH = 1024      # where xfref, which takes n^2 memory for every variant, still answers quickly
BOUND = 1e-4             # of the largest value: float32 rounding stays a hundred times below it
LEAST_CALLS, LEAST_SECONDS = 3, 0.2
SLOW_SECONDS = 0.5       # after which two calls are enough


class Setup(NamedTuple):
    """What `prepare` found in order: the rows, their inputs of the largest length, and the empty report."""

    variants: list[Variant]
    qkv: tuple[Array, Array, Array]
    report: dict


def prepare(*, task: str, file: str | None, names: Sequence[str], lengths: Sequence[int], heads: int,
            width: int | None, machine: dict) -> Setup:
    """Read the tokens and lay out the report; `lengths` ascend, `names` are those of `VARIANTS`.

    Raises: ValueError with one line that says what is wrong with the input.
    """
    width = width or 64 * heads
    if width % heads:
        raise ValueError(f"--width {width} is not a multiple of --heads {heads}")
    ids, vocabulary, source = read_tokens(task, file, lengths[-1])
    needed = {variant.exact for variant in VARIANTS if variant.name in names}.union(names)
    variants = [variant for variant in VARIANTS if variant.name in needed]
    report = {
        "schema": 1,
        "complete": False,
        "machine": machine,
        "input": {"task": task, "source": source, "lengths": lengths, "heads": heads, "width": width,
                  "dtype": "float32", "check_length": min(CHECK_LENGTH, lengths[-1])},
        "rows": [{"variant": v.name, "function": v.function, "parameters": v.parameters, "cost": v.cost,
                  "stated_growth": v.exponent, "exact": v.exact, "agrees": None, "error": None,
                  "relative_error": None, "reference_seconds": None, "vs_xfref": None, "scipy_seconds": None,
                  "vs_scipy": None, "seconds": {}, "growth": None, "vs_exact": None, "faster_from": None,
                  "extra_bytes": None, "distance": None} for v in variants],
    }
    return Setup(variants, project(ids, vocabulary, heads, width), report)


def read_tokens(task: str, file: str | None, count: int) -> tuple[Array, int, str]:
    """Ids (count,) of the task, the size of their vocabulary and a few words on where they come from.

    Raises: ValueError with one line if the file cannot be read or holds fewer tokens.
    """
    if task == "listops":
        examples = listops.generate(0) if file is None else listops.read_tsv(file)
        ids, found = [], 0
        while found < count and (example := next(examples, None)):
            ids.append(example[0])
            found += len(example[0])
        ids, vocabulary = np.concatenate(ids), len(listops.WORDS)
        source = "expressions of " + ("Long ListOps, seed 0, one after another" if file is None
                                      else repr(file))
    else:
        data = text.standard_text() if file is None else text.read_text(file)
        ids, vocabulary, found = text.encode(data, min(count, len(data))), text.VOCABULARY, len(data)
        source = "bytes of " + (f"the help topics of Python {platform.python_version()}" if file is None
                                else repr(file))
    if found < count:
        raise ValueError(f"--lengths asks for {count} tokens, there are {found} in the {source}")
    return ids[:count], vocabulary, source


def project(ids: Array, vocabulary: int, heads: int, width: int) -> tuple[Array, Array, Array]:
    """q, k, v of shape (heads, n, width / heads), float32: embedding + positions, times seeded weights."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((vocabulary, width))[ids] + xfref.sinusoidal_positions(len(ids), width)
    rows = (x @ rng.normal(0, width**-0.5, (width, width)) for _ in "qkv")
    q, k, v = (y.reshape(len(ids), heads, -1).swapaxes(0, 1).astype(np.float32, order="C") for y in rows)
    return q, k, v


def run(setup: Setup, *, limit: int, repeats: int | None, save: Callable[[], None]) -> None:
    """Fill the rows of the report on `limit` threads, calling `save` after each result."""
    lengths, rows = setup.report["input"]["lengths"], {row["variant"]: row for row in setup.report["rows"]}
    with threads.limited(limit), progress(len(setup.variants) * (len(lengths) + 2)) as advance:

        def keep(name: str, **results: object) -> None:
            rows[name].update(results)
            save()
            advance(name)

        qkv = shorten(setup.qkv, setup.report["input"]["check_length"])
        for variant in setup.variants:
            keep(variant.name, **check(variant, qkv, repeats))
        agreeing = [variant for variant in setup.variants if rows[variant.name]["agrees"]]
        for n in lengths:
            qkv = shorten(setup.qkv, n)
            calls = {variant.name: bind(xfaccel, variant, qkv) for variant in agreeing}
            for name, seconds in times_in_turn(calls, repeats):
                keep(name, seconds=rows[name]["seconds"] | {str(n): seconds})
        exact = {}
        for variant in agreeing:
            extra, result = extra_memory(bind(xfaccel, variant, setup.qkv))
            times = [rows[variant.name]["seconds"][str(n)] for n in lengths]
            found = dict(extra_bytes=extra, growth=growth(lengths, times))
            if variant.name == variant.exact:
                exact[variant.name] = result, times
            if variant.exact in exact:  # exact attention agrees with xfref
                exact_result, exact_times = exact[variant.exact]
                found |= dict(distance=distance(result, exact_result), vs_exact=exact_times[-1] / times[-1],
                              faster_from=faster_from(lengths, times, exact_times))
            keep(variant.name, **found)
    setup.report["complete"] = True
    save()


def check(variant: Variant, qkv: Sequence[Array], repeats: int | None) -> dict:
    """Compare the fast variant with xfref in float64, then its time with those of xfref and scipy in float32.
    """
    arguments = drawn(variant, qkv)
    if variant.decide is not None:
        # for both, as rounding may turn a near tie
        arguments = variant.decide(xfaccel, *qkv, **arguments)
    results = _results(xfaccel, variant, qkv, arguments, np.float32)
    truths = _results(xfref, variant, qkv, arguments, np.float64)
    errors = [float(np.max(np.abs(x - truth))) for x, truth in zip(results, truths, strict=True)]
    shares = [error / float(np.max(np.abs(truth))) for error, truth in zip(errors, truths, strict=True)]
    error, relative = (float(np.max(x)) for x in (errors, shares))  # a NaN stays
    if not relative <= BOUND:
        return dict(agrees=False, error=error, relative_error=relative)
    calls = {"xfaccel": bind(xfaccel, variant, qkv), "xfref": bind(xfref, variant, qkv)}
    if variant.pattern is not None:
        heads, n, _ = qkv[0].shape
        seen = [variant.pattern(n, head, **arguments).to_csr() for head in range(heads)]
        calls["scipy"] = partial(sparse.attention, *qkv, seen)
    seconds = dict(times_in_turn(calls, repeats))
    vs = {name: seconds[name] / seconds["xfaccel"] for name in calls}
    return dict(agrees=True, error=error, relative_error=relative, reference_seconds=seconds["xfref"],
                vs_xfref=vs["xfref"], scipy_seconds=seconds.get("scipy"), vs_scipy=vs.get("scipy"))


def _results(package: ModuleType, variant: Variant, qkv: Sequence[Array], arguments: dict,
             dtype: type) -> tuple[Array, ...]:
    qkv, arguments = (_cast(x, dtype) for x in qkv), {name: _cast(x, dtype) for name, x in arguments.items()}
    return parts(variant.call(getattr(package, variant.function), *qkv, **arguments))


def bind(package: ModuleType, variant: Variant, qkv: Sequence[Array]) -> Callable[[], object]:
    """The variant of one package, ready to be called with nothing."""
    function, arguments = getattr(package, variant.function), drawn(variant, qkv)
    if variant.decide is None:
        return partial(variant.call, function, *qkv, **arguments)
    return lambda: variant.call(function, *qkv, **variant.decide(package, *qkv, **arguments))


def drawn(variant: Variant, qkv: Sequence[Array]) -> dict:
    """What the variant is given beside q, k and v, in float32: the same every time."""
    arguments = variant.arguments(*qkv, np.random.default_rng(1))
    return {name: _cast(x, np.float32) for name, x in arguments.items()}


def _cast(x: object, dtype: type) -> object:
    """Float arrays in another type, anything else as it is."""
    return x.astype(dtype, copy=False) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x


def parts(result: Array | tuple[Array, ...]) -> tuple[Array, ...]:
    """The arrays of a result; the first are the rows of the sequence."""
    return result if isinstance(result, tuple) else (result,)


def shorten(qkv: Sequence[Array], n: int) -> tuple[Array, ...]:
    """The first n positions of each array, contiguous."""
    return tuple(np.ascontiguousarray(x[:, :n]) for x in qkv)


def times_in_turn(calls: dict[str, Callable], repeats: int | None) -> Iterator[tuple[str, float]]:
    """Yield each name with its best time in seconds, as soon as it has been called often enough.

    All are called in turn, so that a slow moment of the machine meets every one of them.
    """
    times = {name: [] for name in calls}
    while times:
        for name in list(times):
            start = time.perf_counter()
            calls[name]()
            times[name].append(time.perf_counter() - start)
            taken, total = len(times[name]), sum(times[name])
            if taken == repeats or not repeats and (taken >= LEAST_CALLS and total >= LEAST_SECONDS
                                                    or taken == 2 and total >= SLOW_SECONDS):
                yield name, min(times.pop(name))


def growth(lengths: Sequence[int], seconds: Sequence[float]) -> float | None:
    """The exponent a of the best fit time = c n^a: slope of log time over log n; None for a single length."""
    if len(lengths) < 2:
        return None
    return float(np.polyfit(np.log(lengths), np.log(seconds), 1)[0])


def faster_from(lengths: Sequence[int], seconds: Sequence[float], exact: Sequence[float]) -> float | None:
    """The length from which on it takes fewer seconds than exact attention: between two, by log over log.

    The shortest length if it does at all of them, None if it does not at the longest.
    """
    lead = np.log(exact) - np.log(seconds)
    slower = np.flatnonzero(lead <= 0)
    if not slower.size:
        return float(lengths[0])
    last = slower[-1]
    if last == len(lengths) - 1:
        return None
    return float(np.exp(np.interp(0, lead[last:last + 2], np.log(lengths[last:last + 2]))))


def extra_memory(call: Callable[[], object]) -> tuple[int, Array]:
    """Bytes that a call takes at its peak beside its result, and the rows of the sequence in that.

    Counts what Python and NumPy allocate; xfaccel's scratch is NumPy memory.
    """
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        out = call()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return max(peak - before - sum(x.nbytes for x in parts(out)), 0), parts(out)[0]


def distance(out: Array, exact: Array) -> float:
    """|out - exact| / |exact|, with the length of all numbers as one vector."""
    return float(np.linalg.norm((out - exact).ravel()) / np.linalg.norm(exact.ravel()))


@contextmanager
def progress(total: int, title: str = "xfaccel arena") -> Iterator[Callable[[str], object]]:
    """A bar on stderr if that is a terminal and tqdm is installed; gives the function that advances it by the
    result of a row."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda name: None
        return
    with tqdm(total=total, desc=title, unit="result", leave=False, disable=None) as bar:

        def advance(name: str) -> None:
            bar.set_postfix_str(name, refresh=False)
            bar.update()

        yield advance
