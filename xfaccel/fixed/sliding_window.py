"""Sliding windows, fast: one band of keys per tile of queries."""

import functools

import numpy as np

from xfaccel.arrays import count, counts, leading, lengths
from xfaccel.engine import tiles
from xfaccel.engine.softmax import attend

Array = np.ndarray


def sliding_window(q: Array, k: Array, v: Array, *, left: int, right: int, dilation: int | Array = 1,
                   key_mask: Array | None = None, scale: float | None = None) -> Array:
    """Attention to `left` hops before and `right` hops after the query, a hop being `dilation` positions.

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). Follows `xfref.sliding_window`: one band per tile; with a
    dilation g the tokens of equal remainder mod g form tiles, so that hops are neighbours.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n (left + right + 1) (d + e)) time.
    Memory: threads * tile(d, e) + 4 * planes * n.
    """
    n, m = lengths(q, k, v)
    left, right = count("left", left, 0), count("right", right, 0)
    dilation = counts("dilation", dilation, leading(q, k, v))
    if isinstance(dilation, int):
        return attend(q, k, v, tiles.band(n, m, -left, right, dilation), key_mask=key_mask, scale=scale,
                      with_lse=False)[0]
    return attend(q, k, v, _bands(n, m, left, right, tuple(dilation.tolist())), plane_axes=dilation.shape,
                  key_mask=key_mask, scale=scale, with_lse=False)[0]


@functools.lru_cache(64)
def _bands(n: int, m: int, left: int, right: int, dilation: tuple[int, ...]) -> tiles.TileList:
    return tiles.join([tiles.band(n, m, -left, right, hop) for hop in dilation])
