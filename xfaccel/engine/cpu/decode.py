"""The softmax engine for few queries: one new token or a handful against all keys so far.

A tile has 64 lanes, and computes as much for one query as for 64. Here vectors run along a key, as for
scattered keys, and what counts is that every key and value is read from memory once. The keys are shared out
in chunks, so that one head keeps all threads busy; whoever finishes the last chunk of a head joins them, in
their order: results do not depend on the number of threads.
"""

import math

import numpy as np
from numba import njit

from xfaccel.arrays import Rows, address, scratch
from xfaccel.engine.cpu import cache, chunks, threads
from xfaccel.engine.cpu.kernels import rows as row
from xfaccel.engine.cpu.memory import (
    fetch_add,
    load_byte,
    load_int,
    load_real,
    size_of,
    start_of,
    store_int,
    store_real,
)
from xfaccel.engine.cpu.tile_plain import OPTIONS

Array = np.ndarray
FEW = 8      # queries up to which this is faster than a tile
KINDS = {np.dtype(np.int8): row.BYTE, np.dtype(np.uint16): row.BRAIN, np.dtype(np.float16): row.HALF}
CHUNK = 256  # keys: 128 KiB of float32 with values, at width 64, for the queries to share in a core's cache

# byte offsets in the job record, as in `softmax`; query i may see the keys up to i + LAST
(NEXT, TOTAL, WORKERS, SCALE, CHUNKS, N, M, LAST, D, E,
 Q, _, Q_ROW, K, _, K_ROW, V, _, V_ROW, OUT, _, OUT_ROW, LSE, _, KEY_MASK, _, KEY_MASK_COLUMN,
 KIND, K_SCALE, _, K_SCALE_COLUMN, V_SCALE, _, V_SCALE_COLUMN,
 LEFT, PARTS, SCRATCH, SCRATCH_SIZE) = range(0, 8 * 38, 8)


with cache.enabled():
    @njit(**OPTIONS)
    def _work(job, _, __, ___, zero):
        """Take chunks of keys until there are none."""
        size, d, e = size_of(zero), load_int(job + D), load_int(job + E)
        scale, n, m = load_real(job + SCALE, zero), load_int(job + N), load_int(job + M)
        total, pieces = load_int(job + TOTAL), load_int(job + CHUNKS)
        k_row, v_row = load_int(job + K_ROW), load_int(job + V_ROW)
        # scratch: the keys of a chunk that are seen, and scores
        keys = load_int(job + SCRATCH) + fetch_add(job + WORKERS, 1) * load_int(job + SCRATCH_SIZE)
        s, s_row = keys + 8 * CHUNK, CHUNK * size
        while True:
            item = fetch_add(job + NEXT, 1)
            if item >= total:
                break
            entry, begin = item // pieces, item % pieces * CHUNK
            k, v = start_of(job + K, entry) + begin * k_row, start_of(job + V, entry) + begin * v_row
            kind, k_scale, v_scale = load_int(job + KIND), 0, 0
            k_column, v_column = load_int(job + K_SCALE_COLUMN), load_int(job + V_SCALE_COLUMN)
            if kind == row.BYTE:
                k_scale = start_of(job + K_SCALE, entry) + begin * k_column
                v_scale = start_of(job + V_SCALE, entry) + begin * v_column
            mask, column = 0, load_int(job + KEY_MASK_COLUMN)
            if load_int(job + KEY_MASK) != 0:
                mask = start_of(job + KEY_MASK, entry) + begin * column
            seen = 0
            for key in range(min(CHUNK, m - begin)):
                if mask == 0 or load_byte(mask + key * column) != 0:
                    store_int(keys + 8 * seen, key)
                    seen += 1
            q, q_row = start_of(job + Q, entry), load_int(job + Q_ROW)
            part, part_row = load_int(job + PARTS) + item * n * (e + 2) * size, (e + 2) * size
            taken = row.QUERIES if n >= row.QUERIES else 1
            for begun in range(0, n, taken):
                i = min(begun, n - taken)  # the last of them may be done twice
                here, there = q + i * q_row, part + i * part_row
                # the last one sees most; what the others do not see is hidden from them
                last = i + taken - 1 + load_int(job + LAST) - begin
                found = chunks.seen_by(keys, seen, last)
                if taken == 1:
                    row.row_scores(here, k, k_row, keys, found, d, scale, s, kind, zero)
                else:
                    row.rows_scores(here, q_row, k, k_row, keys, found, d, scale, s, s_row, kind,
                                    zero)
                for r in range(taken):
                    if kind == row.BYTE:
                        chunks.weigh(s + r * s_row, keys, found, k_scale, k_column, zero)
                    for j in range(chunks.seen_by(keys, found, last + 1 + r - taken), found):
                        store_real(s + r * s_row + j * size, -np.inf, zero)
                    top = there + r * part_row
                    row.row_softmax(s + r * s_row, found, top, top + size, zero)
                    if kind == row.BYTE:
                        chunks.weigh(s + r * s_row, keys, found, v_scale, v_column, zero)
                if taken == 1:
                    row.row_sum(s, keys, found, v, v_row, e, there + size, there + 2 * size, kind,
                                zero)
                else:
                    row.rows_sum(s, s_row, keys, found, v, v_row, e, there + size, there + 2 * size,
                                 part_row, kind, zero)
            if fetch_add(load_int(job + LEFT) + 8 * entry, -1) == 1:
                lse = start_of(job + LSE, entry) if load_int(job + LSE) != 0 else 0
                of_head = load_int(job + PARTS) + entry * pieces * n * (e + 2) * size
                out, out_row = start_of(job + OUT, entry), load_int(job + OUT_ROW)
                chunks.join(of_head, n, pieces, e, out, out_row, lse, zero)
        return 0


def run(q: Rows, k: Rows, v: Rows, out: Rows, lse: Rows | None, *, n: int, m: int, d: int, e: int, last: int,
        scale: float, key_mask: Rows | None = None, scales: tuple[Rows, Rows] | None = None) -> None:
    """Fill `out` (n, e) and, where it is wanted, `lse` (n, 1) of every leading entry.

    Query i sees no key beyond i + last; `key_mask` are rows of (1, m). k and v are of the type of q or, if
    that is float32, both float16, or bfloat16 as uint16; or int8, and `scales` are rows (1, m) of what to
    multiply each of their rows by.
    """
    entries, pieces = len(q.offsets), max(-(-m // CHUNK), 1)
    total = entries * pieces
    if total * n == 0:
        return
    dtype = out.memory.dtype
    workers = threads.worth(entries * n * m * (d + e), total)
    size = CHUNK * (8 + row.QUERIES * dtype.itemsize)
    parts = -(-total * n * (e + 2) * dtype.itemsize // 8) * 8
    room = scratch(workers * size + parts + 8 * entries)
    start = address(room)
    room[workers * size + parts:].view(np.int64)[:] = pieces
    job = np.array([
        0, total, 0, 0, pieces, n, m, last, d, e, *q[2:5], *k[2:5], *v[2:5], *out[2:5],
        *(lse[2:4] if lse else (0, 0)), *((*key_mask[2:4], key_mask.column) if key_mask else (0, 0, 0)),
        KINDS.get(k.memory.dtype, row.REAL),
        *((*scales[0][2:4], scales[0].column, *scales[1][2:4], scales[1].column) if scales else [0] * 6),
        start + workers * size + parts, start + workers * size, start, size], np.int64)
    job.view(dtype)[SCALE // dtype.itemsize] = scale * math.log2(math.e)
    threads.run(_work, job, (None, None, None), dtype.type(0), workers - 1)
