"""Sparse Transformer: the near past and every l-th token of it, so that two steps lead from any token to any.

Generating Long Sequences with Sparse Transformers. Child, Gray, Radford, Sutskever. 2019. arXiv:1904.10509,
Sections 4.2 and 4.3 (the sets A^(1) and A^(2), attended as in Eqs. 2 to 4) and Eq. 7 (their union).

Differs: positions count from 0, and the summary cells of a block are its last c: the paper's {l - c, ..., l}
lists one remainder too many. The local part of the strided pattern has l keys, the query's own among them, as
in released code; the paper's {i - l, ..., i} has one more. `causal=False`, which the paper has not, drops
j <= i: band and strides then reach to both sides, and blocks and summary cells are seen whole.
"""

import numpy as np

from xfref.core import attention, count, counts, leading, lengths
from xfref.patterns import same_block, strided, summaries, window


def sparse_strided(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, stride: int, part: str = "merged",
                   causal: bool = True, key_mask: np.ndarray | None = None,
                   scale: float | None = None) -> np.ndarray:
    """Attention to the last `stride` keys and to every `stride`-th key before them.

    A^(1)_i = { j : p_i - j < l },  A^(2)_i = { j : (p_i - j) mod l = 0 },  j <= p_i = i + m - n,  l = stride

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). `part` says which keys a query sees: "local" A^(1), "summary"
    A^(2), or "merged", one softmax over their union; the parts are for layers or heads that take turns
    (Section 5.1). The paper chooses a stride close to sqrt(n); 128 on ImageNet 64x64.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n (l + m / l) (d + e)) when the pattern is used; here O(n m (d + e)).

    >>> v = np.arange(6.0)[:, None]
    >>> sparse_strided(np.zeros((1, 1)), np.zeros((6, 1)), v, stride=2)  # the keys 4, 5 and 1, 3, 5
    array([[3.25]])
    """
    n, m = lengths(q, k, v)
    reach = count("stride", stride) - 1
    local = window(n, m, left=reach, right=reach)  # A^(1)
    every = strided(n, stride, m)  # A^(2)
    return attention(q, k, v, mask=_chosen(part, local, every), causal=causal, key_mask=key_mask, scale=scale)


def sparse_fixed(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, stride: int, summary: int,
                 sub_block: int | np.ndarray = 0, part: str = "merged", causal: bool = True,
                 key_mask: np.ndarray | None = None, scale: float | None = None) -> np.ndarray:
    """Attention to the query's own block of `stride` keys and to the summary cells of every block.

    A^(1)_i = { j : floor(j / l) = floor(p_i / l) },  A^(2)_i = { j : j mod l >= l - c }, j <= p_i = i + m - n

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e), with l = `stride` and c = `summary` cells. `sub_block`, an int
    s or one per entry of the last leading axis (per head), takes the c cells that lie s * c further in; the
    paper prefers heads with distinct ones. `part` is "local" A^(1), "summary" A^(2), or "merged", one softmax
    over their union. A query before the first summary cell has an empty A^(2): zeros. The paper has l in
    {128, 256} and c in {8, 16, 32}; on Enwik8 merged, l = 128 and c = 32.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n (l + c m / l) (d + e)) when the pattern is used; here O(n m (d + e)).

    >>> v = np.arange(6.0)[:, None]
    >>> sparse_fixed(np.zeros((1, 1)), np.zeros((6, 1)), v, stride=3, summary=1)  # the keys 3, 4, 5 and 2, 5
    array([[3.5]])
    """
    n, m = lengths(q, k, v)
    sub_block = counts("sub_block", sub_block, leading(q, k, v), least=0)
    local = same_block(n, count("stride", stride), m=m)  # A^(1)
    cells = summaries(n, stride, summary, sub_block, m)  # A^(2)
    return attention(q, k, v, mask=_chosen(part, local, cells), causal=causal, key_mask=key_mask, scale=scale)


def _chosen(part: str, local: np.ndarray, summary: np.ndarray) -> np.ndarray:
    if part == "merged":
        return local | summary  # Eq. 7
    if part not in ("local", "summary"):
        raise ValueError(f"part needs 'local', 'summary' or 'merged', got {part!r}")
    return local if part == "local" else summary
