"""Transformer-XL: segments that attend to the states of earlier segments, with positions told by distance.

Transformer-XL: Attentive Language Models Beyond a Fixed-Length Context. Dai, Yang, Yang, Carbonell, Le,
Salakhutdinov. 2019. arXiv:1901.02860, Section 3.2 (recurrence), Section 3.3 (relative positional encodings)
and Appendix B (the shift). Projections and the memory itself are the caller's.

Differs: scores are divided by sqrt(d), as in the released code and not in the paper's display. `same_length`
is no part of the paper; it follows the released TensorFlow code, whose queries see m - n + 1 keys each (the
PyTorch code hides one more).
"""

import numpy as np

from xfref.core import lengths, relative_attention
from xfref.patterns import window


def transformer_xl(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, relative_keys: np.ndarray,
                   content_bias: np.ndarray | None = None, position_bias: np.ndarray | None = None,
                   same_length: bool = False, key_mask: np.ndarray | None = None,
                   scale: float | None = None) -> np.ndarray:
    """Causal attention of a segment to a memory and itself, its scores a sum over contents and distances.

    s_ij = scale * (q_i . k_j + q_i . r_t + u . k_j + w . r_t),  t = i + m - n - j >= 0;   out = softmax(s) v

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e): the queries are the last n of m >= n tokens, the m - n before
    them are the memory. `relative_keys` r (lead..., m, d) are the projected encodings of the distances 0, 1,
    ..., m - 1; `content_bias` u and `position_bias` w (lead..., d), usually one per head, are zero if None.
    With `same_length` every query sees as many keys as the first one: the distances 0 to m - n. The paper
    trains with a memory as long as the segment, m = 2 n.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n m (d + e)) time, O(n m) memory; the twin keeps no scores.

    >>> q, k, v = np.ones((1, 1)), np.zeros((2, 1)), np.array([[0.0], [8.0]])
    >>> transformer_xl(q, k, v, relative_keys=np.log([[1.0], [3.0]]))
    array([[2.]])
    """
    n, m = lengths(q, k, v, more_keys=True)
    seen = window(n, m, left=m - n if same_length else m, right=0)
    # terms (a) and (c) are the products with k, (b) and (d) those with r
    return relative_attention(q, k, v, relative_keys=relative_keys, content_bias=content_bias,
                              position_bias=position_bias, mask=seen, key_mask=key_mask, scale=scale)
