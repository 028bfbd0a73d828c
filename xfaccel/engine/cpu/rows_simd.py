"""The gathering engine's micro-kernels on vectors; each says what its namesake in `rows_plain` says."""

from llvmlite import ir
from numba.extending import intrinsic

from xfaccel.engine.cpu.brain import INT, SHORT, from_brain
from xfaccel.engine.cpu.rows_plain import BRAIN, BYTE, HALF, QUERIES, REAL, collect
from xfaccel.engine.cpu.vector import casts_half, kernel
from xfaccel.engine.tiles import TILE

__all__ = ["BRAIN", "BYTE", "HALF", "QUERIES", "REAL", "collect", "row_scores", "row_softmax", "row_sum",
           "rows_scores", "rows_sum"]


def _row(e, base, stride, keys, j):
    """Where the row lies that the list `keys` names in place j."""
    number = e.builder.load(e.at(keys, e.times(j, 8)), typ=ir.IntType(64), align=8)
    return e.at(base, e.builder.mul(number, stride))


def _each_kind(e, kind, emit):
    """Code that `emit(read)` writes for each kind of numbers that keys may be, and a branch among them.

    `read(row, c, count)` is a vector of the numbers from column c of a row on.
    """
    def reader(size, cast, stored=None):
        def read(row, c, count):
            wrap = lambda element: ir.VectorType(element, count)
            stored_as = wrap(stored or e.real)
            x = e.builder.load(e.at(row, e.times(c, size)), typ=stored_as, align=size)
            return cast(x, wrap)
        return read

    build = e.builder
    readers = {REAL: reader(e.size, lambda x, wrap: x)}
    readers[BYTE] = reader(1, lambda x, wrap: build.sitofp(build.sext(x, wrap(INT)), wrap(e.real)),
                           ir.IntType(8))
    if e.size == 4:
        readers[BRAIN] = reader(2, lambda x, wrap: from_brain(build, x, wrap), SHORT)
        if casts_half():
            readers[HALF] = reader(2, lambda x, wrap: build.fpext(x, wrap(e.real)), ir.HalfType())
    for number, read in readers.items():
        with build.if_then(build.icmp_signed("==", kind, e.index(number))):
            emit(read)


def _emit_scores(e, queries, q, q_row, k, k_row, keys, count, width, factor, out, out_row, kind):
    """Code for the scores of one or several queries at once: a key is loaded for all of them."""
    build = e.builder
    whole = build.sub(width, build.srem(width, e.index(e.width)))
    own = [e.at(q, e.times(q_row, r)) for r in range(queries)]
    zero = ir.Constant(ir.IntType(32), 0)

    def scores(read):
        def key(j):
            row = _row(e, k, k_row, keys, j)

            def vectors(c, *totals):
                part = read(row, c, e.width)
                return [e.multiply_add(e.load(e.at(query, e.times(c, e.size))), part, total)
                        for query, total in zip(own, totals, strict=True)]

            def left(c, *totals):
                part = build.extract_element(read(row, c, 1), zero)
                return [build.fadd(total, build.fmul(e.load_one(e.at(query, e.times(c, e.size))), part))
                        for query, total in zip(own, totals, strict=True)]

            sums = e.loop(0, whole, vectors, [e.splat(0.0)] * queries, step=e.width)
            totals = e.loop(whole, width, left, [e.sum_across(x) for x in sums])
            for r, total in enumerate(totals):
                build.store(build.fmul(total, factor), e.at(out, e.times(out_row, r), e.times(j, e.size)))

        e.loop(0, count, key)

    _each_kind(e, kind, scores)


@intrinsic
def row_scores(typing, q, k, k_row, keys, count, width, factor, out, kind, zero):
    def emit(e, q, *rest):
        *rest, out, kind = rest
        _emit_scores(e, 1, q, e.index(0), *rest, out, e.index(0), kind)
    return kernel(emit, zero, "iiiiiifii")


@intrinsic
def rows_scores(typing, q, q_row, k, k_row, keys, count, width, factor, out, out_row, kind, zero):
    return kernel(lambda e, *rest: _emit_scores(e, QUERIES, *rest), zero, "iiiiiiifiii")


