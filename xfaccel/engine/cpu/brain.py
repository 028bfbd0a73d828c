"""bfloat16, the upper half of a float32: what LLVM, Numba and Python lack of it."""

import ctypes
from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from xfaccel.engine.cpu.memory import pointer_to, twin

INT, SHORT = ir.IntType(32), ir.IntType(16)


class Brain(ir.HalfType):
    """The type bfloat16, which llvmlite does not know, by its name."""

    intrinsic_name = "bf16"

    def __str__(self) -> str:
        return "bfloat"


def from_brain(build: ir.IRBuilder, x, wrap: Callable):
    """The bits of a bfloat16 as the float32 of the same value; `wrap` makes vector types."""
    wide = build.zext(x, wrap(INT))
    return build.bitcast(build.shl(wide, _all(wide.type, 16)), wrap(ir.FloatType()))


def _all(kind: ir.VectorType, number: int) -> ir.Constant:
    return ir.Constant(kind, [number] * kind.count)


def to_brain(build: ir.IRBuilder, x, wrap: Callable):
    """float32 as the bits of the nearest bfloat16, of two the even one; `wrap` makes vector types."""
    bits = build.bitcast(x, wrap(INT))
    constant = lambda number: _all(bits.type, number)
    high = build.lshr(bits, constant(16))
    rounded = build.add(bits, build.add(build.and_(high, constant(1)), constant(0x7FFF)))
    # a NaN whose bits lie in the lower half alone would become an infinity
    result = build.select(build.fcmp_unordered("uno", x, x), build.or_(high, constant(0x40)),
                          build.lshr(rounded, constant(16)))
    return build.trunc(result, wrap(SHORT))


def _one(kind):
    return ir.VectorType(kind, 1)


@intrinsic
def _load_brain(typing, address):
    def generate(context, builder, signature, arguments):
        bits = builder.load(pointer_to(builder, arguments[0], _one(SHORT)), align=2)
        return builder.extract_element(from_brain(builder, bits, _one), ir.Constant(INT, 0))
    return types.float32(types.int64), generate


@twin(_load_brain)
def load_brain(address):
    """The bfloat16 at `address` as float32."""
    bits = ctypes.c_uint16.from_address(int(address)).value
    return np.uint32(bits << 16).view(np.float32)


@intrinsic
def _store_brain(typing, address, value):
    def generate(context, builder, signature, arguments):
        value = builder.bitcast(arguments[1], _one(ir.FloatType()))
        bits = to_brain(builder, value, _one)
        builder.store(bits, pointer_to(builder, arguments[0], bits.type), align=2)
        return context.get_dummy_value()
    return types.void(types.int64, types.float32), generate


@twin(_store_brain)
def store_brain(address, value):
    """Write the bfloat16 nearest to `value`, of two the even one, to `address`."""
    bits = int(np.float32(value).view(np.uint32))
    even = bits + 0x7FFF + (bits >> 16 & 1)
    ctypes.c_uint16.from_address(int(address)).value = (bits >> 16 | 0x40) if value != value else even >> 16
