"""The number formats of PTX in NumPy: how bits of registers are read as numbers, and numbers become bits."""

from typing import NamedTuple

import numpy as np

UNSIGNED = {8: np.dtype(np.uint8), 16: np.dtype(np.uint16), 32: np.dtype(np.uint32), 64: np.dtype(np.uint64)}


class Format(NamedTuple):
    """`bits` of a register: one or (packed) several of `dtype`, decoded where NumPy has no such numbers."""

    bits: int
    dtype: np.dtype
    decode: object = None
    encode: object = None

    @property
    def packed(self):
        return self.bits > 8 * self.dtype.itemsize


def from_bfloat16(bits):
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_bfloat16(numbers):
    """The nearest bfloat16, ties to even; its bits."""
    bits = np.asarray(numbers, np.float32).view(np.uint32)
    nearest = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(numbers), np.uint16(0x7FFF), nearest.astype(np.uint16))


FORMATS = {
    **{f"{kind}{bits}": Format(bits, UNSIGNED[bits]) for kind in "bu" for bits in UNSIGNED},
    **{f"s{bits}": Format(bits, np.dtype(f"i{bits // 8}")) for bits in UNSIGNED},
    "f16": Format(16, np.dtype(np.float16)), "f16x2": Format(32, np.dtype(np.float16)),
    "f32": Format(32, np.dtype(np.float32)), "f32x2": Format(64, np.dtype(np.float32)),
    "f64": Format(64, np.dtype(np.float64)), "pred": Format(1, np.dtype(np.bool_)),
    "bf16": Format(16, UNSIGNED[16], from_bfloat16, to_bfloat16),
    "bf16x2": Format(32, UNSIGNED[16], from_bfloat16, to_bfloat16),
}


def toward(kind, exact, dtype):
    """`exact`, of more digits, as `dtype`: rounded down (rm), up (rp), to zero (rz) or to the nearest."""
    near = exact.astype(dtype)
    if kind in (None, "rn"):
        return near
    up, down = np.nextafter(near, dtype.type(np.inf)), np.nextafter(near, dtype.type(-np.inf))
    low, high = np.where(near > exact, down, near), np.where(near < exact, up, near)
    return {"rm": low, "rp": high, "rz": np.where(exact < 0, high, low)}[kind]


def saturated(numbers):
    """Between 0 and 1; 0 for what is no number."""
    zero, one = numbers.dtype.type(0), numbers.dtype.type(1)
    return np.where(np.isnan(numbers), zero, np.clip(numbers, zero, one))


def flush(numbers):
    """Subnormal numbers become zeros that keep the sign."""
    tiny = np.abs(numbers) < np.finfo(numbers.dtype).tiny
    return np.where(tiny, np.copysign(numbers.dtype.type(0), numbers), numbers)


TO_INTEGER = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def convert(target: str, source: str, modifiers: set):
    """The function of `cvt`: numbers of one format to those of another, before they are encoded."""
    to, origin = FORMATS[target].dtype, FORMATS[source].dtype
    if FORMATS[target].encode:
        to = np.dtype(np.float32)
    if FORMATS[source].decode:
        origin = np.dtype(np.float32)
    integral = next((TO_INTEGER[name] for name in TO_INTEGER if name in modifiers), None)
    rounding = next((name for name in ("rz", "rm", "rp") if name in modifiers), None)

    def function(x):
        if "ftz" in modifiers and origin == np.float32:
            x = flush(x)
        if integral:
            x = integral(x)
        if to.kind != "f":
            return clamped(x, to) if origin.kind == "f" or "sat" in modifiers else x.astype(to)
        x = toward(rounding, x, to) if origin.kind == "f" and to.itemsize < x.itemsize else x.astype(to)
        if "sat" in modifiers:
            x = saturated(x)
        if "relu" in modifiers:
            x = np.where(np.isnan(x), x, np.maximum(x, to.type(0)))
        return flush(x) if "ftz" in modifiers and to == np.float32 else x

    return function


def clamped(x, to):
    """As an integer, the nearest that there is; NaN is 0."""
    limits = np.iinfo(to)
    if x.dtype.kind == "f":
        low, high = float(limits.min), float(limits.max)
        inside = (x > low) & (x < high)
        near = np.where(x >= high, to.type(limits.max), np.where(x <= low, to.type(limits.min), to.type(0)))
        return np.where(inside, np.where(inside, x, 0).astype(to), near)
    wide = x.astype(np.int64)  # the formats that are clamped to are narrower
    return np.clip(wide, limits.min, limits.max).astype(to)
