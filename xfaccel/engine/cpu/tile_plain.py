"""The softmax engine's micro-kernels as plain loops: what they compute, in the simplest form.

Lanes are tokens: a tile has 64 columns, one per query (or per key, in the scan engine), and every inner loop
runs across them, so there is no sum across a vector and masks are per lane. Tiles lie in scratch, row-major,
64 numbers a row; `k` and `v` are read where the caller's arrays lie. Scores are in units of log 2.

Parameters called like an array are addresses; strides are in bytes; `zero` carries the element type.
"""

import math

import numpy as np
from numba import njit

from xfaccel.engine.cpu.exponential import exp2
from xfaccel.engine.cpu.memory import grid, load_byte, load_int, load_real, real, size_of, store_real, table
from xfaccel.engine.tiles import TILE

LOG2_E = math.log2(math.e)
LOG_2 = math.log(2)
# a * b + c may become one fused instruction; nothing may be reordered, so results are the same on every run
OPTIONS = dict(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})


@njit(**OPTIONS)
def pack(x, x_row, count, width, factor, out, zero):
    """out[c, lane] = factor * x[lane, c]; lanes from `count` on repeat the last row."""
    source, tile = grid(x, count, width, x_row, size_of(zero), zero), table(out, width, TILE, zero)
    for c in range(width):
        for lane in range(count):
            tile[c, lane] = source[lane, c] * factor
        for lane in range(count, TILE):
            tile[c, lane] = source[count - 1, c] * factor


@njit(**OPTIONS)
def scores(k, k_row, k_column, keys, width, queries, out, zero):
    """out[j, lane] = sum_c k[j, c] * queries[c, lane]."""
    source, tile = grid(k, keys, width, k_row, k_column, zero), table(queries, width, TILE, zero)
    result = table(out, keys, TILE, zero)
    whole = width // 4 * 4
    for j in range(keys):
        for lane in range(TILE):
            result[j, lane] = zero
        for c in range(0, whole, 4):
            k0, k1, k2, k3 = source[j, c], source[j, c + 1], source[j, c + 2], source[j, c + 3]
            for lane in range(TILE):
                result[j, lane] += (k0 * tile[c, lane] + k1 * tile[c + 1, lane]
                                    + k2 * tile[c + 2, lane] + k3 * tile[c + 3, lane])
        for c in range(whole, width):
            k0 = source[j, c]
            for lane in range(TILE):
                result[j, lane] += k0 * tile[c, lane]


scores_past = scores  # the vectors leave out what lies above the diagonal, out[j, lane] for j > lane


@njit(**OPTIONS)
def softmax(s, keys, top, total, shrink, zero):
    """One step of the online softmax: scores become weights exp2(s - top), and the running sums follow.

    top = max(top, largest score); shrink = exp2(old top - top); total = total * shrink + sum of the weights.
    """
    tile = table(s, keys, TILE, zero)
    tops, totals = table(top, 1, TILE, zero), table(total, 1, TILE, zero)
    shrinks = table(shrink, 1, TILE, zero)
    for lane in range(TILE):
        shrinks[0, lane] = tops[0, lane]
    for j in range(keys):
        for lane in range(TILE):
            if tile[j, lane] > tops[0, lane]:
                tops[0, lane] = tile[j, lane]
    for lane in range(TILE):
        # a lane that has seen nothing keeps -inf; exp2(-inf - 0) is then 0, where exp2(-inf + inf) is NaN
        reference = tops[0, lane] if tops[0, lane] > -np.inf else zero
        shrinks[0, lane] = exp2(shrinks[0, lane] - reference, zero)
        # the tile is summed apart and then added: one long sum would lose digits as the length grows
        summed = zero
        for j in range(keys):
            tile[j, lane] = exp2(tile[j, lane] - reference, zero)
            summed += tile[j, lane]
        totals[0, lane] = totals[0, lane] * shrinks[0, lane] + summed


