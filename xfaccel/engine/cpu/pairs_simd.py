"""Micro-kernels on pairs of bfloat16, on vectors; each does what its namesake in `pairs_plain` says.

The two products are those of `products_simd` with another step: one instruction of AVX512-BF16 multiplies two
pairs in every lane and adds both products to float32, twice the work of a multiply-add. Without it the step
is made of shifts and multiply-adds: the same numbers, but for subnormals, at no gain.
"""

from llvmlite import ir
from numba.extending import intrinsic

from xfaccel.engine.cpu.brain import INT, SHORT, to_brain
from xfaccel.engine.cpu.products_simd import emit_accumulate, emit_scores
from xfaccel.engine.cpu.vector import columns_of, kernel, rows_of
from xfaccel.engine.tiles import TILE

__all__ = ["add_pairs", "pack_pairs", "pair_rows", "round_rows", "score_pairs"]


def _kernel(emit, zero, parameters):
    """A kernel for sums in float32; that of float64, which nothing calls, is empty."""
    def emit_single(e, *arguments):
        if e.size == 4:
            emit(e, *arguments)
    return kernel(emit_single, zero, parameters)


def _wrap(width):
    return lambda kind: ir.VectorType(kind, width)


def _pairs(e, first, second):
    """Vectors of 16-bit numbers as vectors of pairs."""
    build, wide = e.builder, ir.VectorType(INT, first.type.count)
    sixteen = ir.Constant(wide, [16] * wide.count)
    return build.or_(build.zext(first, wide), build.shl(build.zext(second, wide), sixteen))


@intrinsic
def pack_pairs(typing, x, x_row, count, pairs, out, zero):
    def emit(e, x, x_row, count, pairs, out):
        build = e.builder
        last = build.sub(count, e.index(1))
        whole = build.sub(pairs, build.srem(pairs, e.index(e.width)))

        # a pair is moved as a float32 would be
        def lanes(first):
            pointers = rows_of(e, x, x_row, first, count)

            def columns(c):
                for r, vector in enumerate(columns_of(e, pointers, c)):
                    e.store(vector, e.at(out, e.times(c, e.row), e.times(first, e.size), r * e.row))

            e.loop(0, whole, columns, step=e.width)

        def lane_left(lane):
            inside = build.icmp_signed("<", lane, last)
            pointer = e.at(x, build.mul(build.select(inside, lane, last), x_row))

            def column(c):
                pair = build.load(e.at(pointer, e.times(c, e.size)), typ=INT, align=4)
                build.store(pair, e.at(out, e.times(c, e.row), e.times(lane, e.size)), align=4)

            e.loop(whole, pairs, column)

        e.loop(0, TILE, lanes, step=e.width)
        e.loop(0, TILE, lane_left)
    return _kernel(emit, zero, "iiiii")


@intrinsic
def score_pairs(typing, k, k_row, keys, pairs, queries, factor, out, zero):
    def emit(e, k, k_row, keys, pairs, queries, factor, out):
        emit_scores(e, k, k_row, e.index(e.size), keys, pairs, queries, out, pairs=True,
                    factor=e.broadcast(factor))
    return _kernel(emit, zero, "iiiiifi")


@intrinsic
def round_rows(typing, s, rows, zero):
    def emit(e, s, rows):
        build, wrap = e.builder, _wrap(e.width)

        def row(t):
            first = e.times(t, 2)
            there = build.icmp_signed("<", build.add(first, e.index(1)), rows)
            second = build.select(there, build.add(first, e.index(1)), first)
            for place in range(0, e.row, e.width * e.size):
                halves = [to_brain(build, e.load(e.at(s, e.times(r, e.row), place)), wrap)
                          for r in (first, second)]
                halves[1] = build.select(there, halves[1], ir.Constant(halves[1].type, [0] * e.width))
                build.store(_pairs(e, *halves), e.at(s, e.times(t, e.row), place), align=4)

        e.loop(0, build.sdiv(build.add(rows, e.index(1)), e.index(2)), row)
    return _kernel(emit, zero, "ii")


@intrinsic
def pair_rows(typing, x, x_row, rows, width, out, zero):
    def emit(e, x, x_row, rows, width, out):
        build = e.builder
        whole = build.sub(width, build.srem(width, e.index(e.width)))

        def row(t):
            first = e.times(t, 2)
            there = build.icmp_signed("<", build.add(first, e.index(1)), rows)
            second = build.select(there, build.add(first, e.index(1)), first)
            sources = [e.at(x, build.mul(r, x_row)) for r in (first, second)]
            target = e.at(out, e.times(build.mul(t, width), e.size))

            def columns(count):
                def move(c):
                    kind = ir.VectorType(SHORT, count)
                    halves = [build.load(e.at(source, e.times(c, 2)), typ=kind, align=2)
                              for source in sources]
                    halves[1] = build.select(there, halves[1], ir.Constant(kind, [0] * count))
                    build.store(_pairs(e, *halves), e.at(target, e.times(c, e.size)), align=4)
                return move

            e.loop(0, whole, columns(e.width), step=e.width)
            e.loop(whole, width, columns(1))

        e.loop(0, build.sdiv(build.add(rows, e.index(1)), e.index(2)), row)
    return _kernel(emit, zero, "iiiii")


@intrinsic
def add_pairs(typing, p, pairs, v, width, shrink, out, zero):
    def emit(e, p, pairs, v, width, shrink, out):
        row, size = e.index(e.row), e.index(e.size)
        emit_accumulate(e, p, row, pairs, v, e.times(width, e.size), size, width, shrink, out, row,
                        pairs=True)
    return _kernel(emit, zero, "iiiiii")
