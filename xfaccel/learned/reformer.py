"""Reformer, fast: chunks of the sorted tokens as leading axes of the softmax engine."""

import numpy as np

from xfaccel import patterns
from xfaccel.arrays import (
    check_array,
    check_key_mask,
    count,
    hides_nothing,
    integers,
    leading,
    namespace,
    parameter,
    rows_at,
    shown,
    sum_dtype,
)
from xfaccel.core import attention
from xfaccel.engine.product import closest
from xfaccel.engine.softmax import attend
from xfaccel.sorting import by_bucket

Array = np.ndarray
_FAR = (1 << 31) - 1  # no two labels lie as far apart


def lsh_buckets(x: Array, rotations: Array) -> Array:
    """The bucket of each vector in each round of angular hashing (Kitaev et al. 2020, Section 2).

    (...,n,d),(lead...,d,R,b/2) -> (...,R,n) integers 0..b-1. Follows `xfref.lsh_buckets`: the products of 64
    tokens at a time, of which the largest is kept.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n d R b) time.
    Memory: threads * 64 * ((d + b / 2) * size + 8) + d * R * b / 2 * size.
    """
    check_array("x", x, least=2)
    lead = x.shape[:-2]
    rotations = parameter("rotations", rotations, x.dtype, own=(x.shape[-1], None, None), lead=lead)
    if 0 in rotations.shape[-2:]:
        raise ValueError(f"rotations needs at least 1 round and 1 direction, got the shape {rotations.shape}")
    return closest(x, np.moveaxis(rotations, -3, -1), lead)


def reformer(qk: Array, v: Array, *, buckets: Array, chunk: int, before: int = 1, after: int = 0,
             across_buckets: bool = True, causal: bool = False, key_mask: Array | None = None,
             scale: float | None = None) -> Array:
    """Attention within chunks of the tokens sorted by bucket, in several rounds (Kitaev et al. 2020).

    (...,n,d),(...,n,e) -> (...,n,e). Follows `xfref.reformer`: in each round the softmax engine reads the
    tokens in the order of their buckets, hides what an earlier round has seen by comparing the chunks of that
    round, and joins what it finds with the result so far.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n R chunk (1 + before + after) (R + d + e)) time.
    Memory: threads * tile(d, e) + heads * n * (d * size + 24 * R + 16).
    """
    check_array("qk", qk, least=2)
    check_array("v", v, least=2, dtype=qk.dtype, like="qk")
    (n, d), lead = qk.shape[-2:], leading(qk, v, names="qk and v")
    if v.shape[-2] != n or d == 0:
        raise ValueError(f"qk and v need the same length, and qk a width of at least 1, "
                         f"got n = {n} and m = {v.shape[-2]}, d = {d}")
    if integers("buckets", buckets, (None, n), lead).shape[-2] == 0:
        raise ValueError("buckets needs at least 1 round, got 0")
    chunk, before, after = count("chunk", chunk), count("before", before, 0), count("after", after, 0)
    xp = namespace(qk)
    seen = xp.ones(qk.shape[:-1], bool) & (key_mask is None or check_key_mask(key_mask, qk, lead))
    if 0 in (n, *lead):
        return attention(qk, qk, v, scale=scale)
    before, after = (min(side, -(-n // chunk) - 1) for side in (before, after))
    order, own = by_bucket(buckets, chunk, across_buckets)
    position = np.broadcast_to(xp.arange(n), (*own.shape[:-2], 1, n))
    keys = _directions(xp.ascontiguousarray(shown(qk, seen)))
    (_, nearby), = patterns.same_block(n, chunk, before, after).tile_lists()
    # hidden: the token itself or, if causal, also those after it; and what an earlier round has seen
    limits = [(0, n if causal else 0)]
    out, lse = xp.zeros((*lead, n, v.shape[-1]), v.dtype), xp.full((*lead, n), -np.inf, sum_dtype(v))
    for r in range(own.shape[-2]):
        labels = [position, own[..., :r, :]]
        hidden = limits + r * [(-before, after)]
        if not across_buckets:
            labels += 2 * [own[..., r:r + 1, :]]
            hidden += [(-_FAR, -before - 1), (after + 1, _FAR)]
        labels = np.concatenate(labels, axis=-2)
        at = order[..., r, :]
        seen_there = None if hides_nothing(seen) else rows_at(seen[..., None], at)[..., 0]
        attend(qk, keys, v, nearby, order=(at, at), labels=(labels, labels, np.array(hidden)),
               key_mask=seen_there, into=(out, lse), scale=scale)
    # a token that saw no other sees itself; a NaN in its key counts
    alone = np.isneginf(lse)[..., None]
    np.copyto(out, v, where=alone & seen[..., None])
    out += shown(0 * keys[..., :1], alone[..., 0])
    return out


def _directions(x: Array) -> Array:
    """Rows of length 1, in the memory of `x`; a row of zeros stays."""
    if type(x) is not np.ndarray:  # whether any are extreme is not known to the host
        wide = x.astype(sum_dtype(x), copy=False)
        top = np.abs(wide).max(axis=-1, keepdims=True)
        wide = wide / np.where(top == 0, 1, top)
        return (wide / np.sqrt(np.maximum((wide * wide).sum(axis=-1, keepdims=True), 1))).astype(x.dtype)
    squares = np.einsum("...d,...d->...", x, x)
    extreme = ~((squares > 1e-30) & (squares < 1e30))  # where squares may have over- or underflowed
    if extreme.any():
        rows = x[extreme]
        top = np.abs(rows).max(axis=-1, keepdims=True)
        rows /= np.where(top == 0, 1, top)
        x[extreme], squares[extreme] = rows, np.maximum(np.einsum("nd,nd->n", rows, rows), 1)
    return np.divide(x, np.sqrt(squares)[..., None], out=x)
