"""Random attention, fast: the lists of keys as one pattern, kept while they stay the same."""

import functools

import numpy as np

from xfaccel import patterns
from xfaccel.arrays import check_shape, leading, lengths
from xfaccel.core import attention

Array = np.ndarray


def random_tokens(q: Array, k: Array, v: Array, *, indices: Array, causal: bool = False,
                  key_mask: Array | None = None, scale: float | None = None) -> Array:
    """Attention of each query to the keys listed for it (Zaheer et al. 2020, Section 2).

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). Follows `xfref.random_tokens`: a tile of queries walks through
    the keys that any of them sees. Its lists are compiled when they are first met.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(64 n r (d + e)) time, O(n r) memory.
    """
    n, m = lengths(q, k, v)
    indices = patterns.listed("indices", indices, n, m)
    check_shape("indices", indices.shape, (n, None), leading(q, k, v))
    pattern = _scattered(n, m, bool(causal), indices.shape, indices.tobytes())
    return attention(q, k, v, mask=pattern, key_mask=key_mask, scale=scale)


@functools.lru_cache(8)  # few: what is kept grows with the lists
def _scattered(n: int, m: int, causal: bool, shape: tuple[int, ...], indices: bytes) -> patterns.Pattern:
    pattern = patterns.scattered(n, np.frombuffer(indices, np.int64).reshape(shape), m)
    return pattern & patterns.past(n, m) if causal else pattern
