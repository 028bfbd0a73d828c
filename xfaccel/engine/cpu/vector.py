"""A small emitter of vector code: what the files named `_simd` are written in.

Numba's loops reach a third of what the vector units can do. Here a micro-kernel is a Python function that
runs while Numba compiles its caller and appends LLVM instructions on whole vectors, so that the register tile
is what the author wrote. The instructions are target-independent: LLVM turns them into AVX-512, AVX2 or NEON.
"""

import os
from collections.abc import Callable, Sequence

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils

from xfaccel.engine.cpu.brain import INT, Brain
from xfaccel.engine.cpu.exponential import LOWEST, SERIES_DOUBLE, SERIES_SINGLE
from xfaccel.engine.tiles import TILE

I64 = ir.IntType(64)
I8 = ir.IntType(8)
POINTER = ir.PointerType()


def vector_bytes() -> int:
    """Bytes in a vector register of this CPU; XFACCEL_VECTOR_BYTES (16, 32 or 64) overrides it."""
    if chosen := os.environ.get("XFACCEL_VECTOR_BYTES"):
        if chosen not in ("16", "32", "64"):
            raise ValueError(f"XFACCEL_VECTOR_BYTES needs 16, 32 or 64, got {chosen!r}")
        return int(chosen)
    features = llvm.get_host_cpu_features()
    return 64 if features.get("avx512f") else 32 if features.get("avx2") else 16


def multiplies_pairs() -> bool:
    """Whether an instruction of this CPU multiplies pairs of bfloat16 (AVX512-BF16)."""
    return vector_bytes() == 64 and bool(llvm.get_host_cpu_features().get("avx512bf16"))


def casts_half() -> bool:
    """Whether this CPU casts float16 itself; LLVM would call a function that is not there."""
    features = llvm.get_host_cpu_features()
    return bool(features.get("f16c")) or not llvm.get_process_triple().startswith(("x86", "i"))


