"""The scan engine on the CPU: attention by features, as running sums over chunks of 64 tokens.

Katharopoulos et al. 2020, arXiv:2006.16236 (running sums); Hua et al. 2022, arXiv:2202.10447 (chunks: within a
chunk the weights are computed as a matrix, so that all work is matrix products). Long sequences are cut into
parts whose sums are computed side by side, then added up, then walked through again side by side: the cut
depends on the shapes alone, so results do not depend on the number of threads.

Features are never stored for more than a chunk. The exponential kinds keep, per feature, the largest exponent
so far (`top`) beside sums that are divided by its exponential: nothing overflows, and no row depends on a key
after it. A state is one block of numbers: sums s (blocks of 64 value columns, features, 64), z (features), top
(features, in units of log 2).
"""

import functools
from enum import IntEnum, auto

import numpy as np
from numba import njit

from xfaccel.arrays import Rows, address, scratch
from xfaccel.engine.cpu import cache, threads
from xfaccel.engine.cpu.kernels import features as kernel
from xfaccel.engine.cpu.kernels import tile as micro
from xfaccel.engine.cpu.memory import fetch_add, load_byte, load_int, load_real, size_of, store_real
from xfaccel.engine.cpu.tile_plain import LOG2_E, OPTIONS
from xfaccel.engine.tiles import TILE

Array = np.ndarray
_SMALL = 1 << 19  # multiplications below which waking a helper costs more than it brings


class Kind(IntEnum):
    """Feature kinds with exponents; elu + 1 has none."""

    POSITIVE = 0
    HYPERBOLIC = auto()
    TRIGONOMETRIC = auto()
    RELU = auto()


class Mode(IntEnum):
    """What a pass does with a range of tokens."""

    SUM = 0         # add keys to a state
    READ = auto()   # read a state, the same for all queries
    CAUSAL = auto()  # read and add in turn


class Field(IntEnum):
    """Places in the job record. X is the address of a table of addresses, X_ROW a stride in bytes."""

    NEXT = 0
    DONE = auto()
    TOTAL = auto()
    WORKERS = auto()
    MODE = auto()
    PARTS = auto()         # parts per leading entry
    RANGES = auto()        # (parts, 2): first token and end of each part
    SHIFT = auto()         # query of token t is t + SHIFT, in causal passes
    D = auto()
    E = auto()
    ROWS = auto()          # rows of the projection
    FEATURES = auto()
    Q = auto()
    Q_ROW = auto()
    K = auto()
    K_ROW = auto()
    V = auto()
    V_ROW = auto()
    OUT = auto()
    OUT_ROW = auto()
    PROJECTION = auto()
    PROJECTION_ROW = auto()
    KEY_MASK = auto()      # 0 without one
    KEY_MASK_STEP = auto()
    BEGIN = auto()         # states to begin with, by entry and part; 0 for zeros
    BEGIN_ENTRY = auto()   # bytes from one entry's state to the next, and from one part's
    BEGIN_PART = auto()
    END = auto()           # states to end with, likewise; 0 to keep none
    END_ENTRY = auto()
    END_PART = auto()
    STATE_SIZE = auto()    # bytes of a state
    SCRATCH = auto()
    SCRATCH_SIZE = auto()


