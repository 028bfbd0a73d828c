"""The scan engine for a few tokens: the recurrence itself, token by token.

A chunk of 64 tokens costs the same however few it holds. Here a token costs what it needs: vectors run along
its features and its values, and the state is updated where it lies. What `scan` says of exponents holds here.
"""

import math

import numpy as np
from numba import njit

from xfaccel.arrays import Rows, address, scratch
from xfaccel.engine.cpu import cache, threads
from xfaccel.engine.cpu.exponential import exp2
from xfaccel.engine.cpu.kernels import rows as row
from xfaccel.engine.cpu.memory import (
    fetch_add,
    load_int,
    load_real,
    real,
    size_of,
    start_of,
    store_int,
    table,
)
from xfaccel.engine.cpu.scan import GROWTH, HYPERBOLIC, RELU, TINY, TRIGONOMETRIC
from xfaccel.engine.cpu.tile_plain import LOG2_E, LOG_2, OPTIONS
from xfaccel.engine.tiles import TILE

Array = np.ndarray

# byte offsets in the job record, as in `softmax`; S, Z and TOP are the states of all leading entries in a row
(NEXT, TOTAL, WORKERS, ROOT, KIND, TOKENS, D, E, ROWS, FEATURES,
 Q, _, Q_ROW, K, _, K_ROW, V, _, V_ROW, OUT, _, OUT_ROW, PROJECTION, _, PROJECTION_ROW,
 S, Z, TOP, SCRATCH, SCRATCH_SIZE) = range(0, 8 * 30, 8)


