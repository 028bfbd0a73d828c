"""Compressive Transformer, fast: three stretches of keys, attended to where they are, one after another."""

import numpy as np

from xfaccel.arrays import keys_and_values, leading, lengths
from xfaccel.distance import relative_attention

Array = np.ndarray


def compressive_transformer(q: Array, k: Array, v: Array, *, memory: tuple[Array, Array],
                            compressed: tuple[Array, Array], relative_keys: Array,
                            content_bias: Array | None = None, position_bias: Array | None = None,
                            key_mask: Array | None = None, scale: float | None = None) -> Array:
    """Attention of a segment to the compressed memory, the memory and itself (Rae et al. 2019, Section 3).

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e) with m >= n. Follows `xfref.compressive_transformer`: memories
    are not copied together but attended to where they are, each result being joined with those before it.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n (n_c + n_m + m) (d + e)) time.
    Memory: threads * relative(d, e) + 4 * n + heads * n * (2 * d + 2) * size.
    """
    lengths(q, k, v, more_keys=True)
    lead = leading(q, k, v)
    older = [keys_and_values(name, x, q, v, lead)
             for name, x in (("compressed", compressed), ("memory", memory))]
    return relative_attention(q, k, v, older=older, relative_keys=relative_keys, content_bias=content_bias,
                              position_bias=position_bias, key_mask=key_mask, scale=scale)
