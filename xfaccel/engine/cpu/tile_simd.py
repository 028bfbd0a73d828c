"""The softmax engine's micro-kernels on vectors; each says what its namesake in `tile_plain` says.

The two that do the work, `scores` and `accumulate`, have a file of their own, `products_simd`.
"""

import functools

from llvmlite import ir
from numba.extending import intrinsic

from xfaccel.engine.cpu.products_simd import accumulate, accumulate_past, scores, scores_past
from xfaccel.engine.cpu.tile_plain import (
    LOG2_E,
    add_bias,
    add_clipped,
    copy_row,
    copy_seen,
    hide_keys,
    hide_mask,
    logarithms,
    seen_keys,
)
from xfaccel.engine.cpu.vector import I64, kernel
from xfaccel.engine.tiles import TILE

__all__ = ["accumulate", "accumulate_past", "add_bias", "add_clipped", "add_lanes", "add_rows",
           "add_skewed", "copy_row", "copy_seen", "fill", "fold", "hide_band", "hide_bits", "hide_keys",
           "hide_labels", "hide_mask", "logarithms", "pack", "scores", "scores_past", "seen_keys", "softmax",
           "unpack"]

_MANY = 1 << 20  # larger band limits mean the same as this one, which fits an int32


def _rows_of(e, x, x_row, first, count):
    """Pointers to the rows of `width` lanes; those beyond the count repeat the last: nobody looks at them."""
    build = e.builder
    last = build.sub(count, e.index(1))
    pointers = []
    for r in range(e.width):
        lane = build.add(first, e.index(r))
        lane = build.select(build.icmp_signed("<", lane, last), lane, last)
        pointers.append(e.at(x, build.mul(lane, x_row)))
    return pointers


def _gathered(e, pointers):
    """A vector of one number from each pointer."""
    vector = ir.Constant(e.vector, ir.Undefined)
    for r, pointer in enumerate(pointers):
        vector = e.builder.insert_element(vector, e.load_one(pointer), ir.Constant(ir.IntType(32), r))
    return vector


@intrinsic
def pack(typing, x, x_row, count, width, factor, out, zero):
    def emit(e, x, x_row, count, width, factor, out):
        build = e.builder
        last = build.sub(count, e.index(1))
        factors = e.broadcast(factor)
        whole = build.sub(width, build.srem(width, e.index(e.width)))

        def lanes(first):
            pointers = _rows_of(e, x, x_row, first, count)

            def columns(c):
                vectors = [e.load(e.at(pointer, e.times(c, e.size))) for pointer in pointers]
                for r, vector in enumerate(e.transpose(vectors)):
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
def hide_band(typing, s, keys, low, high, zero):
    def emit(e, s, keys, low, high):
        build, short = e.builder, ir.IntType(32)

        def limited(number):
            for sign, bound in ((">", _MANY), ("<", -_MANY)):
                beyond = build.icmp_signed(sign, number, e.index(bound))
                number = build.select(beyond, e.index(bound), number)
            return number

        low, high = limited(low), limited(high)

        def key(j):
            # low <= j - lane <= high, as lane >= j - high and lane <= j - low
            least = e.broadcast_int(build.trunc(build.sub(j, high), short))
            most = e.broadcast_int(build.trunc(build.sub(j, low), short))
            for first in range(0, TILE, e.width):
                seen = build.and_(build.icmp_signed(">=", e.lanes(first), least),
                                  build.icmp_signed("<=", e.lanes(first), most))
                place = e.at(s, e.times(j, e.row), first * e.size)
                e.store(build.select(seen, e.load(place), e.splat(float("-inf"))), place)

        e.loop(0, keys, key)
    return kernel(emit, zero, "iiii")


@intrinsic
def hide_labels(typing, s, keys, own, others, step, low, high, zero):
    def emit(e, s, keys, own, others, step, low, high):
        build, short = e.builder, ir.IntType(32)
        wide = ir.VectorType(I64, e.width)
        # one comparison of numbers without sign: what lies below low counts as very large
        lowest = e.broadcast_int(build.trunc(low, short))
        span = e.broadcast_int(build.trunc(build.sub(high, low), short))

        def lanes(first):
            label = build.load(e.at(own, e.times(first, 8)), typ=wide, align=8)
            least = build.add(build.trunc(label, ir.VectorType(short, e.width)), lowest)

            def key(j):
                other = build.load(e.at(others, build.mul(j, step)), typ=I64, align=8)
                beyond = build.sub(e.broadcast_int(build.trunc(other, short)), least)
                place = e.at(s, e.times(j, e.row), e.times(first, e.size))
                hidden = build.icmp_unsigned("<=", beyond, span)
                e.store(build.select(hidden, e.splat(float("-inf")), e.load(place)), place)

            e.loop(0, keys, key)

        e.loop(0, TILE, lanes, step=e.width)
    return kernel(emit, zero, "iiiiiii")


