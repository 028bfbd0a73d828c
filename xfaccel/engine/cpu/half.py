"""Casts between numbers of 16 bits and float32, on vectors and several threads.

NumPy casts float16 one number at a time, which takes longer than linear attention itself. These casts give
the same numbers, rounded to the nearest, of two to the even one.
"""

import functools

import numpy as np
from llvmlite import ir
from numba import njit
from numba.extending import intrinsic

from xfaccel.arrays import address, empty
from xfaccel.engine.cpu import cache, threads
from xfaccel.engine.cpu.brain import INT, SHORT, from_brain, to_brain
from xfaccel.engine.cpu.kernels import PLAIN
from xfaccel.engine.cpu.memory import fetch_add, load_int
from xfaccel.engine.cpu.tile_plain import OPTIONS
from xfaccel.engine.cpu.vector import casts_half, kernel

Array = np.ndarray
_CHUNK = 1 << 15  # numbers: one helping of a thread
_WORK = 16        # a cast takes as long as so many multiplications

# byte offsets in the job record
(NEXT, TOTAL, SOURCE, TARGET, COUNT, CAST) = range(0, 8 * 6, 8)
WIDEN, WIDEN_BRAIN, NARROW, NARROW_BRAIN = range(4)
_hardware = functools.cache(casts_half)


def _each(cast, read, write):
    """Code that casts `count` numbers of type `read` at `source` to numbers of type `write` at `target`."""
    def emit(e, source, target, count):
        build = e.builder
        whole = build.sub(count, build.srem(count, e.index(e.width)))
        sizes = [4 if kind == INT or isinstance(kind, ir.FloatType) else 2 for kind in (read, write)]

        def step(width, wrap):
            def one(i):
                places = [e.at(base, e.times(i, size))
                          for base, size in zip((source, target), sizes, strict=True)]
                x = build.load(places[0], typ=wrap(read), align=sizes[0])
                build.store(cast(build, x, wrap), places[1], align=sizes[1])
            return one

        e.loop(0, whole, step(e.width, lambda kind: ir.VectorType(kind, e.width)), step=e.width)
        e.loop(whole, count, step(1, lambda kind: ir.VectorType(kind, 1)))
    return emit


@intrinsic
def _widen(typing, source, target, count, zero):
    def cast(build, x, wrap):
        return build.fpext(x, wrap(ir.FloatType()))
    return kernel(_each(cast, ir.HalfType(), ir.FloatType()), zero, "iii")


@intrinsic
def _narrow(typing, source, target, count, zero):
    def cast(build, x, wrap):
        return build.fptrunc(x, wrap(ir.HalfType()))
    return kernel(_each(cast, ir.FloatType(), ir.HalfType()), zero, "iii")


@intrinsic
def _widen_brain(typing, source, target, count, zero):
    return kernel(_each(from_brain, SHORT, ir.FloatType()), zero, "iii")


@intrinsic
def _narrow_brain(typing, source, target, count, zero):
    return kernel(_each(to_brain, ir.FloatType(), SHORT), zero, "iii")


with cache.enabled():
    @njit(**OPTIONS)
    def _work(job, _, __, ___, zero):
        """Take chunks until there are none."""
        total, cast = load_int(job + TOTAL), load_int(job + CAST)
        while True:
            item = fetch_add(job + NEXT, 1)
            if item >= total:
                break
            first = item * _CHUNK
            count = min(_CHUNK, load_int(job + COUNT) - first)
            source, target = load_int(job + SOURCE), load_int(job + TARGET)
            if cast == WIDEN:
                _widen(source + 2 * first, target + 4 * first, count, zero)
            elif cast == WIDEN_BRAIN:
                _widen_brain(source + 2 * first, target + 4 * first, count, zero)
            elif cast == NARROW:
                _narrow(source + 4 * first, target + 2 * first, count, zero)
            else:
                _narrow_brain(source + 4 * first, target + 2 * first, count, zero)
        return 0


def widen(x: Array) -> Array:
    """An array of float16 or bfloat16 as float32."""
    return _cast(x, np.dtype(np.float32), WIDEN if x.dtype == np.float16 else WIDEN_BRAIN)


def narrow(x: Array, dtype: np.dtype) -> Array:
    """An array of float32 as float16 or bfloat16."""
    return _cast(x, dtype, NARROW if dtype == np.float16 else NARROW_BRAIN)


def _cast(x: Array, dtype: np.dtype, cast: int) -> Array:
    if PLAIN or not (_hardware() or cast in (WIDEN_BRAIN, NARROW_BRAIN)):
        with np.errstate(over="ignore"):  # what is too large becomes an infinity, as in the vector code
            return x.astype(dtype)
    shape, x = x.shape, np.ascontiguousarray(x)
    out = empty(shape, dtype, x)
    total = -(-x.size // _CHUNK)
    # bfloat16 is no type that Python's buffers know
    places = (address(array.view(f"u{array.itemsize}")) for array in (x, out))
    job = np.array([0, total, *places, x.size, cast], np.int64)
    threads.run(_work, job, (None, None, None), np.float32(0), threads.worth(_WORK * x.size, total) - 1)
    return out
