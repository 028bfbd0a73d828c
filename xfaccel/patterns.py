"""Which keys a query sees, as a few ranges of keys per query. Follows `xfref.patterns`, without its matrix.

Every pattern of the literature is a few ranges of keys for each query, one step or a stride apart, so union
and intersection are merges of sorted ranges. They are made when a pattern is first used, for some queries at
a time, and kept as the engine's tile lists. Asking again with equal arguments gives the same object.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from xfaccel.arrays import check_mask, count, counts, describe, on_gpu
from xfaccel.engine import ranges, tiles

Array = np.ndarray
# patterns remembered per function, with their tile lists once they were used: for 16384 tokens a window takes
# 3 bytes a token, a union 30 to 110, Big Bird 6 for each head; tables beyond 1 MiB are not remembered
_KEPT, _LARGEST = 64, 1 << 20


class Pattern:
    """Which of m keys each of n queries sees. Combine with | and &; pass it as `mask` to `attention`.

    `shape` is (..., n, m): leading axes where a parameter was given per head. Immutable.
    """

    __slots__ = ("_tile_lists", "kept", "listed", "parts", "shape")

    def __init__(self, shape: tuple[int, ...], parts: Callable[[tuple[int, ...]], tuple[ranges.Part, ...]], *,
                 listed: Array | None = None, kept: bool = False):
        """`parts(index)` gives what is seen in one place of the leading axes, as `ranges.union` does.

        `listed`, for keys that lie anywhere, are the same keys as a list for each query (..., n, r). `kept`
        says that equal arguments give this very object, which is then worth remembering in turn.
        """
        self.shape, self.parts, self.listed, self.kept = shape, parts, listed, kept
        self._tile_lists = None

    def __repr__(self) -> str:
        return f"<Pattern {self.shape}>"

    def __or__(self, other: "Pattern") -> "Pattern":
        return self._with(other, ranges.union)

    def __and__(self, other: "Pattern") -> "Pattern":
        return self._with(other, ranges.intersection)

    def to_csr(self):
        """The pattern as a boolean scipy.sparse.csr_array (n, m). Raises ValueError if it has leading axes.

        Cost: O(pairs) time and memory.
        """
        from scipy import sparse  # costs more to import than the rest of this package
        if len(self.shape) > 2:
            raise ValueError(f"to_csr needs a pattern of shape (n, m), got {self.shape}: one per head")
        n, m = self.shape
        counts, indices = [np.zeros(1, np.int64)], [np.empty(0, np.int32)]
        for number, keys in ranges.pairs(n, m, self.parts(())):
            counts.append(number)
            indices.append(keys.astype(sparse.get_index_dtype(maxval=m)))
        indices, indptr = np.concatenate(indices), np.cumsum(np.concatenate(counts))
        indptr = indptr.astype(sparse.get_index_dtype(maxval=max(m, len(indices))))
        return sparse.csr_array((np.ones(len(indices), bool), indices, indptr), shape=self.shape)

    def tile_lists(self) -> tuple[tiles.Share, ...]:
        """What the softmax engine walks through, each pair in one of them; made at the first call."""
        if self._tile_lists is None:
            *lead, n, m = self.shape
            self._tile_lists = tiles.from_parts(n, m, [self.parts(index) for index in np.ndindex(*lead)])
        return self._tile_lists

    def _with(self, other: "Pattern", combine: Callable) -> "Pattern":
        if not isinstance(other, Pattern):
            return NotImplemented
        if self.shape[-2:] != other.shape[-2:]:
            raise ValueError(f"patterns need equal n and m to be combined, got {self.shape} and "
                             f"{other.shape}")
        # a pattern that is not remembered is a new object each time
        make = _combined if self.kept and other.kept else _combined.__wrapped__
        return make(self, other, combine)

    def _at(self, index: tuple[int, ...]) -> tuple[ranges.Part, ...]:
        """The parts at a place of leading axes that these broadcast to."""
        lead = self.shape[:-2]
        own = index[len(index) - len(lead):]
        return self.parts(tuple(0 if size == 1 else i for size, i in zip(lead, own, strict=True)))


@functools.lru_cache(_KEPT)
def _combined(a: Pattern, b: Pattern, combine: Callable) -> Pattern:
    n, m = a.shape[-2:]
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return Pattern((*lead, n, m), lambda index: combine(n, m, a._at(index), b._at(index)),
                   kept=a.kept and b.kept)


def past(n: int, m: int | None = None) -> Pattern:
    """Every key up to the query's own position, i + m - n. Follows `xfref.patterns.past`."""
    return _banded(*_lengths(n, m), -tiles.WIDE, 0, 1)


