"""The scan engine's micro-kernels on vectors; each says what its namesake in `features_plain` says."""

from collections.abc import Callable

from llvmlite import ir
from numba.extending import intrinsic

from xfaccel.engine.cpu.features_plain import running_largest, waves
from xfaccel.engine.cpu.tile_plain import LOG2_E
from xfaccel.engine.cpu.vector import I64, Emitter, kernel
from xfaccel.engine.tiles import TILE

__all__ = ["closest", "combine", "decay", "elu", "half_squares", "largest_in_lanes", "multiply", "pad_rows",
           "raise_tops", "relu", "running_largest", "sum_lanes", "triangle", "waves", "weigh"]


def _each(e: Emitter, rows, body: Callable) -> None:
    """body(row, offset in bytes from the row's start) for every vector of `rows` rows of a tile."""
    # one vector an iteration: straight-line code for all of a row takes LLVM longer to compile
    def row_of_vectors(row):
        e.loop(0, e.row, lambda first: body(row, first), step=e.width * e.size)
    e.loop(0, rows, row_of_vectors)


def _in_place(e: Emitter, t, rows, change: Callable) -> None:
    """t[row, lane] = change(t[row, lane], row, offset)."""
    def one(row, first):
        place = e.at(t, e.times(row, e.row), first)
        e.store(change(e.load(place), row, first), place)
    _each(e, rows, one)


def _over_rows(e: Emitter, rows, initial, step: Callable, out) -> None:
    """out[lane] = what `step(row, offset, so far)` leaves after all rows, begun with `initial`."""
    places = range(0, e.row, e.width * e.size)
    carried = e.loop(0, rows, lambda row, *so_far: [step(row, first, x)
                                                    for first, x in zip(places, so_far, strict=True)],
                     [initial] * len(places))
    for first, vector in zip(places, carried, strict=True):
        e.store(vector, e.at(out, first))


@intrinsic
def pad_rows(typing, x, x_row, count, width, out, out_row, zero):
    def emit(e, x, x_row, count, width, out, out_row):
        build = e.builder
        whole = build.sub(width, build.srem(width, e.index(e.width)))

        def row(j):
            source, target = e.at(x, build.mul(j, x_row)), e.at(out, build.mul(j, out_row))
            with build.if_then(build.icmp_signed("<", width, e.index(TILE))):
                for first in range(0, e.row, e.width * e.size):
                    e.store(e.splat(0.0), e.at(target, first))

            def vector(c):
                e.store(e.load(e.at(source, e.times(c, e.size))), e.at(target, e.times(c, e.size)))

            def number(c):
                build.store(e.load_one(e.at(source, e.times(c, e.size))), e.at(target, e.times(c, e.size)))

            e.loop(0, whole, vector, step=e.width)
            e.loop(whole, width, number)

        e.loop(0, count, row)
    return kernel(emit, zero, "iiiiii")


@intrinsic
def elu(typing, t, rows, zero):
    def emit(e, t, rows):
        build, nothing = e.builder, e.splat(0.0)

        def change(x, row, first):
            above = build.fcmp_ordered(">", x, nothing)
            power = e.exp2(build.fmul(build.select(above, nothing, x), e.splat(LOG2_E)))
            return build.select(above, build.fadd(x, e.splat(1.0)), power)

        _in_place(e, t, rows, change)
    return kernel(emit, zero, "ii")


@intrinsic
def relu(typing, t, rows, zero):
    def emit(e, t, rows):
        build, nothing = e.builder, e.splat(0.0)

        def change(x, row, first):
            return build.select(build.fcmp_ordered("<", x, nothing), nothing, x)

        _in_place(e, t, rows, change)
    return kernel(emit, zero, "ii")


@intrinsic
def half_squares(typing, t, rows, out, zero):
    def emit(e, t, rows, out):
        def step(row, first, so_far):
            x = e.load(e.at(t, e.times(row, e.row), first))
            return e.multiply_add(e.builder.fmul(x, e.splat(0.5)), x, so_far)
        _over_rows(e, rows, e.splat(0.0), step, out)
    return kernel(emit, zero, "iii")


