"""The scan engine on the CPU: attention by features, as running sums over chunks of 64 tokens.

Katharopoulos et al. 2020, arXiv:2006.16236 (running sums); Hua et al. 2022, arXiv:2202.10447 (chunks: within
a chunk the weights are computed as a matrix, so that all work is matrix products). Long sequences are cut
into parts whose sums are computed side by side, then added up, then walked through again side by side: the
cut depends on the shapes alone, so results do not depend on the number of threads.

Features are never stored for more than a chunk. The exponential kinds keep, per feature, the largest exponent
so far (`top`) beside sums that are divided by its exponential: nothing overflows, and no row depends on a key
after it. A state is one block of numbers: sums s (features, value columns up to a multiple of 64), z
(features), top (features, in units of log 2).
"""

import math

import numpy as np
from numba import njit

from xfaccel.arrays import Rows, address, scratch
from xfaccel.engine.cpu import cache, threads
from xfaccel.engine.cpu.kernels import features as kernel
from xfaccel.engine.cpu.kernels import tile as micro
from xfaccel.engine.cpu.memory import (
    fetch_add,
    load_byte,
    load_int,
    load_real,
    size_of,
    start_of,
    store_real,
)
from xfaccel.engine.cpu.tile_plain import LOG2_E, OPTIONS
from xfaccel.engine.tiles import TILE

Array = np.ndarray


TINY, GROWTH = 2.0**-100, 2.0**100  # totals below the one grow by the other

# feature kinds with exponents; elu + 1 has none
POSITIVE, HYPERBOLIC, TRIGONOMETRIC, RELU = range(4)

# what a pass does with a range of tokens: add keys to a state, read a state, do both in turn; or add all keys
# and then read for all queries
SUM, READ, CAUSAL, WHOLE = range(4)

# byte offsets in the job record, as in `softmax`
(NEXT, TOTAL, WORKERS, ROOT,         # the counter that hands out parts; parts; threads; sqrt(scale)
 MODE, PARTS, RANGES, SHIFT,         # per leading entry; their (first token, end); query of t is t + SHIFT
 D, E, ROWS, FEATURES,               # key width, value width, rows of the projection, features
 Q, _, Q_ROW, K, _, K_ROW, V, _, V_ROW, OUT, _, OUT_ROW, PROJECTION, _, PROJECTION_ROW,
 KEY_MASK, _, KEY_MASK_COLUMN,
 BEGIN, _, BEGIN_ROW, END, _, END_ROW,  # states to begin and to end with, one row per part
 STATE_SIZE, SCRATCH, SCRATCH_SIZE) = range(0, 8 * 39, 8)  # bytes of a state; bytes per thread


