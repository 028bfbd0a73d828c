"""Sparse Sinkhorn Attention: blocks of keys are sorted softly, then each block of queries sees two blocks.

Sparse Sinkhorn Attention. Tay, Bahri, Yang, Metzler, Juan. 2020. arXiv:2002.11296: Sinkhorn balancing and
its causal form, sparse Sinkhorn attention, and SortCut Sinkhorn attention.

Differs: the sorting network is outside: its logits come in as an array, and so does the Gumbel noise. One
softmax runs over the sorted and the own block, as in the public PyTorch code. If causal, no block is sorted
to its own place, where it would show its own future. The paper has no padding: here it is zeroed before
blocks mix, and a slot of a sorted block is visible if it is in that block's largest source.
"""

import numpy as np

from xfref.core import (
    attention,
    check_array,
    check_key_mask,
    count,
    hide_keys,
    leading,
    lengths,
    number,
    parameter,
)


def sinkhorn_sort(logits: np.ndarray, *, iterations: int, temperature: float = 1.0,
                  noise: np.ndarray | None = None, causal: bool = False) -> np.ndarray:
    """A soft permutation of blocks: exponentials whose rows and columns are brought to sum to 1 in turn.

    s = (logits + noise) / temperature;   repeat: s -= log sum_v exp(s_uv);   s -= log sum_u exp(s_uv);
    sort = exp(s)

    (...,N,N) -> (...,N,N): row u is the destination, column v the source. After the last step columns sum to
    1, rows nearly so. `noise` (lead...,N,N) is Gumbel noise, -log(-log(uniform)). `causal` keeps the sources
    before the destination, v < u, and balances among these; rows and columns without any stay 0. Even so a
    row depends on the logits of later rows, with which it shares the sums of its columns.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(N^2 iterations).

    >>> sinkhorn_sort(np.log([[1.0, 2.0], [2.0, 1.0]]), iterations=1).round(3)
    array([[0.333, 0.667],
           [0.667, 0.333]])
    """
    check_array("logits", logits, least=2)
    blocks = logits.shape[-1]
    if logits.shape[-2] != blocks:
        raise ValueError(f"logits needs as many rows as columns, got the shape {logits.shape}")
    count("iterations", iterations)
    if noise is not None:
        noise = parameter("noise", noise, logits.dtype, own=(blocks, blocks), lead=logits.shape[:-2])
        logits = logits + noise
    s = logits / number("temperature", temperature, 0, above=True)
    if causal:
        s = np.where(np.tri(blocks, k=-1, dtype=bool), s, -np.inf)
    for _ in range(iterations):
        s = _normalised(_normalised(s, axis=-1), axis=-2)
    return np.exp(s)


def sinkhorn(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, sort: np.ndarray, block: int,
             causal: bool = False, key_mask: np.ndarray | None = None,
             scale: float | None = None) -> np.ndarray:
    """Block-local attention in which every block also sees the block that is sorted to its place.

    k'_u = sum_v sort_uv k_v;   v'_u = sum_v sort_uv v_v   for blocks u, v
    out_u = softmax(scale * q_u [k'_u; k_u]^T) [v'_u; v_u]

    (...,n,d),(...,n,d),(...,n,e) -> (...,n,e). `sort` (lead...,N,N), with N = ceil(n / block), mixes whole
    blocks: see `sinkhorn_sort`. Where a row is all zeros there is no sorted block. A slot of a sorted block
    is visible if it is in the block's largest source, the first of equals. `causal` leaves out the sources
    from u on, and later keys of the own block.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n (block + N) (d + e)) for N blocks.

    >>> v = np.array([[0.0], [2.0], [4.0], [6.0]])
    >>> swap = np.array([[0.0, 1.0], [1.0, 0.0]])
    >>> sinkhorn(np.zeros((4, 1)), np.zeros((4, 1)), v, sort=swap, block=2)
    array([[3.],
           [3.],
           [3.],
           [3.]])
    """
    block, sort, k, v, present = _prepared(q, k, v, sort, block, key_mask)
    if causal:
        sort = np.tril(sort, -1)
    parts = zip(_sorted(sort, k, v, present), (k, v, present), strict=True)
    # the own keys come last, so that `causal` cuts among them and leaves the sorted ones alone
    k, v, present = (np.concatenate(pair, axis=-2) for pair in parts)
    out = attention(_in_blocks(q, block), k, v, mask=present.swapaxes(-1, -2), causal=causal, scale=scale)
    return _joined(out)[..., :q.shape[-2], :]