@intrinsic
def combine(typing, t, rows, factor, lanes, lane_factor, out, zero):
    def emit(e, t, rows, factor, lanes, lane_factor, out):
        factors, lane_factors = e.broadcast(factor), e.broadcast(lane_factor)

        def one(row, first):
            offset = e.builder.fmul(e.load(e.at(lanes, first)), lane_factors)
            value = e.multiply_add(e.load(e.at(t, e.times(row, e.row), first)), factors, offset)
            e.store(value, e.at(out, e.times(row, e.row), first))

        _each(e, rows, one)
    return kernel(emit, zero, "iififi")


@intrinsic
def multiply(typing, t, rows, factors, pitch, zero):
    def emit(e, t, rows, factors, pitch):
        build = e.builder
        _in_place(e, t, rows, lambda x, row, first: build.fmul(
            x, e.load(e.at(factors, build.mul(row, pitch), first))))
    return kernel(emit, zero, "iiii")


@intrinsic
def weigh(typing, t, rows, row_offsets, lane_offsets, out, zero):
    def emit(e, t, rows, row_offsets, lane_offsets, out):
        build = e.builder

        def one(row, first):
            offset = e.broadcast(e.load_one(e.at(row_offsets, e.times(row, e.size))))
            x = build.fadd(e.load(e.at(t, e.times(row, e.row), first)), offset)
            value = e.exp2(build.fsub(x, e.load(e.at(lane_offsets, first))))
            e.store(value, e.at(out, e.times(row, e.row), first))

        _each(e, rows, one)
    return kernel(emit, zero, "iiiii")


@intrinsic
def largest_in_lanes(typing, t, rows, row_offsets, out, zero):
    def emit(e, t, rows, row_offsets, out):
        def step(row, first, so_far):
            offset = e.broadcast(e.load_one(e.at(row_offsets, e.times(row, e.size))))
            return e.larger(e.builder.fadd(e.load(e.at(t, e.times(row, e.row), first)), offset), so_far)
        _over_rows(e, rows, e.splat(float("-inf")), step, out)
    return kernel(emit, zero, "iiii")


