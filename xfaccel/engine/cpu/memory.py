"""The few operations on raw memory that kernels are made of, in Numba and in Python that says the same.

Drivers and micro-kernels pass addresses (int64) around: one compiled kernel then serves every layout, length
and width. With NUMBA_DISABLE_JIT=1 the Python twins run, which check what they can. `zero`, a scalar of the
element type, is how a function learns whether it works on float32 or float64.
"""

import ctypes
import platform
import threading
from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

_BYTE = ir.IntType(8)
_LOCK = threading.Lock()


def twin(emit: Callable) -> Callable:
    """Decorate the Python version of the primitive `emit`: it is used when JIT compilation is off."""
    return lambda python: python if config.DISABLE_JIT else emit


def pointer_to(builder, address, element=_BYTE):
    return builder.inttoptr(address, ir.PointerType(element))


@intrinsic
def _load_int(typing, address):
    def generate(context, builder, signature, arguments):
        return builder.load(pointer_to(builder, arguments[0], ir.IntType(64)))
    return types.int64(types.int64), generate


@twin(_load_int)
def load_int(address):
    """The int64 at `address`."""
    return ctypes.c_int64.from_address(int(address)).value


@intrinsic
def _start_of(typing, place, entry):
    def generate(context, builder, signature, arguments):
        def load(address):
            return builder.load(pointer_to(builder, address, integer))

        integer = ir.IntType(64)
        eight = ir.Constant(integer, 8)
        offset = builder.add(load(builder.add(arguments[0], eight)), builder.mul(arguments[1], eight))
        return builder.add(load(arguments[0]), load(offset))
    return types.int64(types.int64, types.int64), generate


@twin(_start_of)
def start_of(place, entry):
    """The address of a leading entry of an operand: `place` holds its base and the address of its offsets."""
    return load_int(place) + load_int(load_int(place + 8) + 8 * entry)


@intrinsic
def _load_byte(typing, address):
    def generate(context, builder, signature, arguments):
        byte = builder.load(pointer_to(builder, arguments[0]))
        return builder.zext(byte, ir.IntType(64))
    return types.int64(types.int64), generate


@twin(_load_byte)
def load_byte(address):
    """The byte at `address`: a boolean."""
    return ctypes.c_uint8.from_address(int(address)).value


@intrinsic
def _load_real(typing, address, zero):
    def generate(context, builder, signature, arguments):
        return builder.load(pointer_to(builder, arguments[0], context.get_value_type(zero)))
    return zero(types.int64, zero), generate


@twin(_load_real)
def load_real(address, zero):
    """The number of `zero`'s type at `address`."""
    return _view(address, (1,), (0,), zero)[0]


@intrinsic
def _store_real(typing, address, value, zero):
    def generate(context, builder, signature, arguments):
        pointer = pointer_to(builder, arguments[0], context.get_value_type(zero))
        builder.store(arguments[1], pointer)
        return context.get_dummy_value()
    return types.void(types.int64, zero, zero), generate


@twin(_store_real)
def store_real(address, value, zero):
    """Write `value` to `address` as a number of `zero`'s type."""
    _view(address, (1,), (0,), zero)[0] = value


@intrinsic
def _real(typing, value, zero):
    return zero(zero, zero), lambda context, builder, signature, arguments: arguments[0]


@twin(_real)
def real(value, zero):
    """`value` as a number of `zero`'s type: in Numba, zero + 1 would be a float64."""
    return type(zero)(value)


