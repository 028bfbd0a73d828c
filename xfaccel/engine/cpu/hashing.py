"""Angular hashes on the CPU: to which of some directions, or their opposites, each token is closest.

The products never leave the cache: a tile of 64 tokens meets all directions of a round, and what is kept of
them is a number for each token.
"""

import numpy as np
from numba import njit

from xfaccel.arrays import Rows, address, scratch
from xfaccel.engine.cpu import cache, threads
from xfaccel.engine.cpu.kernels import features as kernel
from xfaccel.engine.cpu.kernels import tile as micro
from xfaccel.engine.cpu.memory import fetch_add, load_int, size_of, start_of, store_int
from xfaccel.engine.cpu.tile_plain import OPTIONS
from xfaccel.engine.tiles import TILE

Array = np.ndarray

# byte offsets in the job record, as in `softmax`; OUT (entries, ROUNDS, N) int64
(NEXT, TOTAL, WORKERS, TILES, N, D, ROUNDS, NUMBER, X, _, X_ROW, DIRECTIONS, _, DIRECTION_ROW, OUT,
 SCRATCH, SCRATCH_SIZE) = range(0, 8 * 17, 8)


with cache.enabled():
    @njit(**OPTIONS)
    def _work(job, _, __, ___, zero):
        """Take tiles of 64 tokens until there are none."""
        size, row = size_of(zero), TILE * size_of(zero)
        total, tiles = load_int(job + TOTAL), load_int(job + TILES)
        n, d = load_int(job + N), load_int(job + D)
        rounds, number = load_int(job + ROUNDS), load_int(job + NUMBER)
        x_row, direction_row = load_int(job + X_ROW), load_int(job + DIRECTION_ROW)
        tokens = load_int(job + SCRATCH) + fetch_add(job + WORKERS, 1) * load_int(job + SCRATCH_SIZE)
        places, products = tokens + d * row, tokens + d * row + 8 * TILE
        while True:
            item = fetch_add(job + NEXT, 1)
            if item >= total:
                break
            entry, first = item // tiles, item % tiles * TILE
            count = min(TILE, n - first)
            micro.pack(start_of(job + X, entry) + first * x_row, x_row, count, d, zero + 1, tokens, zero)
            directions = start_of(job + DIRECTIONS, entry)
            for r in range(rounds):
                micro.scores(directions + r * number * direction_row, direction_row, size, number, d, tokens,
                             products, zero)
                kernel.closest(products, number, places, zero)
                out = load_int(job + OUT) + 8 * ((entry * rounds + r) * n + first)
                for lane in range(count):
                    store_int(out + 8 * lane, load_int(places + 8 * lane))
        return 0


def run(x: Rows, directions: Rows, out: Array, *, d: int, rounds: int, number: int) -> None:
    """Fill `out` (entries, rounds, n) int64 from x (n, d) and directions (rounds number, d)."""
    entries, _, n = out.shape
    tiles, dtype = -(-n // TILE), x.memory.dtype
    total = entries * tiles
    if total == 0:
        return
    workers = threads.worth(entries * n * rounds * number * d, total)
    size = TILE * ((d + number) * dtype.itemsize + 8)
    room = scratch(workers * size)
    job = np.array([0, total, 0, tiles, n, d, rounds, number, *x[2:5], *directions[2:5], address(out),
                    address(room), size], np.int64)
    threads.run(_work, job, (None, None, None), dtype.type(0), workers - 1)
