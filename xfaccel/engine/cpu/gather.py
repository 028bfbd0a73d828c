"""The softmax engine for scattered keys: every query has a short list of its own.

Where the keys of neighbouring queries have nothing in common, a tile of 64 queries would compute 64 times
what it needs. Here each query gathers its keys, and vectors run along a key. Repeated keys are left out on
the way, so a list needs no order.
"""

import math

import numpy as np
from numba import njit

from xfaccel.arrays import Rows, address, scratch
from xfaccel.engine.cpu import cache, threads
from xfaccel.engine.cpu.kernels import rows as row
from xfaccel.engine.cpu.kernels import tile as micro
from xfaccel.engine.cpu.memory import (
    fetch_add,
    load_int,
    load_real,
    size_of,
    start_of,
    store_int,
    store_real,
)
from xfaccel.engine.cpu.tile_plain import LOG2_E, OPTIONS
from xfaccel.engine.tiles import TILE

Array = np.ndarray

# byte offsets in the job record, as in `softmax`; query i may see the keys up to i + LAST
(NEXT, TOTAL, WORKERS, SCALE, TILES, N, M, LAST, COUNT, D, E,
 Q, _, Q_ROW, K, _, K_ROW, V, _, V_ROW, OUT, _, OUT_ROW, LSE, _, INDICES, _, INDICES_ROW,
 KEY_MASK, _, KEY_MASK_COLUMN, SO_FAR, SCRATCH, SCRATCH_SIZE) = range(0, 8 * 34, 8)


with cache.enabled():
    @njit(**OPTIONS)
    def _work(job, _, __, ___, zero):
        """Take tiles of 64 queries until there are none."""
        size, d, e = size_of(zero), load_int(job + D), load_int(job + E)
        scale, n, m = load_real(job + SCALE, zero), load_int(job + N), load_int(job + M)
        total, tiles, count = load_int(job + TOTAL), load_int(job + TILES), load_int(job + COUNT)
        k_row, v_row = load_int(job + K_ROW), load_int(job + V_ROW)
        so_far = load_int(job + SO_FAR)
        # scratch: a stamp per key, the keys of a query, top and total, a result, scores
        stamps = load_int(job + SCRATCH) + fetch_add(job + WORKERS, 1) * load_int(job + SCRATCH_SIZE)
        keys = stamps + 8 * m
        top = keys + 8 * count
        whole = top + size
        fresh = top + 2 * size
        s = fresh + e * size
        for key in range(m):
            store_int(stamps + 8 * key, 0)
        stamp = 0
        while True:
            item = fetch_add(job + NEXT, 1)
            if item >= total:
                break
            entry, first = item // tiles, item % tiles * TILE
            k, v = start_of(job + K, entry), start_of(job + V, entry)
            mask, column = 0, load_int(job + KEY_MASK_COLUMN)
            if load_int(job + KEY_MASK) != 0:
                mask = start_of(job + KEY_MASK, entry)
            for i in range(first, min(first + TILE, n)):
                stamp += 1
                listed = start_of(job + INDICES, entry) + i * load_int(job + INDICES_ROW)
                last = min(i + load_int(job + LAST), m - 1)
                found = row.collect(listed, count, last, mask, column, stamps, stamp, keys)
                q = start_of(job + Q, entry) + i * load_int(job + Q_ROW)
                row.row_scores(q, k, k_row, keys, found, d, scale, s, row.REAL, zero)
                out = start_of(job + OUT, entry) + i * load_int(job + OUT_ROW)
                lse = 0
                if load_int(job + LSE) != 0:
                    lse = start_of(job + LSE, entry) + i * size
                if so_far != 0:
                    # the result so far counts like a key with this score
                    store_real(s + found * size, load_real(lse, zero) * LOG2_E, zero)
                row.row_softmax(s, found + so_far, top, whole, zero)
                share, weights = zero, load_real(whole, zero)
                if so_far != 0 and weights != 0:
                    share = load_real(s + found * size, zero) / weights
                    store_real(s + found * size, zero, zero)  # as all weights beyond the keys
                row.row_sum(s, keys, found, v, v_row, e, whole, fresh if so_far != 0 else out, row.REAL,
                            zero)
                if so_far != 0:
                    for place in range(0, e * size, size):
                        joined = load_real(out + place, zero) * share + load_real(fresh + place, zero)
                        store_real(out + place, joined, zero)
                if lse != 0:
                    micro.logarithms(top, whole, 1, lse, size, zero)
        return 0


def run(q: Rows, k: Rows, v: Rows, out: Rows, lse: Rows | None, indices: Rows, *, n: int, m: int, d: int,
        e: int, count: int, last: int, scale: float, key_mask: Rows | None = None,
        so_far: bool = False) -> None:
    """Fill `out` (n, e) and, where it is wanted, `lse` (n, 1) of every leading entry.

    `indices` are rows (n, count) of int64, those below 0 being empty places; query i sees no key beyond
    i + last. `so_far` says that out and lse hold the results for other keys, which are joined with these.
    """
    tiles = -(-n // TILE)
    total = len(q.offsets) * tiles
    if total == 0:
        return
    dtype = out.memory.dtype
    # a gathered key costs about four times one in a tile
    workers = threads.worth(4 * len(q.offsets) * n * count * (d + e), total)
    scores = -(-(count + so_far) // TILE) * TILE + 2 + e
    size = -(-(8 * (m + count) + scores * dtype.itemsize) // 64) * 64
    room = scratch(workers * size)
    job = np.array([
        0, total, 0, 0, tiles, n, m, last, count, d, e, *q[2:5], *k[2:5], *v[2:5], *out[2:5],
        *(lse[2:4] if lse else (0, 0)), *indices[2:5],
        *((*key_mask[2:4], key_mask.column) if key_mask else (0, 0, 0)), so_far, address(room), size],
        np.int64)
    job.view(dtype)[SCALE // dtype.itemsize] = scale * math.log2(math.e)
    threads.run(_work, job, (None, None, None), dtype.type(0), workers - 1)
