"""What is added to scores and what hides them, on vectors; each kernel does what `tile_plain` says of it."""

from llvmlite import ir
from numba.extending import intrinsic

from xfaccel.engine.cpu.tile_plain import LOG2_E
from xfaccel.engine.cpu.vector import I64, columns_of, kernel, rows_of
from xfaccel.engine.tiles import TILE

_MANY = 1 << 20  # larger band limits mean the same as this one, which fits an int32


def _gathered(e, pointers):
    """A vector of one number from each pointer."""
    vector = ir.Constant(e.vector, ir.Undefined)
    for r, pointer in enumerate(pointers):
        vector = e.builder.insert_element(vector, e.load_one(pointer), ir.Constant(ir.IntType(32), r))
    return vector


@intrinsic
def add_rows(typing, s, keys, count, bias, row, zero):
    def emit(e, s, keys, count, bias, row):
        build = e.builder
        factors = e.splat(LOG2_E)
        whole = build.sub(keys, build.srem(keys, e.index(e.width)))

        def lanes(first):
            pointers = rows_of(e, bias, row, first, count)

            def columns(j):
                for r, vector in enumerate(columns_of(e, pointers, j)):
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
def add_shared(typing, s, keys, bias, zero):
    def emit(e, s, keys, bias):
        backwards = list(reversed(range(e.width)))

        def key(j):
            for first in range(0, TILE, e.width):
                place = e.at(s, e.times(j, e.row), first * e.size)
                lanes = e.load(e.at(bias, e.times(j, e.size), (TILE - first - e.width) * e.size))
                lanes = e.shuffle(lanes, lanes, backwards)
                e.store(e.multiply_add(lanes, e.splat(LOG2_E), e.load(place)), place)

        e.loop(0, keys, key)
    return kernel(emit, zero, "iii")


@intrinsic
def add_lanes(typing, s, keys, count, bias, row, zero):
    def emit(e, s, keys, count, bias, row):
        def lanes(first):
            vector = _gathered(e, rows_of(e, bias, row, first, count))

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