@intrinsic
def _size_of(typing, zero):
    def generate(context, builder, signature, arguments):
        return ir.Constant(ir.IntType(64), zero.bitwidth // 8)
    return types.int64(zero), generate


@twin(_size_of)
def size_of(zero):
    """Bytes of a number of `zero`'s type."""
    return np.dtype(type(zero)).itemsize


@intrinsic
def _fetch_add(typing, address, amount):
    def generate(context, builder, signature, arguments):
        pointer = pointer_to(builder, arguments[0], ir.IntType(64))
        return builder.atomic_rmw("add", pointer, arguments[1], "seq_cst")
    return types.int64(types.int64, types.int64), generate


@twin(_fetch_add)
def fetch_add(address, amount):
    """Add to the int64 at `address`, as one step that no other thread divides; returns what was there."""
    with _LOCK:
        cell = ctypes.c_int64.from_address(int(address))
        before = cell.value
        cell.value = before + int(amount)
    return before


@intrinsic
def _peek(typing, address):
    def generate(context, builder, signature, arguments):
        pointer = pointer_to(builder, arguments[0], ir.IntType(64))
        return builder.load_atomic(pointer, "acquire", 8)
    return types.int64(types.int64), generate


@twin(_peek)
def peek(address):
    """The int64 at `address`, as other threads have left it by now."""
    return ctypes.c_int64.from_address(int(address)).value


@intrinsic
def _compare_swap(typing, address, old, new):
    def generate(context, builder, signature, arguments):
        pointer = pointer_to(builder, arguments[0], ir.IntType(64))
        result = builder.cmpxchg(pointer, arguments[1], arguments[2], "seq_cst")
        return builder.extract_value(result, 1)
    return types.boolean(types.int64, types.int64, types.int64), generate


@twin(_compare_swap)
def compare_swap(address, old, new):
    """If the int64 at `address` is `old`, make it `new`, as one step; returns whether it was."""
    with _LOCK:
        cell = ctypes.c_int64.from_address(int(address))
        if cell.value != old:
            return False
        cell.value = int(new)
        return True


@intrinsic
def _store_int(typing, address, value):
    def generate(context, builder, signature, arguments):
        builder.store(arguments[1], pointer_to(builder, arguments[0], ir.IntType(64)))
        return context.get_dummy_value()
    return types.void(types.int64, types.int64), generate


@twin(_store_int)
def store_int(address, value):
    """Write the int64 at `address`."""
    ctypes.c_int64.from_address(int(address)).value = int(value)


@intrinsic
def invoke(typing, kernel, job, a, b, c, zero):
    """Call the compiled kernel at an address: kernel(job, a, b, c, zero). It has no Python twin.

    A switch that is None in the kernel is an empty pointer there: a zero, which is passed alike.
    """
    def generate(context, builder, signature, arguments):
        integer = ir.IntType(64)
        kind = ir.FunctionType(integer, [integer] * 4 + [arguments[5].type])
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
        return context.get_dummy_value()
    return types.void(*[types.int64] * 5, zero), generate


@intrinsic
def _pause(typing):
    def generate(context, builder, signature, arguments):
        if platform.machine() in ("x86_64", "AMD64"):
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()
    return types.void(), generate


@twin(_pause)
def pause():
    """Tell the core that this thread is only waiting."""


@intrinsic
def _grid(typing, address, rows, columns, row_stride, column_stride, zero):
    kind = types.Array(zero, 2, "A")

    def generate(context, builder, signature, arguments):
        return _make(context, builder, kind, arguments[0], arguments[1:3], arguments[3:5])
    return kind(types.int64, types.int64, types.int64, types.int64, types.int64, zero), generate


@twin(_grid)
def grid(address, rows, columns, row_stride, column_stride, zero):
    """A matrix of `zero`'s type at `address`, with strides in bytes."""
    return _view(address, (rows, columns), (row_stride, column_stride), zero)


@intrinsic
def _table(typing, address, rows, columns, zero):
    kind = types.Array(zero, 2, "C")

    def generate(context, builder, signature, arguments):
        size = context.get_abi_sizeof(context.get_value_type(zero))
        stride = ir.Constant(ir.IntType(64), size)
        strides = [builder.mul(arguments[2], stride), stride]
        return _make(context, builder, kind, arguments[0], arguments[1:3], strides)
    return kind(types.int64, types.int64, types.int64, zero), generate


@twin(_table)
def table(address, rows, columns, zero):
    """A row-major matrix of `zero`'s type without gaps: a tile in scratch."""
    size = np.dtype(type(zero)).itemsize
    return _view(address, (rows, columns), (int(columns) * size, size), zero)


@intrinsic
def _from_bits(typing, bits, zero):
    integer = types.int32 if zero.bitwidth == 32 else types.int64

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(zero))
    return zero(integer, zero), generate


@twin(_from_bits)
def from_bits(bits, zero):
    """The float of `zero`'s type with this bit pattern."""
    integer = np.int32 if np.dtype(type(zero)).itemsize == 4 else np.int64
    return integer(bits).view(type(zero))


def _make(context, builder, kind, address, shape, strides):
    array = make_array(kind)(context, builder)
    size = context.get_abi_sizeof(context.get_value_type(kind.dtype))
    populate_array(array, data=builder.inttoptr(address, array.data.type), shape=shape, strides=strides,
                   itemsize=ir.Constant(ir.IntType(64), size), meminfo=None)
    return array._getvalue()


def _view(address, shape, strides, zero):
    shape, strides = tuple(map(int, shape)), tuple(map(int, strides))
    dtype = np.dtype(type(zero))
    if min(shape) == 0:
        return np.empty(shape, dtype)
    low = sum(min(0, (size - 1) * stride) for size, stride in zip(shape, strides, strict=True))
    high = sum(max(0, (size - 1) * stride) for size, stride in zip(shape, strides, strict=True))
    memory = (ctypes.c_char * (high - low + dtype.itemsize)).from_address(int(address) + low)
    return np.ndarray(shape, dtype, memory, -low, strides)
