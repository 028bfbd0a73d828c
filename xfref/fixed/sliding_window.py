"""Sliding-window attention: a token sees the tokens around it, each token its own surroundings.

Longformer: The Long-Document Transformer. Beltagy, Peters, Cohan. 2020. arXiv:2004.05150, Section 3.1,
"Sliding Window" and "Dilated Sliding Window"; the window of a Sparse Transformer (Child et al. 2019,
arXiv:1904.10509, Section 4.3) is the same with nothing to the right.

Differs: the two sides are counted apart, in hops and without the token itself; Longformer's window w is
left = right = w / 2.
"""

import numpy as np

from xfref.core import attention, counts, leading, lengths
from xfref.patterns import window


def sliding_window(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, left: int, right: int,
                   dilation: int | np.ndarray = 1, key_mask: np.ndarray | None = None,
                   scale: float | None = None) -> np.ndarray:
    """Attention to `left` hops before and `right` hops after the query, a hop being `dilation` positions.

    out_i = attention over { j : j = p_i + g h, -left <= h <= right },  g = dilation,  p_i = i + m - n

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). `dilation` is an int, or one int per entry of the last leading
    axis (per head). right=0 is causal. Longformer's base model uses left = right = 256, dilation 1.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n (left + right + 1) (d + e)) when the pattern is used; here O(n m (d + e)).

    >>> v = np.array([[0.0], [2.0], [4.0]])
    >>> sliding_window(np.zeros((3, 1)), np.zeros((3, 1)), v, left=1, right=0)
    array([[0.],
           [1.],
           [3.]])
    """
    n, m = lengths(q, k, v)
    dilation = counts("dilation", dilation, leading(q, k, v))
    return attention(q, k, v, mask=window(n, m, left=left, right=right, dilation=dilation), key_mask=key_mask,
                     scale=scale)
