"""The softmax engine on the CPU: every tile of queries walks through its list of keys with an online softmax.

Milakov and Gimelshein 2018, arXiv:1805.02867 (the running maximum and sum); Dao et al. 2022, arXiv:2205.14135
(tiles, so that scores never leave the cache). A job is one record of int64, written by the caller and read by
every thread; its tiles are handed out by an atomic counter, and each is computed the same way by whichever
thread takes it.
"""

import functools
import math
from enum import IntEnum, auto

import numpy as np
from numba import njit

from xfaccel.arrays import Rows, address, scratch
from xfaccel.engine.cpu import cache, threads
from xfaccel.engine.cpu.kernels import tile as micro
from xfaccel.engine.cpu.memory import fetch_add, load_int, load_real, size_of, store_real
from xfaccel.engine.cpu.tile_plain import OPTIONS
from xfaccel.engine.tiles import TILE, TileList

Array = np.ndarray
_SMALL = 1 << 19  # multiplications below which waking a helper costs more than it brings


class Field(IntEnum):
    """Places in the job record. X is the address of a table of addresses, X_ROW and X_COLUMN are strides."""

    NEXT = 0          # the counter that hands out tiles
    DONE = auto()     # tiles that are finished
    TOTAL = auto()
    WORKERS = auto()  # threads that came; each takes a part of the scratch
    ENTRIES = auto()  # leading entries
    SLOTS = auto()    # tiles per entry, of the largest plane
    D = auto()
    E = auto()
    Q = auto()
    Q_ROW = auto()
    K = auto()
    K_ROW = auto()
    V = auto()
    V_ROW = auto()
    OUT = auto()
    OUT_ROW = auto()
    LSE = auto()
    KEY_MASK = auto()  # 0 without one, as with MASK and BIAS
    KEY_MASK_STEP = auto()
    MASK = auto()
    MASK_ROW = auto()
    MASK_COLUMN = auto()
    BIAS = auto()
    BIAS_ROW = auto()
    BIAS_COLUMN = auto()
    PLANES = auto()
    PLANE_OF = auto()  # table: the plane of each entry
    TILES = auto()
    OFFSETS = auto()
    SEGMENTS = auto()
    MASKS = auto()
    SCRATCH = auto()
    SCRATCH_SIZE = auto()  # bytes per thread