def state_numbers(features: int, e: int) -> int:
    """Numbers in a state."""
    return features * (-(-e // TILE) * TILE + 2)


with cache.enabled():
    @njit(**OPTIONS)
    def _exponents(job, entry, x, x_row, count, d, rows, features, kind, factors, root, query, raw, half,
                   powers, multipliers, zero):
        """The features of up to 64 tokens as factors * exp2(powers); without factors in the first two kinds.

        What all features of a query have in common cancels in the quotient and is left out.
        """
        size, row = size_of(zero), TILE * size_of(zero)
        p_row = load_int(job + PROJECTION_ROW)
        projection = start_of(job + PROJECTION, entry)
        unit = zero + LOG2_E
        square = zero if query else unit
        micro.pack(x, x_row, count, d, root, raw, zero)
        kernel.half_squares(raw, d, half, zero)
        micro.scores(projection, p_row, size, rows, d, raw, powers, zero)
        if factors is None:
            if kind == HYPERBOLIC:
                kernel.combine(powers, rows, -unit, half, -square, powers + rows * row, zero)
            kernel.combine(powers, rows, unit, half, -square, powers, zero)
        elif kind == TRIGONOMETRIC:
            kernel.waves(powers, rows, multipliers, zero)
            kernel.combine(multipliers, features, zero, half, square, powers, zero)
        else:
            kernel.combine(powers, features, zero + 1, half, zero, multipliers, zero)
            kernel.relu(multipliers, features, zero)
            kernel.combine(multipliers, features, zero, half, zero, powers, zero)

    @njit(**OPTIONS)
    def _work(job, kind, factors, key_mask, zero):
        """Take parts until there are none.

        `kind` is a feature kind, or None for elu + 1; `factors` is None for the kinds that are pure
        exponentials and `key_mask` None where there is none: what is None has no code compiled for it. One
        function on purpose: Numba optimises a function again in each of its callers.
        """
        room = load_int(job + SCRATCH) + fetch_add(job + WORKERS, 1) * load_int(job + SCRATCH_SIZE)
        size, row = size_of(zero), TILE * size_of(zero)
        mode, d, e = load_int(job + MODE), load_int(job + D), load_int(job + E)
        features, rows = load_int(job + FEATURES), load_int(job + ROWS)
        blocks = (e + TILE - 1) // TILE

        # scratch, rows of 64: one row each, then tokens, features of queries and keys, scores, values, output
        zeros, ones, lanes, half = room, room + row, room + 2 * row, room + 3 * row
        q_top, k_top, k_safe, state_top = room + 4 * row, room + 5 * row, room + 6 * row, room + 7 * row
        reference, total = room + 8 * row, room + 9 * row
        raw = room + 10 * row
        q_weights, k_weights = raw + d * row, raw + (d + features) * row
        q_powers, k_powers = k_weights + features * row, k_weights + 2 * features * row
        q_factors, k_factors = q_powers + 2 * features * row, q_powers + 3 * features * row
        s = k_factors + features * row
        values, result = s + TILE * row, s + (1 + blocks) * TILE * row
        k_copy = result + e * row
        v_copy = k_copy + d * row
        none, negative = v_copy + e * row, v_copy + e * row + features * size
        own_state = negative + features * size

        micro.fill(zeros, 1, zero, zero)
        micro.fill(ones, 1, zero + 1, zero)
        for f in range(features):
            store_real(none + f * size, zero, zero)
        number = load_int(job + STATE_SIZE) // size
        total_parts, parts, root = load_int(job + TOTAL), load_int(job + PARTS), load_real(job + ROOT, zero)
        while True:
            item = fetch_add(job + NEXT, 1)
            if item >= total_parts:
                break
            entry, part = item // parts, item % parts
            # the state grows where it has to end, or in scratch
            state = own_state
            if load_int(job + END) != 0:
                state = start_of(job + END, entry) + part * load_int(job + END_ROW)
            z = state + features * blocks * row
            top = z + features * size
            if load_int(job + BEGIN) != 0:
                begin = start_of(job + BEGIN, entry) + part * load_int(job + BEGIN_ROW)
                if mode == READ:
                    state, z, top = begin, begin + (z - state), begin + (top - state)
                elif begin != state:
                    for place in range(number):
                        store_real(state + place * size, load_real(begin + place * size, zero), zero)
            else:
                for place in range(number - features):
                    store_real(state + place * size, zero, zero)
                for f in range(features):
                    store_real(top + f * size, -np.inf, zero)

            ranges = load_int(job + RANGES) + 16 * part
            begin, stop = load_int(ranges), load_int(ranges + 8)
            adds, reads = mode != READ, mode == READ or mode == CAUSAL
            chunks, later = -((begin - stop) // TILE), 0
            if mode == WHOLE:
                later = -(-load_int(ranges + 24) // TILE)
            for chunk in range(chunks + later):
                if chunk == chunks:  # all keys are in the state
                    adds, reads, begin, stop = False, True, -chunk * TILE, load_int(ranges + 24)
                first = begin + chunk * TILE
                count = min(TILE, stop - first)

                if adds:
                    k_row, v_row = load_int(job + K_ROW), load_int(job + V_ROW)
                    k = start_of(job + K, entry) + first * k_row
                    v = start_of(job + V, entry) + first * v_row
                    mask, step, seen = 0, load_int(job + KEY_MASK_COLUMN), count
                    if key_mask is not None:
                        mask = start_of(job + KEY_MASK, entry) + first * step
                        seen = micro.seen_keys(mask, step, count)
                        if seen < count:
                            micro.copy_seen(k, k_row, count, d, mask, step, k_copy, zero)
                            micro.copy_seen(v, v_row, count, e, mask, step, v_copy, zero)
                            k, k_row, v, v_row = k_copy, size * d, v_copy, size * e
                    for lane in range(TILE):
                        there = lane < count and (seen == count or load_byte(mask + lane * step) != 0)
                        if kind is None:
                            store_real(lanes + lane * size, 1.0 if there else 0.0, zero)
                        else:
                            store_real(lanes + lane * size, 0.0 if there else -np.inf, zero)
                    # values serve as whole vectors: none may cross a row's end or, for speed, a cache line
                    if e % TILE != 0 or (v | v_row) % 64 != 0:
                        for block in range(blocks):
                            kernel.pad_rows(v + block * row, v_row, count, min(TILE, e - block * TILE),
                                            values + block * row, blocks * row, zero)
                        v, v_row = values, blocks * row
                    if kind is None:
                        micro.pack(k, k_row, count, d, zero + 1, k_weights, zero)
                        kernel.elu(k_weights, features, zero)
                        if seen < TILE:
                            kernel.multiply(k_weights, features, lanes, 0, zero)
                    else:
                        _exponents(job, entry, k, k_row, count, d, rows, features, kind, factors, root, False,
                                   raw, half, k_powers, k_factors, zero)
                        kernel.combine(k_powers, features, zero + 1, lanes, zero + 1, k_powers, zero)

                if reads:
                    query = first + load_int(job + SHIFT)
                    q_row, out_row = load_int(job + Q_ROW), load_int(job + OUT_ROW)
                    q = start_of(job + Q, entry) + query * q_row
                    if kind is None:
                        micro.pack(q, q_row, count, d, zero + 1, q_weights, zero)
                        kernel.elu(q_weights, features, zero)
                    else:
                        _exponents(job, entry, q, q_row, count, d, rows, features, kind, factors, root, True,
                                   raw, half, q_powers, q_factors, zero)
                        # all weights of a row are divided by the exponential of its `reference`
                        kernel.largest_in_lanes(q_powers, features, top, state_top, zero)
                        kernel.largest_in_lanes(q_powers, features, none, q_top, zero)
                        if mode == CAUSAL:
                            kernel.largest_in_lanes(k_powers, features, none, k_top, zero)
                            kernel.running_largest(k_top, count, q_top, state_top, reference, zero)
                        else:
                            kernel.running_largest(zeros, 0, zeros, state_top, reference, zero)
                        kernel.weigh(q_powers, features, top, reference, q_weights, zero)
                        if factors is not None:
                            kernel.multiply(q_weights, features, q_factors, row, zero)
                    micro.fill(total, 1, zero, zero)
                    micro.fill(result, e, zero, zero)
                    micro.accumulate(q_weights, row, features, z, size, 0, 1, ones, total, row, zero)
                    for block in range(blocks):
                        micro.accumulate(q_weights, row, features, state + block * row, blocks * row, size,
                                         min(TILE, e - block * TILE), ones, result + block * TILE * row, row,
                                         zero)
                    if mode == CAUSAL:
                        if kind is not None:
                            for lane in range(TILE):
                                exponent = load_real(k_top + lane * size, zero)
                                exponent = exponent if exponent > -np.inf else zero
                                store_real(k_safe + lane * size, exponent, zero)
                            kernel.weigh(q_powers, features, none, q_top, q_weights, zero)
                            kernel.weigh(k_powers, features, none, k_safe, k_weights, zero)
                            if factors is not None:
                                kernel.multiply(q_weights, features, q_factors, row, zero)
                                kernel.multiply(k_weights, features, k_factors, row, zero)
                        micro.scores_past(k_weights, size, row, count, features, q_weights, s, zero)
                        if kind is not None:
                            kernel.decay(s, count, k_top, q_top, reference, zero)
                        kernel.triangle(s, count, total, zero)
                        for block in range(blocks):
                            columns = min(TILE, e - block * TILE)
                            micro.accumulate_past(s, row, count, v + block * row, v_row, size, columns, ones,
                                                  result + block * TILE * row, row, zero)
                    # too small for 1 / total: such rows and their totals grow by a power of two
                    tiny = False
                    for lane in range(TILE):
                        weight = abs(load_real(total + lane * size, zero))
                        is_tiny = weight < TINY and weight != 0
                        store_real(half + lane * size, GROWTH if is_tiny else 1.0, zero)
                        tiny = tiny or is_tiny
                    if tiny:
                        kernel.multiply(result, e, half, 0, zero)
                        kernel.multiply(total, 1, half, 0, zero)
                    out = start_of(job + OUT, entry) + query * out_row
                    micro.unpack(result, count, e, total, out, out_row, zero)

                if adds:
                    if kind is not None:
                        kernel.raise_tops(k_powers, features, top, z, state, blocks, negative, zero)
                        kernel.weigh(k_powers, features, negative, zeros, k_weights, zero)
                        if factors is not None:
                            kernel.multiply(k_weights, features, k_factors, row, zero)
                    kernel.sum_lanes(k_weights, features, z, zero)
                    for block in range(blocks):
                        micro.accumulate(v + block * row, v_row, count, k_weights, size, row, features, ones,
                                         state + block * row, blocks * row, zero)
        return 0


def run(mode: int, ranges: Array, lead: tuple[int, ...], *, d: int, e: int, dtype: np.dtype, kind: int | None,
        features: int, root: float, projection: Rows | None, q: Rows | None = None, k: Rows | None = None,
        v: Rows | None = None, out: Rows | None = None, shift: int = 0, key_mask: Rows | None = None,
        begin: Rows | None = None, end: Rows | None = None) -> None:
    """One pass over the token ranges (parts, 2) of every leading entry.

    `begin` and `end` are rows of states, one per part; a pass that only reads has one row in `begin`. A pass
    over the whole has one part, of two ranges from 0 on: the keys and the queries.
    """
    parts = 1 if mode == WHOLE else len(ranges)
    total = math.prod(lead) * parts
    tokens = int((ranges[:, 1] - ranges[:, 0]).sum())
    if total == 0 or tokens == 0:
        return
    row = TILE * dtype.itemsize
    rows = features // 2 if kind in (HYPERBOLIC, TRIGONOMETRIC) else features
    state = state_numbers(features, e) * dtype.itemsize
    blocks = -(-e // TILE)
    rows_of_tiles = 10 + 2 * d + 6 * features + TILE * (1 + blocks) + 2 * e
    size = -(-(rows_of_tiles * row + 2 * features * dtype.itemsize + state) // 64) * 64
    # a chunk costs the same however few tokens it holds
    workers = threads.worth(math.prod(lead) * max(tokens, TILE) * features * (d + e), total)
    room = scratch(workers * size)
    places = [x[2:5] if x else (0, 0, 0) for x in (q, k, v, out, projection)]
    job = np.array([
        0, total, 0, 0, mode, parts, address(ranges), shift, d, e, rows, features,
        *(number for place in places for number in place),
        *((*key_mask[2:4], key_mask.column) if key_mask else (0, 0, 0)),
        *((*begin[2:4], 0 if mode == READ else begin.stride) if begin else (0, 0, 0)),
        *(end[2:5] if end else (0, 0, 0)),
        state, address(room), size], np.int64)
    job.view(dtype)[ROOT // dtype.itemsize] = root
    switches = kind, 1 if kind in (TRIGONOMETRIC, RELU) else None, None if key_mask is None else 1
    threads.run(_work, job, switches, dtype.type(0), workers - 1)
