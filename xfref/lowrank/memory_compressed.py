"""Memory-compressed attention: a strided convolution leaves one key and one value for every c of them.

Generating Wikipedia by Summarizing Long Sequences. Liu, Saleh, Pot, Goodrich, Sepassi, Kaiser, Shazeer. 2018.
arXiv:1801.10198, Section 4.2.4. The local attention that alternates with it is `block_local`.

Differs: the paper has no padding and does not say what happens at either end. Here zeros fill up the last
block; masked tokens enter as zeros, and a block of nothing else is hidden. A causal query sees the blocks
that have ended, at its own position or before it: the first c - 1 see none and get zeros, unless there is a
null slot (the authors' library hides a block from the query at its end too, drops a short last block and
shows the first token to all). The convolution has no bias.
"""

import numpy as np

from xfref.core import attention, check_key_mask, hide_keys, joined, leading, lengths, parameter

Array = np.ndarray


def memory_compressed(q: Array, k: Array, v: Array, *, key_kernel: Array, value_kernel: Array,
                      null_key: Array | None = None, null_value: Array | None = None, causal: bool = False,
                      key_mask: Array | None = None, scale: float | None = None) -> Array:
    """Attention to one slot for every c positions, a learned combination of their keys and of their values.

    k'_t = sum_s k_{tc+s} key_kernel_s;   v'_t = sum_s v_{tc+s} value_kernel_s
    out = softmax(scale * q k'^T) v'

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). `key_kernel` is (lead..., c, d, d) and `value_kernel`
    (lead..., c, e, e): width c, stride c; the paper uses c = 3. `null_key` (lead..., 1, d) and `null_value`
    (lead..., 1, e), given together, are one more slot, which every query sees. `causal` hides slot t from the
    query at position p unless t c + c - 1 <= p.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(m (d^2 + e^2) + n m / c (d + e)) time, O(n m / c) memory.

    >>> q, v, mean = np.zeros((4, 1)), np.array([[1.0], [3.0], [5.0], [7.0]]), np.full((2, 1, 1), 0.5)
    >>> memory_compressed(q, q, v, key_kernel=mean, value_kernel=mean, causal=True)
    array([[0.],
           [2.],
           [2.],
           [4.]])
    """
    n, m = lengths(q, k, v)
    lead, d, e = leading(q, k, v), q.shape[-1], v.shape[-1]
    check_key_mask(key_mask, k, lead)
    key_kernel = parameter("key_kernel", key_kernel, q.dtype, own=(None, d, d), lead=lead)
    value_kernel = parameter("value_kernel", value_kernel, q.dtype, own=(None, e, e), lead=lead)
    c = key_kernel.shape[-3]
    if c == 0 or value_kernel.shape[-3] != c:
        raise ValueError(f"key_kernel and value_kernel need the same number of positions, at least 1, "
                         f"got {c} and {value_kernel.shape[-3]}")
    if (null_key is None) != (null_value is None):
        raise ValueError("null_key and null_value need to be given together")

    keys = _compress(hide_keys(k, key_mask), key_kernel)
    values = _compress(hide_keys(v, key_mask), value_kernel)
    slot = np.arange(keys.shape[-2])
    seen = np.ones((n, len(slot)), bool)
    if causal:
        seen = slot * c + c - 1 <= np.arange(n)[:, None] + m - n
    if key_mask is not None:
        seen = seen & _blocks(key_mask[..., None], c).any(axis=(-1, -2))[..., None, :]
    if null_key is not None:
        null_key = parameter("null_key", null_key, q.dtype, own=(1, d), lead=lead)
        null_value = parameter("null_value", null_value, q.dtype, own=(1, e), lead=lead)
        keys, values = joined(null_key, keys), joined(null_value, values)
        seen = np.concatenate([np.ones((*seen.shape[:-1], 1), bool), seen], axis=-1)
    return attention(q, keys, values, mask=seen, scale=scale)


def _compress(x: Array, kernel: Array) -> Array:
    """(...,m,w) -> (...,ceil(m/c),w)"""
    c = kernel.shape[-3]
    block = _blocks(x, c)
    return sum(block[..., s, :] @ kernel[..., s, :, :] for s in range(c))


def _blocks(x: Array, c: int) -> Array:
    """(...,m,w) -> (...,ceil(m/c),c,w), the last block filled up with zeros."""
    *lead, m, width = x.shape
    blocks = -(-m // c)
    tail = np.zeros((*lead, blocks * c - m, width), x.dtype)
    return np.concatenate([x, tail], axis=-2).reshape(*lead, blocks, c, width)