@njit(**OPTIONS)
def accumulate(p, p_row, keys, v, v_row, v_column, width, shrink, out, out_row, zero):
    """out[c, lane] = out[c, lane] * shrink[lane] + sum_j p[j, lane] * v[j, c]."""
    weights = grid(p, keys, TILE, p_row, size_of(zero), zero)
    source = grid(v, keys, width, v_row, v_column, zero)
    result, shrinks = grid(out, width, TILE, out_row, size_of(zero), zero), table(shrink, 1, TILE, zero)
    whole = keys // 4 * 4
    for c in range(width):
        for lane in range(TILE):
            result[c, lane] *= shrinks[0, lane]
        for j in range(0, whole, 4):
            v0, v1, v2, v3 = source[j, c], source[j + 1, c], source[j + 2, c], source[j + 3, c]
            for lane in range(TILE):
                result[c, lane] += (v0 * weights[j, lane] + v1 * weights[j + 1, lane]
                                    + v2 * weights[j + 2, lane] + v3 * weights[j + 3, lane])
        for j in range(whole, keys):
            v0 = source[j, c]
            for lane in range(TILE):
                result[c, lane] += v0 * weights[j, lane]


accumulate_past = accumulate  # the vectors leave out what is zero by agreement, p[j, lane] for j > lane


@njit(**OPTIONS)
def unpack(tile, count, width, total, out, out_row, zero):
    """out[lane, c] = tile[c, lane] / total[lane], 0 where the total is 0; 1 / total has to be finite."""
    source, totals = table(tile, width, TILE, zero), table(total, 1, TILE, zero)
    result = grid(out, count, width, out_row, size_of(zero), zero)
    for lane in range(count):
        inverse = real(1, zero) / totals[0, lane] if totals[0, lane] != 0 else zero
        for c in range(width):
            result[lane, c] = source[c, lane] * inverse


@njit(**OPTIONS)
def fill(tile, rows, value, zero):
    """Every number of `rows` rows = value."""
    target = table(tile, rows, TILE, zero)
    for row in range(rows):
        for lane in range(TILE):
            target[row, lane] = value


@njit(**OPTIONS)
def fold(part, rows, held, whole, zero):
    """whole[row, lane] = whole[row, lane] * held[lane] + part[row, lane]; part = 0."""
    parts, wholes = table(part, rows, TILE, zero), table(whole, rows, TILE, zero)
    factors = table(held, 1, TILE, zero)
    for row in range(rows):
        for lane in range(TILE):
            wholes[row, lane] = wholes[row, lane] * factors[0, lane] + parts[row, lane]
            parts[row, lane] = zero


@njit(**OPTIONS)
def hide_band(s, keys, low, high, zero):
    """s[j, lane] = -inf unless low <= j - lane <= high."""
    tile = table(s, keys, TILE, zero)
    for j in range(keys):
        for lane in range(TILE):
            if j - lane < low or j - lane > high:
                tile[j, lane] = -np.inf


@njit(**OPTIONS)
def hide_bits(s, keys, words, zero):
    """s[j, lane] = -inf where bit `lane` of the int64 words[j] is not set."""
    tile = table(s, keys, TILE, zero)
    for j in range(keys):
        word = load_int(words + 8 * j)
        for lane in range(TILE):
            if (word >> lane) & 1 == 0:
                tile[j, lane] = -np.inf


@njit(**OPTIONS)
def hide_labels(s, keys, own, others, step, low, high, zero):
    """s[j, lane] = -inf where low <= others[j] - own[lane] <= high, int64 numbers from 0 to 2**31 - 1.

    own has a number for each of 64 lanes, those of others are `step` bytes apart; limits fit an int32.
    """
    tile = table(s, keys, TILE, zero)
    for j in range(keys):
        other = load_int(others + j * step)
        for lane in range(TILE):
            if low <= other - load_int(own + 8 * lane) <= high:
                tile[j, lane] = -np.inf


@njit(**OPTIONS)
def hide_mask(s, keys, count, mask, row, column, zero):
    """s[j, lane] = -inf where the byte of lane and key in a dense mask is 0."""
    tile = table(s, keys, TILE, zero)
    for lane in range(count):
        for j in range(keys):
            if load_byte(mask + lane * row + j * column) == 0:
                tile[j, lane] = -np.inf


@njit(**OPTIONS)
def hide_keys(s, keys, mask, step, zero):
    """s[j, :] = -inf where byte j of the key mask is 0."""
    tile = table(s, keys, TILE, zero)
    for j in range(keys):
        if load_byte(mask + j * step) == 0:
            for lane in range(TILE):
                tile[j, lane] = -np.inf


@njit(**OPTIONS)
def add_bias(s, keys, count, bias, row, column, zero):
    """s[j, lane] += bias[lane, j], turned into units of log 2."""
    tile, source = table(s, keys, TILE, zero), grid(bias, count, keys, row, column, zero)
    factor = real(LOG2_E, zero)
    for lane in range(count):
        for j in range(keys):
            tile[j, lane] += source[lane, j] * factor


