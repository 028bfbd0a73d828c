"""The softmax engine on the CPU: every tile of queries walks through its list of keys with an online softmax.

Milakov and Gimelshein 2018, arXiv:1805.02867 (the running maximum and sum); Dao et al. 2022, arXiv:2205.14135
(tiles, so that scores never leave the cache). A job is one record of int64, written by the caller and read by
every thread; its tiles are handed out by an atomic counter, and each is computed the same way by whichever
thread takes it.
"""

import math

import numpy as np
from numba import njit

from xfaccel.arrays import Rows, address, scratch
from xfaccel.engine.cpu import by_distance, cache, labels, threads
from xfaccel.engine.cpu.kernels import features as extra
from xfaccel.engine.cpu.kernels import pairs
from xfaccel.engine.cpu.kernels import tile as micro
from xfaccel.engine.cpu.memory import (
    fetch_add,
    load_int,
    load_real,
    size_of,
    start_of,
    store_real,
)
from xfaccel.engine.cpu.tile_plain import LOG2_E, LOG_2, OPTIONS
from xfaccel.engine.tiles import TILE, WIDE, TileList

Array = np.ndarray
FOLD = 16  # tiles of keys that are added up apart


# byte offsets in the job record. Of an operand X the record holds its base, the address of the offsets of its
# leading entries, and then its strides; operands that a job lacks are 0
(NEXT, TOTAL, WORKERS,           # the counter that hands out tiles, tiles, threads that came
 SLOTS, D, E, SCALE,             # tiles per leading entry (of the largest plane), key and value width
 Q, _, Q_ROW, K, _, K_ROW, V, _, V_ROW, OUT, _, OUT_ROW, LSE, _,
 KEY_MASK, _, KEY_MASK_COLUMN, MASK, _, MASK_ROW, MASK_COLUMN, BIAS, _, BIAS_ROW, BIAS_COLUMN,
 Q_LABEL, _, _, _, _, _, LABELS, _,  # a record of `labels`
 Q_ORDER, _, K_ORDER, _, SO_FAR,    # where the rows lie; whether the output holds the result for other keys
 PAIRS,                             # whether q, k and v are bfloat16, multiplied in pairs
 PLANES, PLANE_OF, TILES, OFFSETS, SEGMENTS, MASKS,  # the tile list, and the plane of each leading entry
 SCRATCH, SCRATCH_SIZE,   # bytes per thread
 DISTANCE) = range(0, 8 * 55, 8)  # a record of `by_distance`


