"""Relative positions, fast: a table by distance; with values, a band between two sides of plain attention."""

import numpy as np

from xfaccel.arrays import check_key_mask, empty, leading, lengths, namespace, parameter, scale_or_default
from xfaccel.core import merge_into, softmax
from xfaccel.engine import tiles
from xfaccel.engine.product import project
from xfaccel.engine.softmax import attend

Array = np.ndarray
QUERIES = 512  # of which the products with a longer table are held at once
BLOCK = 128    # of queries whose weights by offset are held at once


def shaw(q: Array, k: Array, v: Array, *, key_table: Array, value_table: Array | None = None,
         causal: bool = False, key_mask: Array | None = None, scale: float | None = None) -> Array:
    """Attention to keys and values that carry a vector for their clipped offset (Shaw et al. 2018, Eq. 3, 4).

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). Follows `xfref.shaw`: the engine makes the products of the
    queries with the key table tile by tile. With a value table, all keys of a side beyond the clipping
    distance c share one row, which shifts the mean of a query as a whole, so a side is plain attention; the
    keys within c are a band, whose weights by offset are made again for the rows of the table, a block of
    queries at a time; the three are merged.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n m (d + e)) time, half of it if causal, and with a value table O(n (c + 128) (d + e)).
    Memory: threads * relative(d, e) + 4 * n
        + (heads * (rows * (d + 2 * c + e + 8) + 128 * (8 * c + 128)) * size if value_table else 0);
    rows is n, but 512 at most if c > 255.
    """
    n, m = lengths(q, k, v)
    lead, scale = leading(q, k, v), scale_or_default(scale, q)
    key_table = parameter("key_table", key_table, q.dtype, own=(None, q.shape[-1]), lead=lead)
    length = key_table.shape[-2]
    if length % 2 == 0:
        raise ValueError(f"key_table needs an odd number of rows, 2c + 1, got {length}")
    if value_table is not None:
        value_table = parameter("value_table", value_table, q.dtype, own=(length, v.shape[-1]), lead=lead)
    if key_mask is not None:
        check_key_mask(key_mask, k, lead)
    clip = length // 2
    if value_table is None:
        band = tiles.band(n, m, -tiles.WIDE, 0 if causal else tiles.WIDE)
        return attend(q, k, v, band, relative=(q, key_table, -clip), key_mask=key_mask, scale=scale,
                      with_lse=False)[0]
    if length <= QUERIES or n <= QUERIES:
        return _with_values(q, k, v, key_table, value_table, clip, 0, causal, key_mask, scale)
    # a long table has as many products with a query as there are keys: some queries at a time
    out = empty((*lead, n, v.shape[-1]), q.dtype, q)
    for first in range(0, n, QUERIES):
        queries = slice(first, min(first + QUERIES, n))
        out[..., queries, :] = _with_values(q[..., queries, :], k, v, key_table, value_table, clip,
                                            n - queries.stop, causal, key_mask, scale)
    return out


def _with_values(q: Array, k: Array, v: Array, key_table: Array, value_table: Array, clip: int, later: int,
                 causal: bool, key_mask: Array | None, scale: float) -> Array:
    """`shaw` for queries of which the last has `later` more positions after it."""
    lead, n, m = leading(q, k, v), q.shape[-2], k.shape[-2]
    scaled = scale * q
    bias = project(scaled, key_table.swapaxes(-1, -2), lead)  # (..., n, 2c + 1), by offset

    def keys_at(low, high, **options):
        # the engine counts offsets from the last key
        band = tiles.band(n, m, low - later, high - later)
        return attend(q, k, v, band, key_mask=key_mask, scale=scale, **options)

    high = 0 if causal else clip
    out, lse = keys_at(-clip, high, distance_bias=(bias, -clip - later))
    within = slice(clip + high + 1)
    _add_mean_of_rows(out, scaled, k, bias[..., within], value_table[..., within, :], clip + later, key_mask)
    sides = [(-tiles.WIDE, -clip - 1, 0), (clip + 1, tiles.WIDE, -1)]
    for low, high, row in sides[:1 if causal else 2]:
        far, far_lse = keys_at(low, high)
        far_lse += bias[..., row]
        far += value_table[..., row, None, :]
        out, lse = merge_into((out, lse), (far, far_lse))
        del far  # else those of both sides would be in memory
    return out


def _add_mean_of_rows(out: Array, q: Array, k: Array, bias: Array, table: Array, back: int,
                      key_mask: Array | None) -> None:
    """Add to `out` the rows of `table`, weighted by a softmax over the offsets that its rows stand for.

    Column t of `bias` and row t belong to key i + m - n - back + t of query i; `q` is scaled.
    """
    *lead, n, width = bias.shape
    m = k.shape[-2]
    for first in range(0, n, BLOCK):
        queries = slice(first, min(first + BLOCK, n))
        start, count = first + m - n - back, queries.stop - first
        keys = slice(max(start, 0), min(max(start + count - 1 + width, 0), m))
        scores = namespace(q).full((*lead, count, count - 1 + width), -np.inf, out.dtype)
        inside = scores[..., keys.start - start:keys.stop - start]
        inside[...] = project(q[..., queries, :], k[..., keys, :].swapaxes(-1, -2), tuple(lead))
        if key_mask is not None:
            inside[...] = np.where(key_mask[..., None, keys], inside, -np.inf)
        # by offset instead of by key: each row begins one column after the one before
        *axes, row, column = scores.strides
        shape, strides = (*lead, count, width), (*axes, row + column, column)
        by_offset = namespace(q).lib.stride_tricks.as_strided(scores, shape, strides)
        weights = softmax(by_offset + bias[..., queries, :])
        out[..., queries, :] += project(weights, table, tuple(lead))
