"""Adaptive attention span, fast: each head has a band of keys as long as its span, and a bias by distance."""

import functools

import numpy as np

from xfaccel.arrays import (
    check_key_mask,
    empty,
    leading,
    lengths,
    namespace,
    number,
    parameter,
)
from xfaccel.engine import tiles
from xfaccel.engine.softmax import attend

Array = np.ndarray
QUERIES = 512  # in a block, where each query has a span of its own
ROUND = 16     # tokens


def adaptive_span(q: Array, k: Array, v: Array, *, span: float | Array, ramp: float,
                  position_keys: Array | None = None, key_mask: Array | None = None,
                  scale: float | None = None) -> Array:
    """Attention to the past within a soft span, per head or token (Sukhbaatar et al. 2019, Section 2.2).

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). Follows `xfref.adaptive_span`: the logarithm of the soft mask
    is a bias by distance, one row for all queries of a head, and the engine makes the scores of position keys
    tile by tile. Spans per token have a row for each query, made for a block of queries at a time.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n (span + ramp) (d + e)) time by each head's own span.
    Memory: threads * (relative(d, e) if position_keys else tile(d, e))
        + heads * (4 * n + rows * (span + ramp + 144) * size); `span` is the longest, and rows is 2, for spans
    per token 2 n but 1024 at most.
    """
    n, m = lengths(q, k, v)
    if m < n:
        raise ValueError(f"this variant needs at least as many keys as queries, got n = {n} and m = {m}")
    lead, longest = leading(q, k, v), m
    span, ramp = _spans(span, q.dtype, n, lead), q.dtype.type(number("ramp", ramp, 0, above=True))
    if key_mask is not None:
        check_key_mask(key_mask, k, lead)
    if position_keys is not None:
        position_keys = parameter("position_keys", position_keys, q.dtype, own=(None, q.shape[-1]), lead=lead)
        longest = position_keys.shape[-2] - 1
        if longest < 0:
            raise ValueError("position_keys needs at least 1 row, that of distance 0, got 0")
        farthest_first = position_keys[..., ::-1, :]
    # how far a head may look, rounded up: then spans that differ a little share their lists of tiles
    reach = np.ceil((ramp + span.max(axis=-1, initial=0)) / ROUND) * ROUND
    reach = np.minimum(reach, min(longest, m)).astype(int)
    furthest, alike = int(reach.max(initial=0)), span.shape[-1] == 1
    xp = namespace(q)
    # also those that only pairs outside the band have: then no tile reaches beyond the ends of the bias
    span, distance = xp.asarray(span), xp.arange(furthest + tiles.TILE - 1, -tiles.TILE, -1)

    def block(first, last):
        keys = slice(max(first + m - n - furthest, 0), last + m - n)
        own, z = q[..., first:last, :], span if span.shape[-1] == 1 else span[..., first:last]
        bias = np.clip((ramp + z[..., None] - distance.astype(q.dtype)) / ramp, 0, 1)
        with np.errstate(divide="ignore"):
            bias = np.log(bias, out=bias)
        relative = None if position_keys is None else (own, farthest_first, -longest)
        bands = _bands(last - first, keys.stop - keys.start, tuple(reach.ravel().tolist()))
        return attend(own, k[..., keys, :], v[..., keys, :], bands, plane_axes=reach.shape,
                      key_mask=None if key_mask is None else key_mask[..., keys],
                      distance_bias=(bias, -(furthest + tiles.TILE - 1)), relative=relative, scale=scale,
                      with_lse=False)[0]

    if alike or n <= QUERIES:
        return block(0, n)
    out = empty((*lead, n, v.shape[-1]), q.dtype, q)
    for first in range(0, n, QUERIES):
        last = min(first + QUERIES, n)
        out[..., first:last, :] = block(first, last)
    return out


@functools.lru_cache(64)
def _bands(n: int, m: int, reaches: tuple[int, ...]) -> tiles.TileList:
    return tiles.join([tiles.band(n, m, -reach, -1) for reach in reaches or (0,)])


def _spans(span: float | Array, dtype: np.dtype, n: int, lead: tuple[int, ...]) -> Array:
    """The spans as an array (lead..., 1) or (lead..., n)."""
    span = np.array(number("span", span)) if np.isscalar(span) else span
    span = parameter("span", span, dtype, own=(n,), lead=lead, broadcast=True)
    wrong = ~((span >= 0) & (span < np.inf))
    if wrong.any():
        raise ValueError(f"span needs finite numbers of at least 0, got {span[wrong][0]}")
    return np.ascontiguousarray(span)