def window(n: int, m: int | None = None, *, left: int, right: int, dilation: int | Array = 1) -> Pattern:
    """At most `left` hops back and `right` hops on, of `dilation` positions. Follows `xfref.patterns.window`.
    """
    n, m = _lengths(n, m)
    left, right = count("left", left, 0), count("right", right, 0)
    hop = counts("dilation", dilation, np.shape(dilation))
    hop = hop if isinstance(hop, int) else tuple(hop.tolist())
    return _banded(n, m, -min(left, tiles.WIDE), min(right, tiles.WIDE), hop)


def same_block(n: int, block: int, before: int = 0, after: int = 0, m: int | None = None) -> Pattern:
    """The query's own block and those beside it. Follows `xfref.patterns.same_block`."""
    block, before, after = count("block", block), count("before", before, 0), count("after", after, 0)
    return _same_block(*_lengths(n, m), block, before, after)


def hubs(n: int, positions: Sequence[int] | Array) -> Pattern:
    """Tokens that see everyone and that everyone sees. Follows `xfref.patterns.hubs`."""
    n = count("n", n, 0)
    return _of_array(_hubs, token_mask("positions", positions, n, ()))


def strided(n: int, stride: int, m: int | None = None) -> Pattern:
    """Keys at a multiple of `stride` from the query. Follows `xfref.patterns.strided`."""
    return _banded(*_lengths(n, m), -tiles.WIDE, tiles.WIDE, count("stride", stride))


def summaries(n: int, stride: int, summary: int, sub_block: int | Array = 0,
              m: int | None = None) -> Pattern:
    """The cells at the end of every block of `stride`. Follows `xfref.patterns.summaries`."""
    n, m = _lengths(n, m)
    first = first_cell(stride, summary, sub_block)
    return _summaries(n, m, stride, summary, tuple(first.tolist()) if first.ndim else int(first))