def sinkhorn_cut(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, sort: np.ndarray, block: int, keep: int,
                 key_mask: np.ndarray | None = None, scale: float | None = None) -> np.ndarray:
    """Attention of every query to the first `keep` sorted blocks alone.

    out = softmax(scale * q k'[:keep]^T) v'[:keep]   with k' and v' as in `sinkhorn`

    (...,n,d),(...,n,d),(...,n,e) -> (...,n,e). Blocks, `sort` and padding are those of `sinkhorn`; where
    there are fewer than `keep` blocks, all are kept. There is no causal form: a sorted block mixes all.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n keep (block + 1) (d + e)).

    >>> v = np.array([[0.0], [2.0], [4.0], [6.0]])
    >>> swap = np.array([[0.0, 1.0], [1.0, 0.0]])
    >>> sinkhorn_cut(np.zeros((4, 1)), np.zeros((4, 1)), v, sort=swap, block=2, keep=1)[0]
    array([5.])
    """
    keep = count("keep", keep)
    _, sort, k, v, present = _prepared(q, k, v, sort, block, key_mask)
    k, v, present = (_joined(x) for x in _sorted(sort[..., :keep, :], k, v, present))
    return attention(q, k, v, mask=present.swapaxes(-1, -2), scale=scale)


def _normalised(s: np.ndarray, axis: int) -> np.ndarray:
    """s - log sum exp(s) along `axis`; nothing but -inf stays so."""
    top = s.max(axis=axis, keepdims=True, initial=-np.inf)
    top = np.where(np.isneginf(top), s.dtype.type(0), top)
    total = np.exp(s - top).sum(axis=axis, keepdims=True)
    return s - top - np.log(total + (total == 0))


def _prepared(q: np.ndarray, k: np.ndarray, v: np.ndarray, sort: np.ndarray, block: int,
              key_mask: np.ndarray | None) -> tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The checked block and sort; keys, values and who is present, (...,N,block,.), zeros for padding."""
    n, _ = lengths(q, k, v, equal=True)
    lead = leading(q, k, v)
    check_key_mask(key_mask, k, lead)
    block = min(count("block", block), max(n, 1))
    sort = parameter("sort", sort, q.dtype, own=(-(-n // block),) * 2, lead=lead)
    present = hide_keys(np.ones((n, 1), bool), key_mask)
    k, v, present = (_in_blocks(np.broadcast_to(x, (*lead, *x.shape[-2:])), block)
                     for x in (hide_keys(k, key_mask), hide_keys(v, key_mask), present))
    return block, sort, k, v, present


def _sorted(sort: np.ndarray, k: np.ndarray, v: np.ndarray,
            present: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The sorted blocks of keys and values, and which of their slots are visible: one per row of `sort`."""
    top = sort.max(axis=-1, keepdims=True, initial=0)
    largest = (sort == top) & (top > 0)
    largest &= largest.cumsum(axis=-1) == 1  # the first of equals
    mixed = "...uv,...vtw->...utw"  # k'_u = sum_v sort_uv k_v
    return tuple(np.einsum(mixed, weights, x) for weights, x in ((sort, k), (sort, v), (largest, present)))


def _in_blocks(x: np.ndarray, block: int) -> np.ndarray:
    """(...,n,w) as (...,N,block,w), the last block filled up with zeros."""
    *lead, n, width = x.shape
    blocks = -(-n // block)
    tail = np.zeros((*lead, blocks * block - n, width), x.dtype)
    return np.concatenate([x, tail], axis=-2).reshape(*lead, blocks, block, width)


def _joined(x: np.ndarray) -> np.ndarray:
    """(...,N,block,w) as (...,N block,w)."""
    *lead, blocks, block, width = x.shape
    return x.reshape(*lead, blocks * block, width)