with cache.enabled():
    @njit(**OPTIONS)
    def _work(job, key_mask, special, distance, zero):
        """Take tiles until there are none.

        `key_mask`, `special` (dense mask or bias, labels, orders, bfloat16) and `distance` (a bias or keys by
        distance) are None where there is none: then no code for them is compiled.
        One function on purpose: Numba optimises a function again in each of its callers.
        """
        scale = load_real(job + SCALE, zero)
        size, d, e = size_of(zero), load_int(job + D), load_int(job + E)
        row = TILE * size
        total, slots = load_int(job + TOTAL), load_int(job + SLOTS)
        k_stride, v_stride = load_int(job + K_ROW), load_int(job + V_ROW)
        by = job + DISTANCE

        # scratch, rows of 64: queries (d rows), scores (64), output and its sums (e + 1), the same of the
        # tiles before (e + 1), three rows, copies of k and v; queries for keys by distance (d), and their
        # scores of 128 distances; a label of 64 keys; labels of the queries
        queries = load_int(job + SCRATCH) + fetch_add(job + WORKERS, 1) * load_int(job + SCRATCH_SIZE)
        s = queries + row * d
        result = s + row * TILE
        sums = result + row * e
        whole = sums + row
        top = whole + row * (e + 1)
        shrink, held = top + row, top + 2 * row
        k_copy = held + row
        v_copy = k_copy + row * d
        asking = v_copy + row * e
        lower, upper = asking + row * d, asking + row * (d + TILE)
        own_labels = queries + load_int(job + SCRATCH_SIZE) - 8 * TILE * load_int(job + LABELS)
        labels_there = own_labels - 8 * TILE

        while True:
            item = fetch_add(job + NEXT, 1)
            if item >= total:
                break
            entry = item // slots
            plane = load_int(job + PLANES) + 8 * load_int(load_int(job + PLANE_OF) + 8 * entry)
            tile = load_int(plane) + item - entry * slots
            if tile >= load_int(plane + 8):  # a plane may have fewer tiles than the largest
                continue
            place = load_int(job + TILES) + 24 * tile
            first, step, count = load_int(place), load_int(place + 8), load_int(place + 16)

            # rows lie where the tile says or, with an order, where that says; results only if they are joined
            # with those so far
            q_row, out_row = load_int(job + Q_ROW), load_int(job + OUT_ROW)
            q, out, lse = start_of(job + Q, entry), start_of(job + OUT, entry), 0
            if load_int(job + LSE) != 0:
                lse = start_of(job + LSE, entry)
            ordered, paired, q_order, k_order = False, False, 0, 0
            if special is not None:
                ordered, paired = load_int(job + Q_ORDER) != 0, load_int(job + PAIRS) != 0
            so_far = load_int(job + SO_FAR) != 0
            scattered = ordered and so_far
            if not scattered:
                out += first * out_row
                lse += first * size if lse != 0 else 0
            if ordered:
                q_order = start_of(job + Q_ORDER, entry) + 8 * first
                k_order = start_of(job + K_ORDER, entry)
                micro.copy_rows(q, q_row, q_order, 8 * step, count, d, k_copy, zero)
                micro.pack(k_copy, size * d, count, d, scale, queries, zero)
            elif paired:
                pairs.pack_pairs(q + first * q_row, step * q_row, count, d // 2, queries, zero)
            else:
                micro.pack(q + first * q_row, step * q_row, count, d, scale, queries, zero)
            micro.fill(result, e + 1, zero, zero)
            micro.fill(top, 1, -np.inf, zero)
            if so_far:
                if scattered:
                    micro.copy_rows(out, out_row, q_order, 8 * step, count, e, v_copy, zero)
                    micro.pack(v_copy, size * e, count, e, zero + 1, result, zero)
                else:
                    micro.pack(out, step * out_row, count, e, zero + 1, result, zero)
                for lane in range(count):
                    place = load_int(q_order + 8 * step * lane) if scattered else step * lane
                    known = load_real(lse + size * place, zero)
                    store_real(top + size * lane, known * LOG2_E, zero)
                    store_real(sums + size * lane, 1.0 if known > -np.inf else 0.0, zero)
            micro.fill(held, 1, zero + 1, zero)
            unfolded, folded = 0, False
            if special is not None:
                labels.take(job + Q_LABEL, entry, first, step, count, q_order, own_labels)
            ready = WIDE  # the first of 64 distances whose scores are in `upper`
            if distance is not None:
                if load_int(by + by_distance.KEY) != 0:
                    q_row = load_int(by + by_distance.QUERY_ROW)
                    q = start_of(by + by_distance.QUERY, entry) + first * q_row
                    # in natural units, like any bias
                    micro.pack(q, step * q_row, count, d, scale * LOG_2, asking, zero)

            offsets = load_int(job + OFFSETS) + 8 * tile
            for number in range(load_int(offsets), load_int(offsets + 8)):
                segment = load_int(job + SEGMENTS) + 48 * number
                first_key, key_step, length = load_int(segment), load_int(segment + 8), load_int(segment + 16)
                low, high, words = load_int(segment + 24), load_int(segment + 32), load_int(segment + 40)
                for begin in range(0, length, TILE):
                    keys = min(TILE, length - begin)
                    # lanes 0 .. count - 1 against keys begin .. begin + keys - 1: no lane sees any of them
                    if begin - (count - 1) > high or begin + keys - 1 < low:
                        continue
                    key = first_key + begin * key_step
                    k = start_of(job + K, entry) + key * k_stride
                    v = start_of(job + V, entry) + key * v_stride
                    k_row, v_row = k_stride * key_step, v_stride * key_step

                    places, place_step = k_order + 8 * key, 8 * key_step
                    mask, mask_column, seen = 0, 0, keys
                    if key_mask is not None:
                        mask_column = load_int(job + KEY_MASK_COLUMN)
                        mask = start_of(job + KEY_MASK, entry) + key * mask_column
                        mask_column *= key_step
                        seen = micro.seen_keys(mask, mask_column, keys)
                        if seen == 0:
                            continue
                    if ordered:
                        k, v = start_of(job + K, entry), start_of(job + V, entry)
                        micro.copy_rows(k, k_stride, places, place_step, keys, d, k_copy, zero)
                        micro.copy_rows(v, v_stride, places, place_step, keys, e, v_copy, zero)
                        k, k_row, v, v_row = k_copy, size * d, v_copy, size * e
                    if key_mask is not None:
                        if seen < keys:
                            # two numbers of 16 bits are copied as one
                            k_width, v_width = (d // 2, e // 2) if paired else (d, e)
                            micro.copy_seen(k, k_row, keys, k_width, mask, mask_column, k_copy, zero)
                            micro.copy_seen(v, v_row, keys, v_width, mask, mask_column, v_copy, zero)
                            k, k_row, v, v_row = k_copy, size * k_width, v_copy, size * v_width

                    if paired:
                        pairs.score_pairs(k, k_row, keys, d // 2, queries, scale, s, zero)
                    else:
                        micro.scores(k, k_row, size, keys, d, queries, s, zero)
                    if special is not None:
                        if load_int(job + BIAS) != 0:
                            bias_row, column = load_int(job + BIAS_ROW), load_int(job + BIAS_COLUMN)
                            bias = start_of(job + BIAS, entry) + first * bias_row + key * column
                            if key_step * column == size:
                                micro.add_rows(s, keys, count, bias, step * bias_row, zero)
                            else:
                                micro.add_bias(s, keys, count, bias, step * bias_row, key_step * column, zero)
                        if load_int(job + MASK) != 0:
                            mask_row, column = load_int(job + MASK_ROW), load_int(job + MASK_COLUMN)
                            hidden = start_of(job + MASK, entry) + first * mask_row + key * column
                            mask_row, column = step * mask_row, key_step * column
                            micro.hide_mask(s, keys, count, hidden, mask_row, column, zero)
                        labels.hide(job + Q_LABEL, entry, s, keys, key, key_step, places if ordered else 0,
                                    own_labels, labels_there, zero)
                    if distance is not None:
                        if load_int(by + by_distance.KEY) != 0:
                            # the distances of the last lane and the first key, 64 on, and of the first lane:
                            # the next tile of keys meets the upper half of them again
                            window = key - first - load_int(by + by_distance.KEY_NEAREST) - (TILE - 1)
                            if window + 2 * TILE <= 0 or window > load_int(by + by_distance.KEY_FARTHEST):
                                by_distance.scores(by, entry, window, 1, d, asking, lower, zero)
                                micro.add_lanes(s, keys, count, lower, size, zero)
                            else:
                                if window == ready:
                                    lower, upper = upper, lower
                                else:
                                    by_distance.scores(by, entry, window, TILE, d, asking, lower, zero)
                                by_distance.scores(by, entry, window + TILE, TILE, d, asking, upper, zero)
                                ready = window + TILE
                                micro.add_skewed(s, keys, lower, upper, zero)
                        if load_int(by + by_distance.TABLE) != 0:
                            by_distance.add(by, entry, s, keys, key, key_step, first, step, count, zero)
                    if begin - (count - 1) < low or begin + keys - 1 > high:
                        micro.hide_band(s, keys, low - begin, high - begin, zero)
                    if words >= 0:
                        micro.hide_bits(s, keys, load_int(job + MASKS) + 8 * (words + begin), zero)
                    if key_mask is not None:
                        if seen < keys:
                            micro.hide_keys(s, keys, mask, mask_column, zero)
                    micro.softmax(s, keys, top, sums, shrink, zero)
                    if paired:
                        v_pairs = v_copy + row * e // 2
                        pairs.round_rows(s, keys, zero)
                        pairs.pair_rows(v, v_row, keys, e, v_pairs, zero)
                        pairs.add_pairs(s, (keys + 1) // 2, v_pairs, e, shrink, result, zero)
                    else:
                        micro.accumulate(s, row, keys, v, v_row, size, e, shrink, result, row, zero)
                    # sums of sums: as long a sequence of additions as the keys have tiles would lose digits
                    if folded:
                        extra.multiply(held, 1, shrink, 0, zero)
                    unfolded += 1
                    if unfolded == FOLD:
                        if not folded:
                            micro.fill(whole, e + 1, zero, zero)
                        micro.fold(result, e + 1, held, whole, zero)
                        micro.fill(held, 1, zero + 1, zero)
                        unfolded, folded = 0, True

            if folded:
                micro.fold(result, e + 1, held, whole, zero)
            output = whole if folded else result
            total_of = output + row * e
            if scattered:
                micro.unpack(output, count, e, total_of, v_copy, size * e, zero)
                micro.logarithms(top, total_of, count, shrink, size, zero)
                for lane in range(count):
                    place = load_int(q_order + 8 * step * lane)
                    micro.copy_row(v_copy + lane * size * e, e, out + place * out_row, zero)
                    micro.copy_row(shrink + lane * size, 1, lse + place * size, zero)
                continue
            micro.unpack(output, count, e, total_of, out, step * out_row, zero)
            if lse != 0:
                micro.logarithms(top, total_of, count, lse, step * size, zero)
        return 0


def run(q: Rows, k: Rows, v: Rows, out: Rows, lse: Rows | None, *, d: int, e: int, tile_list: TileList,
        plane_of: Array, scale: float, key_mask: Rows | None = None, mask: Rows | None = None,
        bias: Rows | None = None, distance: tuple[Rows, int, int] | None = None,
        relative: tuple[Rows, Rows, int, int] | None = None,
        labels: tuple[Rows, Rows, Array] | None = None, order: tuple[Rows, Rows] | None = None,
        so_far: bool = False) -> None:
    """Fill `out` (n, e) and, where it is wanted, `lse` (n, 1) of every leading entry.

    `plane_of` (entries) int64 names the plane of the tile list that each leading entry follows. `mask` and
    `bias` are rows of (n, m), `key_mask` rows of (1, m). `distance` is a table with rows of (n, entries), the
    difference of key and query that belongs to its entry 0, and its last entry; what lies beyond either end
    takes the entry there. `relative` are queries (n, d) and keys by distance (entries, d), and the same two
    numbers; the steps in the tile list have to be 1. `labels` are rows of int64 (L, n) of the queries and
    (L, m) of the keys, below 2**31, and limits (L, 2): a pair is hidden where low <= key's - query's <= high
    for any of L.

    `order`, rows of int64 (1, queries) and (1, keys), says where the rows of q, k, v and the labels lie that
    the tile list counts through, as it does through the key mask; it goes without mask, bias, distance and
    relative. `so_far` says that out and lse hold the results for other keys, which are joined with these, and
    with an order lie where it says. No two tiles share a query then.

    Where q, k and v hold bfloat16 as uint16, and out float32, pairs of numbers are multiplied: widths have to
    be even, rows begin at multiples of 4 bytes, and there is neither order nor relative.
    """
    entries = len(q.offsets)
    total = entries * tile_list.slots
    if total == 0:
        return
    dtype = out.memory.dtype
    workers = threads.worth(entries * tile_list.scores * (d + e), total)
    paired = q.memory.dtype == np.uint16
    rows_of_tiles = TILE + 2 * d + 3 * e + 5 + (d + 2 * TILE if relative else 0)
    limits = labels[2] if labels else np.empty((0, 2), np.int64)
    size = -(-TILE * rows_of_tiles * dtype.itemsize // 64) * 64 + 8 * TILE * (bool(order) + len(limits))
    room = scratch(workers * size)
    job = np.array([
        0, total, 0, tile_list.slots, d, e, 0,
        *q[2:5], *k[2:5], *v[2:5], *out[2:5], *(lse[2:4] if lse else (0, 0)),
        *((*key_mask[2:4], key_mask.column) if key_mask else (0, 0, 0)),
        *(mask[2:] if mask else (0, 0, 0, 0)), *(bias[2:] if bias else (0, 0, 0, 0)),
        *((*labels[0][2:5], *labels[1][2:5], len(limits), address(limits)) if labels else [0] * 8),
        *((*order[0][2:4], *order[1][2:4]) if order else [0] * 4), so_far, paired,
        tile_list.places[0], address(plane_of), *tile_list.places[1:], address(room), size,
        *by_distance.record(distance, relative)], np.int64)
    job.view(dtype)[SCALE // dtype.itemsize] = scale * math.log2(math.e)
    switches = (None if key_mask is None else 1,
                1 if paired or any(x is not None for x in (mask, bias, labels, order)) else None,
                None if distance is None and relative is None else 1)
    threads.run(_work, job, switches, dtype.type(0), workers - 1)
