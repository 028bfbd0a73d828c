"""What `decode` does with the keys of a chunk, and with the results for all chunks of a head."""

import numpy as np
from numba import njit

from xfaccel.engine.cpu import cache
from xfaccel.engine.cpu.exponential import exp2
from xfaccel.engine.cpu.kernels import tile as micro
from xfaccel.engine.cpu.memory import load_int, load_real, size_of, store_real
from xfaccel.engine.cpu.tile_plain import OPTIONS

with cache.enabled():
    @njit(**OPTIONS)
    def seen_by(keys, count, last):
        """How many of these keys, in order, are no later than the last."""
        while count > 0 and load_int(keys + 8 * (count - 1)) > last:
            count -= 1
        return count

    @njit(**OPTIONS)
    def weigh(s, keys, count, factors, column, zero):
        """s[j] *= factors[keys[j]]."""
        for j in range(count):
            place = s + j * size_of(zero)
            factor = load_real(factors + load_int(keys + 8 * j) * column, zero)
            store_real(place, load_real(place, zero) * factor, zero)

    @njit(**OPTIONS)
    def join(parts, n, chunks, e, out, out_row, lse, zero):
        """The results for all chunks of a head as one: each counts by its share of the exponentials.

        `parts` holds for each chunk and each of n queries the top, the sum and the e numbers of its result;
        those of the first chunk are used up.
        """
        size = size_of(zero)
        row, step = (e + 2) * size, n * (e + 2) * size
        for i in range(n):
            result, first = out + i * out_row, parts + i * row
            for place in range(0, e * size, size):
                store_real(result + place, zero, zero)
            top, whole = load_real(first, zero), zero
            for chunk in range(1, chunks):
                top = max(top, load_real(first + chunk * step, zero))
            reference = top if top > -np.inf else zero
            for chunk in range(chunks):
                part = first + chunk * step
                weight = exp2(load_real(part, zero) - reference, zero) * load_real(part + size, zero)
                whole += weight
                for place in range(0, e * size, size):
                    term = weight * load_real(part + 2 * size + place, zero)
                    store_real(result + place, load_real(result + place, zero) + term, zero)
            inverse = 1 / whole if whole != 0 else zero
            for place in range(0, e * size, size):
                store_real(result + place, load_real(result + place, zero) * inverse, zero)
            if lse != 0:
                store_real(first, top, zero)
                store_real(first + size, whole, zero)
                micro.logarithms(first, first + size, 1, lse + i * size, size, zero)
