"""Scores and weighted sums on vectors: the two micro-kernels that do the work, as `tile_plain` defines them.

Both are outer products: a register tile of `across` vectors of lanes by `down` keys (or value columns) stays
in registers through the whole inner loop, which loads a few vectors from a tile, broadcasts a few numbers
from where the caller's array lies, and multiplies all with all. Keys and values are therefore never packed;
only queries and outputs are transposed, in registers.

The forms for the past are for lanes and keys that are the same tokens: no key counts for the lanes before it,
and the lanes of a register tile only meet the keys up to the last of them.
"""

import functools

from numba.extending import intrinsic

from xfaccel.engine.cpu.vector import kernel


def emit_scores(e, k, k_row, k_column, keys, width, queries, out, *, past=False, pairs=False, factor=None):
    """Code for `scores`; of pairs of bfloat16 as in `pairs_plain` with `pairs`, and times `factor`."""
    across, most_down, group = _register_tile(e, past)
    add_product = e.add_products_of_pairs if pairs else e.multiply_add

    def lanes(first):
        def tile(j, down):
            rows = [e.at(k, e.builder.mul(e.builder.add(j, e.index(r)), k_row)) for r in range(down)]

            def column(c, *sums):
                place = e.at(queries, e.times(c, e.row), first)
                vectors = [e.load(e.at(place, a * e.width * e.size)) for a in range(across)]
                offset = e.builder.mul(c, k_column)
                numbers = [e.broadcast(e.load_one(e.at(row, offset))) for row in rows]
                return [add_product(number, vector, sums[r * across + a])
                        for r, number in enumerate(numbers) for a, vector in enumerate(vectors)]

            sums = e.loop(0, width, column, [e.splat(0.0)] * (down * across))
            for r in range(down):
                place = e.at(out, e.times(j, e.row), r * e.row, first)
                for a in range(across):
                    total = sums[r * across + a]
                    total = total if factor is None else e.builder.fmul(total, factor)
                    e.store(total, e.at(place, a * e.width * e.size))

        e.in_tiles(_seen(e, keys, first, group) if past else keys, most_down, tile)

    e.loop(0, e.row, lanes, step=group)


def emit_accumulate(e, p, p_row, keys, v, v_row, v_column, width, shrink, out, out_row, *, past=False,
                    pairs=False):
    """Code for `accumulate`; of pairs of bfloat16 as in `pairs_plain` with `pairs`."""
    across, most_down, group = _register_tile(e, past)
    add_product = e.add_products_of_pairs if pairs else e.multiply_add

    def lanes(first):
        seen = _seen(e, keys, first, group) if past else keys

        def tile(c, down):
            base = e.at(v, e.builder.mul(c, v_column))
            columns = [e.at(base, e.builder.mul(e.index(r), v_column)) for r in range(down)]

            def key(j, *sums):
                place = e.at(p, e.builder.mul(j, p_row), first)
                vectors = [e.load(e.at(place, a * e.width * e.size)) for a in range(across)]
                offset = e.builder.mul(j, v_row)
                numbers = [e.broadcast(e.load_one(e.at(column, offset))) for column in columns]
                return [add_product(number, vector, sums[r * across + a])
                        for r, number in enumerate(numbers) for a, vector in enumerate(vectors)]

            sums = e.loop(0, seen, key, [e.splat(0.0)] * (down * across))
            for a in range(across):
                factor = e.load(e.at(shrink, first, a * e.width * e.size))
                for r in range(down):
                    row = e.builder.mul(e.builder.add(c, e.index(r)), out_row)
                    place = e.at(out, row, first, a * e.width * e.size)
                    e.store(e.multiply_add(e.load(place), factor, sums[r * across + a]), place)

        e.in_tiles(width, most_down, tile)

    e.loop(0, e.row, lanes, step=group)


def _register_tile(e, past):
    """Vectors across, numbers down, bytes of lanes. Half as wide and twice as high where one tile would span
    all lanes although the first of them need fewer keys."""
    if past and e.group == e.row:
        return e.across // 2, 2 * e.down, e.group // 2
    return e.across, e.down, e.group


def _seen(e, keys, first, group):
    """How many of the keys come no later than the last of the lanes at `first`, a key for each lane."""
    last = e.builder.udiv(e.builder.add(first, e.index(group)), e.index(e.size))
    return e.builder.select(e.builder.icmp_signed("<", last, keys), last, keys)


@intrinsic
def scores(typing, k, k_row, k_column, keys, width, queries, out, zero):
    return kernel(emit_scores, zero, "iiiiiii")


@intrinsic
def scores_past(typing, k, k_row, k_column, keys, width, queries, out, zero):
    return kernel(functools.partial(emit_scores, past=True), zero, "iiiiiii")


@intrinsic
def accumulate(typing, p, p_row, keys, v, v_row, v_column, width, shrink, out, out_row, zero):
    return kernel(emit_accumulate, zero, "iiiiiiiiii")


@intrinsic
def accumulate_past(typing, p, p_row, keys, v, v_row, v_column, width, shrink, out, out_row, zero):
    return kernel(functools.partial(emit_accumulate, past=True), zero, "iiiiiiiiii")