@intrinsic
def add_rows(typing, s, keys, count, bias, row, zero):
    def emit(e, s, keys, count, bias, row):
        build = e.builder
        factors = e.splat(LOG2_E)
        whole = build.sub(keys, build.srem(keys, e.index(e.width)))

        def lanes(first):
            pointers = _rows_of(e, bias, row, first, count)

            def columns(j):
                vectors = [e.load(e.at(pointer, e.times(j, e.size))) for pointer in pointers]
                for r, vector in enumerate(e.transpose(vectors)):
                    place = e.at(s, e.times(j, e.row), e.times(first, e.size), r * e.row)
                    e.store(e.multiply_add(vector, factors, e.load(place)), place)

            def column_left(j):
                place = e.at(s, e.times(j, e.row), e.times(first, e.size))
                vector = _gathered(e, [e.at(pointer, e.times(j, e.size)) for pointer in pointers])
                e.store(e.multiply_add(vector, factors, e.load(place)), place)

            e.loop(0, whole, columns, step=e.width)
            e.loop(whole, keys, column_left)

        e.loop(0, TILE, lanes, step=e.width)
    return kernel(emit, zero, "iiiii")


@intrinsic
def add_lanes(typing, s, keys, count, bias, row, zero):
    def emit(e, s, keys, count, bias, row):
        def lanes(first):
            vector = _gathered(e, _rows_of(e, bias, row, first, count))

            def key(j):
                place = e.at(s, e.times(j, e.row), e.times(first, e.size))
                e.store(e.multiply_add(vector, e.splat(LOG2_E), e.load(place)), place)

            e.loop(0, keys, key)

        e.loop(0, TILE, lanes, step=e.width)
    return kernel(emit, zero, "iiiii")


@intrinsic
def add_skewed(typing, s, keys, lower, upper, zero):
    def emit(e, s, keys, lower, upper):
        build, factors = e.builder, e.splat(LOG2_E)

        def block(j, first):
            # a square of keys and lanes: distances grow by one from key to key and from the last lane to the
            # first, so it takes twice as many rows, less one; a vector's width of them lies in one tile
            begin = build.sub(j, e.index(first + e.width - TILE))
            rows = []
            for row in (begin, build.add(begin, e.index(e.width))):
                in_lower = build.icmp_signed("<", row, e.index(TILE))
                base = build.select(in_lower, lower, build.sub(upper, e.index(TILE * e.row)))
                place = e.at(base, e.times(row, e.row), first * e.size)
                rows += [e.load(e.at(place, r * e.row)) for r in range(e.width)]
            for r, vector in enumerate(_skewed(e, rows[:-1])):
                place = e.at(s, e.times(j, e.row), r * e.row, first * e.size)
                e.store(e.multiply_add(vector, factors, e.load(place)), place)

        def blocks(j):
            for first in range(0, TILE, e.width):
                block(j, first)

        e.loop(0, keys, blocks, step=e.width)
    return kernel(emit, zero, "iiii")


def _skewed(e, rows):
    """Of 2 width - 1 vectors, vectors r whose lane l comes from row r + width - 1 - l.

    Lanes go steps of 1, 2, 4, ... rows, each those that make up its way.
    """
    half = 1
    while half < e.width:
        places = [lane + e.width * ((e.width - 1 - lane) // half % 2) for lane in range(e.width)]
        rows = [e.shuffle(a, b, places) for a, b in zip(rows, rows[half:], strict=False)]
        half *= 2
    return rows


@intrinsic
def hide_bits(typing, s, keys, words, zero):
    def emit(e, s, keys, words):
        build = e.builder

        def key(j):
            word = build.load(e.at(words, e.times(j, 8)), typ=ir.IntType(64), align=8)
            for first in range(0, TILE, e.width):
                bits = build.trunc(build.lshr(word, e.index(first)), ir.IntType(e.width))
                seen = build.bitcast(bits, ir.VectorType(ir.IntType(1), e.width))
                place = e.at(s, e.times(j, e.row), first * e.size)
                e.store(build.select(seen, e.load(place), e.splat(float("-inf"))), place)

        e.loop(0, keys, key)
    return kernel(emit, zero, "iii")
