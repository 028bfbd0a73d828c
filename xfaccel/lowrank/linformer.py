"""Linformer, fast: two products along the sequence, then the softmax engine over fewer keys."""

import numpy as np

from xfaccel.arrays import check_key_mask, leading, lengths, parameter
from xfaccel.core import attention
from xfaccel.engine.product import project

Array = np.ndarray


def linformer(q: Array, k: Array, v: Array, *, key_projection: Array, value_projection: Array,
              key_mask: Array | None = None, scale: float | None = None) -> Array:
    """Attention to r slots, each a learned combination of all keys or values (Wang et al. 2020, Eq. 7).

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). Follows `xfref.linformer`: two matrix products, then the
    softmax engine over r keys.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O((n + m) r (d + e)) time.
    Memory: threads * (tile(d, e) + 64 * 193 * size) + heads * r * (d + e) * size; the scratch of the softmax,
    that of the products, and the slots.
    """
    _, m = lengths(q, k, v)
    lead = leading(q, k, v)
    e, f = (_columns(name, x, q.dtype, m, lead) for name, x
            in (("key_projection", key_projection), ("value_projection", value_projection)))
    if e.shape[-2] != f.shape[-2]:
        raise ValueError(f"key_projection and value_projection need the same number of rows, "
                         f"got {e.shape[-2]} and {f.shape[-2]}")
    mask_lead = () if key_mask is None else check_key_mask(key_mask, k, lead).shape[:-1]
    # one projection for all heads of one set of keys is computed once
    keys, values = (
        project(matrix, x, np.broadcast_shapes(matrix.shape[:-2], x.shape[:-2], mask_lead), key_mask)
        for matrix, x in ((e, k), (f, v)))
    return attention(q, keys, values, scale=scale)


def _columns(name: str, x: Array, dtype: np.dtype, m: int, lead: tuple[int, ...]) -> Array:
    x = parameter(name, x, dtype, own=(None, None), lead=lead)
    if x.shape[-1] < m:
        raise ValueError(f"{name} needs at least m = {m} columns, got {x.shape[-1]}")
    return x[..., :m]
