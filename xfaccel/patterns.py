"""Which keys a query sees, as a few ranges of keys per query. Follows `xfref.patterns`, without its matrix.

Every pattern of the literature is a few ranges of keys for each query, so union and intersection are merges
of sorted ranges, and the engine's tile list is compiled from them when a pattern is first used. Patterns are
kept by their arguments: asking for the same one again costs nothing.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np

from xfaccel.arrays import check_mask, count, counts, describe
from xfaccel.engine import tiles

Array = np.ndarray
_KEPT = 64  # patterns remembered per function


class Pattern:
    """Which of m keys each of n queries sees. Combine with | and &; pass it as `mask` to `attention`.

    `shape` is (..., n, m): leading axes where a parameter was given per head. Immutable.
    """

    __slots__ = ("_starts", "_stops", "_tiles", "listed", "m")

    def __init__(self, starts: Array, stops: Array, m: int, tile_list: tiles.TileList | None = None,
                 listed: Array | None = None):
        """Query i sees the keys starts[..., i, r] .. stops[..., i, r] - 1: ascending, disjoint, not adjacent.

        `listed`, for keys that lie anywhere, are the same keys as a list for each query (..., n, r).
        """
        self._starts, self._stops, self.m, self._tiles, self.listed = starts, stops, m, tile_list, listed

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self._starts.shape[:-1], self.m)

    def __repr__(self) -> str:
        return f"<Pattern {self.shape}, {int((self._stops - self._starts).sum())} pairs>"

    def __or__(self, other: "Pattern") -> "Pattern":
        return self._with(other, lambda a, b: np.concatenate([a, b], axis=-1),
                          lambda a, b: np.concatenate([a, b], axis=-1))

    def __and__(self, other: "Pattern") -> "Pattern":
        def every(choose):
            return lambda a, b: choose(a[..., :, None], b[..., None, :]).reshape(
                *a.shape[:-1], a.shape[-1] * b.shape[-1])
        return self._with(other, every(np.maximum), every(np.minimum))

    def to_csr(self):
        """The pattern as a boolean scipy.sparse.csr_array (n, m). Raises ValueError if it has leading axes.

        Cost: O(pairs).
        """
        from scipy import sparse  # costs more to import than the rest of this package
        if self._starts.ndim > 2:
            raise ValueError(f"to_csr needs a pattern of shape (n, m), got {self.shape}: one per head")
        lengths = (self._stops - self._starts).ravel()
        ends = np.cumsum(lengths)
        keys = np.arange(ends[-1] if ends.size else 0)
        keys += np.repeat(self._starts.ravel() - ends + lengths, lengths)
        per_query = (self._stops - self._starts).sum(axis=-1)
        indptr = np.concatenate([[0], np.cumsum(per_query)])
        return sparse.csr_array((np.ones(len(keys), bool), keys, indptr), shape=self.shape)

    def tile_list(self) -> tiles.TileList:
        """What the softmax engine walks through; compiled at the first call."""
        if self._tiles is None:
            self._tiles = tiles.from_ranges(self._starts, self._stops)
        return self._tiles

    def _with(self, other: "Pattern", starts, stops) -> "Pattern":
        if not isinstance(other, Pattern):
            return NotImplemented
        if self.shape[-2:] != other.shape[-2:]:
            raise ValueError(f"patterns need equal n and m to be combined, got {self.shape} and "
                             f"{other.shape}")
        lead = np.broadcast_shapes(self.shape[:-2], other.shape[:-2])
        parts = [np.broadcast_to(x, (*lead, *x.shape[-2:]))
                 for x in (self._starts, other._starts, self._stops, other._stops)]
        return _pattern(starts(*parts[:2]), stops(*parts[2:]), self.m)


def past(n: int, m: int | None = None) -> Pattern:
    """Every key up to the query's own position, i + m - n. Follows `xfref.patterns.past`."""
    return _window(*_lengths(n, m), tiles.WIDE, 0, 1)


def window(n: int, m: int | None = None, *, left: int, right: int, dilation: int | Array = 1) -> Pattern:
    """At most `left` hops back and `right` hops on, of `dilation` positions. Follows `xfref.patterns.window`.
    """
    n, m = _lengths(n, m)
    left, right = count("left", left, 0), count("right", right, 0)
    dilation = counts("dilation", dilation, np.shape(dilation))
    if isinstance(dilation, int):
        return _window(n, m, left, right, dilation)
    return _window_per_head(n, m, left, right, tuple(dilation.tolist()))


def same_block(n: int, block: int, before: int = 0, after: int = 0, m: int | None = None) -> Pattern:
    """The query's own block and those beside it. Follows `xfref.patterns.same_block`."""
    block, before, after = count("block", block), count("before", before, 0), count("after", after, 0)
    return _same_block(*_lengths(n, m), block, before, after)


