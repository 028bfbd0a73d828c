"""Matrix products for the engines' operands: rows of keys or values combined along the sequence.

NumPy calls BLAS once per leading entry, with threads that have to meet at the end of each of many small
products; here all products of a call are tiles of one job, made of the same micro-kernel as the engines.
"""

import numpy as np
from numba import njit

from xfaccel.arrays import Rows, address, scratch
from xfaccel.engine.cpu import cache, threads
from xfaccel.engine.cpu.kernels import features as kernel
from xfaccel.engine.cpu.kernels import tile as micro
from xfaccel.engine.cpu.memory import fetch_add, load_int, size_of, start_of
from xfaccel.engine.cpu.tile_plain import OPTIONS
from xfaccel.engine.tiles import TILE

Array = np.ndarray

# byte offsets in the job record, as in `softmax`: A (NUMBER, LENGTH) times X (LENGTH, WIDTH) into OUT
(NEXT, TOTAL, WORKERS, ACROSS, DOWN, NUMBER, LENGTH, WIDTH, A, _, A_ROW, X, _, X_ROW, OUT, _,
 OUT_ROW, KEY_MASK, _, KEY_MASK_COLUMN, SCRATCH, SCRATCH_SIZE) = range(0, 8 * 22, 8)

with cache.enabled():
    @njit(**OPTIONS)
    def _work(job, key_mask, _, __, zero):
        """Take tiles of 64 x 64 results until there are none."""
        size = size_of(zero)
        row = TILE * size
        total, across, down = load_int(job + TOTAL), load_int(job + ACROSS), load_int(job + DOWN)
        a_row, x_row, out_row = load_int(job + A_ROW), load_int(job + X_ROW), load_int(job + OUT_ROW)
        length = load_int(job + LENGTH)
        room = load_int(job + SCRATCH) + fetch_add(job + WORKERS, 1) * load_int(job + SCRATCH_SIZE)
        ones, result, tile = room, room + row, room + (1 + TILE) * row
        copy = tile + TILE * row
        micro.fill(ones, 1, zero + 1, zero)
        while True:
            item = fetch_add(job + NEXT, 1)
            if item >= total:
                break
            entry, place = item // (across * down), item % (across * down)
            top, left = place // across * TILE, place % across * TILE
            height, width = min(TILE, load_int(job + NUMBER) - top), min(TILE, load_int(job + WIDTH) - left)
            a = start_of(job + A, entry) + top * a_row
            micro.fill(result, height, zero, zero)
            for first in range(0, length, TILE):
                count = min(TILE, length - first)
                x, step = start_of(job + X, entry) + first * x_row + left * size, x_row
                if key_mask is not None:
                    column = load_int(job + KEY_MASK_COLUMN)
                    mask = start_of(job + KEY_MASK, entry) + first * column
                    if micro.seen_keys(mask, column, count) < count:
                        micro.copy_seen(x, x_row, count, width, mask, column, copy, zero)
                        x, step = copy, width * size
                if width < TILE or (x | step) % 64 != 0:  # straddled cache lines load at half speed
                    kernel.pad_rows(x, step, count, width, tile, row, zero)
                    x, step = tile, row
                micro.accumulate(x, step, count, a + first * size, size, a_row, height, ones, result, row,
                                 zero)
            out = start_of(job + OUT, entry) + top * out_row + left * size
            for number in range(height):
                micro.copy_row(result + number * row, width, out + number * out_row, zero)
        return 0


def run(a: Rows, x: Rows, out: Rows, *, number: int, length: int, width: int, key_mask: Rows | None) -> None:
    """Fill `out` (number, width) with a (number, length) times x (length, width), for every leading entry."""
    entries, dtype = len(a.offsets), out.memory.dtype
    across, down = -(-width // TILE), -(-number // TILE)
    total = entries * across * down
    if total == 0:
        return
    workers = threads.worth(entries * number * length * width, total)
    size = (1 + 3 * TILE) * TILE * dtype.itemsize
    room = scratch(workers * size)
    job = np.array([0, total, 0, across, down, number, length, width, *a[2:5], *x[2:5], *out[2:5],
                    *((*key_mask[2:4], key_mask.column) if key_mask else (0, 0, 0)),
                    address(room), size], np.int64)
    threads.run(_work, job, (None if key_mask is None else 1, None, None), dtype.type(0), workers - 1)