@intrinsic
def row_softmax(typing, s, count, top, total, zero):
    def emit(e, s, count, top, total):
        build = e.builder
        nothing, lowest = ir.Constant(e.real, 0.0), ir.Constant(e.real, float("-inf"))
        padded = build.and_(build.add(count, e.index(TILE - 1)), e.index(-TILE))

        def place(j):
            return e.at(s, e.times(j, e.size))

        # places beyond the count weigh nothing, and are no score that could be the largest
        e.loop(count, padded, lambda j: build.store(lowest, place(j)) and None)
        [tops] = e.loop(0, padded, lambda j, best: [e.larger(e.load(place(j)), best)],
                        [e.splat(float("-inf"))], step=e.width)
        largest = e.largest_across(tops)
        seen = build.fcmp_ordered(">", largest, lowest)
        reference = e.broadcast(build.select(seen, largest, nothing))

        def weigh(j, summed):
            weight = e.exp2(build.fsub(e.load(place(j)), reference))
            e.store(weight, place(j))
            return [build.fadd(summed, weight)]

        [sums] = e.loop(0, padded, weigh, [e.splat(0.0)], step=e.width)
        build.store(largest, e.at(top))
        build.store(e.sum_across(sums), e.at(total))
    return kernel(emit, zero, "iiii")


def _emit_sum(e, queries, p, p_row, keys, count, v, v_row, width, total, out, row, kind):
    """Code for the sums of one or several queries at once: a value is loaded for all of them."""
    build = e.builder
    nothing, one = ir.Constant(e.real, 0.0), ir.Constant(e.real, 1.0)

    def inverse(r):
        divisor = e.load_one(e.at(total, e.times(row, r)))
        return build.select(build.fcmp_ordered("==", divisor, nothing), nothing, build.fdiv(one, divisor))

    inverses = [inverse(r) for r in range(queries)]
    vectors_of = [e.broadcast(x) for x in inverses]
    whole = build.sub(width, build.srem(width, e.index(e.width)))

    def weight(r, j):
        return e.load_one(e.at(p, e.times(p_row, r), e.times(j, e.size)))

    def sums_of(read):
        def block(first, vectors):
            def key(j, *sums):
                place = _row(e, v, v_row, keys, j)
                parts = [read(place, build.add(first, e.index(a * e.width)), e.width) for a in range(vectors)]
                numbers = [e.broadcast(weight(r, j)) for r in range(queries)]
                return [e.multiply_add(number, part, sums[r * vectors + a])
                        for r, number in enumerate(numbers) for a, part in enumerate(parts)]

            sums = e.loop(0, count, key, [e.splat(0.0)] * (queries * vectors))
            for r in range(queries):
                for a in range(vectors):
                    place = e.at(out, e.times(row, r), e.times(first, e.size), a * e.width * e.size)
                    e.store(build.fmul(sums[r * vectors + a], vectors_of[r]), place)

        def left(c):
            def key(j, *sums):
                value = read(_row(e, v, v_row, keys, j), c, 1)
                value = build.extract_element(value, ir.Constant(ir.IntType(32), 0))
                return [build.fadd(summed, build.fmul(weight(r, j), value)) for r, summed in enumerate(sums)]

            sums = e.loop(0, count, key, [nothing] * queries)
            for r, summed in enumerate(sums):
                place = e.at(out, e.times(row, r), e.times(c, e.size))
                build.store(build.fmul(summed, inverses[r]), place)

        # four vectors of columns at a time, then one, then the columns that fill no vector
        fours = build.sub(width, build.srem(width, e.index(4 * e.width)))
        e.loop(0, fours, lambda c: block(c, 4), step=4 * e.width)
        e.loop(fours, whole, lambda c: block(c, 1), step=e.width)
        e.loop(whole, width, left)

    _each_kind(e, kind, sums_of)


@intrinsic
def row_sum(typing, p, keys, count, v, v_row, width, total, out, kind, zero):
    def emit(e, p, *rest):
        *rest, kind = rest
        _emit_sum(e, 1, p, e.index(0), *rest, e.index(0), kind)
    return kernel(emit, zero, "iiiiiiiii")


@intrinsic
def rows_sum(typing, p, p_row, keys, count, v, v_row, width, total, out, row, kind, zero):
    return kernel(lambda e, *rest: _emit_sum(e, QUERIES, *rest), zero, "iiiiiiiiiii")
