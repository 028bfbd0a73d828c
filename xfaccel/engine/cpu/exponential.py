"""2**x as additions and multiplications, so that a loop over lanes becomes vector instructions.

x is split into a whole number, which goes into the exponent bits, and a rest in [-1/2, 1/2], for which a
polynomial takes the place of 2**rest. Its constant term is exactly 1: an online softmax multiplies by 2**0
once a tile, and an error there would grow with the length.
"""

import math

import numpy as np
from numba import types
from numba.extending import overload
from numpy.polynomial import Chebyshev, Polynomial

from xfaccel.engine.cpu.memory import from_bits

LOWEST = -126.0  # results below 2**-126, the smallest normal float32, are zero
ROUND_SINGLE = 1.5 * 2.0**23  # adding and subtracting it rounds to a whole number
ROUND_DOUBLE = 1.5 * 2.0**52


def _series(degree):
    """Coefficients of a polynomial close to 2**r for r in [-1/2, 1/2], the constant one first.

    Taylor's polynomial of (2**r - 1) / r, so long that nothing is missing, is written in Chebyshev's and cut
    off: what is left out is then spread evenly (economisation, Lanczos 1938).
    """
    taylor = [math.log(2) ** power / math.factorial(power) for power in range(1, 20)]
    in_chebyshev = Polynomial(taylor).convert(kind=Chebyshev, domain=[-0.5, 0.5])
    return 1.0, *map(float, in_chebyshev.truncate(degree).convert(kind=Polynomial).coef)


SERIES_SINGLE = _series(6)   # within 6e-9 of 2**r
SERIES_DOUBLE = _series(11)  # within 2e-17

_F1, _F2, _F3, _F4, _F5, _F6 = (np.float32(term) for term in SERIES_SINGLE[1:])
_D1, _D2, _D3, _D4, _D5, _D6, _D7, _D8, _D9, _D10, _D11 = SERIES_DOUBLE[1:]
_ROUND, _LOW = np.float32(ROUND_SINGLE), np.float32(LOWEST)


def _single(x, zero):
    x = np.float32(x)  # a product with a Python float arrives as float64, and would not be rounded
    whole = (x + _ROUND) - _ROUND
    r = x - whole
    series = _F3 + r * (_F4 + r * (_F5 + r * _F6))
    series = np.float32(1) + r * (_F1 + r * (_F2 + r * series))
    # the comparison comes first: the integer of a score of -inf or NaN means nothing
    whole = whole if x >= _LOW else _LOW
    power = from_bits((np.int32(whole) + np.int32(127)) << np.int32(23), zero)
    return series * power if x >= _LOW else (zero if x < _LOW else x)


def _double(x, zero):
    whole = (x + ROUND_DOUBLE) - ROUND_DOUBLE
    r = x - whole
    series = _D8 + r * (_D9 + r * (_D10 + r * _D11))
    series = _D3 + r * (_D4 + r * (_D5 + r * (_D6 + r * (_D7 + r * series))))
    series = 1.0 + r * (_D1 + r * (_D2 + r * series))
    whole = whole if x >= LOWEST else LOWEST
    power = from_bits((np.int64(whole) + np.int64(1023)) << np.int64(52), zero)
    return series * power if x >= LOWEST else (zero if x < LOWEST else x)


def exp2(x, zero):
    """2**x for x <= 126 within 2 ulp; exactly 1 at 0; 0 below -126; NaN for NaN."""
    return (_single if isinstance(zero, np.float32) else _double)(x, zero)


@overload(exp2, jit_options=dict(fastmath={"contract"}, error_model="numpy"))
def _exp2(x, zero):
    return _single if zero is types.float32 else _double
