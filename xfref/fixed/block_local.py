"""Local attention: the sequence is cut into blocks and a token sees its own block, or its neighbours too.

Image Transformer. Parmar, Vaswani, Uszkoreit, Kaiser, Shazeer, Ku, Tran. 2018. arXiv:1802.05751, Section 3.3
brought blocks; Long Range Arena, Tay et al. 2020, arXiv:2011.04006, Appendix B.1 uses them without overlap as
"Local Attention"; look-around blocks are common in released code.

Differs: in nothing that the text says. The code released with Long Range Arena lets token i see the tokens j
with i mod blocks = j mod blocks, a strided pattern; its text and this page mean contiguous blocks.
"""

import numpy as np

from xfref.core import attention, lengths
from xfref.patterns import same_block


def block_local(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, block: int, before: int = 0, after: int = 0,
                causal: bool = False, key_mask: np.ndarray | None = None,
                scale: float | None = None) -> np.ndarray:
    """Attention within blocks of `block` positions, with `before` and `after` whole blocks beside them.

    out_i = attention over { j : -before <= floor(j / block) - floor(p_i / block) <= after },  p_i = i + m - n

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). A last block may be short. The code released
    with Long Range Arena has blocks of 50.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n block (1 + before + after) (d + e)) when the pattern is used; here O(n m (d + e)).

    >>> v = np.array([[0.0], [2.0], [4.0], [8.0]])
    >>> block_local(np.zeros((4, 1)), np.zeros((4, 1)), v, block=2)
    array([[1.],
           [1.],
           [6.],
           [6.]])
    """
    n, m = lengths(q, k, v)
    return attention(q, k, v, mask=same_block(n, block, before, after, m), causal=causal, key_mask=key_mask,
                     scale=scale)