def blocks(table: Array, block: int, n: int) -> Pattern:
    """Whole key blocks for whole query blocks. Follows `xfref.patterns.blocks`."""
    n, block = count("n", n, 0), count("block", block)
    number = -(-n // block)
    return enlarged(_of_array(_listed, listed_in("table", table, number, number), number), block, n)


def scattered(n: int, indices: Array, m: int | None = None) -> Pattern:
    """A list of keys per query. Follows `xfref.patterns.scattered`."""
    n, m = _lengths(n, m)
    return _of_array(_listed, listed_in("indices", indices, n, m), m)


def columns(seen: Array, n: int) -> Pattern:
    """The keys where `seen` (..., m) is True, for all of n queries."""
    return _of_array(_columns, seen, n)


def enlarged(pattern: Pattern, block: int, n: int) -> Pattern:
    """What `pattern` says of whole blocks, for the n tokens in them; its parts have no stride."""
    return (_enlarged if pattern.kept else _enlarged.__wrapped__)(pattern, block, n)


def of_ranges(starts: Array, stops: Array, m: int) -> Pattern:
    """Query i sees the keys starts[..., i, r] .. stops[..., i, r] - 1: ascending and disjoint."""
    return Pattern((*starts.shape[:-1], m), lambda index: (ranges.per_row(starts[index], stops[index]),))


def listed_in(name: str, table: object, rows: int, columns: int) -> Array:
    """`table` (..., rows, r) as int64, all in -1..columns-1. Raises TypeError or ValueError naming it."""
    if not isinstance(table, np.ndarray) and not on_gpu(table) or not np.issubdtype(table.dtype, np.integer):
        raise TypeError(f"{name} needs an array of integers, got {describe(table)}")
    if table.ndim < 2 or table.shape[-2] != rows:
        raise ValueError(f"{name} needs the shape (..., {rows}, r), got {table.shape}")
    if on_gpu(table):
        return np.clip(table.astype(np.int64, copy=False), -1, columns - 1)
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


def indices_in(name: str, x: object, size: int) -> Array:
    """`x` as an int array with every entry in 0..size-1. Raises TypeError or ValueError naming it."""
    if on_gpu(x) and np.issubdtype(x.dtype, np.integer):
        return np.clip(x, 0, max(size - 1, 0))
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
def _banded(n: int, m: int, low: int, high: int, step: int | tuple[int, ...]) -> Pattern:
    steps = np.array(step)
    return Pattern((*steps.shape, n, m), lambda index: (ranges.banded(n, m, low, high, int(steps[index])),),
                   kept=True)


@functools.lru_cache(_KEPT)
def _same_block(n: int, m: int, block: int, before: int, after: int) -> Pattern:
    def at(queries):
        own = (queries[:, None] + m - n) // block
        return np.clip((own - before) * block, 0, m), np.clip((own + after + 1) * block, 0, m)

    return Pattern((n, m), lambda _: (ranges.Part(1, at),), kept=True)


@functools.lru_cache(_KEPT)
def _summaries(n: int, m: int, stride: int, summary: int, first: int | tuple[int, ...]) -> Pattern:
    blocks, cells = np.arange(0, m, stride), np.array(first)

    def parts(index):
        starts = blocks + cells[index]
        return (_seen_by_all(np.minimum(starts, m), np.minimum(starts + summary, m)),)

    return Pattern((*cells.shape, n, m), parts, kept=True)


@functools.lru_cache(_KEPT)
def _enlarged(pattern: Pattern, block: int, n: int) -> Pattern:
    number = pattern.shape[-1]

    def parts(index):
        part, = pattern.parts(index)
        return (ranges.per_row(*(np.minimum(np.minimum(x, number) * block, n)
                                 for x in part.at(np.arange(number))), block),)

    return Pattern((*pattern.shape[:-2], n, n), parts, kept=pattern.kept)


def _of_array(make: Callable[..., Pattern], array: Array, *rest: int) -> Pattern:
    """make(array, *rest, kept), remembered by what the array holds."""
    if array.nbytes > _LARGEST:
        return make(array.copy(), *rest, False)  # a pattern does not change with what it was made of
    return _of_bytes(make, array.shape, array.dtype, array.tobytes(), *rest)


@functools.lru_cache(_KEPT)
def _of_bytes(make: Callable[..., Pattern], shape: tuple[int, ...], dtype: np.dtype, data: bytes,
              *rest: int) -> Pattern:
    return make(np.frombuffer(data, dtype).reshape(shape), *rest, True)


def _listed(table: Array, m: int, kept: bool) -> Pattern:
    def parts(index):
        def at(queries):
            keys = np.sort(table[index][queries], axis=1)
            starts, stops = keys.copy(), keys + 1
            # of a key that is listed twice, the second place is empty, as those below 0 are
            starts[:, 1:] += keys[:, 1:] == keys[:, :-1]
            return np.where(keys < 0, 0, starts), stops

        return (ranges.Part(1, at),)

    return Pattern((*table.shape[:-1], m), parts, listed=table, kept=kept)


def _columns(seen: Array, n: int, kept: bool) -> Pattern:
    return Pattern((*seen.shape[:-1], n, seen.shape[-1]),
                   lambda index: (_seen_by_all(*_runs(seen[index])),), kept=kept)


def _hubs(hub: Array, kept: bool) -> Pattern:
    n, (starts, stops) = len(hub), _runs(hub)
    every = np.where(np.arange(len(starts)) == 0, 0, n)

    def at(queries):
        own = hub[queries, None]
        return np.where(own, every, starts), np.where(own, n, stops)

    return Pattern((n, n), lambda _: (ranges.Part(1, at),), kept=kept)


def _seen_by_all(starts: Array, stops: Array) -> ranges.Part:
    return ranges.Part(1, lambda queries: tuple(np.broadcast_to(x, (len(queries), len(x)))
                                                for x in (starts, stops)))


def _runs(seen: Array) -> tuple[Array, Array]:
    """Where the runs of True in `seen` (m) begin and end."""
    edges = np.flatnonzero(np.diff(seen, prepend=False, append=False))
    return edges[::2], edges[1::2]


def _lengths(n: int, m: int | None) -> tuple[int, int]:
    n = count("n", n, 0)
    return n, n if m is None else count("m", m, 0)