class Emitter:
    """Appends instructions to a builder, on vectors of `width` numbers of the type of `zero`."""

    def __init__(self, builder: ir.IRBuilder, zero):
        self.builder = builder
        self.size = zero.bitwidth // 8
        self.width = vector_bytes() // self.size
        self.real = ir.FloatType() if self.size == 4 else ir.DoubleType()
        self.integer = ir.IntType(8 * self.size)
        self.vector = ir.VectorType(self.real, self.width)
        self.row = TILE * self.size  # bytes of a row of a tile
        # the register tile: `across` vectors of lanes by `down` broadcast numbers. It has to leave room for
        # the vectors themselves and a broadcast: 4 x 4 of 32 registers, 2 x 4 of the 16 that AVX2 has
        self.across, self.down = (2, 4) if vector_bytes() == 32 else (4, 4)
        self.group = self.across * self.width * self.size  # bytes of the lanes that a register tile covers

    def index(self, number: int) -> ir.Constant:
        return ir.Constant(I64, number)

    def splat(self, number: float) -> ir.Constant:
        return ir.Constant(self.vector, [number] * self.width)

    def at(self, address, *offsets):
        """Pointer to an address (int64) plus byte offsets (int64 values or Python ints)."""
        pointer = address if address.type == POINTER else self.builder.inttoptr(address, POINTER)
        for offset in offsets:
            offset = self.index(offset) if isinstance(offset, int) else offset
            pointer = self.builder.gep(pointer, [offset], source_etype=I8)
        return pointer

    def times(self, value, factor: int):
        return self.builder.mul(value, self.index(factor))

    def load(self, pointer):
        return self.builder.load(pointer, align=self.size, typ=self.vector)

    def store(self, value, pointer) -> None:
        self.builder.store(value, pointer, align=self.size)

    def load_one(self, pointer):
        return self.builder.load(pointer, align=self.size, typ=self.real)

    def broadcast(self, number):
        """A vector of one number (a value of the element type) in all lanes."""
        return self.broadcast_as(number, self.vector)

    def broadcast_as(self, number, kind: ir.VectorType):
        """The same for vectors of another type."""
        empty = ir.Constant(kind, ir.Undefined)
        one = self.builder.insert_element(empty, number, ir.Constant(ir.IntType(32), 0))
        return self.shuffle(one, empty, [0] * self.width)

    def shuffle(self, a, b, places: Sequence[int]):
        mask = ir.Constant(ir.VectorType(ir.IntType(32), len(places)), list(places))
        return self.builder.shuffle_vector(a, b, mask)

    def multiply_add(self, a, b, c):
        """a * b + c, fused where the CPU can."""
        name = f"llvm.fmuladd.v{self.width}f{8 * self.size}"
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), [a, b, c])

    def add_products_of_pairs(self, a, b, c):
        """c + a[1] b[1] + a[0] b[0] where the float32 lanes of a and b are pairs of bfloat16."""
        build = self.builder
        if multiplies_pairs():
            pairs = ir.VectorType(Brain(), 2 * self.width)
            kind = ir.FunctionType(self.vector, [self.vector, pairs, pairs])
            name = "llvm.x86.avx512bf16.dpbf16ps.512"
            function = cgutils.get_or_insert_function(build.module, kind, name)
            return build.call(function, [c, build.bitcast(a, pairs), build.bitcast(b, pairs)])
        bits = ir.VectorType(INT, self.width)
        sixteen, upper = (ir.Constant(bits, [number] * self.width) for number in (16, 0xFFFF0000))
        a, b = build.bitcast(a, bits), build.bitcast(b, bits)
        for a_half, b_half in ((build.and_(a, upper), build.and_(b, upper)),
                               (build.shl(a, sixteen), build.shl(b, sixteen))):
            c = self.multiply_add(build.bitcast(a_half, self.vector), build.bitcast(b_half, self.vector), c)
        return c

    def larger(self, a, b):
        """The larger of two; b where a is NaN."""
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def sum_across(self, x):
        """The sum of the numbers in a vector, halves first."""
        return self._across(x, self.builder.fadd)

    def largest_across(self, x):
        """The largest of the numbers in a vector; none of them is NaN."""
        return self._across(x, self.larger)

    def _across(self, x, join: Callable):
        width = self.width
        while width > 1:
            width //= 2
            x = join(self.shuffle(x, x, range(width)), self.shuffle(x, x, range(width, 2 * width)))
        return self.builder.extract_element(x, ir.Constant(ir.IntType(32), 0))

    def lanes(self, first: int):
        """The lane numbers first, first + 1, ... as a vector of int32."""
        return ir.Constant(ir.VectorType(ir.IntType(32), self.width), list(range(first, first + self.width)))

    def broadcast_int(self, number):
        """An int32 value in all lanes."""
        return self.broadcast_as(number, ir.VectorType(ir.IntType(32), self.width))

    def loop(self, start, stop, body: Callable, carried: Sequence = (), step: int = 1) -> list:
        """for i in range(start, stop, step): carried = body(i, *carried). Returns the last of these."""
        build = self.builder
        start, stop = (self.index(x) if isinstance(x, int) else x for x in (start, stop))
        before = build.block
        head, inside, after = (build.append_basic_block(name) for name in ("head", "inside", "after"))
        build.branch(head)
        build.position_at_end(head)
        i = build.phi(I64)
        i.add_incoming(start, before)
        values = [build.phi(value.type) for value in carried]
        for value, initial in zip(values, carried, strict=True):
            value.add_incoming(initial, before)
        build.cbranch(build.icmp_signed("<", i, stop), inside, after)
        build.position_at_end(inside)
        following = body(i, *values) or []
        end = build.block
        i.add_incoming(build.add(i, self.index(step), flags=("nsw",)), end)
        for value, new in zip(values, following, strict=True):
            value.add_incoming(new, end)
        build.branch(head)
        build.position_at_end(after)
        return values

    def in_tiles(self, count, size: int, body: Callable, carried: Sequence = ()) -> list:
        """carried = body(first, size, *carried) for whole tiles of `size`, then body(first, 1, *carried) for
        each that is left over."""
        build = self.builder
        whole = build.sub(count, build.srem(count, self.index(size)))
        carried = self.loop(0, whole, lambda i, *values: body(i, size, *values), carried, step=size)
        return self.loop(whole, count, lambda i, *values: body(i, 1, *values), carried)

    def exp2(self, x):
        """2**x as in `exponential`: 0 below -126, NaN for NaN. Adding `magic` leaves x, rounded, and the
        exponent's bias in the low bits; shifted up they are the bits of a power of two."""
        build = self.builder
        terms, fraction, bias = (SERIES_SINGLE, 23, 127) if self.size == 4 else (SERIES_DOUBLE, 52, 1023)
        magic = self.splat(1.5 * 2.0**fraction + bias)
        shifted = build.fadd(x, magic)
        rest = build.fsub(x, build.fsub(shifted, magic))
        series = self.splat(terms[-1])
        for term in reversed(terms[:-1]):
            series = self.multiply_add(series, rest, self.splat(term))
        integers = ir.VectorType(self.integer, self.width)
        by = ir.Constant(integers, [fraction] * self.width)
        power = build.bitcast(build.shl(build.bitcast(shifted, integers), by), self.vector)
        inside = build.fcmp_unordered(">=", x, self.splat(LOWEST))
        return build.select(inside, build.fmul(series, power), self.splat(0.0))

    def transpose(self, rows: list) -> list:
        """`width` vectors as the columns of the matrix of which they are the rows: log2(width) rounds of
        swapping the off-diagonal halves of ever larger blocks."""
        half = 1
        while half < self.width:
            low = [(i // half % 2) * self.width + i - i // half % 2 * half for i in range(self.width)]
            high = [place + half for place in low]
            swapped = list(rows)
            for i in range(self.width):
                if i // half % 2 == 0:
                    swapped[i] = self.shuffle(rows[i], rows[i + half], low)
                    swapped[i + half] = self.shuffle(rows[i], rows[i + half], high)
            rows = swapped
            half *= 2
        return rows


def rows_of(e: Emitter, x, x_row, first, count) -> list:
    """Pointers to the rows of `width` lanes; those beyond the count repeat the last: nobody looks at them."""
    build = e.builder
    last = build.sub(count, e.index(1))
    pointers = []
    for r in range(e.width):
        lane = build.add(first, e.index(r))
        lane = build.select(build.icmp_signed("<", lane, last), lane, last)
        pointers.append(e.at(x, build.mul(lane, x_row)))
    return pointers


def columns_of(e: Emitter, pointers: Sequence, c) -> list:
    """The columns c, c + 1, ... of these rows, as many as there are rows: each a vector across the rows."""
    return e.transpose([e.load(e.at(pointer, e.times(c, e.size))) for pointer in pointers])


def kernel(emit: Callable, zero, parameters: str):
    """Typing and code of a micro-kernel: `parameters` has an i for each int64 and an f for each number."""
    kinds = [types.int64 if letter == "i" else zero for letter in parameters]

    def generate(context, builder, signature, arguments):
        emit(Emitter(builder, zero), *arguments[:-1])
        return context.get_dummy_value()
    return types.void(*kinds, zero), generate
