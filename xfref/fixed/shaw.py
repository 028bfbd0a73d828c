"""Relative positions: the offset of a key from its query, clipped, has a vector in the key and in the value.

Self-Attention with Relative Position Representations. Shaw, Uszkoreit, Vaswani. 2018. arXiv:1803.02155,
Section 3.1 (relation-aware attention, Eq. 3 and 4), Section 3.2 (relative positions), Section 3.3 (Eq. 5).

Differs: the vectors in the values may be left out, as much later code does. Code that counts the offset as
i - j stores the rows of its tables in the opposite order.
"""

import numpy as np

from xfref.core import (
    check_key_mask,
    hide_keys,
    leading,
    lengths,
    parameter,
    scale_or_default,
    softmax,
    visible,
)


def shaw(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, key_table: np.ndarray,
         value_table: np.ndarray | None = None, causal: bool = False, key_mask: np.ndarray | None = None,
         scale: float | None = None) -> np.ndarray:
    """Attention to keys and values that carry a vector for their offset from the query, clipped at c.

    e_ij = scale * q_i . (k_j + a^K_ij);   out_i = sum_j softmax(e_i)_j (v_j + a^V_ij)
    a_ij = row clip(j - p_i, -c, c) + c of the table,  p_i = i + m - n

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). `key_table` a^K is (lead..., 2c + 1, d) and `value_table` a^V
    (lead..., 2c + 1, e); without it the values are plain. The paper has c = 16 and tables for each head in
    its base model, c = 8 and tables that the heads of a layer share in its big one.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n m (d + e)), and O(n c (d + e)) for the tables; O(n m) memory.

    >>> v, table = np.array([[1.0], [3.0]]), np.array([[10.0], [20.0], [30.0]])
    >>> shaw(np.zeros((2, 1)), np.zeros((2, 1)), v, key_table=table, value_table=table)  # means of v + 20, 30
    array([[27.],
           [17.]])
    """
    n, m = lengths(q, k, v)
    lead = leading(q, k, v)
    check_key_mask(key_mask, k, lead)
    key_table = parameter("key_table", key_table, q.dtype, own=(None, q.shape[-1]), lead=lead)
    rows = key_table.shape[-2]
    if rows % 2 == 0:
        raise ValueError(f"key_table needs an odd number of rows, 2c + 1, got {rows}")
    k, v, clip, row = hide_keys(k, key_mask), hide_keys(v, key_mask), rows // 2, np.arange(n)[:, None]
    index = np.clip(np.arange(m) - (row + m - n), -clip, clip) + clip
    by_row = q @ key_table.swapaxes(-1, -2)  # (...,n,2c+1)
    scores = scale_or_default(scale, q) * (q @ k.swapaxes(-1, -2) + by_row[..., row, index])  # Eq. 4 and 5
    seen = visible(q, k, v, key_mask=key_mask, causal=causal)
    weights = softmax(np.where(seen, scores, -np.inf))
    out = weights @ v
    if value_table is not None:
        value_table = parameter("value_table", value_table, q.dtype, own=(rows, v.shape[-1]), lead=lead)
        by_row = np.stack([np.sum(weights, axis=-1, where=index == t) for t in range(rows)], axis=-1)
        out = out + by_row @ value_table  # Eq. 3: sum_j weights_ij a^V_ij
    return out