with cache.enabled():
    @njit(**OPTIONS)
    def _work(job, scale, key_mask, dense, zero):
        """Take tiles until there are none. True in the thread that finished the last tile of the job.

        `key_mask` and `dense` (mask or bias) are None where there is none: then no code for them is compiled.
        """
        part = fetch_add(job + 8 * Field.WORKERS, 1)
        room = load_int(job + 8 * Field.SCRATCH) + part * load_int(job + 8 * Field.SCRATCH_SIZE)
        total, slots = load_int(job + 8 * Field.TOTAL), load_int(job + 8 * Field.SLOTS)
        finished = 0
        while True:
            item = fetch_add(job + 8 * Field.NEXT, 1)
            if item >= total:
                break
            entry = item // slots
            plane = load_int(load_int(job + 8 * Field.PLANE_OF) + 8 * entry)
            planes = load_int(job + 8 * Field.PLANES)
            tile = load_int(planes + 8 * plane) + item - entry * slots
            if tile < load_int(planes + 8 * plane + 8):  # a plane may have fewer tiles than the largest
                _tile(job, entry, tile, scale, key_mask, dense, room, zero)
            finished += 1
        return finished > 0 and fetch_add(job + 8 * Field.DONE, finished) + finished == total

    @njit(**OPTIONS)
    def _tile(job, entry, tile, scale, key_mask, dense, room, zero):
        """The output and lse of up to 64 queries."""
        size, d, e = size_of(zero), load_int(job + 8 * Field.D), load_int(job + 8 * Field.E)
        place = load_int(job + 8 * Field.TILES) + 24 * tile
        first, step, count = load_int(place), load_int(place + 8), load_int(place + 16)

        # scratch: queries (d rows of 64), scores (64 rows), output (e rows), three rows, copies of k and v
        queries = room
        s = queries + TILE * size * d
        result = s + TILE * size * TILE
        top = result + TILE * size * e
        sums = top + TILE * size
        shrink = sums + TILE * size
        k_copy = shrink + TILE * size
        v_copy = k_copy + TILE * size * d

        q_row = load_int(job + 8 * Field.Q_ROW)
        q = load_int(load_int(job + 8 * Field.Q) + 8 * entry) + first * q_row
        micro.pack(q, step * q_row, count, d, scale, queries, zero)
        micro.fill(result, e, zero, zero)
        micro.fill(top, 1, zero - np.inf, zero)
        micro.fill(sums, 1, zero, zero)

        offsets = load_int(job + 8 * Field.OFFSETS) + 8 * tile
        for number in range(load_int(offsets), load_int(offsets + 8)):
            segment = load_int(job + 8 * Field.SEGMENTS) + 48 * number
            keys, low, high = load_int(segment + 16), load_int(segment + 24), load_int(segment + 32)
            for begin in range(0, keys, TILE):
                now = min(TILE, keys - begin)
                # lanes 0 .. count - 1 against keys begin .. begin + now - 1: no lane sees any of them
                if begin - (count - 1) > high or begin + now - 1 < low:
                    continue
                _block(job, entry, segment, begin, now, first, step, count, key_mask, dense, queries, s, result, top,
                       sums, shrink, k_copy, v_copy, zero)

        out_row = load_int(job + 8 * Field.OUT_ROW)
        out = load_int(load_int(job + 8 * Field.OUT) + 8 * entry) + first * out_row
        micro.unpack(result, count, e, sums, out, step * out_row, zero)
        lse = load_int(load_int(job + 8 * Field.LSE) + 8 * entry) + first * size
        for lane in range(count):
            sum_of_lane, top_of_lane = load_real(sums + lane * size, zero), load_real(top + lane * size, zero)
            value = (top_of_lane + math.log2(sum_of_lane)) * math.log(2.0) if sum_of_lane != 0 else -np.inf
            store_real(lse + lane * step * size, value, zero)

    @njit(**OPTIONS)
    def _block(job, entry, segment, begin, keys, first, step, count, key_mask, dense, queries, s, result, top,
               sums, shrink, k_copy, v_copy, zero):
        """One step of the online softmax over up to 64 keys of a segment."""
        size, d, e = size_of(zero), load_int(job + 8 * Field.D), load_int(job + 8 * Field.E)
        key_step, low, high = load_int(segment + 8), load_int(segment + 24), load_int(segment + 32)
        words = load_int(segment + 40)
        key = load_int(segment) + begin * key_step
        k_row, v_row = load_int(job + 8 * Field.K_ROW), load_int(job + 8 * Field.V_ROW)
        k = load_int(load_int(job + 8 * Field.K) + 8 * entry) + key * k_row
        v = load_int(load_int(job + 8 * Field.V) + 8 * entry) + key * v_row
        k_row, v_row = k_row * key_step, v_row * key_step

        mask, mask_step, seen = 0, 0, keys
        if key_mask is not None:
            mask_step = load_int(job + 8 * Field.KEY_MASK_STEP)
            mask = load_int(load_int(job + 8 * Field.KEY_MASK) + 8 * entry) + key * mask_step
            mask_step *= key_step
            seen = micro.seen_keys(mask, mask_step, keys)
            if seen == 0:
                return
            if seen < keys:
                micro.copy_seen(k, k_row, keys, d, mask, mask_step, k_copy, zero)
                micro.copy_seen(v, v_row, keys, e, mask, mask_step, v_copy, zero)
                k, k_row, v, v_row = k_copy, size * d, v_copy, size * e

        micro.scores(k, k_row, size, keys, d, queries, s, zero)
        if dense is not None:
            _dense(job, entry, key, key_step, keys, first, step, count, s, zero)
        if begin - (count - 1) < low or begin + keys - 1 > high:
            micro.hide_band(s, keys, low - begin, high - begin, zero)
        if words >= 0:
            micro.hide_bits(s, keys, load_int(job + 8 * Field.MASKS) + 8 * (words + begin), zero)
        if key_mask is not None:
            if seen < keys:
                micro.hide_keys(s, keys, mask, mask_step, zero)
        micro.softmax(s, keys, top, sums, shrink, zero)
        micro.accumulate(s, keys, v, v_row, size, e, shrink, result, zero)

    @njit(**OPTIONS)
    def _dense(job, entry, key, key_step, keys, first, step, count, s, zero):
        """What a dense bias adds to the scores and a dense mask hides."""
        biases, masks = load_int(job + 8 * Field.BIAS), load_int(job + 8 * Field.MASK)
        if biases != 0:
            row, column = load_int(job + 8 * Field.BIAS_ROW), load_int(job + 8 * Field.BIAS_COLUMN)
            bias = load_int(biases + 8 * entry) + first * row + key * column
            micro.add_bias(s, keys, count, bias, step * row, key_step * column, zero)
        if masks != 0:
            row, column = load_int(job + 8 * Field.MASK_ROW), load_int(job + 8 * Field.MASK_COLUMN)
            mask = load_int(masks + 8 * entry) + first * row + key * column
            micro.hide_mask(s, keys, count, mask, step * row, key_step * column, zero)


def run(q: Rows, k: Rows, v: Rows, out: Rows, lse: Rows, *, d: int, e: int, tile_list: TileList, plane_of: Array,
        scale: float, key_mask: Rows | None = None, mask: Rows | None = None, bias: Rows | None = None) -> None:
    """Fill `out` (n, e) and `lse` (n, 1) of every leading entry.

    `plane_of` (entries) int64 names the plane of the tile list that each leading entry follows. `mask` and
    `bias` are rows of (n, m), `key_mask` rows of (1, m).
    """
    entries = len(q.addresses)
    total = entries * tile_list.slots
    if total == 0:
        return
    dtype = out.memory.dtype
    work = entries * tile_list.scores * (d + e)
    workers = 1 if work < _SMALL else min(threads.available(), total)
    size = -(-(TILE * (TILE + 2 * d + 2 * e + 3)) * dtype.itemsize // 64) * 64
    room = scratch(workers * size)
    job = np.array([
        0, 0, total, 0, entries, tile_list.slots, d, e,
        q.table, q.stride, k.table, k.stride, v.table, v.stride, out.table, out.stride, lse.table,
        *((key_mask.table, key_mask.column) if key_mask else (0, 0)),
        *((mask.table, mask.stride, mask.column) if mask else (0, 0, 0)),
        *((bias.table, bias.stride, bias.column) if bias else (0, 0, 0)),
        tile_list.places[0], address(plane_of), *tile_list.places[1:], address(room), size], np.int64)

    # what the kernel reads and writes lives as long as the work does
    work = functools.partial(_call, job, dtype.type(scale * math.log2(math.e)), None if key_mask is None else 1,
                             None if mask is None and bias is None else 1, dtype.type(0),
                             (q, k, v, out, lse, key_mask, mask, bias, tile_list, plane_of, room))
    threads.run(work, workers - 1, functools.partial(job.__setitem__, int(Field.NEXT), total))


def _call(job: Array, scale, key_mask: int | None, dense: int | None, zero, keep: tuple) -> bool:
    return _work(address(job), scale, key_mask, dense, zero)
