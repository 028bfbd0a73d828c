"""Functions of integers and of their bits that NumPy does not have in one call."""

import numpy as np

from .numbers import UNSIGNED


def floored(x, y, quotient):
    """Division of integers that rounds to zero, as C does; by zero it is 0 here, undefined there."""
    if x.dtype.kind == "u":
        return x // y if quotient else x % y
    whole, rest = np.divmod(x, y)  # whole is rounded down
    up = (rest != 0) & ((x < 0) != (y < 0))
    return whole + up if quotient else np.where(up, rest - y, rest)


def high_product(x, y):
    """The upper half of the product of integers."""
    bits = 8 * x.dtype.itemsize
    if bits < 64:
        wide = np.dtype(f"{x.dtype.kind}{2 * x.dtype.itemsize}")
        return (x.astype(wide) * y.astype(wide) >> wide.type(bits)).astype(x.dtype)
    half, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    a, b = np.asarray(x).view(np.uint64), np.asarray(y).view(np.uint64)
    middle = (a >> half) * (b & low) + ((a & low) * (b & low) >> half)
    other = (a & low) * (b >> half) + (middle & low)
    high = (a >> half) * (b >> half) + (middle >> half) + (other >> half)
    if x.dtype.kind == "i":
        high = high - np.where(x < 0, b, np.uint64(0)) - np.where(y < 0, a, np.uint64(0))
    return high.view(x.dtype)


def shifted(x, count, left):
    bits = 8 * x.dtype.itemsize
    by = np.minimum(count, np.uint32(bits - 1)).astype(x.dtype)
    moved = x << by if left else x >> by
    return moved if x.dtype.kind == "i" and not left else np.where(count < bits, moved, x.dtype.type(0))


def funnel(low, high, count, left, wrap):
    by = (count & np.uint32(31) if wrap else np.minimum(count, np.uint32(32))).astype(np.uint64)
    both = high.astype(np.uint64) << np.uint64(32) | low
    return (both << by >> np.uint64(32) if left else both >> by).astype(np.uint32)


def reversed_bits(x):
    size = x.dtype.itemsize
    bits = np.unpackbits(np.ascontiguousarray(x).view(np.uint8).reshape(-1, size), axis=1, bitorder="little")
    return np.packbits(bits[:, ::-1], axis=1, bitorder="little").view(x.dtype).ravel()


def highest_bit(x):
    """The place of the highest set bit, -1 where there is none."""
    words = np.ascontiguousarray(x).view(np.uint32).reshape(len(x), -1)
    above = np.frexp(words.astype(np.float64))[1]  # the exponent is one more than the place
    return np.where(above[:, -1] > 0, above[:, -1] + 32 * (words.shape[1] - 1), above[:, 0]) - 1


def permuted(a, b, selector):
    """prmt: four bytes chosen from eight, or the sign of one spread over a byte."""
    source = np.stack(np.broadcast_arrays(a, b), -1).view(np.uint8).reshape(-1, 8)
    shifts = np.arange(0, 16, 4, dtype=np.uint32)
    choice = np.broadcast_to(np.asarray(selector)[..., None] >> shifts & np.uint32(15), (len(source), 4))
    chosen = np.take_along_axis(source, (choice & 7).astype(np.intp), 1)
    spread = np.where(chosen >= 128, np.uint8(255), np.uint8(0))
    return np.where(choice & 8, spread, chosen).astype(np.uint8).view(np.uint32).ravel()


def inserted(a, b, start, length):
    one = a.dtype.type(1)
    mask = (shifted(np.broadcast_to(one, length.shape), length, True) - one)
    mask = shifted(mask, start, True)
    return b & ~mask | shifted(a, start, True) & mask


def extracted(a, start, length):
    bits = 8 * a.dtype.itemsize
    left = np.maximum(bits - start.astype(np.int64) - length, 0).astype(np.uint32)
    up = shifted(a, left, True)
    return shifted(up, np.maximum(bits - length.astype(np.int64), 0).astype(np.uint32), False)


def lookup(table):
    """lop3: any function of three bits, by its truth table."""
    def function(a, b, c):
        terms = [(a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
                 for i in range(8) if table >> i & 1]
        return np.bitwise_or.reduce(terms) if terms else a & np.uint32(0)
    return function


def place_of_highest(x, from_top):
    """bfind: of signed numbers the highest bit that is not the sign; all ones where there is none."""
    last = 8 * x.dtype.itemsize - 1
    if x.dtype.kind == "i":
        x = np.where(x < 0, ~x, x).view(UNSIGNED[8 * x.dtype.itemsize])
    place = highest_bit(x)
    if from_top:
        place = np.where(place < 0, -1, last - place)
    return place.astype(np.int32).view(np.uint32)
