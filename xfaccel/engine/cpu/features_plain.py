"""The scan engine's micro-kernels as plain loops: random features, their exponents, running sums.

A tile of features has a row per feature and a column (lane) per token; see `tile_plain` for the conventions.
Exponents are in units of log 2, and -inf stands for a token that is not there.
"""

import math

import numpy as np
from numba import njit

from xfaccel.engine.cpu.exponential import exp2
from xfaccel.engine.cpu.memory import grid, load_real, real, size_of, store_int, store_real, table
from xfaccel.engine.cpu.tile_plain import LOG2_E, OPTIONS
from xfaccel.engine.tiles import TILE


@njit(**OPTIONS)
def pad_rows(x, x_row, count, width, out, out_row, zero):
    """out[j, lane] = x[j, lane], zero from `width` (at most 64) on."""
    source = grid(x, count, width, x_row, size_of(zero), zero)
    tile = grid(out, count, TILE, out_row, size_of(zero), zero)
    for j in range(count):
        for lane in range(width):
            tile[j, lane] = source[j, lane]
        for lane in range(width, TILE):
            tile[j, lane] = zero


@njit(**OPTIONS)
def elu(t, rows, zero):
    """t = elu(t) + 1: t + 1 above zero, e^t elsewhere."""
    tile, log2_e = table(t, rows, TILE, zero), real(LOG2_E, zero)
    for row in range(rows):
        for lane in range(TILE):
            x = tile[row, lane]
            tile[row, lane] = x + 1 if x > 0 else exp2((zero if x > 0 else x) * log2_e, zero)


@njit(**OPTIONS)
def relu(t, rows, zero):
    """t = max(t, 0), NaN for NaN."""
    tile = table(t, rows, TILE, zero)
    for row in range(rows):
        for lane in range(TILE):
            tile[row, lane] = zero if tile[row, lane] < 0 else tile[row, lane]


@njit(**OPTIONS)
def half_squares(t, rows, out, zero):
    """out[lane] = sum over rows of t[row, lane]**2 / 2."""
    tile, result = table(t, rows, TILE, zero), table(out, 1, TILE, zero)
    for lane in range(TILE):
        result[0, lane] = zero
    for row in range(rows):
        for lane in range(TILE):
            result[0, lane] += tile[row, lane] * tile[row, lane]
    for lane in range(TILE):
        result[0, lane] /= 2


@njit(**OPTIONS)
def combine(t, rows, factor, lanes, lane_factor, out, zero):
    """out[row, lane] = factor * t[row, lane] + lane_factor * lanes[lane]."""
    tile, offsets = table(t, rows, TILE, zero), table(lanes, 1, TILE, zero)
    result = table(out, rows, TILE, zero)
    for row in range(rows):
        for lane in range(TILE):
            result[row, lane] = tile[row, lane] * factor + offsets[0, lane] * lane_factor


@njit(**OPTIONS)
def multiply(t, rows, factors, pitch, zero):
    """t[row, lane] *= factors[row, lane], whose rows are `pitch` bytes apart: 0 repeats one row."""
    tile, other = table(t, rows, TILE, zero), grid(factors, rows, TILE, pitch, size_of(zero), zero)
    for row in range(rows):
        for lane in range(TILE):
            tile[row, lane] *= other[row, lane]


@njit(**OPTIONS)
def weigh(t, rows, row_offsets, lane_offsets, out, zero):
    """out[row, lane] = exp2(t[row, lane] + row_offsets[row] - lane_offsets[lane])."""
    tile, result = table(t, rows, TILE, zero), table(out, rows, TILE, zero)
    by_row, by_lane = table(row_offsets, 1, rows, zero), table(lane_offsets, 1, TILE, zero)
    for row in range(rows):
        for lane in range(TILE):
            result[row, lane] = exp2((tile[row, lane] + by_row[0, row]) - by_lane[0, lane], zero)


@njit(**OPTIONS)
def largest_in_lanes(t, rows, row_offsets, out, zero):
    """out[lane] = max over rows of t[row, lane] + row_offsets[row]; -inf without rows."""
    tile, result = table(t, rows, TILE, zero), table(out, 1, TILE, zero)
    by_row = table(row_offsets, 1, rows, zero)
    for lane in range(TILE):
        result[0, lane] = -np.inf
    for row in range(rows):
        for lane in range(TILE):
            x = tile[row, lane] + by_row[0, row]
            if x > result[0, lane]:
                result[0, lane] = x


