"""Sparse Sinkhorn attention, fast: a matrix product mixes blocks, which are then one more leading axis."""

import numpy as np

from xfaccel.arrays import (
    as_key_mask,
    check_array,
    check_key_mask,
    count,
    largest,
    leading,
    lengths,
    namespace,
    number,
    parameter,
    rows_at,
    shown,
    sum_dtype,
)
from xfaccel.core import attention, attention_into, attention_lse
from xfaccel.engine.product import project

Array = np.ndarray


def sinkhorn_sort(logits: Array, *, iterations: int, temperature: float = 1.0, noise: Array | None = None,
                  causal: bool = False) -> Array:
    """A soft permutation of blocks, rows and columns normalised in turn (Tay et al. 2020).

    (...,N,N) -> (...,N,N). Follows `xfref.sinkhorn_sort`, in logarithms, in place in one new array.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(N^2 iterations) time.
    Memory: heads * N * (N + 4) * size.
    """
    check_array("logits", logits, least=2)
    blocks = logits.shape[-1]
    if logits.shape[-2] != blocks:
        raise ValueError(f"logits needs as many rows as columns, got the shape {logits.shape}")
    s = logits + (0 if noise is None else parameter("noise", noise, logits.dtype, own=(blocks, blocks),
                                                    lead=logits.shape[:-2]))
    s /= number("temperature", temperature, 0, above=True)
    if causal:
        s = np.where(namespace(s).tri(blocks, k=-1, dtype=bool), s, -np.inf)
    for _ in range(count("iterations", iterations)):
        for axis in (-1, -2):
            top = largest(s, axis)
            np.copyto(top, 0, where=np.isneginf(top))
            s -= top
            total = np.exp(s).sum(axis=axis, keepdims=True)
            np.copyto(total, 1, where=total == 0)
            s -= np.log(total)
    return np.exp(s, out=s)


def sinkhorn(q: Array, k: Array, v: Array, *, sort: Array, block: int, causal: bool = False,
             key_mask: Array | None = None, scale: float | None = None) -> Array:
    """Block-local attention in which every block also sees the block sorted to its place (Tay et al. 2020).

    (...,n,d),(...,n,d),(...,n,e) -> (...,n,e). Follows `xfref.sinkhorn`: blocks are mixed by one matrix
    product, and one more leading axis; attention to the own block is joined with that to the sorted one.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n (block + N) (d + e)) time for N blocks.
    Memory: threads * tile(d, e) + heads * n * (d + e + 1) * size; with a mask or a short last block, the
    copies of k and v, heads * n * (d + e) * size, come on top.
    """
    block, sort, k, v, seen = _prepared(q, k, v, sort, block, key_mask)
    keys, values, seen_there = _sorted(np.tril(sort, -1) if causal else sort, k, v, seen)
    blocks, lead = _in_blocks(q, block), leading(keys, values)
    blocks = np.broadcast_to(blocks, (*np.broadcast_shapes(blocks.shape[:-2], lead), block, q.shape[-1]))
    out, lse = attention_lse(blocks, k, v, causal=causal, scale=scale, key_mask=as_key_mask(seen, k))
    attention_into((out, lse), blocks, keys, values, scale=scale, key_mask=as_key_mask(seen_there, keys))
    return out.reshape(*out.shape[:-3], out.shape[-3] * block, out.shape[-1])[..., :q.shape[-2], :]


def sinkhorn_cut(q: Array, k: Array, v: Array, *, sort: Array, block: int, keep: int,
                 key_mask: Array | None = None, scale: float | None = None) -> Array:
    """Attention of every query to the first `keep` sorted blocks alone (Tay et al. 2020).

    (...,n,d),(...,n,d),(...,n,e) -> (...,n,e). Follows `xfref.sinkhorn_cut`: only the blocks that are kept
    are mixed, then the softmax engine runs over fewer keys.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n keep (block + 1) (d + e)) time.
    Memory: threads * (tile(d, e) + 64 * 193 * size) + heads * keep * block * (d + e) * size; with a mask or a
    short last block as in `sinkhorn`.
    """
    keep = count("keep", keep)
    block, sort, k, v, seen = _prepared(q, k, v, sort, block, key_mask)
    *mixed, seen = _sorted(sort[..., :keep, :], k, v, seen)
    keys, values = (x.reshape(*x.shape[:-3], x.shape[-3] * block, x.shape[-1]) for x in mixed)
    seen = seen.reshape(*seen.shape[:-2], seen.shape[-2] * block)
    return attention(q, keys, values, key_mask=as_key_mask(seen, keys), scale=scale)


def _prepared(q: Array, k: Array, v: Array, sort: Array, block: int, key_mask: Array | None
              ) -> tuple[int, Array, Array, Array, Array]:
    """The checked block and sort; keys, values and who is seen in blocks, padding zeroed."""
    n, _ = lengths(q, k, v, equal=True)
    lead = leading(q, k, v)
    seen = namespace(q).ones(n, bool) if key_mask is None else check_key_mask(key_mask, k, lead)
    if key_mask is not None:
        k, v = shown(k, seen), shown(v, seen)
    block = min(count("block", block), max(n, 1))
    sort = parameter("sort", sort, sum_dtype(q), own=(-(-n // block),) * 2, lead=lead)
    return block, sort, _in_blocks(k, block), _in_blocks(v, block), _in_blocks(seen[..., None], block)[..., 0]


def _in_blocks(x: Array, block: int) -> Array:
    """x (..., n, width) as (..., N, block, width), the last block filled up with zeros."""
    *lead, n, width = x.shape
    if n % block:
        x = np.concatenate([x, np.zeros_like(x, shape=(*lead, -n % block, width))], axis=-2)
    return x.reshape(*lead, -(-n // block), block, width)


def _sorted(sort: Array, k: Array, v: Array, seen: Array) -> tuple[Array, Array, Array]:
    """The sorted blocks (..., r, block, width) of keys and values, and (..., r, block) what is seen there."""
    mixed = []
    for x in (k, v):
        *lead, blocks, block, width = x.shape
        axes = np.broadcast_shapes(sort.shape[:-2], tuple(lead))
        x = x.reshape(*lead, blocks, block * width)
        mixed.append(project(sort, x, axes).reshape(*axes, sort.shape[-2], block, width))
    # a slot is seen if its largest source is, the first of equals; a row of zeros has none
    source = sort.argmax(axis=-1) if sort.size else namespace(sort).zeros(sort.shape[:-1], np.intp)
    return *mixed, rows_at(seen, source) & (largest(sort, -1, 0) > 0)

