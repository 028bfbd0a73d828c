"""Random attention: every query sees a few keys drawn at random, the same whatever the tokens say.

Big Bird: Transformers for Longer Sequences. Zaheer, Guruganesh, Dubey, Ainslie, Alberti, Ontanon, Pham,
Ravula, Wang, Yang, Ahmed. 2020. arXiv:2007.14062, Section 2, the random part of its attention alone.

Differs: the drawn keys come in as integers, so that the caller owns the generator; nothing is added to them,
neither the query's own position nor a window (draw them in, or merge with another pattern).
"""

import numpy as np

from xfref.core import attention, check_shape, leading, lengths
from xfref.patterns import scattered


def random_tokens(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, indices: np.ndarray, causal: bool = False,
                  key_mask: np.ndarray | None = None, scale: float | None = None) -> np.ndarray:
    """Attention of each query to the keys listed for it.

    out_i = attention over { j : j in indices_i }, and j <= i + m - n if `causal`

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). `indices`, (lead..., n, r) ints, holds r key numbers 0..m-1
    for every query; a repeated one counts once, and -1 is an empty place: lists of unequal length fit too.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n r (d + e)) when the lists are used; here O(n m (d + e)).

    >>> v = np.array([[0.0], [2.0], [4.0]])
    >>> random_tokens(np.zeros((2, 1)), np.zeros((3, 1)), v, indices=np.array([[0, 2], [1, 1]]))
    array([[2.],
           [2.]])
    """
    n, m = lengths(q, k, v)
    seen = scattered(n, indices, m)
    check_shape("indices", indices.shape, (n, None), leading(q, k, v))
    return attention(q, k, v, mask=seen, causal=causal, key_mask=key_mask, scale=scale)
