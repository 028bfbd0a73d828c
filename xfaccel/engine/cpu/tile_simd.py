"""The softmax engine's micro-kernels on vectors; each says what its namesake in `tile_plain` says.

The two that do the work, `scores` and `accumulate`, are in `products_simd`, what is added to scores or hides
them in `bias_simd`.
"""

import functools

from llvmlite import ir
from numba.extending import intrinsic

from xfaccel.engine.cpu.bias_simd import (
    add_lanes,
    add_rows,
    add_shared,
    add_skewed,
    hide_band,
    hide_bits,
    hide_labels,
)
from xfaccel.engine.cpu.products_simd import accumulate, accumulate_past, scores, scores_past
from xfaccel.engine.cpu.tile_plain import (
    add_bias,
    add_clipped,
    copy_row,
    copy_seen,
    hide_keys,
    hide_mask,
    logarithms,
    seen_keys,
)
from xfaccel.engine.cpu.vector import I64, columns_of, kernel, rows_of
from xfaccel.engine.tiles import TILE

__all__ = ["accumulate", "accumulate_past", "add_bias", "add_clipped", "add_lanes", "add_rows", "add_shared",
           "add_skewed", "copy_row", "copy_rows", "copy_seen", "fill", "fold", "hide_band", "hide_bits",
           "hide_keys", "hide_labels", "hide_mask", "logarithms", "pack", "scores", "scores_past",
           "seen_keys", "softmax", "unpack"]


@intrinsic
def pack(typing, x, x_row, count, width, factor, out, zero):
    def emit(e, x, x_row, count, width, factor, out):
        build = e.builder
        last = build.sub(count, e.index(1))
        factors = e.broadcast(factor)
        whole = build.sub(width, build.srem(width, e.index(e.width)))

        def lanes(first):
            pointers = rows_of(e, x, x_row, first, count)

            def columns(c):
                for r, vector in enumerate(columns_of(e, pointers, c)):
                    target = e.at(out, e.times(c, e.row), e.times(first, e.size), r * e.row)
                    e.store(build.fmul(vector, factors), target)

            e.loop(0, whole, columns, step=e.width)

        def lane_left(lane):
            inside = build.icmp_signed("<", lane, last)
            pointer = e.at(x, build.mul(build.select(inside, lane, last), x_row))

            def column(c):
                number = build.fmul(e.load_one(e.at(pointer, e.times(c, e.size))), factor)
                build.store(number, e.at(out, e.times(c, e.row), e.times(lane, e.size)))

            e.loop(whole, width, column)

        e.loop(0, TILE, lanes, step=e.width)
        e.loop(0, TILE, lane_left)
    return kernel(emit, zero, "iiiifi")


@intrinsic
def softmax(typing, s, keys, top, total, shrink, zero):
    def emit(e, s, keys, top, total, shrink):
        build = e.builder

        def lanes(group):
            def places(base, *offsets):
                return [e.at(base, *offsets, group, a * e.width * e.size) for a in range(e.across)]

            before = [e.load(place) for place in places(top)]

            # in `down` sequences: in one of them each comparison would wait for the one before
            def largest(j, down, *tops):
                rows = [places(s, e.times(j, e.row), r * e.row) for r in range(down)]
                loaded = [e.load(place) for row in rows for place in row]
                return [*map(e.larger, loaded, tops), *tops[len(loaded):]]

            tops = e.in_tiles(keys, e.down, largest, before * e.down)
            tops = [functools.reduce(e.larger, tops[a::e.across]) for a in range(e.across)]
            # a lane that has seen nothing keeps -inf; exp2(-inf - 0) is then 0, where exp2(-inf + inf) is NaN
            seen = [build.fcmp_ordered(">", best, e.splat(float("-inf"))) for best in tops]
            reference = [build.select(some, best, e.splat(0.0))
                         for some, best in zip(seen, tops, strict=True)]
            factors = [e.exp2(build.fsub(old, new)) for old, new in zip(before, reference, strict=True)]

            def weigh(j, *totals):
                sums = []
                for place, best, so_far in zip(places(s, e.times(j, e.row)), reference, totals, strict=True):
                    weight = e.exp2(build.fsub(e.load(place), best))
                    e.store(weight, place)
                    sums.append(build.fadd(so_far, weight))
                return sums

            # the tile is summed apart and then added: one long sum would lose digits as the length grows
            sums = e.loop(0, keys, weigh, [e.splat(0.0)] * e.across)
            totals = [e.multiply_add(e.load(place), factor, summed)
                      for place, factor, summed in zip(places(total), factors, sums, strict=True)]
            for base, vectors in ((top, tops), (shrink, factors), (total, totals)):
                for place, vector in zip(places(base), vectors, strict=True):
                    e.store(vector, place)

        e.loop(0, e.row, lanes, step=e.group)
    return kernel(emit, zero, "iiiii")


