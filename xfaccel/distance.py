"""Attention with a key for each distance, fast: what the recurrent papers share. Follows `xfref.core`."""

import math
from collections.abc import Sequence

import numpy as np

from xfaccel.arrays import check_key_mask, empty, leading, lengths, parameter, scale_or_default
from xfaccel.core import merge
from xfaccel.engine import tiles
from xfaccel.engine.product import project
from xfaccel.engine.softmax import attend

Array = np.ndarray
TILES_AT_ONCE = 16  # of queries: enough for the threads to share, while their scores by distance stay few


def relative_attention(q: Array, k: Array, v: Array, *, older: Sequence[tuple[Array, Array]] = (),
                       relative_keys: Array, content_bias: Array | None = None,
                       position_bias: Array | None = None, same_length: bool = False,
                       key_mask: Array | None = None, scale: float | None = None) -> Array:
    """Causal attention whose scores also weigh how far a key lies behind the query.

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e) with m >= n. Follows `xfref.core.relative_attention`, with the
    keys and values in stretches of their own: `older` ones, in the order of time and seen by all queries, and
    k, v. A block of queries at a time is scored against the distances that it can see; these scores are a
    table by distance for its attention to each stretch, and the stretches are merged.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n m (d + e)) time, half of it if m = n; O(n + m d) memory and a block of scores.
    """
    n, m = lengths(q, k, v, more_keys=True)
    lead, d = leading(q, k, v), q.shape[-1]
    if key_mask is not None:
        check_key_mask(key_mask, k, lead)
    before = sum(keys.shape[-2] for keys, _ in older)
    relative_keys = parameter("relative_keys", relative_keys, q.dtype, own=(before + m, d), lead=lead)
    farthest_first = np.ascontiguousarray(relative_keys[..., ::-1, :].swapaxes(-1, -2))  # (...,d,before + m)
    content_bias, position_bias = (
        parameter(name, np.zeros(d) if x is None else x, q.dtype, own=(d,), lead=lead)[..., None, :]
        for name, x in (("content_bias", content_bias), ("position_bias", position_bias)))
    scale = scale_or_default(scale, q)
    by_distance = np.broadcast_shapes(*(x.shape[:-2] for x in (q, position_bias, relative_keys)))
    out = empty((*lead, n, v.shape[-1]), q.dtype)
    block = tiles.TILE * max(1, TILES_AT_ONCE // max(1, math.prod(lead)))
    if same_length:  # of the scores of a block that is much longer than the memory, few would be needed
        block = min(block, max(tiles.TILE, m - n))
    for first in range(0, n, block):
        last = min(first + block, n)
        seen = slice(first if same_length else 0, last + m - n)  # what the block sees of k
        width = before + seen.stop - seen.start
        rows = q[..., first:last, :]
        # its last entry belongs to distance 0
        table = project((rows + position_bias) * scale, farthest_first[..., before + m - width:], by_distance)
        # all stretches give results of one shape, whatever their own leading axes
        queries = np.broadcast_to(rows + content_bias, (*lead, last - first, d))
        own = tiles.band(last - first, width - before, n - m if same_length else -tiles.WIDE, 0)
        result = attend(queries, k[..., seen, :], v[..., seen, :], own, distance_bias=(table, 1 - width),
                        scale=scale, key_mask=None if key_mask is None else key_mask[..., seen])
        start = 0
        for keys, values in older:
            stop = start + keys.shape[-2]
            everything = tiles.band(last - first, stop - start, -tiles.WIDE, tiles.WIDE)
            # aligned at its own end, a stretch lies width - stop nearer than it does in time
            result = merge(*result, *attend(queries, keys, values, everything,
                                            distance_bias=(table, 1 - stop), scale=scale))
            start = stop
        out[..., first:last, :] = result[0]
        del table  # else two blocks of scores would be in memory
    return out