def hubs(n: int, positions: Sequence[int] | Array) -> Pattern:
    """Tokens that see everyone and that everyone sees. Follows `xfref.patterns.hubs`."""
    n = count("n", n, 0)
    hub = token_mask("positions", positions, n, ())
    rows = np.flatnonzero(hub)[:, None] == np.arange(n)
    seen = _columns(hub, n)
    everything = _pattern(np.zeros((n, 1), np.int64), np.where(rows.any(axis=0), n, 0)[:, None], n)
    return seen | everything


def strided(n: int, stride: int, m: int | None = None) -> Pattern:
    """Keys at a multiple of `stride` from the query. Follows `xfref.patterns.strided`."""
    (n, m), stride = _lengths(n, m), count("stride", stride)
    keys = (np.arange(n)[:, None] + m - n) % stride + stride * np.arange(-(-m // stride))
    return _pattern(keys, np.minimum(keys + 1, m), m, tiles.band(n, m, -tiles.WIDE, tiles.WIDE, stride))


def summaries(n: int, stride: int, summary: int, sub_block: int | Array = 0,
              m: int | None = None) -> Pattern:
    """The cells at the end of every block of `stride`. Follows `xfref.patterns.summaries`."""
    n, m = _lengths(n, m)
    first = first_cell(stride, summary, sub_block)
    starts = first[..., None, None] + stride * np.arange(-(-m // stride))
    starts = np.broadcast_to(starts, (*first.shape, n, starts.shape[-1]))
    return _pattern(starts, np.minimum(starts + summary, m), m)


def blocks(table: Array, block: int, n: int) -> Pattern:
    """Whole key blocks for whole query blocks. Follows `xfref.patterns.blocks`."""
    n, block = count("n", n, 0), count("block", block)
    number = -(-n // block)
    table = listed_in("table", table, number, number).repeat(block, axis=-2)[..., :n, :]
    return _pattern(np.where(table < 0, n, table * block), np.minimum((table + 1) * block, n), n)


def scattered(n: int, indices: Array, m: int | None = None) -> Pattern:
    """A list of keys per query. Follows `xfref.patterns.scattered`."""
    n, m = _lengths(n, m)
    indices = listed_in("indices", indices, n, m).copy()  # a pattern does not change with what it was made of
    return _pattern(np.where(indices < 0, m, indices), indices + 1, m, listed=indices)


def columns(seen: Array, n: int) -> Pattern:
    """The keys where `seen` (..., m) is True, for all of n queries."""
    return _columns(seen, n)


def listed_in(name: str, table: object, rows: int, columns: int) -> Array:
    """`table` (..., rows, r) as int64, all in -1..columns-1. Raises TypeError or ValueError naming it."""
    if not isinstance(table, np.ndarray) or not np.issubdtype(table.dtype, np.integer):
        raise TypeError(f"{name} needs an array of integers, got {describe(table)}")
    if table.ndim < 2 or table.shape[-2] != rows:
        raise ValueError(f"{name} needs the shape (..., {rows}, r), got {table.shape}")
    if table.size and (table.min() < -1 or table.max() >= columns):
        raise ValueError(f"{name} needs integers in -1..{columns - 1}, got {table.min()}..{table.max()}")
    return table.astype(np.int64, copy=False)


def first_cell(stride: int, summary: int, sub_block: int | Array) -> Array:
    """Where in a block of `stride` its summary begins, () or one per head. Raises TypeError or ValueError."""
    stride, summary = count("stride", stride), count("summary", summary)
    sub_block = np.asarray(counts("sub_block", sub_block, np.shape(sub_block), least=0))
    if np.any((sub_block + 1) * summary > stride):
        raise ValueError(f"(sub_block + 1) * summary needs to be at most stride = {stride}, "
                         f"got sub_block = {sub_block.max()} and summary = {summary}")
    return stride - (sub_block + 1) * summary


def prefixes(stops: Array, m: int) -> Pattern:
    """Query i sees the keys 0 .. stops[..., i] - 1, where stops (..., n) do not descend along the queries.

    Made without the loop over tiles that other patterns take: a list that no second call will ask for.
    """
    n, planes = stops.shape[-1], math.prod(stops.shape[:-1])
    slots = -(-n // tiles.TILE)
    flat = stops.reshape(planes, n)
    # lanes beyond the last query repeat it, as the engine does
    lanes = np.concatenate([flat, flat[:, -1:].repeat(slots * tiles.TILE - n, axis=1)], axis=1)
    lanes = lanes.reshape(planes * slots, tiles.TILE)
    # all lanes see the keys before `low`; each key from there to `high` has a word with bits of late lanes
    tile, low, high = np.arange(planes * slots), lanes[:, 0], lanes[:, -1]
    words = high - low
    begin, owner = np.cumsum(words) - words, tile.repeat(words)
    key = np.arange(len(owner)) + (low - begin)[owner]
    lift = (m + 1) * tile  # makes one ascending list of all tiles
    early = np.searchsorted((lanes + lift[:, None]).ravel(), key + lift[owner], side="right")
    masks = np.int64(-1) << early - tiles.TILE * owner
    first, one, wide = tile % max(slots, 1) * tiles.TILE, np.ones_like(tile), np.full_like(tile, tiles.WIDE)
    count = np.minimum(n - first, tiles.TILE)
    segments = np.stack([0 * tile, one, low, -wide, wide, -one, low, one, words, -wide, wide, begin], axis=-1)
    tile_list = tiles.listed(slots * np.arange(planes + 1), np.stack([first, one, count], axis=-1),
                             2 * np.arange(len(tile) + 1), segments.reshape(-1, 6), masks)
    return Pattern(np.zeros_like(stops)[..., None], stops[..., None], m, tile_list)


def indices_in(name: str, x: object, size: int) -> Array:
    """`x` as an int array with every entry in 0..size-1. Raises TypeError or ValueError naming it."""
    values = np.asarray(x)
    if values.size == 0:
        return values.astype(np.intp)
    if not np.issubdtype(values.dtype, np.integer):
        raise TypeError(f"{name} needs integers, got {describe(x)}")
    if values.min() < 0 or values.max() >= size:
        raise ValueError(f"{name} needs integers in 0..{size - 1}, got {values.min()}..{values.max()}")
    return values


def token_mask(name: str, tokens: object, size: int, lead: tuple[int, ...]) -> Array:
    """A set of positions, given as ints or as a boolean (lead..., size), as the boolean array."""
    if isinstance(tokens, np.ndarray) and tokens.dtype == bool:
        return check_mask(name, tokens, (size,), lead)
    chosen = np.zeros(size, bool)
    chosen[indices_in(name, tokens, size)] = True
    return chosen


@functools.lru_cache(_KEPT)
def _window(n: int, m: int, left: int, right: int, hop: int) -> Pattern:
    position = np.arange(n, dtype=np.int64) + m - n
    listed = tiles.band(n, m, -left, right, hop)
    if hop == 1:
        starts = np.maximum(position - left, 0)[:, None]
        stops = np.minimum(position + right + 1, m)[:, None]
    else:
        left, right = min(left, -(-m // hop)), min(right, -(-m // hop))
        starts = position[:, None] + hop * np.arange(-left, right + 1)
        starts = np.where((starts < 0) | (starts >= m), m, starts)
        stops = np.minimum(starts + 1, m)
    return _pattern(starts, stops, m, listed)


@functools.lru_cache(_KEPT)
def _window_per_head(n: int, m: int, left: int, right: int, hops: tuple[int, ...]) -> Pattern:
    heads = [_window(n, m, left, right, hop) for hop in hops]
    width = max(head._starts.shape[-1] for head in heads)
    starts, stops = (
        np.stack([np.pad(x, ((0, 0), (0, width - x.shape[-1])), constant_values=m) for x in part])
        for part in zip(*((head._starts, head._stops) for head in heads), strict=True))
    return _pattern(starts, stops, m, tiles.join([head.tile_list() for head in heads]))


@functools.lru_cache(_KEPT)
def _same_block(n: int, m: int, block: int, before: int, after: int) -> Pattern:
    own = (np.arange(n, dtype=np.int64)[:, None] + m - n) // block
    return _pattern(np.maximum((own - before) * block, 0), np.minimum((own + after + 1) * block, m), m)


def _columns(seen: Array, n: int) -> Pattern:
    m = seen.shape[-1]
    padded = np.zeros((*seen.shape[:-1], m + 2), np.int8)
    padded[..., 1:-1] = seen
    change = np.diff(padded, axis=-1)
    runs = (change == 1).sum(axis=-1).max(initial=0)
    place = np.arange(m + 1)
    starts, stops = (np.sort(np.where(change == kind, place, m), axis=-1)[..., :runs] for kind in (1, -1))
    wide = (*seen.shape[:-1], n, int(runs))
    return _pattern(*(np.broadcast_to(x[..., None, :], wide) for x in (starts, stops)), m)


def _pattern(starts: Array, stops: Array, m: int, tile_list: tiles.TileList | None = None,
             listed: Array | None = None) -> Pattern:
    """The pattern of these ranges, which may overlap, be empty or lie in any order."""
    empty = starts >= stops
    starts, stops = np.where(empty, m, starts), np.where(empty, m, stops)
    order = np.argsort(starts, axis=-1, kind="stable")
    starts, stops = np.take_along_axis(starts, order, -1), np.take_along_axis(stops, order, -1)
    reach = np.maximum.accumulate(stops, axis=-1)
    # a range begins a new run where it lies beyond all before it
    new = np.ones(starts.shape, bool)
    new[..., 1:] = starts[..., 1:] > reach[..., :-1]
    last = np.ones(starts.shape, bool)
    last[..., :-1] = new[..., 1:]
    new &= starts < m
    runs = int(new.sum(axis=-1).max(initial=0))
    starts = np.sort(np.where(new, starts, m), axis=-1)[..., :runs].astype(np.int64)
    stops = np.sort(np.where(last, reach, m), axis=-1)[..., :runs].astype(np.int64)
    for x in (starts, stops):
        x.setflags(write=False)
    return Pattern(starts, stops, m, tile_list, listed)


def _lengths(n: int, m: int | None) -> tuple[int, int]:
    n = count("n", n, 0)
    return n, n if m is None else count("m", m, 0)
