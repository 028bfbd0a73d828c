"""Relative positions, fast: a table by distance; with values, a band between two sides of plain attention."""

from collections.abc import Iterator

import numpy as np

from xfaccel.arrays import (
    check_key_mask,
    distinct,
    empty,
    leading,
    lengths,
    parameter,
    scale_or_default,
)
from xfaccel.core import merge, softmax
from xfaccel.engine import tiles
from xfaccel.engine.product import project
from xfaccel.engine.softmax import attend

Array = np.ndarray
QUERIES = 128  # in a block of the band


def shaw(q: Array, k: Array, v: Array, *, key_table: Array, value_table: Array | None = None,
         causal: bool = False, key_mask: Array | None = None, scale: float | None = None) -> Array:
    """Attention to keys and values that carry a vector for their clipped offset (Shaw et al. 2018, Eq. 3, 4).

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). Follows `xfref.shaw`: the products of the queries with the
    key table are a bias by distance, read tile by tile. With a value table, all keys of a side beyond the
    clipping distance c share one row, which shifts the mean of a query as a whole, so a side is plain
    attention; the keys within c are a band, a block of queries at a time; the three are merged.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n m (d + e)) time, half of it if causal, of which the band takes O(n (c + 128) (d + e)); O(n c)
    memory, with a value table O(n + m) and 128 rows of 2c + 128 numbers.
    """
    n, m = lengths(q, k, v)
    lead, scale = leading(q, k, v), scale_or_default(scale, q)
    key_table = parameter("key_table", key_table, q.dtype, own=(None, q.shape[-1]), lead=lead)
    length = key_table.shape[-2]
    if length % 2 == 0:
        raise ValueError(f"key_table needs an odd number of rows, 2c + 1, got {length}")
    if key_mask is not None:
        check_key_mask(key_mask, k, lead)
    if value_table is not None:
        value_table = parameter("value_table", value_table, q.dtype, own=(length, v.shape[-1]), lead=lead)
    key_table, clip = np.ascontiguousarray(key_table), length // 2
    if value_table is None:
        rows = project(scale * q, np.ascontiguousarray(key_table.swapaxes(-1, -2)), lead)
        return attend(q, k, v, tiles.band(n, m, -tiles.WIDE, 0 if causal else tiles.WIDE), key_mask=key_mask,
                      distance_bias=(rows, -clip), scale=scale, with_lse=False)[0]
    value_table = np.ascontiguousarray(value_table)
    out, lse = _band(q, k, v, key_table, value_table, 0 if causal else clip, key_mask, scale)
    sides = [(-tiles.WIDE, -clip - 1, 0), (clip + 1, tiles.WIDE, -1)]
    for low, high, row in sides[:1 if causal else 2]:
        far, far_lse = attend(q, k, v, tiles.band(n, m, low, high), key_mask=key_mask, scale=scale)
        far_lse += scale * project(q, key_table[..., row, :, None], lead)[..., 0]
        far += value_table[..., row, None, :]
        out, lse = merge(out, lse, far, far_lse)
    return out


def _band(q: Array, k: Array, v: Array, key_table: Array, value_table: Array, high: int,
          key_mask: Array | None, scale: float) -> tuple[Array, Array]:
    """Attention to the keys at offsets -c..high, each with its own rows of the tables, and its lse."""
    lead, n, clip = leading(q, k, v), q.shape[-2], key_table.shape[-2] // 2
    out, lse = empty((*lead, n, v.shape[-1]), q.dtype), empty((*lead, n), q.dtype)
    for rows, keys, offsets, place in _offset_blocks(n, k.shape[-2], -clip, high, QUERIES):
        # products of dense rows have the same bits whatever the layout of q and k
        own, near = (np.ascontiguousarray(distinct(x)) for x in (q[..., rows, :], k[..., keys, :]))
        b, w = own.shape[-2], near.shape[-2]
        mask = None if key_mask is None else key_mask[..., keys]
        inside = slice(*np.searchsorted(offsets, (-clip, high + 1)))
        row = offsets[inside] + clip
        term = scale * (own @ key_table[..., row, :].swapaxes(-1, -2))
        bias = np.zeros((*term.shape[:-1], len(offsets)), q.dtype)
        bias[..., inside] = term
        out[..., rows, :], lse[..., rows] = attend(
            own, near, v[..., keys, :], tiles.band(b, w, -clip - place, high - place), key_mask=mask,
            bias=_skew(bias, w), scale=scale)
        seen = _skew(np.broadcast_to((-clip <= offsets) & (offsets <= high), (b, len(offsets))), w)
        with np.errstate(over="ignore", invalid="ignore"):  # keys that the mask hides may hold anything
            scores = scale * (own @ near.swapaxes(-1, -2)) + _skew(bias, w)
        scores = np.where(seen if mask is None else seen & mask[..., None, :], scores, -np.inf)
        weights = np.zeros((*scores.shape[:-1], len(offsets)), q.dtype)
        _skew(weights, w)[...] = softmax(scores)
        out[..., rows, :] += weights[..., inside] @ value_table[..., row, :]
    return out, lse


def _offset_blocks(n: int, m: int, low: int, high: int, size: int
                  ) -> Iterator[tuple[slice, slice, Array, int]]:
    """Blocks of `size` queries, each with the keys at an offset of low..high from one of them.

    The offset of key j from query i is j - p, p = i + m - n. Yields the queries, the keys, all offsets that
    occur between these in ascending order, and the offset of the last key from the last query, by which
    offsets are smaller when the block is a problem of its own, aligned at its end.
    """
    for first in range(0, n, max(size, 1)):
        stop = min(first + size, n)
        begin, end = first + m - n, stop - 1 + m - n  # the positions of the first and the last query
        start = min(max(begin + low, 0), m)
        after = min(max(end + high + 1, start), m)
        yield slice(first, stop), slice(start, after), np.arange(start - end, after - begin), after - 1 - end


def _skew(by_offset: Array, keys: int) -> Array:
    """Rows by offset, (...,b,keys+b-1), as rows by key, (...,b,keys): row i begins b - 1 - i columns later.

    The columns are the offsets that `_offset_blocks` yields. A view: what is written to it goes to its place.
    """
    *lead, row, column = by_offset.strides
    first = by_offset[..., max(by_offset.shape[-2] - 1, 0):]
    shape, strides = (*by_offset.shape[:-1], keys), (*lead, row - column, column)
    return np.lib.stride_tricks.as_strided(first, shape, strides)
