"""Attention over a pattern as a NumPy user writes it today: products of scipy.sparse, head by head."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

Array = np.ndarray


def attention(q: Array, k: Array, v: Array, seen: Sequence[csr_array], scale: float | None = None) -> Array:
    """Scores of the pairs in the patterns, their softmax row by row, and the product with the values.

    (H,n,d),(H,m,d),(H,m,e) -> (H,n,e). `seen` has one pattern (n, m) for all heads, or one for each. A query
    that sees nothing gets zeros.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    out = np.empty((*q.shape[:-1], v.shape[-1]), q.dtype)
    for head, pattern in enumerate(seen if len(seen) == len(q) else [seen[0]] * len(q)):
        length = np.diff(pattern.indptr)
        query, filled = np.repeat(np.arange(len(length)), length), np.flatnonzero(length)
        scores = np.einsum("pd,pd->p", q[head][query], k[head][pattern.indices]) * q.dtype.type(scale)
        top = np.zeros(len(length), q.dtype)
        top[filled] = np.maximum.reduceat(scores, pattern.indptr[filled])
        weights = csr_array((np.exp(scores - top[query]), pattern.indices, pattern.indptr), pattern.shape)
        total = weights.sum(axis=-1)
        out[head] = weights @ v[head] / np.where(total == 0, 1, total)[:, None]
    return out
