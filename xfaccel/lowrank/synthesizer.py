"""Synthesizer, fast: the softmax engine with the logits as its bias, on queries and keys of zero."""

import numpy as np

from xfaccel.arrays import check_array, is_half, leading, namespace
from xfaccel.core import attention

Array = np.ndarray


def synthesizer(v: Array, logits: Array, *, causal: bool = False, key_mask: Array | None = None) -> Array:
    """The mean of the values, weighted by logits that are given (Tay et al. 2020).

    (...,m,e),(...,n,m) -> (...,n,e). Follows `xfref.synthesizer`: the engine reads the logits where they lie,
    whatever their strides, as a bias on scores of zero; no array of their size is made.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n m e) time, half of it if causal.
    Memory: threads * tile(1, e) + 4 * n.
    """
    check_array("v", v, least=2)
    # beside values of 16 bits, logits may have any type, on a GPU too
    check_array("logits", logits, least=2, dtype=None if is_half(v) else v.dtype, like="v")
    if logits.shape[-1] != v.shape[-2]:
        raise ValueError(f"logits needs one column per value, {v.shape[-2]}, got {logits.shape[-1]}")
    leading(v, logits, names="v and logits")
    # one zero stands for all queries and keys
    zero = namespace(v).zeros(1, v.dtype)
    q, k = (np.broadcast_to(zero, (*x.shape[:-1], 1)) for x in (logits, v))
    return attention(q, k, v, bias=logits, causal=causal, key_mask=key_mask)
