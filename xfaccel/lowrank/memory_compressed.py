"""Memory-compressed attention, fast: a product over whole blocks, then the softmax engine over fewer keys."""

import functools

import numpy as np

from xfaccel.arrays import check_key_mask, distinct, joined, leading, lengths, namespace, parameter
from xfaccel.core import attention
from xfaccel.engine.product import project
from xfaccel.patterns import Pattern, of_ranges

Array = np.ndarray


def memory_compressed(q: Array, k: Array, v: Array, *, key_kernel: Array, value_kernel: Array,
                      null_key: Array | None = None, null_value: Array | None = None, causal: bool = False,
                      key_mask: Array | None = None, scale: float | None = None) -> Array:
    """Attention to one slot for every c positions, a learned combination of them (Liu et al. 2018, 4.2.4).

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). Follows `xfref.memory_compressed`: a block of c keys is a row
    of c d numbers, so the convolution is one matrix product, on a copy only if the last block is short or a
    mask hides keys; the slots that have ended are one range per query.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(m (d^2 + e^2) + n m / c (d + e)) time.
    Memory: max(threads * (tile(d, e) + 64 * 193 * size), made(n) if causal else 0) + 8 * n
        + heads * m / c * (d + e) * size; a copy of k or v, if one is made, is gone before there is a result.
    """
    n, m = lengths(q, k, v)
    lead, d, e = leading(q, k, v), q.shape[-1], v.shape[-1]
    key_kernel = parameter("key_kernel", key_kernel, q.dtype, own=(None, d, d), lead=lead)
    value_kernel = parameter("value_kernel", value_kernel, q.dtype, own=(None, e, e), lead=lead)
    c = key_kernel.shape[-3]
    if c == 0 or value_kernel.shape[-3] != c:
        raise ValueError(f"key_kernel and value_kernel need the same number of positions, at least 1, "
                         f"got {c} and {value_kernel.shape[-3]}")
    if (null_key is None) != (null_value is None):
        raise ValueError("null_key and null_value need to be given together")
    null = int(null_key is not None)
    if null:
        null_key = parameter("null_key", null_key, q.dtype, own=(1, d), lead=lead)
        null_value = parameter("null_value", null_value, q.dtype, own=(1, e), lead=lead)
    if key_mask is not None:
        check_key_mask(key_mask, k, lead)
    keys = _slots(k, key_kernel, null_key, key_mask)
    values = _slots(v, value_kernel, null_value, key_mask)
    if key_mask is not None:
        key_mask = _seen_slots(key_mask, c, null, keys.ndim - 1)
    q = np.broadcast_to(q, (*lead, n, d))
    return attention(q, keys, values, mask=_ended(n, m, c, null) if causal else None, key_mask=key_mask,
                     scale=scale)


def _slots(x: Array, kernel: Array, null: Array | None, key_mask: Array | None) -> Array:
    """(...,m,w) -> (...,ceil(m/c),w), and the null slot before them if there is one."""
    c, width = kernel.shape[-3:-1]
    m, slots = x.shape[-2], -(-x.shape[-2] // c)
    x = distinct(x)  # what is repeated along a broadcast axis is computed once
    if key_mask is not None or m % c:
        lead = () if key_mask is None else key_mask.shape[:-1]
        whole = namespace(x).zeros((*np.broadcast_shapes(x.shape[:-2], lead), slots * c, width), x.dtype)
        if key_mask is None:
            whole[..., :m, :] = x
        else:
            np.copyto(whole[..., :m, :], x, where=key_mask[..., None])
        x = whole
    blocks = x.reshape(*x.shape[:-2], slots, c * width)
    kernel = kernel.reshape(*kernel.shape[:-3], c * width, width)
    out = project(blocks, kernel, np.broadcast_shapes(blocks.shape[:-2], kernel.shape[:-2]))
    return out if null is None else joined(null, out)


def _seen_slots(key_mask: Array, c: int, null: int, axes: int) -> Array:
    """The slots with a visible key, and the null slot: (..., null + ceil(m/c)) with that many axes."""
    lead, m = key_mask.shape[:-1], key_mask.shape[-1]
    short = np.zeros_like(key_mask, shape=(*lead, -m % c))
    seen = np.concatenate([key_mask, short], axis=-1).reshape(*lead, -(-m // c), c).any(axis=-1)
    seen = np.concatenate([np.ones_like(seen, shape=(*lead, null)), seen], axis=-1)
    return seen.reshape((1,) * (axes - seen.ndim) + seen.shape)


@functools.lru_cache(64)
def _ended(n: int, m: int, c: int, null: int) -> Pattern:
    """The slots whose last position is the query's own or before it, and the null slot."""
    ended = np.maximum(np.arange(n, dtype=np.int64) + m - n + 1, 0) // c
    return of_ranges(np.zeros((n, 1), np.int64), ended[:, None] + null, null - (-m // c))
