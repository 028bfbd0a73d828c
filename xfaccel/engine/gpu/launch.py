"""The launches of the GPU's kernels: which file, how specialised, what grid, which arguments.

Everything that depends on the layout of a kernel is decided here, and nothing here needs a GPU: arrays may
be CuPy's, or NumPy's in tests, where an interpreter takes the place of the GPU and gets these very arguments.
`put` turns an array of the host into one that kernels can read.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from xfaccel.arrays import entry_offsets
from xfaccel.engine.tiles import TILE, TileList, paired

Array = Any  # of NumPy or CuPy
Put = Callable[[np.ndarray], Array]

STORED = {"float32": "float", "float64": "double", "float16": "float16", "bfloat16": "bfloat16"}  # in C++
HALF = ("float16", "bfloat16")
WIDTHS = 32, 64, 128, 256    # that kernels are specialised on
FEATURES = *WIDTHS, 512      # likewise, of the scan
_WARPS = 4                   # of the blocks with 128 threads
_STAGES = 3                  # of the ring of keys and values in softmax_wgmma.cu
_RING = 1024                 # bytes, for what stands beside it
_NONE = np.uint64(0), np.uint64(0), np.int64(0), np.int64(0)


class Operand(NamedTuple):
    """An operand (lead..., rows, columns) as kernels see it: strides count numbers."""

    array: Array
    offsets: np.ndarray  # (entries) int64: from the first leading entry to each
    row: int
    column: int


class Launch(NamedTuple):
    """One launch of a kernel, whose name is that of its file up to the first underscore."""

    file: str
    macros: tuple[tuple[str, object], ...]
    grid: tuple[int, int]
    block: int                 # threads
    shared: int                # bytes that the launch adds to those of the kernel
    arguments: tuple[object, ...]

    @property
    def kernel(self) -> str:
        return self.file.partition(".")[0].partition("_")[0]


def operand(x: Array, lead: tuple[int, ...]) -> Operand:
    """`x` (..., rows, columns) broadcast to `lead`; its strides have to be multiples of a number's size."""
    *outer, row, column = (step // x.itemsize for step in x.strides)
    return Operand(x, entry_offsets(lead, x.shape[:-2], tuple(outer))[0], row, column)


def softmax(q: Operand, k: Operand, v: Operand, out: Operand, lse: Operand | None, *, dtype: str, d: int,
            e: int, tile_list: TileList, plane_of: np.ndarray, scale: float, put: Put,
            key_mask: Operand | None = None, mask: Operand | None = None, bias: Operand | None = None,
            distance: tuple[Operand, int, int] | None = None,
            relative: tuple[Operand, Operand, int, int] | None = None,
            labels: tuple[Operand, Operand, Array] | None = None,
            order: tuple[Operand, Operand] | None = None, so_far: Operand | None = None,
            hopper: int = 0) -> Launch:
    """What `xfaccel.engine.cpu.softmax.run` does, for operands whose numbers are of the type called `dtype`.

    The last axes of q, k, v and out, and of the queries and keys by distance, have to be dense. For float16
    and bfloat16 the lse is of float32; they take the matrix units where d is at most 256, or 128 with keys by
    distance, with which the keys of a tile have to lie as far from one another as its queries do. `order` has
    rows (1, n) and (1, m) of int64; `so_far` is the lse of the results for other keys which `out` and `lse`
    already hold, and which these are joined with. `hopper` is the number of multiprocessors of a GPU of
    compute capability 9.0, and 0 for any other.
    """
    matrix = dtype in HALF and d <= (128 if relative else WIDTHS[-1])
    pairs = any(x is not None for x in (mask, bias, distance, labels))
    if matrix:
        width = padded(max(d, min(e, 128)), dtype)
        stretch = min(width, 128)
        keys = 32 if pairs or relative or width == 256 else 64
        shared, threads = 2 * (TILE * width + 2 * keys * (width + stretch)), 32 * _WARPS
        if relative:
            shared += 2 * (2 * TILE + keys) * width + 4 * TILE * (keys + 4)
    else:
        width = stretch = padded(e, dtype)
        few = width * real(dtype)().itemsize < 512 and (dtype != "float64" or relative is None)
        shared, threads = 0, 32 * _WARPS * (1 if few else 2)  # whose registers hold the sums
    file = "softmax_mma.cu" if matrix else "softmax.cu"
    if (hopper and matrix and scale > 0 and not pairs and not relative and width <= 128
            and all(map(_whole, (q, k, v)))):
        file, width = "softmax_wgmma.cu", max(width, 64)
        tile_list, stretch, threads = paired(tile_list), width, 3 * 128
        shared = 2 * 2 * width * TILE * (1 + 2 * _STAGES) + _RING
    grid = len(q.offsets) * tile_list.slots, _stretches(e, stretch)
    if so_far:  # lanes, and with several stretches blocks, would read what another one writes
        so_far = so_far._replace(array=so_far.array.copy())
    table, nearest, farthest = distance or (None, 0, 0)
    apart_q, apart_k, *apart = relative or (None, None, 0, 0)
    q_labels, k_labels, limits = labels or (None, None, np.uint64(0))
    arguments = (
        *_rows(put, q, k, v, out, lse, key_mask, mask, bias, table), np.int64(nearest), np.int64(farthest),
        *_rows(put, apart_q, apart_k), *map(np.int64, apart),
        *_rows(put, q_labels, k_labels), limits, np.int64(len(limits) if labels else 0),
        *_rows(put, *(order or (None, None)), so_far),
        put(tile_list.planes), put(plane_of), *(put(part) for part in tile_list[1:5]),
        *map(np.int64, (tile_list.slots, d, e)), real(dtype)(scale * math.log2(math.e)))
    macros = ("XF_STORED", STORED[dtype]), ("XF_WIDTH", width)
    if file == "softmax_wgmma.cu":  # blocks that take one tile after another
        grid, arguments = (min(grid[0], hopper), grid[1]), (*arguments, np.int64(grid[0]))
    else:
        macros += ("XF_PAIRS_SAID", int(pairs)), ("XF_RELATIVE", int(relative is not None))
    return Launch(file, macros, grid, threads, shared, arguments)


def _whole(x: Operand) -> bool:
    """Whether every row begins at a multiple of 16 bytes."""
    first = x.array.ctypes.data if type(x.array) is np.ndarray else x.array.data.ptr
    return first % 16 == 0 and not any(step % 16 for step, length in
                                       zip(x.array.strides[:-1], x.array.shape, strict=False) if length > 1)


def gather(q: Operand, k: Operand, v: Operand, out: Operand, lse: Operand | None, indices: Operand, *,
           dtype: str, n: int, d: int, e: int, count: int, last: int, scale: float, put: Put,
           key_mask: Operand | None = None) -> Launch:
    """What `xfaccel.engine.cpu.gather.run` does, for lists of keys (n, count) in ascending order."""
    total, width = len(q.offsets) * n, padded(e, dtype)
    arguments = (*_rows(put, q, k, v, out, lse, key_mask, indices),
                 *map(np.int64, (count, total, n, last, d, e)), real(dtype)(scale * math.log2(math.e)))
    return Launch("gather.cu", (("XF_STORED", STORED[dtype]), ("XF_WIDTH", width)),
                  (-(-total // _WARPS), _stretches(e, width)), 32 * _WARPS, 0, arguments)


def scan(mode: str, ranges: np.ndarray, *, dtype: str, entries: int, d: int, e: int, put: Put,
         q: Operand | None = None, k: Operand | None = None, v: Operand | None = None,
         out: Operand | None = None, shift: int = 0, key_mask: Operand | None = None,
         given: bool = False, exponent: Operand | None = None, begin: Operand | None = None,
         end: Operand | None = None) -> Launch:
    """One pass over the token ranges (parts, 2) of every leading entry; the features are elu + 1.

    Keys are added up ("sum"), queries read the sums ("read"), or both in turn ("causal"), query t + shift
    reading those up to key t. `begin` and `end` are states (parts, d e + d), of float64 if `dtype` is, else
    of float32; where all parts begin with one state, its row stride is 0. If features are `given`, q and k
    hold d of them, in the type of a state; `exponent` (1, m) multiplies those of each key by 2 to it, and a
    state has one number more, the exponent that its sums are still to be multiplied by, -inf without keys.

    Raises: ValueError if d is more than FEATURES[-1].
    """
    if d > FEATURES[-1]:
        raise ValueError(f"linear attention on the GPU needs up to {FEATURES[-1]} features, got {d}")
    arguments = (*_rows(put, q, k, v, out, key_mask, exponent, begin, end), put(ranges),
                 *map(np.int64, (len(ranges), shift, d, e)))
    macros = ("XF_STORED", STORED[dtype]), ("XF_MODE", f"XF_{mode.upper()}")
    if dtype in HALF and d <= 128 and not given:
        file, width, columns = "scan_mma.cu", 64 if d <= 64 else 128, 64
        # of a chunk: features, keys, values twice, ones twice; to add up keys alone, no features, keys twice
        passing = 0 if mode == "read" else TILE * ((4 if mode == "sum" else 6) * width + 4 * columns + 8)
        shared = passing + (0 if mode == "sum" else 4 * width * (columns + 1))
    else:
        file, width = "scan.cu", next(each for each in FEATURES if d <= each)
        size = real(dtype)().itemsize
        columns = 16 if width > 256 else 64 if size == 4 and width <= 128 else 32
        tokens, line, weights = (64, 36, 68) if size == 4 else (32, 18, 34)
        shared = size * (width * (columns + 1) + tokens * (columns + 2 * line + weights + 3 * given))
        macros += ("XF_FEATURES", "XF_GIVEN" if given else "XF_ELU"),
    return Launch(file, (*macros, ("XF_WIDTH", width)), (entries * len(ranges), _stretches(e, columns)),
                  32 * _WARPS, shared, arguments)


@functools.cache  # NumPy puts it together each time
def name(dtype: np.dtype) -> str:
    return dtype.name


def scan_blocks(dtype: str, d: int, given: bool) -> int:
    """How many parts of all leading entries together `scan` gets at once, about.

    As many blocks as are at work side by side on 132 multiprocessors, or few less: any more would wait for
    these and make one more state each, which is written and read. Two fit on one by their shared memory and
    registers, of scan_mma.cu with 64 features three.
    """
    return 384 if dtype in HALF and d <= 64 and not given else 256


def running(states: Array, begin: Array, skip: int, *, given: bool) -> Launch:
    """The sums over the states before part `skip`, before the part after it, and so on to the end.

    `states` (..., parts, numbers) are those of `scan`, `begin` (..., parts - skip + 1, numbers) gets the
    sums; both are dense.
    """
    *lead, parts, numbers = states.shape
    macros = ("XF_STORED", STORED[name(states.dtype)]), ("XF_EXPONENT", int(given))
    return Launch("running.cu", macros, (math.prod(lead) * -(-numbers // (32 * _WARPS)), 1), 32 * _WARPS, 0,
                  (states, begin, *map(np.int64, (parts, skip, numbers))))


def real(dtype: str) -> type[np.floating]:
    """The type that arithmetic is done in."""
    return np.float64 if dtype == "float64" else np.float32


def padded(width: int, dtype: str) -> int:
    """The width that a kernel is specialised on; wider outputs are computed in stretches."""
    widest = 128 if dtype == "float64" else WIDTHS[-1]
    return next((each for each in WIDTHS if width <= each < widest), widest)


def _stretches(e: int, width: int) -> int:
    return max(-(-e // width), 1)  # without any values there is still the lse


def _rows(put: Put, *operands: Operand | None) -> tuple[object, ...]:
    """The four arguments of each."""
    found = []
    for x in operands:
        found += _NONE if x is None else (x.array, put(x.offsets), np.int64(x.row), np.int64(x.column))
    return tuple(found)
