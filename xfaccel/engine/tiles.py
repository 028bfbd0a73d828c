"""What both engines agree on: the size of a tile, and the lists of who sees whom, tile by tile.

A tile list is what the softmax engine walks through. Each tile is up to 64 queries, `first, step, count`;
each has segments of keys, `first, step, count, low, high, words`: lane l of the tile sees key t of the
segment iff low <= t - l <= high (a band; wide limits make it full) and, if words >= 0, bit l of masks[words +
t] is set. Positions are gone by then: the kernels know nothing of causality, windows or dilation.
"""

import bisect
import functools
import itertools
import weakref
from typing import NamedTuple

import numpy as np

from xfaccel.engine import ranges
from xfaccel.engine.ranges import TILE, WIDE

Array = np.ndarray
Plane = tuple[Array, Array, Array, Array]  # tiles, offsets, segments and masks, as below
MERGE = 2 * TILE  # to merge the outputs of two lists takes as long as so many keys more for each query


class TileList(NamedTuple):
    """Tiles of one plane after another; plane p holds the tiles planes[p] .. planes[p + 1] - 1."""

    planes: Array    # (P + 1) int64
    tiles: Array     # (T, 3) int64: first query, step, count
    offsets: Array   # (T + 1) int64: the segments of a tile
    segments: Array  # (S, 6) int64: first key, step, count, low, high, words
    masks: Array     # (W) int64
    places: tuple[int, ...]  # the addresses of these five
    slots: int       # tiles in the largest plane
    scores: int      # pairs of query lane and key that an engine computes: its measure of work


Share = tuple[Array | None, TileList]  # queries, or None for all of them, and what they see
_PAIRED: dict[int, TileList] = {}      # by the segments of another list, while these live


class _Cut(NamedTuple):
    """Tiles, and the stretches of keys on which the lanes of a tile do not change."""

    tiles: Array   # (T, 3) int64: first query, step, count
    tile: Array    # (I) int64, ascending: the tile of a stretch
    first: Array   # (I) int64: the key at place 0
    step: Array    # (I) int64: from a key to the next
    left: Array    # (I) int64: the place where it begins
    right: Array   # (I) int64: the place after its end
    lanes: Array   # (I) int64: a bit for each lane that sees it

    @property
    def scores(self) -> int:
        return TILE * int((self.right - self.left).sum())

    @property
    def pairs(self) -> int:
        return int(np.bitwise_count(self.lanes.view(np.uint64)) @ (self.right - self.left))


