"""Random attention, fast: every query gathers the keys of its own list."""

import numpy as np

from xfaccel.arrays import check_shape, leading, lengths
from xfaccel.engine.softmax import attend_listed
from xfaccel.patterns import listed_in

Array = np.ndarray


def random_tokens(q: Array, k: Array, v: Array, *, indices: Array, causal: bool = False,
                  key_mask: Array | None = None, scale: float | None = None) -> Array:
    """Attention of each query to the keys listed for it (Zaheer et al. 2020, Section 2).

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). Follows `xfref.random_tokens`: its list is all that a query
    reads; what is listed twice is noticed while the list is walked through.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n r (d + e)) time.
    Memory: threads * (8 * m + (8 + size) * r).
    """
    n, m = lengths(q, k, v)
    indices = listed_in("indices", indices, n, m)
    check_shape("indices", indices.shape, (n, None), leading(q, k, v))
    return attend_listed(q, k, v, indices, causal=causal, key_mask=key_mask, scale=scale, with_lse=False)[0]
