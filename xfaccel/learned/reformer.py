"""Reformer, fast: chunks of the sorted tokens as leading axes of the softmax engine."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from xfaccel.arrays import check_array, check_key_mask, count, integers, leading, parameter, rows_at
from xfaccel.core import attention, merge_into
from xfaccel.engine import tiles
from xfaccel.engine.product import closest
from xfaccel.engine.softmax import attend

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

    (...,n,d),(...,n,e) -> (...,n,e). Follows `xfref.reformer`: in each round the chunks of queries and the
    overlapping windows of keys are leading axes of the softmax engine, which hides what an earlier round has
    seen by comparing the chunks of that round; the rounds are merged by their lse.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n R chunk (1 + before + after) (R + d + e)) time; below, u is chunk (1 + before + after).
    Memory: threads * tile(d, e) + heads * n * (3 * (d + e) * size + 24 * R + 48).
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
    shown = np.ones(qk.shape[:-1], bool) & (key_mask is None or check_key_mask(key_mask, qk, lead))
    if 0 in (n, *lead):
        return attention(qk, qk, v, scale=scale)
    chunk = min(chunk, n)
    number = -(-n // chunk)
    before, after = min(before, number - 1), min(after, number - 1)
    width = (before + 1 + after) * chunk
    # NumPy sorts numbers of 8 or 16 bits in linear time
    order = np.argsort(buckets.astype(np.min_scalar_type(buckets.max())), axis=-1, kind="stable")
    place = np.argsort(order, axis=-1)
    # a query with label a sees a key with label b iff -before <= b - a <= after
    labels = place // chunk
    if not across_buckets:
        labels += np.unique(buckets, return_inverse=True)[1].reshape(buckets.shape) * number
    # slots for whole chunks and for all that their windows reach; the tokens fill those from 0 to n - 1
    slot = np.arange(-before * chunk, (number + after) * chunk)
    filled, order = (0 <= slot) & (slot < n), order.take(slot, axis=-1, mode="clip")

    def chunks(x):  # (..., slots, w) -> (..., number, chunk, w)
        return x[..., before * chunk:(before + number) * chunk, :].reshape(*x.shape[:-2], number, chunk, -1)

    def windows(x):  # (..., slots, w) -> (..., number, width, w), a view: windows overlap
        return sliding_window_view(x, width, axis=-2)[..., ::chunk, :, :].swapaxes(-1, -2)

    keys = _directions(np.ascontiguousarray(np.where(shown[..., None], qk, 0)))
    everyone = tiles.band(chunk, width, -tiles.WIDE, tiles.WIDE)
    here, beyond = (-before, after), [(-_FAR, -before - 1), (after + 1, _FAR)]
    out = lse = None
    for r in range(order.shape[-2]):
        at = order[..., r, :]
        q, k, w = chunks(rows_at(qk, at)), windows(rows_at(keys, at)), windows(rows_at(v, at))
        seen = windows(rows_at(shown[..., None], at) & filled[:, None])[..., 0]
        # hidden: the token itself or, if causal, also those after it; what an earlier round has seen; and if
        # buckets part, what lies in another
        hidden = [(0, n if causal else 0), *r * [here], *([] if across_buckets else beyond)]
        own = [*range(r), *([] if across_buckets else [r, r])]
        own = np.take_along_axis(labels[..., own, :], at[..., None, :], axis=-1)
        own = np.concatenate([at[..., None, :], own], axis=-2)[..., None]
        own = [x[..., 0].swapaxes(-2, -3) for x in (chunks(own), windows(own))]
        sorted_out, sorted_lse = attend(q, k, w, everyone, labels=(*own, np.array(hidden)), scale=scale,
                                        key_mask=None if seen.all() else seen)
        del q, k, w  # else the rows of two rounds would be in memory
        new, new_lse = (rows_at(x.reshape(*lead, number * chunk, -1), place[..., r, :])
                        for x in (sorted_out, sorted_lse))
        out, lse = merge_into((out, lse), (new, new_lse[..., 0])) if r else (new, new_lse[..., 0])
    # a token that saw no other sees itself; a NaN in its key counts
    alone = np.isneginf(lse)[..., None]
    np.copyto(out, v, where=alone & shown[..., None])
    return np.add(out, 0 * keys[..., :1], out=out, where=alone)


def _directions(x: Array) -> Array:
    """Rows of length 1, in the memory of `x`; a row of zeros stays."""
    top = np.maximum(x.max(axis=-1, keepdims=True), -x.min(axis=-1, keepdims=True))
    x /= np.where(top == 0, 1, top)  # so that no square over- or underflows
    return np.divide(x, np.maximum(np.sqrt(np.einsum("...d,...d->...", x, x)), 1)[..., None], out=x)
