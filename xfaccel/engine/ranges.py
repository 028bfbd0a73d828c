"""What each query sees as a few ranges of keys, made when asked for: nothing as long as all pairs is kept.

A part of a pattern has a step: query i, at position p = i + m - n, sees the keys p mod step + step * t with
start <= t < stop for one of its ranges. Strides and dilations are thus one range per query. A part is a
function from queries to ranges, so that union, intersection and difference are made for the queries at hand.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

TILE = 64        # tokens in a tile: four AVX-512 registers of float32, and one bit each in an int64
WIDE = 1 << 60   # a limit that never binds
ROOM = 1 << 15   # ranges that are held at once

Array = np.ndarray
Ranges = tuple[Array, Array]  # starts, stops (rows, R): ascending and disjoint, some of them empty
# the weights of two sets, and the sums of those of a key that is in
EITHER, BOTH, FIRST_ALONE = (1, 1, (1, 2)), (1, 1, (2,)), (1, 2, (1,))


class Part(NamedTuple):
    """Keys one step apart: `at(queries)` gives the ranges of an array of queries."""

    step: int
    at: Callable[[Array], Ranges]
    band: tuple[int, int] | None = None  # low, high if the ranges are those of `tiles.band`


def banded(n: int, m: int, low: int, high: int, step: int) -> Part:
    """The keys p + step * h with low <= h <= high."""
    step = min(step, n + m + 1)  # no two positions lie further apart

    def at(queries: Array) -> Ranges:
        own, rest = np.divmod(queries[:, None] + m - n, step)
        keys = np.maximum(-((rest - m) // step), 0)
        start = np.clip(own + low, 0, keys)
        return start, np.clip(own + high + 1, start, keys)

    return Part(step, at, (low, high))


def per_row(starts: Array, stops: Array, block: int = 1) -> Part:
    """Row t of these (rows, R) ranges for the queries t * block .. (t + 1) * block - 1."""
    return Part(1, lambda queries: (starts[queries // block], stops[queries // block]))


def union(n: int, m: int, *patterns: tuple[Part, ...]) -> tuple[Part, ...]:
    """What any part of any of the patterns sees: one part for each step, and every step divides the next."""
    by_step: dict[int, Part] = {}
    for part in itertools.chain(*patterns):
        other = by_step.get(part.step)
        by_step[part.step] = part if other is None else _of_both(n, m, other, part, part.step, EITHER)
    steps = sorted(by_step)
    if all(later % step == 0 for step, later in itertools.pairwise(steps)):
        return tuple(by_step[step] for step in steps)
    return union(n, m, [_finer(n, m, part, math.gcd(*steps)) for part in by_step.values()])


def intersection(n: int, m: int, a: tuple[Part, ...], b: tuple[Part, ...]) -> tuple[Part, ...]:
    """What a part of each pattern sees."""
    return union(n, m, [_both(n, m, x, y) for x in a for y in b])


def disjoint(n: int, m: int, parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """The same parts of a union, each without what an earlier one sees."""
    out: list[Part] = []
    for part in parts:
        for other in parts[:len(out)]:
            part = _of_both(n, m, part, other, part.step, FIRST_ALONE)
        out.append(part)
    return tuple(out)


def where(kept: Array, parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """The parts for the queries that are `kept` (n), and nothing for the others."""
    def only(part: Part) -> Part:
        def at(queries: Array) -> Ranges:
            starts, stops = part.at(queries)
            return starts, np.where(kept[queries, None], stops, starts)
        return Part(part.step, at)

    return tuple(only(part) for part in parts)


def of_queries(n: int, m: int, parts: tuple[Part, ...], chosen: Array) -> tuple[Part, ...]:
    """The parts for the `chosen` queries, counted from 0."""
    whole, = union(n, m, [_finer(n, m, part, 1) for part in parts])
    return (Part(1, lambda queries: whole.at(chosen[queries])),)


def number(n: int, m: int, parts: tuple[Part, ...]) -> Array:
    """How many keys each query sees."""
    found = [np.zeros(0, np.int64)]
    for _, seen in batches(np.arange(n), disjoint(n, m, parts)):
        found.append(sum((stops - starts).sum(axis=1) for starts, stops in seen))
    return np.concatenate(found)


def batches(queries: Array, parts: tuple[Part, ...]) -> Iterator[tuple[Array, list[Ranges]]]:
    """The queries, as many at a time as there is room for, and their ranges in each part."""
    size = batch(queries, parts)
    for first in range(0, len(queries), size):
        chosen = queries[first:first + size]
        yield chosen, [part.at(chosen) for part in parts]


def batch(queries: Array, parts: tuple[Part, ...]) -> int:
    """How many queries, in whole tiles, there is room for."""
    some = queries[::max(1, len(queries) // 61)]  # a prime: what is special at every power of 2 is not all
    widest = sum(part.at(some)[0].shape[1] for part in parts)
    return max(1, ROOM // max(widest, 1) // TILE) * TILE


def pairs(n: int, m: int, parts: tuple[Part, ...]) -> Iterator[tuple[Array, Array]]:
    """How many keys each query sees, and these keys in ascending order, for some queries at a time."""
    parts = disjoint(n, m, parts)
    for queries, seen in batches(np.arange(n), parts):
        found = []
        for part, ranges in zip(parts, seen, strict=True):
            row, place = _places(ranges)
            found.append(row * m + (queries[row] + m - n) % part.step + part.step * place)
        row, key = np.divmod(np.sort(np.concatenate(found)), m)
        yield np.bincount(row, minlength=len(queries)), key


def _places(ranges: Ranges) -> tuple[Array, Array]:
    """Row and place of everything in the ranges, row by row."""
    starts, stops = (x.ravel() for x in ranges)
    lengths = stops - starts
    ends = np.cumsum(lengths)
    place = np.arange(ends[-1] if ends.size else 0)
    place += np.repeat(starts - ends + lengths, lengths)
    return np.repeat(np.arange(len(starts)) // max(ranges[0].shape[1], 1), lengths), place


def _both(n: int, m: int, a: Part, b: Part) -> Part:
    """What both parts see: keys at multiples of both steps."""
    step = math.lcm(a.step, b.step)
    if a.band and b.band:
        low = max(-(-part.band[0] * part.step // step) for part in (a, b))
        high = min(part.band[1] * part.step // step for part in (a, b))
        return banded(n, m, low, high, step)
    return _of_both(n, m, a, b, step, BOTH)


def _of_both(n: int, m: int, a: Part, b: Part, step: int, which: tuple) -> Part:
    return Part(step, lambda queries: combined(_coarser(n, m, a, step, queries),
                                               _coarser(n, m, b, step, queries), which))


def combined(a: Ranges, b: Ranges, which: tuple = EITHER) -> Ranges:
    """Union, intersection or difference, row by row: a walk along the edges of both."""
    *weights, inside = which
    # starts come first, so that ranges which touch become one
    edges = np.concatenate([a[0], b[0], a[1], b[1]], axis=1)
    change = np.repeat([*weights, -weights[0], -weights[1]], 2 * [a[0].shape[1], b[0].shape[1]])
    order = np.argsort(edges, axis=1, kind="stable")
    level = np.cumsum(change[order], axis=1)
    edges = np.take_along_axis(edges, order, axis=1)
    now = np.zeros(level.shape, bool)
    for total in inside:
        now |= level == total
    before = np.zeros_like(now)
    before[:, 1:] = now[:, :-1]
    begins, ends = now & ~before, before & ~now
    width = int(begins.sum(axis=1).max(initial=0))
    starts, stops = (np.sort(np.where(x, edges, WIDE), axis=1)[:, :width] for x in (begins, ends))
    return starts, stops


def _coarser(n: int, m: int, part: Part, step: int, queries: Array) -> Ranges:
    """The part's ranges, in hops of a multiple of its step."""
    ranges = part.at(queries)
    if step == part.step:
        return ranges
    position = queries[:, None] + m - n
    between = position % part.step - position % step
    end = m // part.step + 1  # edges beyond it stand for nothing, and their multiples could overflow
    starts, stops = (-(-(between + part.step * np.minimum(x, end)) // step) for x in ranges)
    return np.maximum(starts, 0), np.maximum(stops, 0)


def _finer(n: int, m: int, part: Part, step: int) -> Part:
    """The part in hops of a divisor of its step: one range per key."""
    def at(queries: Array) -> Ranges:
        row, place = _places(part.at(queries))
        position = queries[row] + m - n
        place = (position % part.step + part.step * place - position % step) // step
        number = np.bincount(row, minlength=len(queries))
        starts = np.full((len(queries), number.max(initial=0)), WIDE)
        starts[row, np.arange(len(row)) - (np.cumsum(number) - number)[row]] = place
        return starts, np.where(starts < WIDE, starts + 1, WIDE)

    return part if step == part.step else Part(step, at)
