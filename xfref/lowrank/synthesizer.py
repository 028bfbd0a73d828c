"""Synthesizer: attention weights that no query and key were compared for.

Synthesizer: Rethinking Self-Attention in Transformer Models. Tay, Bahri, Metzler, Juan, Zhao, Zheng. 2020.
arXiv:2005.00743: the softmax over synthetic logits, and the four kinds of logits. A mixture of kinds, with
the scaled scores of queries and keys or without, is a weighted sum of their logits; the weights are learned.

Differs: the paper leaves open which factor of the factorized dense logits is tiled and which is repeated;
here key j takes entry j mod a of the first and entry j // a of the second, and both share one hidden layer.
Logits are cut to the length of the sequence where they were made for a longer one.
"""

import numpy as np

from xfref.core import check_array, check_key_mask, count, hide_keys, leading, parameter, softmax, visible

Array = np.ndarray


def synthesizer(v: Array, logits: Array, *, causal: bool = False, key_mask: Array | None = None) -> Array:
    """The mean of the values, weighted by logits that are given.

    out = softmax(logits) v

    (...,m,e),(...,n,m) -> (...,n,e). `logits` are not scaled; -inf hides. Their leading axes and those of v
    broadcast: one matrix per head is (H, n, m). `key_mask` is (m,) or has v.ndim - 1 axes. Query i sits at
    position i + m - n.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n m e) time, O(n m) memory.

    >>> logits = np.log(np.array([[1.0, 9.0, 9.0], [1.0, 3.0, 9.0]]))
    >>> synthesizer(np.array([[2.0], [4.0], [8.0]]), logits, key_mask=np.array([True, True, False]))
    array([[3.8],
           [3.5]])
    """
    check_array("v", v, least=2)
    check_array("logits", logits, least=2, dtype=v.dtype, like="v")
    if logits.shape[-1] != v.shape[-2]:
        raise ValueError(f"logits needs one column per value, {v.shape[-2]}, got {logits.shape[-1]}")
    check_key_mask(key_mask, v, leading(v, logits, names="v and logits"))
    seen = visible(logits, v, v, key_mask=key_mask, causal=causal)
    return softmax(np.where(seen, logits, -np.inf)) @ hide_keys(v, key_mask)


def dense_logits(x: Array, w1: Array, b1: Array, w2: Array, b2: Array, *, m: int | None = None) -> Array:
    """Logits that each token makes for itself, by two layers ("Dense").

    logits_i = max(0, x_i w1 + b1) w2 + b2

    (...,n,d) -> (...,n,m) for w1 (lead..., d, h), b1 (lead..., h), w2 (lead..., h, m), b2 (lead..., m), the
    first m columns of wider ones. The paper takes h = d; `m` is n where it is not given.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n h (d + m)).

    >>> x, w1, b1, w2 = np.array([[2.0], [-3.0]]), np.ones((1, 1)), np.zeros(1), np.array([[1.0, 2.0]])
    >>> dense_logits(x, w1, b1, w2, np.ones(2))
    array([[3., 5.],
           [1., 1.]])
    """
    hidden = _hidden(x, w1, b1)
    m = x.shape[-2] if m is None else count("m", m, 0)
    logits = _layer(hidden, "w2", w2, "b2", b2)
    if logits.shape[-1] < m:
        raise ValueError(f"w2 needs at least m = {m} columns, got {logits.shape[-1]}")
    return logits[..., :m]


def factorized_dense_logits(x: Array, w1: Array, b1: Array, wa: Array, ba: Array, wb: Array, bb: Array, *,
                            m: int | None = None) -> Array:
    """Logits that each token makes as the product of a short row that is tiled and one that is repeated.

    A = max(0, x w1 + b1) wa + ba;   B = max(0, x w1 + b1) wb + bb;   logits_ij = A[i, j mod a] B[i, j // a]

    (...,n,d) -> (...,n,m) for wa (lead..., h, a), ba (lead..., a), wb (lead..., h, b), bb (lead..., b) and
    m <= a b; w1, b1 and `m` as for `dense_logits`.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n h (d + a + b) + n m).

    >>> one, zero = np.ones((1, 1)), np.zeros(1)
    >>> factorized_dense_logits(one, one, zero, np.array([[1.0, 2.0]]), np.zeros(2), 3 * one, zero, m=2)
    array([[3., 6.]])
    """
    hidden = _hidden(x, w1, b1)
    m = x.shape[-2] if m is None else count("m", m, 0)
    tiled, repeated = _layer(hidden, "wa", wa, "ba", ba), _layer(hidden, "wb", wb, "bb", bb)
    a, b = tiled.shape[-1], repeated.shape[-1]
    if a * b < m:
        raise ValueError(f"wa and wb need columns whose product is at least m = {m}, got {a} and {b}")
    j = np.arange(m)
    return tiled[..., j % a] * repeated[..., j // a]


def random_logits(table: Array, n: int) -> Array:
    """Logits that were drawn once, whatever the tokens ("Random"): the corner of a table.

    logits_ij = table_ij

    (...,longest,longest) -> (...,n,n). The table may be trained or left as it was drawn.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n^2).

    >>> random_logits(np.arange(9.0).reshape(3, 3), 2)
    array([[0., 1.],
           [3., 4.]])
    """
    check_array("table", table, least=2)
    if min(table.shape[-2:]) < count("n", n, 0):
        raise ValueError(f"table needs at least n = {n} rows and columns, got the shape {table.shape}")
    return table[..., :n, :n].copy()


def factorized_random_logits(r1: Array, r2: Array, n: int) -> Array:
    """Random logits of low rank.

    logits = r1 r2^T

    (...,longest,k),(...,longest,k) -> (...,n,n). The paper uses k = 8.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n^2 k).

    >>> factorized_random_logits(np.array([[1.0], [2.0]]), np.array([[3.0], [5.0]]), 2)
    array([[ 3.,  5.],
           [ 6., 10.]])
    """
    check_array("r1", r1, least=2)
    check_array("r2", r2, least=2, dtype=r1.dtype, like="r1")
    if min(r1.shape[-2], r2.shape[-2]) < count("n", n, 0):
        raise ValueError(f"r1 and r2 need at least n = {n} rows, got {r1.shape[-2]} and {r2.shape[-2]}")
    if r1.shape[-1] != r2.shape[-1]:
        raise ValueError(f"r1 and r2 need the same width, got {r1.shape[-1]} and {r2.shape[-1]}")
    leading(r1, r2, names="r1 and r2")
    return r1[..., :n, :] @ r2[..., :n, :].swapaxes(-1, -2)


def _hidden(x: Array, w1: Array, b1: Array) -> Array:
    check_array("x", x, least=2)
    return np.maximum(0, _layer(x, "w1", w1, "b1", b1))


def _layer(x: Array, matrix: str, w: Array, bias: str, b: Array) -> Array:
    w = parameter(matrix, w, x.dtype, own=(x.shape[-1], None), lead=x.shape[:-2])
    return x @ w + parameter(bias, b, x.dtype, own=(w.shape[-1],), lead=x.shape[:-2])[..., None, :]
