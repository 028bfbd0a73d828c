"""Micro-kernels for lists of keys as plain loops: one query against its own list, or four against one.

Here the keys of a query lie anywhere, so nothing is shared between the queries of a tile and lanes are the
columns of a key. `keys` is a list of int64 row numbers; the list of scores has room up to a multiple of 64.
"""

import numpy as np
from numba import njit

from xfaccel.engine.cpu.brain import load_brain
from xfaccel.engine.cpu.exponential import exp2
from xfaccel.engine.cpu.memory import (
    from_bits,
    load_byte,
    load_int,
    load_real,
    real,
    size_of,
    store_int,
    table,
)
from xfaccel.engine.cpu.tile_plain import OPTIONS
from xfaccel.engine.tiles import TILE

QUERIES = 4  # that the forms for several take at once
# what keys and values are: numbers of the queries' type, int8, bfloat16, float16 (beside float32 alone)
REAL, BYTE, BRAIN, HALF = range(4)


@njit(**OPTIONS)
def number(row, c, kind, zero):
    """The number in column c of a row."""
    if kind == BYTE:
        byte = load_byte(row + c)
        return real(byte - 256 if byte > 127 else byte, zero)
    if kind == BRAIN:
        return real(load_brain(row + 2 * c), zero)
    if kind == HALF:
        return real(load_half(row + 2 * c), zero)
    return load_real(row + size_of(zero) * c, zero)


@njit(**OPTIONS)
def load_half(address):
    """The float16 at `address` as float32."""
    bits = load_byte(address) + 256 * load_byte(address + 1)
    # the exponent's bias differs by 112, also for subnormal numbers
    size = from_bits(np.int32((bits & 0x7FFF) << 13), np.float32(0)) * np.float32(2.0**112)
    if bits & 0x7C00 == 0x7C00:
        size = np.float32(np.nan) if bits & 0x3FF else np.float32(np.inf)
    return -size if bits & 0x8000 else size


@njit(**OPTIONS)
def collect(indices, count, last, mask, mask_column, stamps, stamp, keys):
    """keys = those of `indices` in 0 .. last that the mask shows, each once; returns how many.

    `stamps` has a number for each key; it holds `stamp` after the key was listed, and did not before.
    """
    found = 0
    for place in range(count):
        key = load_int(indices + 8 * place)
        if key < 0 or key > last or load_int(stamps + 8 * key) == stamp:
            continue
        store_int(stamps + 8 * key, stamp)
        if mask == 0 or load_byte(mask + key * mask_column) != 0:
            store_int(keys + 8 * found, key)
            found += 1
    return found


@njit(**OPTIONS)
def row_scores(q, k, k_row, keys, count, width, factor, out, kind, zero):
    """out[j] = factor * sum_c q[c] * k[keys[j], c]; the numbers of k are of this kind."""
    query, result = table(q, 1, width, zero), table(out, 1, count, zero)
    for j in range(count):
        key = k + load_int(keys + 8 * j) * k_row
        total = zero
        for c in range(width):
            total += query[0, c] * number(key, c, kind, zero)
        result[0, j] = total * factor


@njit(**OPTIONS)
def row_softmax(s, count, top, total, zero):
    """Scores become weights exp2(s - top), zeros up to a multiple of 64; top the largest, total the sum."""
    padded = (count + TILE - 1) // TILE * TILE
    weights = table(s, 1, padded, zero)
    largest = real(-np.inf, zero)
    for j in range(count):
        if weights[0, j] > largest:
            largest = weights[0, j]
    reference = largest if largest > -np.inf else zero
    summed = zero
    for j in range(count):
        weights[0, j] = exp2(weights[0, j] - reference, zero)
        summed += weights[0, j]
    for j in range(count, padded):
        weights[0, j] = zero
    table(top, 1, 1, zero)[0, 0] = largest
    table(total, 1, 1, zero)[0, 0] = summed


@njit(**OPTIONS)
def row_sum(p, keys, count, v, v_row, width, total, out, kind, zero):
    """out[c] = sum_j p[j] * v[keys[j], c] / total, 0 where the total is 0; v is of this kind."""
    weights, result = table(p, 1, count, zero), table(out, 1, width, zero)
    whole = table(total, 1, 1, zero)[0, 0]
    inverse = real(1, zero) / whole if whole != 0 else zero
    for c in range(width):
        result[0, c] = zero
    for j in range(count):
        value = v + load_int(keys + 8 * j) * v_row
        for c in range(width):
            result[0, c] += weights[0, j] * number(value, c, kind, zero)
    for c in range(width):
        result[0, c] *= inverse


@njit(**OPTIONS)
def rows_scores(q, q_row, k, k_row, keys, count, width, factor, out, out_row, kind, zero):
    """`row_scores` of four queries."""
    for r in range(QUERIES):
        row_scores(q + r * q_row, k, k_row, keys, count, width, factor, out + r * out_row, kind, zero)


@njit(**OPTIONS)
def rows_sum(p, p_row, keys, count, v, v_row, width, total, out, row, kind, zero):
    """`row_sum` of four queries; from one to the next, totals and results are `row` bytes apart."""
    for r in range(QUERIES):
        row_sum(p + r * p_row, keys, count, v, v_row, width, total + r * row, out + r * row, kind, zero)