@functools.lru_cache(64)
def band(n: int, m: int, low: int, high: int, step: int = 1) -> TileList:
    """Queries i that see the keys j = p + step * h with low <= h <= high, p = i + m - n; O(n / 64) long."""
    tiles, segments = [], []
    for rest in range(max(1, min(step, n))):
        # the queries i = rest, rest + step, ... and the keys with their residue form a sequence of their own
        queries = -(-(n - rest) // step)
        first_key = (rest + m - n) % step
        keys = max(0, -(-(m - first_key) // step))
        own = (rest + m - n - first_key) // step  # the place among these keys where the first query sits
        lane = np.arange(0, max(queries, 0), TILE)
        count = np.minimum(TILE, queries - lane)
        start = np.clip(lane + own + low, 0, keys)
        stop = np.clip(lane + own + count + high, start, keys)
        shift = start - lane - own
        tiles.append(np.stack([rest + step * lane, np.full_like(lane, step), count], axis=-1))
        segments.append(np.stack([first_key + step * start, np.full_like(lane, step), stop - start,
                                  np.maximum(low - shift, -WIDE), np.minimum(high - shift, WIDE),
                                  np.full_like(lane, -1)], axis=-1))
    tiles, segments = np.concatenate(tiles), np.concatenate(segments)
    # the longest first: what is left for the last thread is short
    order = np.argsort(-segments[:, 2], kind="stable")
    return _finish([(tiles[order], np.arange(len(tiles) + 1), segments[order], np.empty(0, np.int64))])


def join(lists: list[TileList]) -> TileList:
    """Lists of one plane each as the planes of one list."""
    return _finish([part[1:5] for part in lists])


def from_ranges(starts: Array, stops: Array) -> TileList:
    """Tile list of ranges (n, R): query i sees the keys starts[i, r] .. stops[i, r] - 1, each once."""
    parts = (ranges.per_row(starts, stops),)
    return _finish([_written(_cut(len(starts), int(stops.max(initial=0)), parts, 1))])


def from_parts(n: int, m: int, planes: list[tuple[ranges.Part, ...]]) -> tuple[Share, ...]:
    """Lists that together hold the union of each plane's parts, every pair in one list alone.

    Parts of different steps share a list if tiles of the coarsest step suit them all, as they do for keys
    that every query sees; a window and a stride have no tiles in common, and become two lists. A last list
    may be that of a few queries that see much more than those beside them, such as hubs.
    """
    if all(len(parts) == 1 and parts[0].band for parts in planes):
        return ((None, join([band(n, m, *part.band, part.step) for part, in planes])),)
    cuts = [_cuts(n, m, parts) for parts in planes]
    scores = sum(cut.scores for cut in itertools.chain(*cuts))
    pairs = sum(cut.pairs for cut in itertools.chain(*cuts))
    queries = _far_seeing(n, m, planes) if scores > 2 * pairs else ()
    if len(queries):
        others = np.ones(n, bool)
        others[queries] = False
        most = [_cuts(n, m, ranges.where(others, parts)) for parts in planes]
        few = [[_cut(len(queries), m, ranges.of_queries(n, m, parts, queries), 1)] for parts in planes]
        if sum(cut.scores for cut in itertools.chain(*most, *few)) + TILE * len(queries) < scores:
            return (*_shares(n, m, most, None), *_shares(len(queries), m, few, queries))
    return _shares(n, m, cuts, None)


def _far_seeing(n: int, m: int, planes: list[tuple[ranges.Part, ...]]) -> Array:
    """The queries that see more than four times as many keys as the median query does."""
    seen = np.max([ranges.number(n, m, parts) for parts in planes], axis=0)
    return np.flatnonzero(seen > 4 * np.median(seen))


def _shares(n: int, m: int, cuts: list[list[_Cut]], queries: Array | None) -> tuple[Share, ...]:
    nothing = _cut(n, m, (), 1)
    return tuple((queries, _finish([_written(cut) for cut in every]))
                 for every in itertools.zip_longest(*cuts, fillvalue=nothing))


def _cuts(n: int, m: int, parts: tuple[ranges.Part, ...]) -> list[_Cut]:
    """One plane's parts together, or one by one where that is less work."""
    parts = ranges.disjoint(n, m, parts)
    together = _cut(n, m, parts, parts[-1].step)
    if len(parts) > 1:
        apart = [_cut(n, m, (part,), part.step) for part in parts]
        if sum(cut.scores + MERGE * n for cut in apart) < together.scores + MERGE * n:
            return apart
    return [together]


def _cut(n: int, m: int, parts: tuple[ranges.Part, ...], step: int) -> _Cut:
    """Disjoint parts, whose steps divide `step`, in tiles of queries that lie `step` apart."""
    order = np.argsort(np.arange(n) % step, kind="stable")
    tiles, stretches = [np.empty((0, 3), np.int64)], [np.empty((6, 0), np.int64)]
    size, begin, number = ranges.batch(order, parts), 0, 0
    while begin < n:
        queries = order[begin:begin + size]
        seen = [part.at(queries) for part in parts]
        cuts = np.array(_borders(queries % step, seen))
        if begin + size < n and len(cuts) > 2:
            cuts = cuts[:-1]  # the last tile may go on in the next batch
        first, count = queries[cuts[:-1]], np.diff(cuts)
        tiles.append(np.stack([first, np.full_like(first, step), count], axis=-1))
        for part, edges in zip(parts, seen, strict=True):
            tile, left, right, lanes = _stretches(cuts, *(x[:cuts[-1]] for x in edges), m)
            key = (first[tile] + m - n) % part.step
            stretches.append(np.stack([tile + number, key, np.full_like(key, part.step), left, right, lanes]))
        begin, number = begin + cuts[-1], number + len(first)
    found = np.concatenate(stretches, axis=1)
    return _Cut(np.concatenate(tiles), *found[:, np.argsort(found[0], kind="stable")])


def _borders(rest: Array, seen: list[ranges.Ranges]) -> list[int]:
    """Rows in tiles of 32 to 64, cut where the ranges jump (at a block's border), so that its lanes agree.

    A tile also ends where `rest` changes: its queries are evenly spaced.
    """
    n = len(rest)
    jumps = np.zeros(max(n - 1, 0), bool)
    for edge in itertools.chain.from_iterable(seen):
        jumps |= (np.abs(np.diff(edge, axis=0)) > 1).any(axis=1)
    jump, ends = (np.flatnonzero(jumps) + 1).tolist(), [*(np.flatnonzero(np.diff(rest)) + 1).tolist(), n]
    cuts = [0]
    while cuts[-1] < n:
        first = cuts[-1]
        stop = min(first + TILE, ends[bisect.bisect(ends, first)])
        before = bisect.bisect(jump, stop)
        if before and jump[before - 1] - first >= TILE // 2:
            stop = jump[before - 1]
        cuts.append(stop)
    return cuts


def _stretches(cuts: Array, starts: Array, stops: Array, m: int) -> tuple[Array, Array, Array, Array]:
    """Tile, first place, place after the last, and lanes that see it: between any two edges of a tile."""
    new = np.zeros(len(starts), bool)
    new[cuts[:-1]] = True
    for edge in (starts, stops):
        new[1:] |= (edge[1:] != edge[:-1]).any(axis=1)
    row = np.flatnonzero(new)  # of the rows that agree, the first
    tile = np.searchsorted(cuts, row, side="right") - 1
    bits = (_ones(np.diff(row, append=len(starts))) << (row - cuts[tile]).astype(np.uint64))[:, None]
    # where a range begins or ends, its lanes change from hidden to seen or back
    filled = starts[row] < stops[row]
    place = (m + 1) * tile[:, None]
    edges = np.concatenate([(place + x[row])[filled] for x in (starts, stops)])
    order = np.argsort(edges, kind="stable")
    edges = edges[order]
    lanes = np.bitwise_xor.accumulate(np.tile(np.broadcast_to(bits, filled.shape)[filled], 2)[order])
    last = np.append(edges[1:] != edges[:-1], True)[:len(edges)]
    edges, lanes = edges[last], lanes[last]
    seen = np.flatnonzero(lanes)  # after the last edge of a tile no lane is left
    tile, left = np.divmod(edges[seen], m + 1)
    return tile, left, edges[seen + 1] - (m + 1) * tile, lanes[seen].view(np.int64)


def _ones(number: Array) -> Array:
    """Words with the lowest 1 to 64 bits set."""
    return ~np.uint64(0) >> (TILE - number).astype(np.uint64)


def _written(cut: _Cut) -> Plane:
    """Segments, with a word of lanes for each key that not all lanes see; tiles with most keys first."""
    tiles, tile, first, step, left, right, lanes = cut
    everyone = _ones(tiles[:, 2]).view(np.int64)
    full, length = lanes == everyone[tile], right - left
    # stretches that touch are one segment
    new = np.ones(len(tile), bool)
    new[1:] = (left[1:] != right[:-1]) | (np.diff(tile) != 0) | (np.diff(step) != 0) | (full[1:] != full[:-1])
    begin = np.flatnonzero(new)
    words = np.where(full, 0, length)
    at = np.where(full, -1, np.cumsum(words) - words)[begin]
    wide = np.full_like(at, WIDE)
    segments = np.stack([(first + step * left)[begin], step[begin], np.add.reduceat(length, begin),
                         -wide, wide, at], axis=-1)
    keys = np.bincount(tile, length, len(tiles))
    order = np.argsort(-keys, kind="stable")
    rank = np.argsort(order)
    number = np.bincount(tile[begin], minlength=len(tiles))
    return (tiles[order], np.append(0, np.cumsum(number[order])),
            segments[np.argsort(rank[tile[begin]], kind="stable")], lanes.repeat(words))


def _finish(planes: list[Plane]) -> TileList:
    """Planes joined into one list, with the places of segments and masks counted through."""
    tiles, segments = [np.empty((0, 3), np.int64)], [np.empty((0, 6), np.int64)]
    offsets, masks, counts = [np.zeros(1, np.int64)], [np.empty(0, np.int64)], [0]
    begun, words = 0, 0
    for tile, offset, segment, mask in planes:
        segment = segment.copy()
        segment[:, 5] += np.where(segment[:, 5] >= 0, words, 0)
        tiles.append(tile)
        offsets.append(offset[1:] + begun)
        segments.append(segment)
        masks.append(mask)
        counts.append(len(tile))
        begun, words = begun + len(segment), words + len(mask)
    return _kept([np.cumsum(counts), *map(np.concatenate, (tiles, offsets, segments, masks))])


def _kept(parts: list[Array]) -> TileList:
    """Planes, tiles, offsets, segments and masks as a list that cannot change."""
    parts = [np.ascontiguousarray(part, np.int64) for part in parts]
    for part in parts:
        part.setflags(write=False)
    return TileList(*parts, tuple(part.ctypes.data for part in parts), int(np.diff(parts[0]).max(initial=0)),
                    TILE * int(parts[3][:, 2].sum()))


def paired(tile_list: TileList) -> TileList:
    """The same in tiles of two, which load together what both see; made once for each list.

    A tile has six numbers, `first, step, count` of each half, the second without queries if there is none. A
    segment has eight: `low, high` of the first half, as ever, and those of the second behind the six. A half
    that sees nothing of it has limits that no key meets; words are those of the other. Cost: O(S log S).
    """
    place = id(tile_list.segments)
    if place not in _PAIRED:
        _PAIRED[place] = _paired(tile_list)
        weakref.finalize(tile_list.segments, _PAIRED.pop, place, None)
    return _PAIRED[place]


def _paired(tile_list: TileList) -> TileList:
    tiles, number = tile_list.tiles, np.diff(tile_list.planes)
    plane = np.repeat(np.arange(len(number)), number)
    first, step, _ = tiles.T
    order = np.lexsort((first, first % np.maximum(step, 1), step, plane))
    along = np.arange(len(tiles)) - np.repeat(tile_list.planes[:-1], number)  # of its plane
    pairs = np.append(0, np.cumsum(-(-number // 2)))
    pair, side = np.empty((2, len(tiles)), np.int64)
    pair[order], side[order] = pairs[plane] + along // 2, along % 2
    joint = np.zeros((pairs[-1], 2, 3), np.int64)
    joint[pair, side] = tiles
    segment, both = _joint(tile_list, pair, side)
    # as in other lists, those with most keys come first
    keys = np.bincount(both, segment[:, 2], pairs[-1])
    rank = np.empty(pairs[-1], np.int64)
    last = np.lexsort((-keys, np.repeat(np.arange(len(number)), np.diff(pairs))))
    rank[last] = np.arange(pairs[-1])
    offsets = np.append(0, np.cumsum(np.bincount(rank[both], minlength=pairs[-1])))
    parts = [pairs, joint[last].reshape(-1, 6), offsets,
             segment[np.argsort(rank[both], kind="stable")], tile_list.masks]
    return _kept(parts)


def _joint(tile_list: TileList, pair: Array, side: Array) -> tuple[Array, Array]:
    """The segments (S, 8) of pairs of tiles, and which pair each is of."""
    number = np.diff(tile_list.offsets)
    tile = np.repeat(np.arange(len(number)), number)
    filled = tile_list.segments[:, 2] > 0
    own, tile = tile_list.segments[filled], tile[filled]
    index = np.arange(len(tile)) - np.searchsorted(tile, tile)  # in its tile
    wide = (own[:, 3] <= -WIDE // 2) & (own[:, 4] >= WIDE // 2)
    # those that may be one: the same keys, or bands at the same place of their lists
    tag = np.stack([pair[tile], wide, *np.where(wide, own[:, :3].T, [index, own[:, 1], 0 * index])])
    order = np.lexsort((side[tile], *tag[::-1]))
    own, tile, tag, lanes = own[order], tile[order], tag[:, order], tile_list.tiles[tile[order], 2]
    a, b = own[:-1], own[1:]
    begin, end = np.minimum(a[:, 0], b[:, 0]), np.maximum(*((x[:, 0] + x[:, 1] * x[:, 2]) for x in (a, b)))
    length = (end - begin) // a[:, 1]
    ahead = [(x[:, 0] - begin) // x[:, 1] for x in (a, b)]
    one = ((tag[:, :-1] == tag[:, 1:]).all(0) & (side[tile[:-1]] < side[tile[1:]])
           & (a[:, 5] < 0) & (b[:, 5] < 0) & ((b[:, 0] - a[:, 0]) % a[:, 1] == 0)
           & (length <= a[:, 2] + b[:, 2]))
    for x, shift, count in zip((a, b), ahead, (lanes[:-1], lanes[1:]), strict=True):
        # keys of the other that lie before or behind its own are hidden by its band
        one &= (shift == 0) | (x[:, 3] >= 0)
        one &= (shift + x[:, 2] == length) | (x[:, 2] - count + 1 > x[:, 4])
    joined = np.concatenate([own, np.tile([[WIDE, -WIDE]], (len(own), 1))], axis=1)
    second = side[tile] == 1
    joined[second, 6:], joined[second, 3:5] = own[second, 3:5], (WIDE, -WIDE)
    at = np.flatnonzero(one)
    joined[at, 0], joined[at, 2] = begin[at], length[at]
    joined[at, 3:5] = a[at, 3:5] + ahead[0][at, None]
    joined[at, 6:] = b[at, 3:5] + ahead[1][at, None]
    stays = np.ones(len(own), bool)
    stays[at + 1] = False
    return joined[stays], tag[0, stays]
