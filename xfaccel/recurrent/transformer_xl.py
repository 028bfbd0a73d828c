"""Transformer-XL, fast: the softmax engine makes the scores by distance itself, tile by tile."""

import numpy as np

from xfaccel.distance import relative_attention

Array = np.ndarray


def transformer_xl(q: Array, k: Array, v: Array, *, relative_keys: Array, content_bias: Array | None = None,
                   position_bias: Array | None = None, same_length: bool = False,
                   key_mask: Array | None = None, scale: float | None = None) -> Array:
    """Causal attention of a segment to a memory and itself, by contents and distances (Dai et al. 2019, 3.3).

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e) with m >= n. Follows `xfref.transformer_xl`: a tile of queries
    meets the vectors of the distances that it can see, and reads that product along diagonals.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n m (d + e)) time, with `same_length` O(n (m - n) (d + e)).
    Memory: threads * relative(d, e) + 4 * n + 2 * heads * n * d * size,
        where relative(d, e) = 64 * (197 + 3 * d + 3 * e) * size; without biases no copy of q.
    """
    return relative_attention(q, k, v, relative_keys=relative_keys, content_bias=content_bias,
                              position_bias=position_bias, same_length=same_length, key_mask=key_mask,
                              scale=scale)
