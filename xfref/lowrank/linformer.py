"""Linformer: keys and values are projected along the sequence to a fixed number of slots.

Linformer: Self-Attention with Linear Complexity. Wang, Li, Khabsa, Fang, Ma. 2020. arXiv:2006.04768,
Section 4, Eq. 7.

Differs: a masked token is zeroed before the projection, which no mask behind it could undo; the paper has no
padding. There is no causal form: every slot mixes all positions.
"""

import numpy as np

from xfref.core import attention, check_key_mask, count, hide_keys, leading, lengths, parameter


def linformer(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, key_projection: np.ndarray,
              value_projection: np.ndarray, key_mask: np.ndarray | None = None,
              scale: float | None = None) -> np.ndarray:
    """Attention to r slots, each a learned combination of all keys or all values.

    out = softmax(scale * q (E k)^T) (F v)

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). `key_projection` E and `value_projection` F are (lead..., r,
    m), or wider: the first m columns count. One E for all heads is (r, m), one per head (H, r, m). In the
    paper r = 128 for m = 512, and 256 for m = 1024, come close to full attention.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O((n + m) r (d + e)) time, O(n r) memory.

    >>> v = np.array([[0.0], [2.0], [4.0], [8.0]])
    >>> pool = pooling_projection(4, 2)
    >>> linformer(np.zeros((1, 1)), np.zeros((4, 1)), v, key_projection=pool, value_projection=pool)
    array([[3.5]])
    """
    n, m = lengths(q, k, v)
    lead = leading(q, k, v)
    check_key_mask(key_mask, k, lead)
    e, f = (_columns(name, x, q.dtype, m, lead) for name, x
            in (("key_projection", key_projection), ("value_projection", value_projection)))
    if e.shape[-2] != f.shape[-2]:
        raise ValueError(f"key_projection and value_projection need the same number of rows, "
                         f"got {e.shape[-2]} and {f.shape[-2]}")
    projected_keys = e @ hide_keys(k, key_mask)
    projected_values = f @ hide_keys(v, key_mask)
    return attention(q, projected_keys, projected_values, scale=scale)  # Eq. 7


def pooling_projection(n: int, r: int) -> np.ndarray:
    """The projection that takes the mean of each of r equal stretches (Section 4, "General projections").

    -> (r,n) float64. Stretch t holds the positions j with floor(j r / n) = t.

    Raises: TypeError or ValueError unless 1 <= r <= n are integers.
    Cost: O(r n).

    >>> pooling_projection(4, 2)
    array([[0.5, 0.5, 0. , 0. ],
           [0. , 0. , 0.5, 0.5]])
    """
    if count("r", r) > count("n", n):
        raise ValueError(f"r needs to be at most n = {n}, got {r}")
    member = np.arange(n) * r // n == np.arange(r)[:, None]
    return member / member.sum(axis=-1, keepdims=True)


def _columns(name: str, x: np.ndarray, dtype: np.dtype, m: int, lead: tuple[int, ...]) -> np.ndarray:
    x = parameter(name, x, dtype, own=(None, None), lead=lead)
    if x.shape[-1] < m:
        raise ValueError(f"{name} needs at least m = {m} columns, got {x.shape[-1]}")
    return x[..., :m]
