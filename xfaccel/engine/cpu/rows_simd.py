"""The gathering engine's micro-kernels on vectors; each says what its namesake in `rows_plain` says."""

from llvmlite import ir
from numba.extending import intrinsic

from xfaccel.engine.cpu.rows_plain import collect
from xfaccel.engine.cpu.vector import kernel
from xfaccel.engine.tiles import TILE

__all__ = ["collect", "row_scores", "row_softmax", "row_sum"]


def _row(e, base, stride, keys, j):
    """Where the row lies that the list `keys` names in place j."""
    number = e.builder.load(e.at(keys, e.times(j, 8)), typ=ir.IntType(64), align=8)
    return e.at(base, e.builder.mul(number, stride))


@intrinsic
def row_scores(typing, q, k, k_row, keys, count, width, factor, out, zero):
    def emit(e, q, k, k_row, keys, count, width, factor, out):
        build = e.builder
        whole = build.sub(width, build.srem(width, e.index(e.width)))

        def key(j):
            row = _row(e, k, k_row, keys, j)

            def vectors(c, total):
                offset = e.times(c, e.size)
                return [e.multiply_add(e.load(e.at(q, offset)), e.load(e.at(row, offset)), total)]

            def left(c, total):
                offset = e.times(c, e.size)
                product = build.fmul(e.load_one(e.at(q, offset)), e.load_one(e.at(row, offset)))
                return [build.fadd(total, product)]

            [sums] = e.loop(0, whole, vectors, [e.splat(0.0)], step=e.width)
            [total] = e.loop(whole, width, left, [e.sum_across(sums)])
            build.store(build.fmul(total, factor), e.at(out, e.times(j, e.size)))

        e.loop(0, count, key)
    return kernel(emit, zero, "iiiiiifi")


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


@intrinsic
def row_sum(typing, p, keys, count, v, v_row, width, total, out, zero):
    def emit(e, p, keys, count, v, v_row, width, total, out):
        build = e.builder
        divisor = e.load_one(e.at(total))
        nothing, one = ir.Constant(e.real, 0.0), ir.Constant(e.real, 1.0)
        inverse = build.select(build.fcmp_ordered("==", divisor, nothing), nothing, build.fdiv(one, divisor))
        inverses = e.broadcast(inverse)
        whole = build.sub(width, build.srem(width, e.index(e.width)))

        def weight(j):
            return e.load_one(e.at(p, e.times(j, e.size)))

        def block(first, vectors):
            def key(j, *sums):
                row = e.at(_row(e, v, v_row, keys, j), e.times(first, e.size))
                number = e.broadcast(weight(j))
                return [e.multiply_add(number, e.load(e.at(row, a * e.width * e.size)), sums[a])
                        for a in range(vectors)]

            sums = e.loop(0, count, key, [e.splat(0.0)] * vectors)
            for a in range(vectors):
                place = e.at(out, e.times(first, e.size), a * e.width * e.size)
                e.store(build.fmul(sums[a], inverses), place)

        def left(c):
            def key(j, summed):
                value = e.load_one(e.at(_row(e, v, v_row, keys, j), e.times(c, e.size)))
                return [build.fadd(summed, build.fmul(weight(j), value))]

            [summed] = e.loop(0, count, key, [nothing])
            build.store(build.fmul(summed, inverse), e.at(out, e.times(c, e.size)))

        # four vectors of columns at a time, then one, then the columns that fill no vector
        fours = build.sub(width, build.srem(width, e.index(4 * e.width)))
        e.loop(0, fours, lambda c: block(c, 4), step=4 * e.width)
        e.loop(fours, whole, lambda c: block(c, 1), step=e.width)
        e.loop(whole, width, left)
    return kernel(emit, zero, "iiiiiiii")
