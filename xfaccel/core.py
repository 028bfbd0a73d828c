"""Softmax attention and its companions, fast. Follows `xfref.core`."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import as_strided

from xfaccel.arrays import (
    check_array,
    check_key_mask,
    empty,
    leading,
    lengths,
    parameter,
    scale_or_default,
)
from xfaccel.engine import tiles
from xfaccel.engine.product import project
from xfaccel.engine.softmax import attend
from xfaccel.patterns import Pattern, past

Array = np.ndarray
TILES_AT_ONCE = 16  # of queries: enough for the threads to share, while their scores by distance stay few


def softmax(scores: Array, axis: int = -1) -> Array:
    """Exponentials of the scores, divided by their sum; a row of -inf is all zeros.

    (...) -> (...). Follows `xfref.softmax`, in place in one new array.

    Raises: TypeError if `scores` is not a float array.
    Cost: O(size) time and memory.
    """
    check_array("scores", scores)
    top = scores.max(axis=axis, keepdims=True, initial=-np.inf)
    top[np.isneginf(top)] = 0
    weights = np.subtract(scores, top)
    np.exp(weights, out=weights)
    total = weights.sum(axis=axis, keepdims=True)
    total[total == 0] = 1
    return np.divide(weights, total, out=weights)


def layer_norm(x: Array, gain: Array, bias: Array, eps: float = 1e-5) -> Array:
    """Each row shifted to mean 0, divided by its standard deviation, then scaled and shifted.

    (...,w),(w),(w) -> (...,w). Follows `xfref.layer_norm`, in place in one new array.

    Raises: TypeError or ValueError naming the array whose type or shape does not fit.
    Cost: O(size) time and memory.
    """
    check_array("x", x, least=1)
    gain = parameter("gain", gain, x.dtype, own=(x.shape[-1],), lead=x.shape[:-1])
    bias = parameter("bias", bias, x.dtype, own=(x.shape[-1],), lead=x.shape[:-1])
    out = x - x.mean(axis=-1, keepdims=True)
    variance = np.einsum("...w,...w->...", out, out)[..., None] / x.dtype.type(max(x.shape[-1], 1))
    out /= np.sqrt(variance + x.dtype.type(eps))
    out *= gain
    out += bias
    return out


def attention(q: Array, k: Array, v: Array, *, mask: Array | Pattern | None = None,
              key_mask: Array | None = None, bias: Array | None = None, causal: bool = False,
              scale: float | None = None) -> Array:
    """Softmax attention without the (n, m) matrix. `mask` may also be a pattern of `xfaccel.patterns`.

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). Follows `xfref.attention`: an online softmax over tiles of 64
    queries and 64 keys; tiles that a pattern or `causal` leaves empty are skipped.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n m (d + e)) time, half of it if causal; O(n) memory.
    """
    return attention_lse(q, k, v, mask=mask, key_mask=key_mask, bias=bias, causal=causal, scale=scale)[0]


def attention_lse(q: Array, k: Array, v: Array, *, mask: Array | Pattern | None = None,
                  key_mask: Array | None = None, bias: Array | None = None, causal: bool = False,
                  scale: float | None = None) -> tuple[Array, Array]:
    """`attention` and the logarithm of each row's denominator, -inf for a query that sees no key.

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e),(...,n). Follows `xfref.attention_lse`.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: as for `attention`.
    """
    n, m = lengths(q, k, v)
    if isinstance(mask, Pattern):
        if mask.shape[-2:] != (n, m):
            raise ValueError(f"mask needs the shape (..., {n}, {m}), got {mask.shape}")
        lead = leading(q, k, v)
        axes = mask.shape[:-2]
        try:
            fits = np.broadcast_shapes(axes, lead) == lead
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(f"mask needs leading axes that broadcast to {lead}, got {axes}")
        if causal:
            mask = mask & past(n, m)
        return attend(q, k, v, mask.tile_list(), plane_axes=axes, key_mask=key_mask, bias=bias, scale=scale)
    tile_list = tiles.band(n, m, -tiles.WIDE, 0 if causal else tiles.WIDE)
    return attend(q, k, v, tile_list, key_mask=key_mask, mask=mask, bias=bias, scale=scale)


def merge(out_a: Array, lse_a: Array, out_b: Array, lse_b: Array) -> tuple[Array, Array]:
    """Attention over the union of two disjoint sets of keys, from the two results.

    (...,n,e),(...,n),(...,n,e),(...,n) -> (...,n,e),(...,n). Follows `xfref.merge`.

    Raises: TypeError or ValueError naming the array whose type or shape does not fit.
    Cost: O(n e) time and memory.
    """
    for name, out, lse in (("a", out_a, lse_a), ("b", out_b, lse_b)):
        check_array(f"out_{name}", out, least=2, dtype=getattr(out_a, "dtype", None))
        check_array(f"lse_{name}", lse, least=1, dtype=out_a.dtype)
        if out.shape != out_a.shape or lse.shape != out.shape[:-1]:
            raise ValueError(f"out_{name} and lse_{name} need the shapes {out_a.shape} and "
                             f"{out_a.shape[:-1]}, got {out.shape} and {lse.shape}")
    top = np.maximum(lse_a, lse_b)
    top[np.isneginf(top)] = 0
    weight_a, weight_b = np.exp(lse_a - top), np.exp(lse_b - top)
    total = weight_a + weight_b
    with np.errstate(divide="ignore"):
        lse = np.log(total) + top
    total[total == 0] = 1
    weight_a /= total
    weight_b /= total
    out = weight_a[..., None] * out_a
    out += weight_b[..., None] * out_b
    return out, lse


def relative_attention(q: Array, k: Array, v: Array, *, older: Sequence[tuple[Array, Array]] = (),
                       relative_keys: Array, content_bias: Array | None = None,
                       position_bias: Array | None = None, same_length: bool = False,
                       key_mask: Array | None = None, scale: float | None = None) -> Array:
    """Causal attention whose scores also weigh how far a key lies behind the query.

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e) with m >= n. Follows `xfref.core.relative_attention`, with the
    keys and values in stretches of their own: `older` ones, in the order of time and seen by all queries, and
    k, v. A block of queries at a time is scored against the distances that it can see; these scores are the
    bias of its attention to each stretch, skewed in place, and the stretches are merged.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n m (d + e)) time, half of it if m = n; O(n + m d) memory and a block of scores.
    """
    n, m = lengths(q, k, v, more_keys=True)
    lead, d = leading(q, k, v), q.shape[-1]
    if key_mask is not None:
        check_key_mask(key_mask, k, lead)
    before = sum(keys.shape[-2] for keys, _ in older)
    relative_keys = parameter("relative_keys", relative_keys, q.dtype, own=(before + m, d), lead=lead)
    farthest_first = np.ascontiguousarray(relative_keys[..., ::-1, :].swapaxes(-1, -2))  # (...,d,before + m)
    content_bias, position_bias = (
        parameter(name, np.zeros(d) if x is None else x, q.dtype, own=(d,), lead=lead)[..., None, :]
        for name, x in (("content_bias", content_bias), ("position_bias", position_bias)))
    scale = scale_or_default(scale, q)
    by_distance = np.broadcast_shapes(*(x.shape[:-2] for x in (q, position_bias, relative_keys)))
    out = empty((*lead, n, v.shape[-1]), q.dtype)
    block = tiles.TILE * max(1, TILES_AT_ONCE // max(1, math.prod(lead)))
    if same_length:  # of the scores of a block that is much longer than the memory, few would be needed
        block = min(block, max(tiles.TILE, m - n))
    for first in range(0, n, block):
        last = min(first + block, n)
        seen = slice(first if same_length else 0, last + m - n)  # what the block sees of k
        width = before + seen.stop - seen.start
        rows = q[..., first:last, :]
        bias = _shifted(project((rows + position_bias) * scale, farthest_first[..., before + m - width:],
                                by_distance))
        # all stretches give results of one shape, whatever their own leading axes
        queries = np.broadcast_to(rows + content_bias, (*lead, last - first, d))
        own = tiles.band(last - first, width - before, n - m if same_length else -tiles.WIDE, 0)
        result = attend(queries, k[..., seen, :], v[..., seen, :], own, bias=bias[..., before:], scale=scale,
                        key_mask=None if key_mask is None else key_mask[..., seen])
        start = 0
        for keys, values in older:
            stop = start + keys.shape[-2]
            result = merge(*result, *attention_lse(queries, keys, values, bias=bias[..., start:stop],
                                                   scale=scale))
            start = stop
        out[..., first:last, :] = result[0]
        del bias  # else two blocks of scores would be in memory
    return out


def _shifted(scores: Array) -> Array:
    """Scores by distance, the farthest first, as a view of the same memory by key, the first first.

    (...,r,w) -> (...,r,w). Row i begins r - 1 - i numbers later. Under keys that are after the query it runs
    on into the next row: these have to be masked. The last row ends where the memory does.
    """
    row, column = scores.strides[-2:]
    return as_strided(scores[..., scores.shape[-2] - 1:], scores.shape,
                      (*scores.strides[:-2], row - column, column), writeable=False)