def state_numbers(features: int, e: int) -> int:
    """Numbers in a state."""
    return features * (-(-e // TILE) * TILE + 2)


with cache.enabled():
    @njit(**OPTIONS)
    def _accumulate(p, keys, v, v_row, v_column, width, shrink, out, zero):
        """One copy of the kernel for its four uses: a kernel is compiled wherever it is called."""
        micro.accumulate(p, keys, v, v_row, v_column, width, shrink, out, zero)

    @njit(**OPTIONS)
    def _work(job, kind, factors, key_mask, root, zero):
        """Take parts until there are none. True in the thread that finished the last of the job.

        `kind` is a Kind, or None for elu + 1; `factors` is None for the kinds that are pure exponentials and
        `key_mask` None where there is none: what is None has no code compiled for it.
        """
        part = fetch_add(job + 8 * Field.WORKERS, 1)
        room = load_int(job + 8 * Field.SCRATCH) + part * load_int(job + 8 * Field.SCRATCH_SIZE)
        total, parts = load_int(job + 8 * Field.TOTAL), load_int(job + 8 * Field.PARTS)
        finished = 0
        while True:
            item = fetch_add(job + 8 * Field.NEXT, 1)
            if item >= total:
                break
            _part(job, item // parts, item % parts, kind, factors, key_mask, root, room, zero)
            finished += 1
        return finished > 0 and fetch_add(job + 8 * Field.DONE, finished) + finished == total

    @njit(**OPTIONS)
    def _part(job, entry, part, kind, factors, key_mask, root, room, zero):
        """One pass over one part of one sequence."""
        size, row = size_of(zero), TILE * size_of(zero)
        mode, d, e = load_int(job + 8 * Field.MODE), load_int(job + 8 * Field.D), load_int(job + 8 * Field.E)
        features, rows = load_int(job + 8 * Field.FEATURES), load_int(job + 8 * Field.ROWS)
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
        state = negative + features * size
        z = state + blocks * features * row
        top = z + features * size

        micro.fill(zeros, 1, zero, zero)
        micro.fill(ones, 1, zero + 1, zero)
        for f in range(features):
            store_real(none + f * size, zero, zero)
        number = load_int(job + 8 * Field.STATE_SIZE) // size
        begin = load_int(job + 8 * Field.BEGIN)
        if begin != 0:
            begin += entry * load_int(job + 8 * Field.BEGIN_ENTRY) + part * load_int(job + 8 * Field.BEGIN_PART)
            for place in range(number):
                store_real(state + place * size, load_real(begin + place * size, zero), zero)
        else:
            for place in range(number - features):
                store_real(state + place * size, zero, zero)
            for f in range(features):
                store_real(top + f * size, -np.inf, zero)

        ranges = load_int(job + 8 * Field.RANGES) + 16 * part
        for first in range(load_int(ranges), load_int(ranges + 8), TILE):
            count = min(TILE, load_int(ranges + 8) - first)

            if mode != Mode.READ:
                k_row, v_row = load_int(job + 8 * Field.K_ROW), load_int(job + 8 * Field.V_ROW)
                k = load_int(load_int(job + 8 * Field.K) + 8 * entry) + first * k_row
                v = load_int(load_int(job + 8 * Field.V) + 8 * entry) + first * v_row
                mask, step, seen = 0, load_int(job + 8 * Field.KEY_MASK_STEP), count
                if key_mask is not None:
                    mask = load_int(load_int(job + 8 * Field.KEY_MASK) + 8 * entry) + first * step
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
                for block in range(blocks):
                    kernel.pad_rows(v + block * row, v_row, count, min(TILE, e - block * TILE),
                                    values + block * TILE * row, zero)
                if kind is None:
                    micro.pack(k, k_row, count, d, zero + 1, k_weights, zero)
                    kernel.elu(k_weights, features, zero)
                    kernel.multiply(k_weights, features, lanes, 0, zero)
                else:
                    _exponents(job, entry, k, k_row, count, d, rows, features, kind, factors, root, False, raw, half,
                               k_powers, k_factors, zero)
                    kernel.combine(k_powers, features, zero + 1, lanes, zero + 1, k_powers, zero)

            if mode != Mode.SUM:
                query = first + load_int(job + 8 * Field.SHIFT)
                q_row, out_row = load_int(job + 8 * Field.Q_ROW), load_int(job + 8 * Field.OUT_ROW)
                q = load_int(load_int(job + 8 * Field.Q) + 8 * entry) + query * q_row
                if kind is None:
                    micro.pack(q, q_row, count, d, zero + 1, q_weights, zero)
                    kernel.elu(q_weights, features, zero)
                else:
                    _exponents(job, entry, q, q_row, count, d, rows, features, kind, factors, root, True, raw, half,
                               q_powers, q_factors, zero)
                    # all weights of a row are divided by the exponential of its `reference`
                    kernel.largest_in_lanes(q_powers, features, top, state_top, zero)
                    kernel.largest_in_lanes(q_powers, features, none, q_top, zero)
                    if mode == Mode.CAUSAL:
                        kernel.largest_in_lanes(k_powers, features, none, k_top, zero)
                        kernel.running_largest(k_top, count, q_top, state_top, reference, zero)
                    else:
                        kernel.running_largest(zeros, 0, zeros, state_top, reference, zero)
                    kernel.weigh(q_powers, features, top, reference, q_weights, zero)
                    if factors is not None:
                        kernel.multiply(q_weights, features, q_factors, row, zero)
                micro.fill(total, 1, zero, zero)
                micro.fill(result, e, zero, zero)
                _accumulate(q_weights, features, z, size, 0, 1, ones, total, zero)
                for block in range(blocks):
                    _accumulate(q_weights, features, state + block * features * row, row, size,
                                     min(TILE, e - block * TILE), ones, result + block * TILE * row, zero)
                if mode == Mode.CAUSAL:
                    if kind is not None:
                        for lane in range(TILE):
                            exponent = load_real(k_top + lane * size, zero)
                            store_real(k_safe + lane * size, exponent if exponent > -np.inf else 0.0, zero)
                        kernel.weigh(q_powers, features, none, q_top, q_weights, zero)
                        kernel.weigh(k_powers, features, none, k_safe, k_weights, zero)
                        if factors is not None:
                            kernel.multiply(q_weights, features, q_factors, row, zero)
                            kernel.multiply(k_weights, features, k_factors, row, zero)
                    micro.scores(k_weights, size, row, count, features, q_weights, s, zero)
                    if kind is not None:
                        kernel.decay(s, count, k_top, q_top, reference, zero)
                    kernel.triangle(s, count, total, zero)
                    for block in range(blocks):
                        _accumulate(s, count, values + block * TILE * row, row, size, min(TILE, e - block * TILE),
                                         ones, result + block * TILE * row, zero)
                out = load_int(load_int(job + 8 * Field.OUT) + 8 * entry) + query * out_row
                micro.unpack(result, count, e, total, out, out_row, zero)

            if mode != Mode.READ:
                if kind is not None:
                    kernel.raise_tops(k_powers, features, top, z, state, blocks, negative, zero)
                    kernel.weigh(k_powers, features, negative, zeros, k_weights, zero)
                    if factors is not None:
                        kernel.multiply(k_weights, features, k_factors, row, zero)
                kernel.sum_lanes(k_weights, features, z, zero)
                for block in range(blocks):
                    _accumulate(values + block * TILE * row, count, k_weights, size, row, features, ones,
                                     state + block * features * row, zero)

        end = load_int(job + 8 * Field.END)
        if end != 0:
            end += entry * load_int(job + 8 * Field.END_ENTRY) + part * load_int(job + 8 * Field.END_PART)
            for place in range(number):
                store_real(end + place * size, load_real(state + place * size, zero), zero)

    @njit(**OPTIONS)
    def _exponents(job, entry, x, x_row, count, d, rows, features, kind, factors, root, query, raw, half, powers,
                   multipliers, zero):
        """The features of up to 64 tokens as factors * exp2(powers); without factors in the first two kinds.

        What all features of a query have in common cancels in the quotient and is left out.
        """
        size, row = size_of(zero), TILE * size_of(zero)
        p_row = load_int(job + 8 * Field.PROJECTION_ROW)
        projection = load_int(load_int(job + 8 * Field.PROJECTION) + 8 * entry)
        unit = zero + LOG2_E
        square = zero if query else unit
        micro.pack(x, x_row, count, d, root, raw, zero)
        kernel.half_squares(raw, d, half, zero)
        micro.scores(projection, p_row, size, rows, d, raw, powers, zero)
        if factors is None:
            if kind == Kind.HYPERBOLIC:
                kernel.combine(powers, rows, -unit, half, -square, powers + rows * row, zero)
            kernel.combine(powers, rows, unit, half, -square, powers, zero)
        elif kind == Kind.TRIGONOMETRIC:
            kernel.waves(powers, rows, multipliers, zero)
            kernel.combine(multipliers, features, zero, half, square, powers, zero)
        else:
            kernel.combine(powers, features, zero + 1, half, zero, multipliers, zero)
            kernel.relu(multipliers, features, zero)
            kernel.combine(multipliers, features, zero, half, zero, powers, zero)


def run(mode: Mode, ranges: Array, *, q: Rows | None, k: Rows | None, v: Rows | None, out: Rows | None, d: int, e: int,
        entries: int, dtype: np.dtype, kind: Kind | None, features: int, projection: Rows | None, root: float,
        shift: int = 0, key_mask: Rows | None = None, begin: Array | None = None, end: Array | None = None) -> None:
    """One pass over the token ranges (parts, 2) of every leading entry.

    `begin` and `end` are states (entries, parts, state_numbers); one part in `begin` serves all.
    """
    parts = len(ranges)
    total = entries * parts
    tokens = int((ranges[:, 1] - ranges[:, 0]).sum())
    if total == 0 or tokens == 0:
        return
    row = TILE * dtype.itemsize
    rows = features // 2 if kind in (Kind.HYPERBOLIC, Kind.TRIGONOMETRIC) else features
    state = state_numbers(features, e) * dtype.itemsize
    blocks = -(-e // TILE)
    size = (10 + 2 * d + 6 * features + TILE * (1 + blocks) + 2 * e) * row + 2 * features * dtype.itemsize + state
    size = -(-size // 64) * 64
    workers = 1 if entries * tokens * features * (d + e) < _SMALL else min(threads.available(), total)
    room = scratch(workers * size)

    job = np.zeros(len(Field), np.int64)
    job[Field.TOTAL], job[Field.PARTS], job[Field.MODE], job[Field.SHIFT] = total, parts, mode, shift
    job[Field.RANGES] = address(ranges)
    job[Field.D], job[Field.E], job[Field.ROWS], job[Field.FEATURES] = d, e, rows, features
    for field, operand in ((Field.Q, q), (Field.K, k), (Field.V, v), (Field.OUT, out), (Field.PROJECTION, projection)):
        if operand is not None:
            job[field:field + 2] = operand.table, operand.stride
    if key_mask is not None:
        job[Field.KEY_MASK], job[Field.KEY_MASK_STEP] = key_mask.table, key_mask.column
    if begin is not None:
        job[Field.BEGIN], job[Field.BEGIN_ENTRY] = address(begin), begin.strides[0]
        job[Field.BEGIN_PART] = begin.strides[1] if begin.shape[1] > 1 else 0
    if end is not None:
        job[Field.END], job[Field.END_ENTRY], job[Field.END_PART] = address(end), end.strides[0], end.strides[1]
    job[Field.STATE_SIZE], job[Field.SCRATCH], job[Field.SCRATCH_SIZE] = state, address(room), size

    # what the kernels read and write lives as long as the work does
    work = functools.partial(_call, job, None if kind is None else int(kind),
                             1 if kind in (Kind.TRIGONOMETRIC, Kind.RELU) else None, None if key_mask is None else 1,
                             dtype.type(root), dtype.type(0),
                             (q, k, v, out, ranges, projection, key_mask, begin, end, room))
    threads.run(work, workers - 1, functools.partial(job.__setitem__, int(Field.NEXT), total))


def _call(job: Array, kind: int | None, factors: int | None, key_mask: int | None, root, zero, keep: tuple) -> bool:
    return _work(address(job), kind, factors, key_mask, root, zero)