@intrinsic
def unpack(typing, tile, count, width, total, out, out_row, zero):
    def emit(e, tile, count, width, total, out, out_row):
        build = e.builder
        whole = build.sub(width, build.srem(width, e.index(e.width)))

        def lanes(first):
            divisor = e.load(e.at(total, e.times(first, e.size)))
            empty = build.fcmp_ordered("==", divisor, e.splat(0.0))
            # one division serves all columns
            inverse = build.select(empty, e.splat(0.0), build.fdiv(e.splat(1.0), divisor))
            last = build.sub(build.sub(count, first), e.index(1))

            def columns(c):
                vectors = []
                for r in range(e.width):
                    number = e.load(e.at(tile, e.times(c, e.row), e.times(first, e.size), r * e.row))
                    vectors.append(build.fmul(number, inverse))
                # backwards: lanes beyond the count write where the last one does, and before it does
                for r, vector in reversed(list(enumerate(e.transpose(vectors)))):
                    inside = build.icmp_signed("<", e.index(r), last)
                    lane = build.add(first, build.select(inside, e.index(r), last))
                    e.store(vector, e.at(out, build.mul(lane, out_row), e.times(c, e.size)))

            e.loop(0, whole, columns, step=e.width)

        def lane_left(lane):
            divisor = e.load_one(e.at(total, e.times(lane, e.size)))
            nothing, one = ir.Constant(e.real, 0.0), ir.Constant(e.real, 1.0)
            empty = build.fcmp_ordered("==", divisor, nothing)
            inverse = build.select(empty, nothing, build.fdiv(one, divisor))

            def column(c):
                number = e.load_one(e.at(tile, e.times(c, e.row), e.times(lane, e.size)))
                place = e.at(out, build.mul(lane, out_row), e.times(c, e.size))
                build.store(build.fmul(number, inverse), place)

            e.loop(whole, width, column)

        # whole vectors of lanes that hold at least one of the count
        e.loop(0, count, lanes, step=e.width)
        e.loop(0, count, lane_left)
    return kernel(emit, zero, "iiiiii")


@intrinsic
def fill(typing, tile, rows, value, zero):
    def emit(e, tile, rows, value):
        vector = e.broadcast(value)
        e.loop(0, e.times(rows, e.row), lambda offset: e.store(vector, e.at(tile, offset)),
               step=e.width * e.size)
    return kernel(emit, zero, "iif")


@intrinsic
def fold(typing, part, rows, held, whole, zero):
    def emit(e, part, rows, held, whole):
        def row(r):
            for first in range(0, e.row, e.width * e.size):
                source, target = (e.at(base, e.times(r, e.row), first) for base in (part, whole))
                factor = e.load(e.at(held, first))
                e.store(e.multiply_add(e.load(target), factor, e.load(source)), target)
                e.store(e.splat(0.0), source)

        e.loop(0, rows, row)
    return kernel(emit, zero, "iiii")


@intrinsic
def copy_rows(typing, x, x_row, places, step, count, width, out, zero):
    def emit(e, x, x_row, places, step, count, width, out):
        build = e.builder
        whole = build.sub(width, build.srem(width, e.index(e.width)))
        out_row = e.times(width, e.size)

        def row(j):
            place = build.load(e.at(places, build.mul(j, step)), typ=I64, align=8)
            source, target = e.at(x, build.mul(place, x_row)), e.at(out, build.mul(j, out_row))

            def vector(c):
                offset = e.times(c, e.size)
                e.store(e.load(e.at(source, offset)), e.at(target, offset))

            def number(c):
                offset = e.times(c, e.size)
                build.store(e.load_one(e.at(source, offset)), e.at(target, offset))

            e.loop(0, whole, vector, step=e.width)
            e.loop(whole, width, number)

        e.loop(0, count, row)
    return kernel(emit, zero, "iiiiiii")