@intrinsic
def closest(typing, t, rows, out, zero):
    def emit(e, t, rows, out):
        build = e.builder
        integers = ir.VectorType(e.integer, e.width)

        def number(value):
            return e.broadcast_as(build.trunc(value, e.integer) if e.size == 4 else value, integers)

        def lanes(first):
            column = e.at(t, first)
            start = e.load(column)

            def row(r, most, where_most, least, where_least):
                x, here = e.load(e.at(column, e.times(r, e.row))), number(r)
                above, below = build.fcmp_ordered(">", x, most), build.fcmp_ordered("<", x, least)
                return [build.select(above, x, most), build.select(above, here, where_most),
                        build.select(below, x, least), build.select(below, here, where_least)]

            none = number(e.index(0))
            most, where_most, least, where_least = e.loop(1, rows, row, [start, none, start, none])
            opposite = build.fcmp_ordered(">", build.fneg(least), most)
            found = build.select(opposite, build.add(where_least, number(rows)), where_most)
            if e.size == 4:
                found = build.sext(found, ir.VectorType(I64, e.width))
            build.store(found, e.at(out, e.times(first, 8 // e.size)), align=8)

        e.loop(0, e.row, lanes, step=e.width * e.size)
    return kernel(emit, zero, "iii")


def _across(e: Emitter, vector, join: Callable):
    """The numbers of a vector joined into one, by halves: the order does not depend on the data."""
    width = e.width
    while width > 1:
        width //= 2
        places = [i % (2 * width) for i in range(width, width + e.width)]
        vector = join(vector, e.shuffle(vector, vector, places))
    return e.builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))


def _row_vectors(e: Emitter, t, row) -> list:
    return [e.load(e.at(t, e.times(row, e.row), first)) for first in range(0, e.row, e.width * e.size)]


@intrinsic
def raise_tops(typing, t, rows, top, sums, state, blocks, negative, zero):
    def emit(e, t, rows, top, sums, state, blocks, negative):
        build = e.builder

        def each_row(row):
            place = e.at(top, e.times(row, e.size))
            before = e.load_one(place)
            best = e.broadcast(before)
            for vector in _row_vectors(e, t, row):
                best = e.larger(vector, best)
            best = _across(e, best, e.larger)
            build.store(best, place)
            seen = build.fcmp_ordered(">", best, ir.Constant(e.real, float("-inf")))
            reference = build.select(seen, best, ir.Constant(e.real, 0.0))
            build.store(build.fneg(reference), e.at(negative, e.times(row, e.size)))
            with build.if_then(build.fcmp_ordered(">", best, before)):
                shrink = e.exp2(e.broadcast(build.fsub(before, reference)))
                place = e.at(sums, e.times(row, e.size))
                one = build.extract_element(shrink, ir.Constant(ir.IntType(32), 0))
                build.store(build.fmul(e.load_one(place), one), place)

                def block(number):
                    place = e.at(state, e.times(build.add(build.mul(row, blocks), number), e.row))
                    for first in range(0, e.row, e.width * e.size):
                        e.store(build.fmul(e.load(e.at(place, first)), shrink), e.at(place, first))

                e.loop(0, blocks, block)

        e.loop(0, rows, each_row)
    return kernel(emit, zero, "iiiiiii")


@intrinsic
def sum_lanes(typing, t, rows, out, zero):
    def emit(e, t, rows, out):
        def each_row(row):
            vectors = _row_vectors(e, t, row)
            total = vectors[0]
            for vector in vectors[1:]:
                total = e.builder.fadd(total, vector)
            place = e.at(out, e.times(row, e.size))
            e.builder.store(e.builder.fadd(e.load_one(place), _across(e, total, e.builder.fadd)), place)
        e.loop(0, rows, each_row)
    return kernel(emit, zero, "iii")


@intrinsic
def triangle(typing, s, keys, total, zero):
    def emit(e, s, keys, total):
        build = e.builder
        places = range(0, e.row, e.width * e.size)

        def key(j, *totals):
            own = e.broadcast_int(build.trunc(j, ir.IntType(32)))
            sums = []
            for first, so_far in zip(places, totals, strict=True):
                seen = build.icmp_signed(">=", e.lanes(first // e.size), own)
                place = e.at(s, e.times(j, e.row), first)
                weight = build.select(seen, e.load(place), e.splat(0.0))
                e.store(weight, place)
                sums.append(build.fadd(so_far, weight))
            return sums

        totals = e.loop(0, keys, key, [e.load(e.at(total, first)) for first in places])
        for first, vector in zip(places, totals, strict=True):
            e.store(vector, e.at(total, first))
    return kernel(emit, zero, "iii")


@intrinsic
def decay(typing, s, count, keys, lanes, reference, zero):
    def emit(e, s, count, keys, lanes, reference):
        build = e.builder

        def key(j):
            own = e.broadcast_int(build.trunc(j, ir.IntType(32)))
            exponent = e.broadcast(e.load_one(e.at(keys, e.times(j, e.size))))
            for first in range(0, e.row, e.width * e.size):
                x = build.fadd(exponent, e.load(e.at(lanes, first)))
                factor = e.exp2(build.fsub(x, e.load(e.at(reference, first))))
                place = e.at(s, e.times(j, e.row), first)
                # lanes before the key keep what they have: their factor may be too large for any float
                seen = build.icmp_signed(">=", e.lanes(first // e.size), own)
                number = e.load(place)
                e.store(build.select(seen, build.fmul(number, factor), number), place)

        e.loop(0, count, key)
    return kernel(emit, zero, "iiiii")