@njit(**OPTIONS)
def add_rows(s, keys, count, bias, row, zero):
    """`add_bias` of rows whose numbers are neighbours."""
    tile, source = table(s, keys, TILE, zero), grid(bias, count, keys, row, size_of(zero), zero)
    factor = real(LOG2_E, zero)
    for lane in range(count):
        for j in range(keys):
            tile[j, lane] += source[lane, j] * factor


@njit(**OPTIONS)
def add_shared(s, keys, bias, zero):
    """s[j, lane] += bias[TILE - 1 + j - lane] in units of log 2: by distance, the same for all lanes."""
    tile, source = table(s, keys, TILE, zero), table(bias, 1, keys + TILE - 1, zero)
    factor = real(LOG2_E, zero)
    for j in range(keys):
        for lane in range(TILE):
            tile[j, lane] += source[0, TILE - 1 + j - lane] * factor


@njit(**OPTIONS)
def add_lanes(s, keys, count, bias, row, zero):
    """s[j, lane] += bias[lane], turned into units of log 2, for all keys alike."""
    tile, source = table(s, keys, TILE, zero), grid(bias, count, 1, row, 0, zero)
    factor = real(LOG2_E, zero)
    for j in range(keys):
        for lane in range(count):
            tile[j, lane] += source[lane, 0] * factor


@njit(**OPTIONS)
def add_skewed(s, keys, lower, upper, zero):
    """s[j, lane] += row 63 + j - lane of the tiles `lower` and `upper` as one, turned into units of log 2.

    s has 64 rows; those beyond the keys are nobody's.
    """
    tile, factor = table(s, keys, TILE, zero), real(LOG2_E, zero)
    halves = table(lower, TILE, TILE, zero), table(upper, TILE, TILE, zero)
    for j in range(keys):
        for lane in range(TILE):
            t = TILE - 1 + j - lane
            tile[j, lane] += (halves[0][t, lane] if t < TILE else halves[1][t - TILE, lane]) * factor


@njit(**OPTIONS)
def add_clipped(s, keys, count, bias, row, column, first, by_key, by_lane, last, zero):
    """s[j, lane] += bias[lane, t] in units of log 2, t = first + j by_key - lane by_lane within 0 .. last."""
    tile, source = table(s, keys, TILE, zero), grid(bias, count, last + 1, row, column, zero)
    factor = real(LOG2_E, zero)
    for lane in range(count):
        for j in range(keys):
            place = min(max(first + j * by_key - lane * by_lane, 0), last)
            tile[j, lane] += source[lane, place] * factor


@njit(**OPTIONS)
def seen_keys(mask, step, keys):
    """How many of the bytes mask[0], mask[step], ... are not 0."""
    seen = 0
    for j in range(keys):
        seen += load_byte(mask + j * step) != 0
    return seen


@njit(**OPTIONS)
def copy_seen(x, x_row, keys, width, mask, step, out, zero):
    """out[j, :] = x[j, :], with zeros in the rows that the key mask hides: 0 * NaN would not be 0."""
    source, result = grid(x, keys, width, x_row, size_of(zero), zero), table(out, keys, width, zero)
    for j in range(keys):
        seen = load_byte(mask + j * step) != 0
        for c in range(width):
            result[j, c] = source[j, c] if seen else zero


@njit(**OPTIONS)
def logarithms(top, total, count, out, out_row, zero):
    """out[lane] = log(total[lane] * 2**top[lane]), -inf where the total is zero."""
    for lane in range(count):
        place = lane * size_of(zero)
        whole = load_real(total + place, zero)
        value = (load_real(top + place, zero) + math.log2(whole)) * LOG_2 if whole != 0 else -np.inf
        store_real(out + lane * out_row, value, zero)


@njit(**OPTIONS)
def copy_row(x, width, out, zero):
    """out[c] = x[c] for c < width."""
    for c in range(width):
        store_real(out + c * size_of(zero), load_real(x + c * size_of(zero), zero), zero)


@njit(**OPTIONS)
def copy_rows(x, x_row, places, step, count, width, out, zero):
    """out[j, c] = x[p, c] for the int64 p that lies j * step bytes after `places`; out is dense."""
    for j in range(count):
        copy_row(x + load_int(places + j * step) * x_row, width, out + j * width * size_of(zero), zero)
