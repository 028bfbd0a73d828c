"""Kernels beside forbidden pages, each check in a process of its own: `python guard.py kernels float32`.

A kernel that works on addresses may read or write past the end of an array and nobody notices. Here every
array lies right before or right after a page that may not be touched, so that one element too far ends the
process; its last line then names the case. Other mistakes are reported as lines that begin with FAILED.
"""

import contextlib
import ctypes
import functools
import inspect
import itertools
import mmap
import os
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from cases import CASES, generator
from compare import assert_matches, expected
from numba import njit
from numba.core import config

import xfaccel
from xfaccel.arrays import Rows, address
from xfaccel.engine import tiles
from xfaccel.engine.cpu import (
    decode,
    features_plain,
    features_simd,
    gather,
    hashing,
    kernels,
    pairs_plain,
    pairs_simd,
    product,
    rows_plain,
    rows_simd,
    scan,
    softmax,
    steps,
    threads,
    tile_plain,
    tile_simd,
)
from xfaccel.engine.cpu.memory import load_real, table
from xfaccel.engine.softmax import attend, attend_listed
from xfaccel.engine.tiles import TILE, TileList

Array = np.ndarray
SIDES = ("start", "end")  # of the memory between two forbidden pages
VECTOR_BYTES = (16, 32, 64)
PAGE = mmap.PAGESIZE

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def region(size: int, side: str) -> Array:
    """`size` bytes, all ones (NaN), that touch a forbidden page at `side`; beyond the other lies another."""
    body = max(-(-size // PAGE), 1) * PAGE
    whole = np.frombuffer(mmap.mmap(-1, body + 2 * PAGE), np.uint8)
    whole[PAGE:PAGE + body] = 255
    for page in (0, PAGE + body):
        if _LIBC.mprotect(address(whole) + page, PAGE, 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    first = PAGE if side == "start" else PAGE + body - size
    return whole[first:first + size]


def moved(x: Array, side: str) -> Array:
    """`x`, with its strides, in such a region: the bytes it spans, gaps included, come along."""
    if x.size == 0:
        return np.ndarray(x.shape, x.dtype, region(0, side))
    low, high = np.lib.array_utils.byte_bounds(x)
    place = region(high - low, side)
    ctypes.memmove(address(place), low, high - low)
    return np.ndarray(x.shape, x.dtype, place, address(x) - low, x.strides)


# the micro-kernels


class Call(NamedTuple):
    """One call of a micro-kernel, and how far its two forms may differ."""

    arguments: tuple    # without the `zero` at the end; an array stands for its address
    ulps: float = 0     # of the larger of the two results
    sums: bool = False  # terms cancel: in units of the last place of the array's largest entry
    where: Array | None = None  # the places of a tile that count; the others are nobody's


# Both forms of `exp2` err by at most 2 units in the last place, so they may differ by 4. Sums and products
# are rounded differently where one form fuses what the other does not, or adds up four terms at a time: in a
# sum of up to 128 terms a few units of its largest partial sum. The exponent x log2(e) is rounded too, or not
# where that is fused: for x = -20 that makes 2**9 units of 2**-15, or 6 of the result, times log(2). What is
# not listed has to be the same bits.
EXP2, SUM, EXP = 4, 8, 12

COUNTS = (1, 3, 4, 5, 15, 16, 17, 31, 63, 64)
WIDTHS = (*COUNTS, 65, 128)
ROWS = (0, *WIDTHS)


class Draw:
    """Random operands of one element type."""

    def __init__(self, dtype: type):
        self.rng, self.dtype = np.random.default_rng(5), dtype

    def __call__(self, *shape: int, size: float = 1.0) -> Array:
        return (size * self.rng.standard_normal(shape)).astype(self.dtype)

    def positive(self, *shape: int) -> Array:
        return self.rng.random(shape).astype(self.dtype)

    def rows(self, count: int, width: int) -> Array:
        """Rows that lie further apart than they are long, or not."""
        return self(count, width + self.rng.integers(0, 4))[:, :width]

    def spoiled(self, x: Array, *garbage: float) -> Array:
        """A twentieth of `x` replaced by each of `garbage`."""
        for value in garbage:
            x[self.rng.random(x.shape) < 0.05] = value
        return x

    def exponents(self, rows: int) -> Array:
        """A tile of exponents in which tokens (lanes) and features (rows) may be missing."""
        t = self.spoiled(self(rows, TILE, size=8), -np.inf, np.nan)
        t[:, self.rng.random(TILE) < 0.1] = -np.inf
        t[self.rng.random(rows) < 0.1] = -np.inf
        return t


def pack(draw):
    for count, width in itertools.product(COUNTS, WIDTHS):
        x = draw.rows(count, width)
        for factor in (1, 0.3):
            yield Call((x, x.strides[0], count, width, draw.dtype(factor), draw(width, TILE)))


def scores(draw):
    for keys, width in itertools.product(COUNTS, WIDTHS):
        # rows of an array, or the columns of a tile of features
        for k in (draw.rows(keys, width), draw(width, TILE).T[:keys]):
            yield Call((k, *k.strides, keys, width, draw(width, TILE), draw(keys, TILE)), SUM, True)


def scores_past(draw):
    for call in scores(draw):
        *_, keys, width, queries, out = call.arguments
        yield call._replace(where=np.arange(keys)[:, None] <= np.arange(TILE))


def softmax_step(draw):
    for keys, _ in itertools.product(COUNTS, range(4)):
        s = draw.spoiled(draw(keys, TILE, size=20), -np.inf)
        top, total = draw(1, TILE, size=20), 9 * draw.positive(1, TILE)
        s[:, draw.rng.random(TILE) < 0.2] = -np.inf   # lanes that see nothing now,
        top[draw.rng.random((1, TILE)) < 0.3] = -np.inf
        total[np.isneginf(top)] = 0                   # or have seen nothing so far, or both
        for value in (np.nan, np.inf):
            s[draw.rng.integers(keys), draw.rng.integers(TILE)] = value
        yield Call((s, keys, top, total, draw(1, TILE)), SUM)


def accumulate(draw):
    for keys, width in itertools.product(COUNTS, WIDTHS):
        p = draw.rows(keys, TILE)
        for v in (draw.rows(keys, width), draw(width, TILE).T[:keys]):
            out = draw.rows(width, TILE)
            yield Call((p, p.strides[0], keys, v, *v.strides, width, draw(1, TILE), out, out.strides[0]),
                       SUM, True)


def accumulate_past(draw):
    for call in accumulate(draw):
        p, *_ = call.arguments
        p[np.arange(len(p))[:, None] > np.arange(TILE)] = 0
        yield call


def unpack(draw):
    for count, width in itertools.product(COUNTS, WIDTHS):
        out, total = draw.rows(count, width), draw(1, TILE)
        total[0, draw.rng.random(TILE) < 0.2] = 0
        total[0, draw.rng.integers(TILE)] = np.nan
        yield Call((draw(width, TILE), count, width, total, out, out.strides[0]))


def fill(draw):
    for rows, value in itertools.product(ROWS, (0, 1, -np.inf)):
        yield Call((draw(rows, TILE), rows, draw.dtype(value)))


def fold(draw):
    for rows in ROWS:
        yield Call((draw(rows, TILE), rows, draw.positive(1, TILE), draw(rows, TILE)), 1, True)


def hide_band(draw):
    limits = (-1 << 60, -64, -63, -17, 0, 1, 16, 63, 64, 1 << 60)
    for keys, low, high in itertools.product(COUNTS, limits, limits):
        yield Call((draw(keys, TILE), keys, low, high))


def hide_bits(draw):
    for keys in COUNTS:
        words = draw.rng.integers(-1 << 63, 1 << 63, keys, np.int64)
        words[::5], words[1::5] = 0, -1
        yield Call((draw.spoiled(draw(keys, TILE), np.nan), keys, words))


def hide_labels(draw):
    far = 2**31 - 1
    limits = [(0, 0), (-1, 2), (0, far), (-far, -3), (-far, far)]
    for keys, (low, high) in itertools.product(COUNTS, limits):
        own, others = (draw.rng.integers(0, top, size) for top, size in ((9, TILE), (9, 2 * keys)))
        own[::7], others[::5] = far, far
        for step in (1, 2):
            tile = draw.spoiled(draw(keys, TILE), np.nan)
            yield Call((tile, keys, own, others[:step * keys], 8 * step, low, high))


def copy_rows(draw):
    for (count, width), step in itertools.product(itertools.product(COUNTS, WIDTHS), (1, 2)):
        x, places = draw.rows(9, width), draw.rng.integers(0, 9, step * count)
        yield Call((x, x.strides[0], places, 8 * step, count, width, draw(count, width)))


def add_rows(draw):
    for keys, count in itertools.product(COUNTS, COUNTS):
        # rows of a dense bias, and of a table by distance, each of which begins one number before the last
        table = draw(1, count + keys)
        skewed = np.lib.stride_tricks.as_strided(
            table[0, count - 1:], (count, keys), (-table.itemsize, table.itemsize), writeable=False)
        for bias in (draw.spoiled(draw.rows(count, keys), -np.inf), skewed):
            yield Call((draw(keys, TILE), keys, count, bias, bias.strides[0]), SUM, True,
                       np.broadcast_to(np.arange(TILE) < count, (keys, TILE)))


def add_shared(draw):
    for keys in COUNTS:
        bias = draw.spoiled(draw(1, keys + TILE - 1), -np.inf)
        yield Call((draw(keys, TILE), keys, bias), SUM, True)


def add_lanes(draw):
    for keys, count in itertools.product(COUNTS, COUNTS):
        for bias in (draw.spoiled(draw.rows(count, 1), -np.inf), draw(1, count).T):
            yield Call((draw(keys, TILE), keys, count, bias, bias.strides[0]), SUM, True,
                       np.broadcast_to(np.arange(TILE) < count, (keys, TILE)))


def add_skewed(draw):
    for keys in COUNTS:
        yield Call((draw(TILE, TILE), keys, draw(TILE, TILE), draw(TILE, TILE)), SUM, True,
                   np.broadcast_to(np.arange(TILE)[:, None] < keys, (TILE, TILE)))


def some_keys(draw, count, rows):
    return draw.rng.integers(0, rows, count)


def of_all_kinds(draw, count, width, signs, *operand):
    """Keys of all types that they may have beside numbers of this one: their kind, rows, and an operand.

    All terms of a sum are of one sign, so that nothing cancels: the operand has none, and the keys `signs`.
    """
    negative, size = draw.rng.random(signs) < 0.5, (count, width)
    signed = lambda x: np.where(negative, -x, x)
    x = draw.rows(*size)
    x[...] = signed(draw.positive(*size))
    yield rows_plain.REAL, x, draw.positive(*operand)
    codes = draw.rng.integers(0, 128, size, np.int8)
    yield rows_plain.BYTE, np.where(negative, ~codes, codes), draw.positive(*operand)
    if draw.dtype is np.float32:
        halves = signed(draw.positive(*size)).astype(np.float16)
        halves[::2] *= np.float16(1e-5)  # subnormal ones among them
        yield rows_plain.HALF, halves, draw.positive(*operand)
        brains = signed(draw.positive(*size)).view(np.uint32) >> 16
        yield rows_plain.BRAIN, brains.astype(np.uint16), draw.positive(*operand)


def row_scores(draw):
    for count, width in itertools.product((0, *COUNTS), WIDTHS):
        for kind, k, q in of_all_kinds(draw, 9, width, (9, 1), width):
            yield Call((q, k, k.strides[0], some_keys(draw, count, 9), count, width,
                        draw.dtype(0.3), draw(count), kind), SUM, True)


def rows_scores(draw):
    for count, width in itertools.product((0, *COUNTS), WIDTHS):
        for kind, k, q in of_all_kinds(draw, 9, width, (9, 1), 4, width):
            yield Call((q, q.strides[0], k, k.strides[0], some_keys(draw, count, 9), count, width,
                        draw.dtype(0.3), draw(4, count), count * q.itemsize, kind), SUM, True)


def row_softmax(draw):
    for count, _ in itertools.product((0, *WIDTHS), range(3)):
        s = draw.spoiled(draw(-(-count // TILE) * TILE, size=20), -np.inf)
        for value in (np.nan, np.inf):
            s[draw.rng.random(s.shape) < 0.01] = value
        yield Call((s, count, draw(1), draw(1)), SUM)
    yield Call((np.full(TILE, -np.inf, draw.dtype), 9, draw(1), draw(1)))


def row_sum(draw):
    for count, width in itertools.product((0, *COUNTS), WIDTHS):
        kinds = of_all_kinds(draw, 9, width, (1, width), count)
        for (kind, v, p), total in itertools.product(kinds, (1.7, 0)):
            yield Call((p, some_keys(draw, count, 9), count, v, v.strides[0], width,
                        np.array([total], draw.dtype), draw(width), kind), SUM, True)


def rows_sum(draw):
    for count, width in itertools.product((0, *COUNTS), WIDTHS):
        totals, out = draw(4, width), draw(4, width)
        totals[:, 0] = (1.7, 0, 1, -0.3)
        for kind, v, p in of_all_kinds(draw, 9, width, (1, width), 4, count):
            yield Call((p, count * out.itemsize, some_keys(draw, count, 9), count, v,
                        v.strides[0], width, totals, out, out.strides[0], kind), SUM, True)


def pad_rows(draw):
    for count, width in itertools.product(COUNTS, COUNTS):
        x, blocks = draw.rows(count, width), draw.rng.integers(1, 3)
        out = draw(count, blocks * TILE)[:, :TILE]
        yield Call((x, x.strides[0], count, width, out, out.strides[0]))


def elu(draw):
    for rows in ROWS:
        t = draw.spoiled(draw(rows, TILE, size=5), 0, -0.0, -np.inf, np.inf, np.nan, -1e4)
        yield Call((t, rows), EXP)


def relu(draw):
    for rows in ROWS:
        yield Call((draw.spoiled(draw(rows, TILE), 0, -0.0, -np.inf, np.inf, np.nan), rows))


def half_squares(draw):
    for rows in ROWS:
        yield Call((draw(rows, TILE), rows, draw(1, TILE)), SUM)


def combine(draw):
    for rows in ROWS:
        t, lanes = draw(rows, TILE), draw.spoiled(draw(1, TILE), -np.inf)
        for out in (draw(rows, TILE), t):
            yield Call((t, rows, draw.dtype(1.7), lanes, draw.dtype(-0.6), out), SUM, True)


def multiply(draw):
    for rows in ROWS:
        yield Call((draw(rows, TILE), rows, draw(1, TILE), 0))
        factors = draw.rows(rows, TILE)
        yield Call((draw(rows, TILE), rows, factors, factors.strides[0]))


def weigh(draw):
    for rows in ROWS:
        offsets = draw.spoiled(draw(rows), -np.inf)
        yield Call((draw.exponents(rows), rows, offsets, draw(1, TILE), draw(rows, TILE)), EXP2)


def largest_in_lanes(draw):
    for rows in ROWS:
        offsets = draw.spoiled(draw(rows), -np.inf)
        yield Call((draw.exponents(rows), rows, offsets, draw(1, TILE)))


def raise_tops(draw):
    for rows, blocks in itertools.product(ROWS, range(3)):
        top, state = draw.spoiled(draw(rows, size=20), -np.inf), draw(blocks * rows, TILE)
        yield Call((draw.exponents(rows), rows, top, draw.positive(rows), state, blocks, draw(rows)),
                   EXP2 + 1)


def sum_lanes(draw):
    for rows in ROWS:
        yield Call((draw.positive(rows, TILE), rows, draw.positive(rows)), SUM)


def triangle(draw):
    for keys in (0, *COUNTS):
        s = draw.positive(keys, TILE)
        s[np.arange(keys)[:, None] > np.arange(TILE)] = np.nan  # keys after the lane's own do not count
        yield Call((s, keys, draw.positive(1, TILE)))


def closest(draw):
    for rows in (1, 2, 15, 16, 17, 64, 130):
        t = draw(rows, TILE)
        t[:, :8] = np.round(t[:, :8])  # equals, also with opposite signs
        t[:, 8] = 0
        yield Call((t, rows, draw.rng.integers(0, 9, TILE)))


def decay(draw):
    for count in (0, *COUNTS):
        keys, lanes = draw.spoiled(draw(TILE, size=9), -np.inf), draw(1, TILE, size=9)
        # what the driver hands over: the largest sum of a lane and a key up to it, 0 for none
        reference = lanes + np.maximum.accumulate(keys)
        reference[np.isneginf(reference)] = 0
        keys[count // 2:] += 300  # lanes before a key that is far too large keep what they have
        reference[0, count // 2:] += 300
        yield Call((draw(count, TILE), count, keys, lanes, reference), EXP2 + 1)


# pairs of bfloat16, with what lies halfway, subnormals and NaN among them; their sums are float32 alone


def brain_rows(draw, count, width):
    """Rows of bfloat16 that begin at multiples of 4 bytes."""
    bits = draw(count, width + 2 * draw.rng.integers(0, 3)).astype(np.float32).view(np.uint32) >> 16
    return bits.astype(np.uint16)[:, :width]


def pack_pairs(draw):
    for count, width in itertools.product(COUNTS, WIDTHS):
        x = draw.spoiled(brain_rows(draw, count, 2 * width), 0x7FC1, 0xFFFF, 1)
        yield Call((x, x.strides[0], count, width, np.zeros((width, TILE), np.uint32)))


def score_pairs(draw):
    for keys, width in itertools.product(COUNTS, WIDTHS):
        k, queries = brain_rows(draw, keys, 2 * width), brain_rows(draw, width, 2 * TILE)
        yield Call((k, k.strides[0], keys, width, np.ascontiguousarray(queries), np.float32(0.3),
                    np.zeros((keys, TILE), np.float32)), SUM, True)


def round_rows(draw):
    for rows in COUNTS:
        s = draw.spoiled(draw(rows, TILE).astype(np.float32), np.nan, np.inf, 1e-40)
        s.view(np.uint32)[:, ::3] &= 0xFFFF8000
        s.view(np.uint32)[:, ::9] |= 0x8000  # halfway between two
        # the rows beyond the pairs are nobody's
        yield Call((s.view(np.uint32), rows), where=np.broadcast_to(
            np.arange(rows)[:, None] < (rows + 1) // 2, s.shape))


def pair_rows(draw):
    for rows, width in itertools.product(COUNTS, WIDTHS):
        x = draw.spoiled(brain_rows(draw, rows, width), 0x7FC1, 0xFFFF, 1)
        yield Call((x, x.strides[0], rows, width, np.zeros(((rows + 1) // 2, width), np.uint32)))


def add_pairs(draw):
    for keys, width in itertools.product(COUNTS, WIDTHS):
        p, v = (np.ascontiguousarray(brain_rows(draw, keys, 2 * columns)) for columns in (TILE, width))
        yield Call((p, keys, v, width, draw.positive(1, TILE), draw(width, TILE)), SUM, True)


TWINS = {
    "tile": dict(pack=pack, scores=scores, scores_past=scores_past, softmax=softmax_step,
                 accumulate=accumulate, accumulate_past=accumulate_past, unpack=unpack, fill=fill, fold=fold,
                 hide_band=hide_band, hide_bits=hide_bits, hide_labels=hide_labels,
                 add_rows=add_rows, add_shared=add_shared,
                 add_lanes=add_lanes, add_skewed=add_skewed, copy_rows=copy_rows),
    "rows": dict(row_scores=row_scores, row_softmax=row_softmax, row_sum=row_sum,
                 rows_scores=rows_scores, rows_sum=rows_sum),
    "pairs": dict(pack_pairs=pack_pairs, score_pairs=score_pairs, round_rows=round_rows, pair_rows=pair_rows,
                  add_pairs=add_pairs),
    "features": dict(pad_rows=pad_rows, closest=closest, elu=elu, relu=relu, half_squares=half_squares,
                     combine=combine, multiply=multiply, weigh=weigh, largest_in_lanes=largest_in_lanes,
                     raise_tops=raise_tops, sum_lanes=sum_lanes, triangle=triangle, decay=decay),
}
FORMS = {"tile": (tile_plain, tile_simd), "rows": (rows_plain, rows_simd),
         "pairs": (pairs_plain, pairs_simd), "features": (features_plain, features_simd)}


def compiled(kernel: Callable) -> Callable:
    """An intrinsic as a function that Python can call. Vectors are as long as they are to be at that call."""
    return njit(error_model="numpy")(lambda *arguments: kernel(*arguments))


def result_of(kernel: Callable, arguments: tuple, zero, side: str) -> list[Array]:
    """All array arguments after the call, which has them between forbidden pages."""
    arrays = {id(x): moved(x, side) for x in arguments if isinstance(x, Array)}
    kernel(*(address(arrays[id(x)]) if isinstance(x, Array) else
             x if isinstance(x, np.floating) else int(x) for x in arguments), zero)
    return list(arrays.values())


def difference(a: Array, b: Array, ulps: float, sums: bool) -> str:
    """Where two forms' results differ by more than they may; empty if nowhere."""
    same = (a == b) | (np.isnan(a) & np.isnan(b)) if a.dtype.kind == "f" else a == b
    if same.all():
        return ""
    with np.errstate(invalid="ignore"):
        size = np.maximum(np.abs(a), np.abs(b))
        if sums:
            size = np.max(size, where=np.isfinite(size), initial=0)
        error = np.abs(a - b) / np.finfo(a.dtype).eps / size
    wrong = ~same & ~(error <= ulps)
    if not wrong.any():
        return ""
    place = tuple(np.argwhere(wrong)[0].tolist())
    return f"{a[place]!r} and {b[place]!r} at {place}, {wrong.sum()} of {a.size} differ, allowed {ulps} ulp"


def check_twins(dtype: type) -> None:
    """Every vector kernel beside its plain loop, in vectors of every length."""
    zero = dtype(0)
    for group, (plain_module, vector_module) in FORMS.items():
        for name, calls in TWINS[group].items():
            if group == "pairs" and dtype is not np.float32:
                continue
            plain, drawn = getattr(plain_module, name), list(calls(Draw(dtype)))
            expected = {}
            for size in VECTOR_BYTES:
                os.environ["XFACCEL_VECTOR_BYTES"] = str(size)
                vector = compiled(getattr(vector_module, name))
                with case(f"{name} {size}"):
                    for (number, call), side in itertools.product(enumerate(drawn), SIDES):
                        if (number, side) not in expected:
                            expected[number, side] = result_of(plain, call.arguments, zero, side)
                        found = result_of(vector, call.arguments, zero, side)
                        for place, (a, b) in enumerate(zip(expected[number, side], found, strict=True)):
                            if call.where is not None and a.shape == call.where.shape:
                                a, b = a[call.where], b[call.where]
                            wrong = difference(a, b, call.ulps, call.sums)
                            whole = [x for x in call.arguments if not isinstance(x, Array)]
                            assert not wrong, f"array {place} with {whole} at the {side}: {wrong}"
                if name == "weigh":
                    with case(f"exp2 {size}"):
                        check_exp2(vector, dtype)


def check_exp2(weigh: Callable, dtype: type, points: int = 1 << 16) -> None:
    """2**x through `weigh` with offsets of zero: within 2 units in the last place of the truth, and more."""
    zero = dtype(0)

    def exp2(x):
        t = np.zeros((-(-x.size // TILE), TILE), dtype)
        t.ravel()[:x.size] = x
        rows, lanes, out = np.zeros(len(t), dtype), np.zeros(TILE, dtype), np.empty_like(t)
        weigh(address(t), len(t), address(rows), address(lanes), address(out), zero)
        return out.ravel()[:x.size]

    x = np.concatenate([np.linspace(-126, 126, points), np.arange(-252, 253) / 2,
                        np.random.default_rng(2).uniform(-1, 1, points // 4)]).astype(dtype)
    truth = np.exp2(x.astype(np.longdouble))
    error = np.max(np.abs(exp2(x) - truth) / truth) / np.finfo(dtype).eps
    assert error <= 2, f"off by {error:.2f} ulp"

    below, least = np.nextafter(dtype(-126), dtype(-np.inf)), dtype(2.0**-126)
    assert np.array_equal(exp2(np.array([0, -0.0, -126], dtype)), np.array([1, 1, least], dtype))
    assert not exp2(np.array([below, -127, -149, -1e4, -1e30, -np.inf], dtype)).any()
    # a NaN may carry any bits: none of them may become part of a power of two
    integer, fraction = (np.uint32, 23) if dtype is np.float32 else (np.uint64, 52)
    payload = np.random.default_rng(3).integers(1, 1 << fraction, 256, dtype=integer)
    bits = payload | integer(np.array(np.inf, dtype).view(integer))
    bits[::2] |= integer(1 << (8 * integer().itemsize - 1))
    assert np.isnan(bits.view(dtype)).all() and np.isnan(exp2(bits.view(dtype))).all()


# the engines


@contextlib.contextmanager
def guarded(side: str) -> Iterator[None]:
    """In this block all that an engine reads and writes lies beside forbidden pages.

    Operands and the tables of their addresses, tile lists, token ranges, scratch, the job record.
    """
    before = []
    changes = [(threads, "run", _guarded_job(threads.run, side))]
    for module in (softmax, decode, scan, steps, product, gather, hashing):
        changes += [(module, "run", _guarded_run(module.run, side)),
                    (module, "scratch", lambda size: region(size, side))]
    for module, name, value in changes:
        before.append((module, name, getattr(module, name)))
        setattr(module, name, value)
    try:
        with threads.limited(1):  # each thread would get a job record of its own
            yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def _guarded_job(run: Callable, side: str) -> Callable:
    return lambda kernel, job, *rest: run(kernel, moved(job, side), *rest)


def _guarded_run(run: Callable, side: str) -> Callable:
    def guarded_run(*args, **kwargs):
        places = {}  # an array that is two operands stays one

        def move(x):
            if isinstance(x, Rows):
                memory = places.setdefault((x.base, x.memory.nbytes), moved(x.memory, side))
                offsets = moved(x.offsets, side)
                return x._replace(memory=memory, offsets=offsets, base=address(memory),
                                  table=address(offsets))
            if isinstance(x, TileList):
                parts = [moved(part, side) for part in x[:5]]
                return x._replace(**dict(zip(x._fields, parts, strict=False)),
                                  places=tuple(map(address, parts)))
            return moved(x, side) if isinstance(x, Array) else x

        own = inspect.signature(run).bind(*args, **kwargs).arguments
        there = {name: move(x) for name, x in own.items()}
        run(**there)
        for name in ("out", "lse", "end", "s", "z", "top"):
            if isinstance(own.get(name), Array):
                own[name][...] = there[name]
            elif own.get(name) is not None:
                low, high = np.lib.array_utils.byte_bounds(own[name].memory)
                ctypes.memmove(low, np.lib.array_utils.byte_bounds(there[name].memory)[0], high - low)

    return guarded_run


def padded(x: Array) -> Array:
    return np.concatenate([x, x[..., :1]], axis=-1)[..., :-1]


def reversed_rows(x: Array) -> Array:
    return x[..., ::-1, :].copy()[..., ::-1, :]


TAILS = (1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129)
LAYOUTS = (np.ascontiguousarray, padded, reversed_rows)


def shapes() -> Iterator[tuple[int, int, int, int]]:
    """(n, m, d, e): any two of them take every pair of TAILS, as the number of tails is a prime."""
    size = len(TAILS)
    for a, b in itertools.product(range(size), range(size)):
        yield tuple(TAILS[place % size] for place in (a, b, a + b, a + 2 * b))
    yield from [(3, 1100, 17, 33)] * 2  # once in each half: more keys than are added up at once


def by_distance(q, k, v, *, table, nearest, low, high, step, key_mask):
    n, m = q.shape[-2], k.shape[-2]
    tile_list = tiles.band(n, m, low, high, step)
    return attend(q, k, v, tile_list, distance_bias=(table.astype(q.dtype), nearest), key_mask=key_mask)


def relative(q, k, v, *, keys, nearest, low, high, table, key_mask):
    tile_list = tiles.band(q.shape[-2], k.shape[-2], low, high)
    bias = None if table is None else (table.astype(q.dtype), nearest)
    return attend(q, k, v, tile_list, relative=(q, keys.astype(q.dtype), nearest), distance_bias=bias,
                  key_mask=key_mask)


def apart_by_labels(q, k, v, *, own, others, limits, step, key_mask):
    tile_list = tiles.band(q.shape[-2], k.shape[-2], -90, 70, step)
    return attend(q, k, v, tile_list, labels=(own, others, limits), key_mask=key_mask)


def in_order(q, k, v, *, queries, keys, own, others, limits, key_mask, joined):
    result = attend(q, k, v, tiles.band(q.shape[-2], k.shape[-2], 0, 5)) if joined else None
    return attend(q, k, v, tiles.band(queries.shape[-1], keys.shape[-1], -90, 70), order=(queries, keys),
                  labels=(own, others, limits), key_mask=key_mask, into=result)


def ordered(rng, n, m, d):
    own, others, limits, _, _ = labelled(rng, n, m, d).values()
    count = int(rng.integers(1, 150))
    return dict(queries=rng.permutation(n)[:1 + n // 2], keys=rng.integers(0, m, (2, count)), own=own,
                others=others, limits=limits, key_mask=rng.random((2, count)) < 0.7, joined=bool(m % 2))


def labelled(rng, n, m, d):
    count = int(rng.integers(1, 4))
    return dict(own=rng.integers(0, 9, (2, count, n)), others=rng.integers(0, 9, (count, m)),
                limits=np.array([[-1, 1], [0, 0], [-9, -4]])[:count], step=int(rng.choice([1, 3])),
                key_mask=rng.random((2, m)) < 0.7)


def hashed(q, k, v, *, rotations):
    return xfaccel.lsh_buckets(q, rotations.astype(q.dtype))


def apart(rng, n, m, d):
    """Keys by distance for all distances or clipped, with and without a bias by distance."""
    reach = int(rng.integers(1, 300))
    return dict(keys=rng.standard_normal((2, reach, d)), nearest=-int(rng.integers(0, reach)), low=-200,
                high=int(rng.choice([0, 70])), table=rng.standard_normal((1, 5)) if n % 2 else None,
                key_mask=rng.random((2, m)) < 0.7)


def near(rng, n, m, d):
    """Bands, tables that reach beyond them or are clipped, for all queries or one for each."""
    reach, rows = int(rng.integers(1, 300)), int(rng.choice([1, n]))
    return dict(table=rng.standard_normal((rows, reach)), nearest=-int(rng.integers(0, reach)), low=-90,
                high=int(rng.choice([0, 70])), step=int(rng.choice([1, 1, 3])),
                key_mask=rng.random((2, m)) < 0.7)


def few(q, k, v, *, rows, **options):
    return xfaccel.attention_lse(q[:, :rows], k, v, **options)


def seen(rng, n, m, d):
    return dict(rows=int(rng.integers(1, 9)), causal=bool(n % 2),
                key_mask=rng.random((2, m)) < 0.7 if m % 3 else None)


def drawn(rng, n, m, d):
    return dict(indices=rng.integers(-1, m, (n, 1 + n % 70)), causal=bool(n % 2),
                key_mask=rng.random((2, m)) < 0.7)


def masked(rng, n, m, d):
    return dict(mask=rng.random((n, m)) < 0.7, bias=rng.standard_normal((2, n, m)),
                key_mask=rng.random((2, m)) < 0.7)


def listed(rng, n, m, d):
    return dict(mask=xfaccel.patterns.scattered(n, rng.integers(-1, m, (n, 3)), m))


def projected(rng, n, m, d):
    return dict(key_projection=rng.standard_normal((n, m)), value_projection=rng.standard_normal((2, n, m)),
                key_mask=rng.random(m) < 0.7)


def features(kind, causal):
    return lambda rng, n, m, d: dict(projection=rng.standard_normal((1 + (n + m) % 35, d)), features=kind,
                                     key_mask=rng.random((2, m)) < 0.7, causal=causal)


ENGINES = {  # name: (function, its own parameters, also in float64)
    "full": ("attention_lse", lambda rng, n, m, d: {}, False),
    "causal": ("attention_lse", lambda rng, n, m, d: dict(causal=True), False),
    "masked": ("attention_lse", masked, True),
    "masked, causal": ("attention_lse", lambda *x: masked(*x) | dict(causal=True), True),
    "few": (few, seen, True),
    "listed": ("attention_lse", listed, False),
    "by distance": (by_distance, near, True),
    "relative": (relative, apart, True),
    "labelled": (apart_by_labels, labelled, True),
    "ordered": (in_order, ordered, True),
    "hashed": (hashed, lambda rng, n, m, d: dict(rotations=rng.standard_normal((2, d, 3, 1 + m % 20))), True),
    "gathered": (attend_listed, drawn, True),
    "window, dilated": ("sliding_window", lambda rng, n, m, d: dict(left=4, right=1, dilation=3), False),
    "projected": ("linformer", projected, False),
    "linear": ("linear_transformer", lambda rng, n, m, d: dict(key_mask=rng.random((2, m)) < 0.7), True),
    "linear, causal": ("linear_transformer", lambda rng, n, m, d: dict(
        key_mask=rng.random((2, m)) < 0.7, causal=True), True),
    "linear, step": ("linear_transformer_step", lambda rng, n, m, d: {}, False),
    "hyperbolic, step": ("performer_step", lambda rng, n, m, d: dict(
        projection=rng.standard_normal((1 + (n + m) % 35, d)), features="hyperbolic"), False),
    "positive": ("performer", features("positive", False), False),
    "positive, causal": ("performer", features("positive", True), False),
    "hyperbolic, causal": ("performer", features("hyperbolic", True), False),
    "trigonometric": ("performer", features("trigonometric", False), False),
    "trigonometric, causal": ("performer", features("trigonometric", True), False),
    "relu, causal": ("performer", features("relu", True), False),
}


def check_engines(dtype: type) -> None:
    """Every engine at every tail: the bits are those of an ordinary call."""
    for place, (name, (function, options, both)) in enumerate(ENGINES.items()):
        if dtype is np.float64 and not both:
            continue
        # half of the shapes: each tail of each length six or seven times
        for number, (n, m, d, e) in itertools.islice(enumerate(shapes()), place % 2, None, 2):
            layout, rng = LAYOUTS[number % len(LAYOUTS)], np.random.default_rng(number)
            step = isinstance(function, str) and function.endswith("_step")
            with case(f"{name}, n = {n}, m = {m}, d = {d}, e = {e}, {layout.__name__}"):
                args = [layout((0.3 * rng.standard_normal(shape)).astype(dtype))
                        for shape in ((2, m if step else n, d), (2, m, d), (2, m, e))]
                own = getattr(xfaccel, function) if isinstance(function, str) else function
                call = functools.partial(own, **options(rng, n, m, d))
                if step:
                    state, _ = call(None, *args)
                    args.insert(0, state)
                found = {}
                for side in SIDES:  # before the ordinary call, in whose memory an overrun may end anyhow
                    with guarded(side):
                        found[side] = flat(call(*args))
                ordinary = flat(call(*args))
                for side, each in found.items():
                    for a, b in zip(ordinary, each, strict=True):
                        assert a.tobytes() == b.tobytes(), f"other bits at the {side}"


def flat(x) -> list[Array]:
    return [x] if isinstance(x, Array) else [part for each in x for part in flat(each)]


# the process


@contextlib.contextmanager
def case(name: str) -> Iterator[None]:
    """One case: its name is said before it begins, a mistake in it when it ends."""
    print(f"BEGUN {name}", flush=True)
    try:
        yield
    except Exception as error:
        message = " ".join(str(error).split())
        print(f"FAILED {name}\t{type(error).__name__}: {message}", flush=True)


def check_case(line: str) -> None:
    """One case of the table of conformance, "name, type", with whatever kernels this process has."""
    name, _, dtype = line.rpartition(", ")
    [own] = [each for each in CASES if each.name == name]
    args, kwargs = own.draw(generator(own), np.dtype(dtype).type)
    assert_matches(own.call(xfaccel, args, kwargs), *expected(own.call, args, kwargs))


def check_cases(lines: list[str]) -> None:
    """Such cases, after a look at whether the settings of this process do what they are meant to."""
    print(f"KERNELS {kernels.describe()}")
    if config.BOUNDSCHECK:
        with case("an index out of bounds is noticed"):
            try:
                njit(lambda place, zero: table(place, 2, TILE, zero)[2, 0])(address(np.zeros(3 * TILE)), 0.0)
            except IndexError:
                pass
            else:
                raise AssertionError("no IndexError")
    if os.environ.get("NUMBA_CPU_NAME") == "haswell":
        with case("registers of 32 bytes"):
            scores_of = compiled(tile_simd.scores)
            scores_of(*[0] * 7, np.float32(0))  # no keys: nothing is read
            [code] = scores_of.inspect_asm().values()
            assert "ymm" in code and "vfmadd" in code and "zmm" not in code
    for line in lines:
        with case(line):
            check_case(line)


def overrun(side: str, too_far: str) -> None:
    """Read a whole array between forbidden pages and, with `too_far`, one number beyond `side`."""
    @njit
    def total(place, first, stop, zero):
        found = zero
        for i in range(first, stop):
            found += load_real(place + 8 * i, zero)
        return found

    x = moved(np.ones(37), side)
    with case("inside"):
        assert total(address(x), 0, 37, 0.0) == 37
    if too_far:
        with case("outside"):
            total(address(x), *((-1, 37) if side == "start" else (0, 38)), 0.0)


if __name__ == "__main__":
    check, *rest = sys.argv[1:]
    if check in ("kernels", "engines"):
        (check_twins if check == "kernels" else check_engines)(np.dtype(rest[0]).type)
    elif check == "cases":
        check_cases(rest)
    else:
        overrun(*rest)
    print("ENDED")