with cache.enabled():
    @njit(**OPTIONS)
    def _exponents(job, entry, x, query, everything, factors, powers, zero):
        """The features of one token as factors * exp2(powers), as in `scan`."""
        d, rows, kind = load_int(job + D), load_int(job + ROWS), load_int(job + KIND)
        root, unit = load_real(job + ROOT, zero), real(LOG2_E, zero)
        directions, direction_row = start_of(job + PROJECTION, entry), load_int(job + PROJECTION_ROW)
        row.row_scores(x, directions, direction_row, everything, rows, d, root, powers,
                       row.REAL, zero)
        count, token = load_int(job + FEATURES), table(x, 1, d, zero)
        factor, power = table(factors, 1, count, zero), table(powers, 1, count, zero)
        # what all features of a query have in common cancels in the quotient and is left out
        half = zero
        if not query:
            for c in range(d):
                half += token[0, c] * token[0, c]
            half *= root * root * real(0.5, zero) * unit
        for f in range(rows):
            product = power[0, f]
            if kind == TRIGONOMETRIC:
                factor[0, f], factor[0, rows + f] = math.cos(product), math.sin(product)
                power[0, f], power[0, rows + f] = half, half
            elif kind == RELU:
                factor[0, f], power[0, f] = product if product > 0 else zero, zero
            else:
                factor[0, f], power[0, f] = real(1, zero), product * unit - half
                if kind == HYPERBOLIC:
                    factor[0, rows + f], power[0, rows + f] = real(1, zero), -product * unit - half

    @njit(**OPTIONS)
    def _weigh(count, top, shrink, k_factors, k_powers, q_factors, q_powers, zero):
        """Raise the largest exponents; factors become weights relative to them, `shrink` that of the sums."""
        tops, shrinks = table(top, 1, count, zero), table(shrink, 1, count, zero)
        k_factor, k_power = table(k_factors, 1, count, zero), table(k_powers, 1, count, zero)
        q_factor, q_power = table(q_factors, 1, count, zero), table(q_powers, 1, count, zero)
        largest = real(-np.inf, zero)
        for f in range(count):
            before = tops[0, f] * real(LOG2_E, zero)
            now = before
            if k_power[0, f] > before:
                # what is not raised keeps its bits, however many steps follow
                now, tops[0, f] = k_power[0, f], k_power[0, f] * real(LOG_2, zero)
            shrinks[0, f] = exp2(before - now, zero)
            k_factor[0, f] *= exp2(k_power[0, f] - now, zero)
            q_power[0, f] += now
            largest = max(largest, q_power[0, f])
        for f in range(count):
            q_factor[0, f] *= exp2(q_power[0, f] - largest, zero)

    @njit(**OPTIONS)
    def _work(job, kind, _, __, zero):
        """Take leading entries until there are none; `kind` is None for elu + 1."""
        size, total, tokens = size_of(zero), load_int(job + TOTAL), load_int(job + TOKENS)
        d, e, features = load_int(job + D), load_int(job + E), load_int(job + FEATURES)
        # scratch: the numbers 0, 1, ...; the sum; rows of features
        padded = (features + TILE - 1) // TILE * TILE * size
        everything = load_int(job + SCRATCH) + fetch_add(job + WORKERS, 1) * load_int(job + SCRATCH_SIZE)
        whole = everything + 8 * features
        shrink = whole + 8
        k_weights, q_weights = shrink + padded, shrink + 2 * padded
        k_powers, q_powers = shrink + 3 * padded, shrink + 4 * padded
        shrinks, denominator = table(shrink, 1, features, zero), table(whole, 1, 1, zero)
        k_weight, q_weight = table(k_weights, 1, features, zero), table(q_weights, 1, features, zero)
        for f in range(features):
            store_int(everything + 8 * f, f)
            shrinks[0, f] = real(1, zero)
        while True:
            entry = fetch_add(job + NEXT, 1)
            if entry >= total:
                break
            sums = table(load_int(job + Z) + entry * features * size, 1, features, zero)
            s = load_int(job + S) + entry * features * e * size
            state = table(s, features, e, zero)
            for t in range(tokens):
                q = start_of(job + Q, entry) + t * load_int(job + Q_ROW)
                k = start_of(job + K, entry) + t * load_int(job + K_ROW)
                value = table(start_of(job + V, entry) + t * load_int(job + V_ROW), 1, e, zero)
                if kind is None:
                    for x, weight in ((table(k, 1, d, zero), k_weight), (table(q, 1, d, zero), q_weight)):
                        for f in range(d):
                            power = exp2(min(x[0, f], zero) * real(LOG2_E, zero), zero)
                            weight[0, f] = x[0, f] + 1 if x[0, f] > 0 else power
                else:
                    _exponents(job, entry, k, False, everything, k_weights, k_powers, zero)
                    _exponents(job, entry, q, True, everything, q_weights, q_powers, zero)
                    top = load_int(job + TOP) + entry * features * size
                    _weigh(features, top, shrink, k_weights, k_powers, q_weights, q_powers, zero)
                found = zero
                for f in range(features):
                    sums[0, f] = sums[0, f] * shrinks[0, f] + k_weight[0, f]
                    found += q_weight[0, f] * sums[0, f]
                    for c in range(e):
                        state[f, c] = state[f, c] * shrinks[0, f] + k_weight[0, f] * value[0, c]
                # too small for 1 / found, and for all its digits: the weights grow by a power of two
                if abs(found) < TINY:
                    found = zero
                    for f in range(features):
                        q_weight[0, f] *= GROWTH
                        found += q_weight[0, f] * sums[0, f]
                denominator[0, 0] = found
                row.row_sum(q_weights, everything, features, s, e * size, e, whole,
                            start_of(job + OUT, entry) + t * load_int(job + OUT_ROW), row.REAL, zero)
        return 0


def run(tokens: int, *, entries: int, d: int, e: int, dtype: np.dtype, kind: int | None, features: int,
        root: float, projection: Rows | None, q: Rows, k: Rows, v: Rows, out: Rows, s: Array, z: Array,
        top: Array) -> None:
    """Take the state of every leading entry, s (features, e), z and top (features), so many tokens on."""
    if entries * tokens == 0:
        return
    padded = -(-features // TILE) * TILE * dtype.itemsize
    size = -(-(8 * (features + 1) + 5 * padded) // 64) * 64
    workers = threads.worth(2 * entries * tokens * features * (d + e), entries)
    room = scratch(workers * size)
    rows = features // 2 if kind in (HYPERBOLIC, TRIGONOMETRIC) else features
    places = [x[2:5] if x else (0, 0, 0) for x in (q, k, v, out, projection)]
    job = np.array([0, entries, 0, 0, kind or 0, tokens, d, e, rows, features,
                    *(number for place in places for number in place),
                    address(s), address(z), address(top), address(room), size], np.int64)
    job.view(dtype)[ROOT // dtype.itemsize] = root
    threads.run(_work, job, (kind, None, None), dtype.type(0), workers - 1)
