"""Adaptive attention span, fast: a band of keys per head, as long as its span, and the soft mask as a bias."""

import functools

import numpy as np

from xfaccel.arrays import empty, leading, lengths, number, parameter, scale_or_default
from xfaccel.core import offset_blocks, skew
from xfaccel.engine import tiles
from xfaccel.engine.softmax import attend

Array = np.ndarray
QUERIES = 128  # in a block, where every query has terms of its own


def adaptive_span(q: Array, k: Array, v: Array, *, span: float | Array, ramp: float,
                  position_keys: Array | None = None, key_mask: Array | None = None,
                  scale: float | None = None) -> Array:
    """Attention to the past within a soft span, per head or token (Sukhbaatar et al. 2019, Section 2.2).

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). Follows `xfref.adaptive_span`: each head walks through a band
    of keys as long as its own span. The logarithm of the soft mask is a bias by distance, one row for all
    queries, of which the engine reads shifted views; position terms and spans per token are biases of a block
    of queries at a time.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n (span + ramp) (d + e)) time for each head's span, O(n + span + ramp) memory.
    """
    n, m = lengths(q, k, v)
    if m < n:
        raise ValueError(f"this variant needs at least as many keys as queries, got n = {n} and m = {m}")
    lead, scale, longest = leading(q, k, v), scale_or_default(scale, q), m
    span, ramp = _spans(span, q.dtype, n, lead), q.dtype.type(number("ramp", ramp, positive=True))
    if position_keys is not None:
        position_keys = parameter("position_keys", position_keys, q.dtype, own=(None, q.shape[-1]), lead=lead)
        longest = position_keys.shape[-2] - 1
        if longest < 0:
            raise ValueError("position_keys needs at least 1 row, that of distance 0, got 0")
    # what a head may see, in whole tiles: then spans that differ a little share their lists of tiles
    reach = np.ceil((ramp + span.max(axis=-1, initial=0)) / tiles.TILE) * tiles.TILE
    reach = np.minimum(reach, min(longest, m)).astype(int)
    by_row = position_keys is not None or span.shape[-1] > 1
    out = empty((*lead, n, v.shape[-1]), q.dtype)
    furthest = int(reach.max(initial=0))
    for rows, keys, offsets, _ in offset_blocks(n, m, -furthest, 0, QUERIES if by_row else n):
        distance, z = -offsets, span if span.shape[-1] == 1 else span[..., rows]
        weight = np.clip((ramp + z[..., None] - distance.astype(q.dtype)) / ramp, 0, 1)
        with np.errstate(divide="ignore"):
            bias = np.log(weight, out=weight)
        own = q[..., rows, :]
        if position_keys is not None:
            of_distance = position_keys[..., distance.clip(0, longest), :]
            bias = bias + scale * (own @ of_distance.swapaxes(-1, -2))
        bias = np.broadcast_to(bias, (*bias.shape[:-2], own.shape[-2], len(distance)))
        near = k[..., keys, :]
        mask = None if key_mask is None else key_mask[..., keys]
        out[..., rows, :] = attend(
            own, near, v[..., keys, :], _bands(own.shape[-2], near.shape[-2], tuple(reach.ravel().tolist())),
            plane_axes=reach.shape, key_mask=mask, bias=skew(bias, near.shape[-2]), scale=scale)[0]
    return out

@functools.lru_cache(64)
def _bands(n: int, m: int, reaches: tuple[int, ...]) -> tiles.TileList:
    return tiles.join([tiles.band(n, m, -reach, -1) for reach in reaches or (0,)])


def _spans(span: float | Array, dtype: np.dtype, n: int, lead: tuple[int, ...]) -> Array:
    span = np.array(number("span", span)) if np.isscalar(span) else span
    span = parameter("span", span, dtype, own=(n,), lead=lead, broadcast=True)
    wrong = ~((span >= 0) & (span < np.inf))
    if wrong.any():
        raise ValueError(f"span needs finite numbers of at least 0, got {span[wrong][0]}")
    return np.atleast_1d(span)