@njit(**OPTIONS)
def closest(t, rows, out, zero):
    """out[lane], an int64: the row where t[row, lane] is largest, or rows + the row where -t[row, lane] is.

    The first of equals; a lane with NaN has row 0.
    """
    tile = table(t, rows, TILE, zero)
    for lane in range(TILE):
        most = least = 0
        for row in range(1, rows):
            if tile[row, lane] > tile[most, lane]:
                most = row
            if tile[row, lane] < tile[least, lane]:
                least = row
        opposite = -tile[least, lane] > tile[most, lane]
        store_int(out + 8 * lane, rows + least if opposite else most)


@njit(**OPTIONS)
def raise_tops(t, rows, top, sums, state, blocks, negative, zero):
    """top[row] becomes the largest of itself and t[row, :]; the sums so far shrink by exp2(old - new).

    `sums` (rows) and `state` (rows, blocks, 64) are the running sums; negative[row] = -top[row], 0 for -inf.
    """
    tile, tops, other = table(t, rows, TILE, zero), table(top, 1, rows, zero), table(negative, 1, rows, zero)
    z, s = table(sums, 1, rows, zero), table(state, blocks * rows, TILE, zero)
    for row in range(rows):
        before, best = tops[0, row], tops[0, row]
        for lane in range(TILE):
            if tile[row, lane] > best:
                best = tile[row, lane]
        reference = best if best > -np.inf else zero
        tops[0, row], other[0, row] = best, -reference
        if best > before:
            shrink = exp2(before - reference, zero)
            z[0, row] *= shrink
            for block in range(blocks):
                for lane in range(TILE):
                    s[row * blocks + block, lane] *= shrink


@njit(**OPTIONS)
def sum_lanes(t, rows, out, zero):
    """out[row] += sum over lanes of t[row, lane]."""
    tile, result = table(t, rows, TILE, zero), table(out, 1, rows, zero)
    for row in range(rows):
        partial = zero
        for lane in range(TILE):
            partial += tile[row, lane]
        result[0, row] += partial


@njit(**OPTIONS)
def triangle(s, keys, total, zero):
    """s[j, lane] = 0 for keys after the lane's own, j > lane; total[lane] += sum_j s[j, lane]."""
    tile, totals = table(s, keys, TILE, zero), table(total, 1, TILE, zero)
    for j in range(keys):
        for lane in range(TILE):
            tile[j, lane] = tile[j, lane] if j <= lane else zero
            totals[0, lane] += tile[j, lane]


@njit(**OPTIONS)
def running_largest(keys, count, lanes, state_top, out, zero):
    """out[lane] = largest of state_top[lane] and lanes[lane] + keys[j], j <= lane; 0 where that is -inf."""
    size = size_of(zero)
    best = load_real(keys, zero)
    for lane in range(TILE):
        largest = load_real(state_top + lane * size, zero)
        if count > 0:
            key = load_real(keys + min(lane, count - 1) * size, zero)
            best = key if key > best else best
            own = load_real(lanes + lane * size, zero) + best
            largest = own if own > largest else largest
        store_real(out + lane * size, largest if largest > -np.inf else zero, zero)


@njit(**OPTIONS)
def decay(s, count, keys, lanes, reference, zero):
    """s[j, lane] *= exp2(keys[j] + lanes[lane] - reference[lane]) for j <= lane."""
    tile, by_key = table(s, count, TILE, zero), table(keys, 1, TILE, zero)
    by_lane, references = table(lanes, 1, TILE, zero), table(reference, 1, TILE, zero)
    for j in range(count):
        for lane in range(j, TILE):
            tile[j, lane] *= exp2((by_key[0, j] + by_lane[0, lane]) - references[0, lane], zero)


@njit(**OPTIONS)
def waves(t, rows, out, zero):
    """out[row, lane] = cos(t[row, lane]); out[rows + row, lane] = sin(t[row, lane])."""
    tile, result = table(t, rows, TILE, zero), table(out, 2 * rows, TILE, zero)
    for row in range(rows):
        for lane in range(TILE):
            result[row, lane] = math.cos(tile[row, lane])
            result[rows + row, lane] = math.sin(tile[row, lane])
