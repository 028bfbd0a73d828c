"""Sparse Sinkhorn Attention: blocks of keys are sorted softly, then each block of queries sees two blocks.

Sparse Sinkhorn Attention. Tay, Bahri, Yang, Metzler, Juan. 2020. arXiv:2002.11296, Section 3 (sparse Sinkhorn
attention, causal Sinkhorn balancing, SortCut).

Differs: the sorting network is outside: its logits come in as an array, and so does the Gumbel noise. The
paper adds the scores of a pair in the sorted and in the own block; here, as in the public PyTorch code, one
softmax runs over both. If causal, no block is sorted to its own place, where it would show its own future.
The paper has no padding: here it is zeroed before blocks mix, and a slot of a sorted block is visible if it
is in that block's largest source.
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
    Cost: O(n (block + N) (d + e)); here O(n^2 (d + e)).

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
    sorted_k, sorted_v, sorted_present = _sorted(sort, k, v, present, block)
    n, slots = k.shape[-2], sorted_k.shape[-2]
    own_block = np.arange(n)[:, None] // block == np.arange(slots) // block  # (n,slots)
    seen = np.concatenate([own_block & sorted_present[..., None, :],
                           own_block[:, :n] & present[..., None, :]], axis=-1)
    # the own keys come last, so that `causal` cuts among them and leaves the sorted ones alone
    return attention(q, np.concatenate([sorted_k, k], axis=-2), np.concatenate([sorted_v, v], axis=-2),
                     mask=seen, causal=causal, scale=scale)


def sinkhorn_cut(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, sort: np.ndarray, block: int, keep: int,
                 key_mask: np.ndarray | None = None, scale: float | None = None) -> np.ndarray:
    """Attention of every query to the first `keep` sorted blocks alone.

    out = softmax(scale * q k'[:keep]^T) v'[:keep]   with k' and v' as in `sinkhorn`

    (...,n,d),(...,n,d),(...,n,e) -> (...,n,e). Blocks, `sort` and padding are those of `sinkhorn`; where
    there are fewer than `keep` blocks, all are kept. There is no causal form: a sorted block mixes all.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n (keep block + keep) (d + e)); here O(n (keep block + N) (d + e)).

    >>> v = np.array([[0.0], [2.0], [4.0], [6.0]])
    >>> swap = np.array([[0.0, 1.0], [1.0, 0.0]])
    >>> sinkhorn_cut(np.zeros((4, 1)), np.zeros((4, 1)), v, sort=swap, block=2, keep=1)[0]
    array([5.])
    """
    keep = count("keep", keep)
    block, sort, k, v, present = _prepared(q, k, v, sort, block, key_mask)
    k, v, present = _sorted(sort, k, v, present, block)
    kept = keep * block
    return attention(q, k[..., :kept, :], v[..., :kept, :], mask=present[..., None, :kept], scale=scale)


def _normalised(s: np.ndarray, axis: int) -> np.ndarray:
    """s - log sum exp(s) along `axis`; nothing but -inf stays so."""
    top = s.max(axis=axis, keepdims=True, initial=-np.inf)
    top = np.where(np.isneginf(top), s.dtype.type(0), top)
    total = np.exp(s - top).sum(axis=axis, keepdims=True)
    return s - top - np.log(total + (total == 0))


def _prepared(q: np.ndarray, k: np.ndarray, v: np.ndarray, sort: np.ndarray, block: int,
              key_mask: np.ndarray | None) -> tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The checked block, and sort, keys, values and who is present with all leading axes; padding is zero."""
    n, _ = lengths(q, k, v, equal=True)
    lead = leading(q, k, v)
    check_key_mask(key_mask, k, lead)
    block = min(count("block", block), max(n, 1))
    blocks = -(-n // block)
    sort = parameter("sort", sort, q.dtype, own=(blocks, blocks), lead=lead)
    k, v = (np.broadcast_to(hide_keys(x, key_mask), (*lead, n, x.shape[-1])) for x in (k, v))
    present = np.broadcast_to(True if key_mask is None else key_mask, (*lead, n))
    return block, np.broadcast_to(sort, (*lead, blocks, blocks)), k, v, present


def _sorted(sort: np.ndarray, k: np.ndarray, v: np.ndarray, present: np.ndarray,
            block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys and values of the sorted blocks, (...,N block,.), and which of their slots are visible."""
    blocks = sort.shape[-1]
    top = sort.max(axis=-1, keepdims=True, initial=0)
    largest = (sort == top) & (top > 0)
    largest &= largest.cumsum(axis=-1) == 1  # the first of equals
    mixed, lead = [], sort.shape[:-2]
    for mix, x in ((sort, k), (sort, v), (largest, present[..., None])):
        n, width = x.shape[-2:]
        whole = np.zeros((*lead, blocks * block, width), x.dtype)
        whole[..., :n, :] = x
        in_blocks = mix @ whole.reshape(*lead, blocks, block * width)  # k'_u = sum_v sort_uv k_v
        mixed.append(in_blocks.reshape(whole.shape))
    return mixed[0], mixed[1], mixed[2][..., 0]
