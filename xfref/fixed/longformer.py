"""Longformer: a sliding window for every token, and a few global tokens that see and are seen by all.

Longformer: The Long-Document Transformer. Beltagy, Peters, Cohan. 2020. arXiv:2004.05150, Section 3.1
(attention pattern and linear projections for global attention).

Differs: in nothing that the paper says. It leaves open how a key that is both near and global counts: here
once, as in the released code. Released code zeroes the rows of masked queries; here `key_mask` hides keys
only.
"""

from collections.abc import Sequence

import numpy as np

from xfref.core import attention, companion, count, counts, leading, lengths
from xfref.patterns import token_mask
from xfref.patterns import window as window_pattern


def longformer(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, window: int, dilation: int | np.ndarray = 1,
               global_tokens: Sequence[int] | np.ndarray = (), global_q: np.ndarray | None = None,
               global_k: np.ndarray | None = None, global_v: np.ndarray | None = None, causal: bool = False,
               key_mask: np.ndarray | None = None, scale: float | None = None) -> np.ndarray:
    """Windowed attention plus global tokens, which have projections of their own.

    p_i not global: out_i = attention(q_i, k, v) over { j : near p_i } and { j : j global }, one softmax
    p_i global:     out_i = attention(global_q_i, global_k, global_v) over every j

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). Near means at most window / 2 hops of `dilation` positions to
    either side (`window` is even, and counts both sides; `dilation` an int or one per head); p_i = i + m - n.
    `global_tokens` are positions 0..m-1, or booleans (lead..., m) where each sequence has its own. The global
    projections have the shapes of q, k and v, which they default to. `causal` hides later keys from local and
    global rows alike. The base model has a window of 512.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O((n window + (n + m) g) (d + e)) for g global tokens; here O(n m (d + e)).

    >>> v = np.array([[0.0], [3.0], [6.0]])
    >>> longformer(np.zeros((3, 1)), np.zeros((3, 1)), v, window=0, global_tokens=[0])
    array([[3. ],
           [1.5],
           [3. ]])
    """
    n, m = lengths(q, k, v)
    lead = leading(q, k, v)
    if count("window", window, 0) % 2:
        raise ValueError(f"window needs to be even (half on each side), got {window}")
    dilation = counts("dilation", dilation, lead)
    is_global = token_mask("global_tokens", global_tokens, m, lead)
    global_q, global_k, global_v = (
        own if x is None else companion(f"global_{name}", x, own.dtype, own.shape[-2:], lead)
        for name, x, own in (("q", global_q, q), ("k", global_k, k), ("v", global_v, v)))
    near = window_pattern(n, m, left=window // 2, right=window // 2, dilation=dilation)
    local_rows = attention(q, k, v, mask=near | is_global[..., None, :], causal=causal, key_mask=key_mask,
                           scale=scale)
    global_rows = attention(global_q, global_k, global_v, causal=causal, key_mask=key_mask, scale=scale)
    # with more queries than keys the first queries lie before position 0: none of them is global
    before = np.zeros((*is_global.shape[:-1], max(n - m, 0)), bool)
    row_is_global = np.concatenate([before, is_global[..., max(m - n, 0):]], axis=-1)
    return np.where(row_is_global[..., None], global_rows, local_rows)
