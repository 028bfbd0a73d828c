"""Micro-kernels on pairs of bfloat16 as plain loops: what `pairs_simd` computes, in the simplest form.

Two numbers of 16 bits that are multiplied and added up together lie side by side, the first in the lower half
of 32 bits: neighbours in a row of queries or keys, which are pairs where they lie, or one below the other in
the weights and values, which are put together here. Rows of the former begin at multiples of 4 bytes. Tiles
are as in `tile_plain`, 64 pairs a row, and sums are float32: `zero` is always one.
"""

from numba import njit

from xfaccel.engine.cpu.brain import load_brain, store_brain
from xfaccel.engine.cpu.memory import table
from xfaccel.engine.cpu.tile_plain import OPTIONS
from xfaccel.engine.tiles import TILE


@njit(**OPTIONS)
def pack_pairs(x, x_row, count, pairs, out, zero):
    """out[c, lane] = the pair c of the row x[lane]; lanes from `count` on repeat the last row."""
    for c in range(2 * pairs):
        for lane in range(TILE):
            number = load_brain(x + min(lane, count - 1) * x_row + 2 * c)
            store_brain(out + (c // 2 * TILE + lane) * 4 + c % 2 * 2, number)


@njit(**OPTIONS)
def score_pairs(k, k_row, keys, pairs, queries, factor, out, zero):
    """out[j, lane] = factor * sum_c k[j, c] * queries[c, lane], c counting single numbers."""
    result = table(out, keys, TILE, zero)
    for j in range(keys):
        for lane in range(TILE):
            total = zero
            for c in range(2 * pairs):
                pair = queries + (c // 2 * TILE + lane) * 4
                total += load_brain(k + j * k_row + 2 * c) * load_brain(pair + c % 2 * 2)
            result[j, lane] = total * factor


@njit(**OPTIONS)
def round_rows(s, rows, zero):
    """In place: row t becomes the pairs of rows 2 t and 2 t + 1, rounded; a row that is missing is zeros."""
    source = table(s, rows, TILE, zero)
    for t in range((rows + 1) // 2):
        for lane in range(TILE):
            first, second = source[2 * t, lane], source[2 * t + 1, lane] if 2 * t + 1 < rows else zero
            pair = s + (t * TILE + lane) * 4
            store_brain(pair, first)
            store_brain(pair + 2, second)


@njit(**OPTIONS)
def pair_rows(x, x_row, rows, width, out, zero):
    """out[t, c] = the pair of x[2 t, c] and x[2 t + 1, c]; a row that is missing is zeros."""
    for t in range((rows + 1) // 2):
        for c in range(width):
            pair = out + (t * width + c) * 4
            store_brain(pair, load_brain(x + 2 * t * x_row + 2 * c))
            store_brain(pair + 2, load_brain(x + (2 * t + 1) * x_row + 2 * c) if 2 * t + 1 < rows else zero)


@njit(**OPTIONS)
def add_pairs(p, pairs, v, width, shrink, out, zero):
    """out[c, lane] = out[c, lane] * shrink[lane] + sum_j p[j, lane] * v[j, c], j counting single numbers."""
    result, shrinks = table(out, width, TILE, zero), table(shrink, 1, TILE, zero)
    for c in range(width):
        for lane in range(TILE):
            total = zero
            for j in range(2 * pairs):
                weight, value = p + (j // 2 * TILE + lane) * 4, v + (j // 2 * width + c) * 4
                total += load_brain(weight + j % 2 * 2) * load_brain(value + j % 2 * 2)
            result[c, lane] = result[c, lane] * shrinks[0, lane] + total
