"""What both engines agree on: the size of a tile, and the lists of who sees whom, tile by tile.

A tile list is what the softmax engine walks through. Each tile is up to 64 queries, `first, step, count`;
each has segments of keys, `first, step, count, low, high, words`: lane l of the tile sees key t of the
segment iff low <= t - l <= high (a band; wide limits make it full) and, if words >= 0, bit l of masks[words +
t] is set. Positions are gone by then: the kernels know nothing of causality, windows or dilation.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

TILE = 64  # tokens in a tile: four AVX-512 registers of float32, and one bit each in an int64
WIDE = 1 << 60  # a band limit that never binds

Array = np.ndarray


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
    """Tile list of row ranges (..., n, R): query i sees the keys starts[i, r] .. stops[i, r] - 1."""
    n = starts.shape[-2]
    number = math.prod(starts.shape[:-2])
    planes = (x.reshape(number, *starts.shape[-2:]) for x in (starts, stops))
    return _finish([_plane(n, start, stop) for start, stop in zip(*planes, strict=True)])


def _plane(n: int, starts: Array, stops: Array) -> tuple[Array, Array, Array, Array]:
    tiles, segments, masks, words = [], [], [], 0
    for first, stop in _cuts(n, starts, stops):
        rows, mask = _segments(starts[first:stop], stops[first:stop], words)
        words += len(mask)
        tiles.append((first, 1, stop - first))
        segments.append(rows)
        masks.append(mask)
    order = sorted(range(len(tiles)), key=lambda t: -sum(row[2] for row in segments[t]))
    offsets = np.cumsum([0] + [len(segments[t]) for t in order])
    flat = [row for t in order for row in segments[t]]
    return (np.array([tiles[t] for t in order], np.int64).reshape(-1, 3), offsets,
            np.array(flat, np.int64).reshape(-1, 6), np.concatenate([np.empty(0, np.int64), *masks]))


def _cuts(n: int, starts: Array, stops: Array) -> list[tuple[int, int]]:
    """Rows in tiles of 32 to 64, cut where the ranges jump (at a block's border), so that its lanes agree."""
    jumps = (np.abs(np.diff(starts, axis=0)) > 1) | (np.abs(np.diff(stops, axis=0)) > 1)
    jump = np.flatnonzero(jumps.any(axis=-1)) + 1
    cuts, first = [], 0
    while first < n:
        stop = min(first + TILE, n)
        before = np.searchsorted(jump, stop, side="right")
        if before and jump[before - 1] - first >= TILE // 2:
            stop = int(jump[before - 1])
        cuts.append((first, stop))
        first = stop
    return cuts


def _segments(starts: Array, stops: Array, words: int) -> tuple[list[tuple[int, ...]], Array]:
    """The keys that these up to 64 rows see, as runs that all see and runs with a mask of lanes per key."""
    lanes = len(starts)
    if not starts.size:
        return [], np.empty(0, np.int64)
    edges = np.unique(np.concatenate([starts.ravel(), stops.ravel()]))
    # (lanes, intervals between edges): within an interval a lane sees all keys or none
    inside = ((starts[..., None] <= edges[:-1]) & (edges[:-1] < stops[..., None])).any(axis=1)
    bit = np.uint64(1) << np.arange(lanes, dtype=np.uint64)
    bits = (inside * bit[:, None]).sum(axis=0, dtype=np.uint64)
    everyone = np.uint64((1 << lanes) - 1)
    rows, masks, used = [], [], 0
    for left, right, word in zip(edges[:-1].tolist(), edges[1:].tolist(), bits.tolist(), strict=True):
        if not word:
            continue
        full = word == everyone
        joins = rows and rows[-1][0] + rows[-1][2] == left and (rows[-1][5] < 0) == full
        if joins:
            rows[-1] = (*rows[-1][:2], right - rows[-1][0], *rows[-1][3:])
        else:
            rows.append((left, 1, right - left, -WIDE, WIDE, -1 if full else words + used))
        if not full:
            masks.append(np.full(right - left, word, np.uint64))
            used += right - left
    return rows, np.concatenate([np.empty(0, np.uint64), *masks]).view(np.int64)


def _finish(planes: list[tuple[Array, Array, Array, Array]]) -> TileList:
    """Planes joined into one list, with the places of segments and masks counted through."""
    tiles, offsets, segments, masks = [], [np.zeros(1, np.int64)], [], []
    begun, words = 0, 0
    for tile, offset, segment, mask in planes:
        segment = segment.copy()
        segment[:, 5] += np.where(segment[:, 5] >= 0, words, 0)
        tiles.append(tile)
        offsets.append(offset[1:] + begun)
        segments.append(segment)
        masks.append(mask)
        begun, words = begun + len(segment), words + len(mask)
    counts = np.cumsum([0] + [len(tile) for tile in tiles])
    return listed(counts, *(np.concatenate(part) for part in (tiles, offsets, segments, masks)))


def listed(planes: Array, tiles: Array, offsets: Array, segments: Array, masks: Array) -> TileList:
    """The tile list of these five arrays, which are kept as they are from now on."""
    parts = [np.ascontiguousarray(part, np.int64) for part in (planes, tiles, offsets, segments, masks)]
    for part in parts:
        part.setflags(write=False)
    return TileList(*parts, tuple(part.ctypes.data for part in parts), int(np.diff(parts[0]).max(initial=0)),
                    TILE * int(parts[3][:, 2].sum()))
