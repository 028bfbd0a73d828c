"""Attention with a key for each distance, fast: what the recurrent papers share. Follows `xfref.core`."""

from collections.abc import Sequence

import numpy as np

from xfaccel.arrays import check_key_mask, leading, lengths, parameter
from xfaccel.engine import tiles
from xfaccel.engine.softmax import attend

Array = np.ndarray


def relative_attention(q: Array, k: Array, v: Array, *, older: Sequence[tuple[Array, Array]] = (),
                       relative_keys: Array, content_bias: Array | None = None,
                       position_bias: Array | None = None, same_length: bool = False,
                       key_mask: Array | None = None, scale: float | None = None) -> Array:
    """Causal attention whose scores also weigh how far a key lies behind the query.

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e) with m >= n. Follows `xfref.core.relative_attention`, with the
    keys and values in stretches of their own: `older` ones, in the order of time and seen by all queries, and
    k, v. The engine makes the scores by distance tile by tile, and joins each stretch with those before it.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n m (d + e)) time, half of it if m = n; O(n (d + e) + m) memory.
    """
    n, m = lengths(q, k, v, more_keys=True)
    lead, d = leading(q, k, v), q.shape[-1]
    if key_mask is not None:
        check_key_mask(key_mask, k, lead)
    total = m + sum(keys.shape[-2] for keys, _ in older)
    relative_keys = parameter("relative_keys", relative_keys, q.dtype, own=(total, d), lead=lead)
    by_content, by_position = (
        q if x is None else q + parameter(name, x, q.dtype, own=(d,), lead=lead)[..., None, :]
        for name, x in (("content_bias", content_bias), ("position_bias", position_bias)))
    # all stretches give results of one shape, whatever their own leading axes
    by_content = np.broadcast_to(by_content, (*lead, n, d))
    farthest_first = relative_keys[..., ::-1, :]
    band = tiles.band(n, m, n - m if same_length else -tiles.WIDE, 0)
    result = attend(by_content, k, v, band, relative=(by_position, farthest_first, 1 - total), scale=scale,
                    key_mask=key_mask, with_lse=bool(older))
    stop = 0
    for keys, values in older:
        # aligned at its own end, a stretch lies total - stop nearer than it does in time
        stop += keys.shape[-2]
        everything = tiles.band(n, keys.shape[-2], -tiles.WIDE, tiles.WIDE)
        attend(by_content, keys, values, everything, relative=(by_position, farthest_first, 1 - stop),
               into=result, scale=scale)
    return result[0]
