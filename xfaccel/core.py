"""Softmax attention and its companions, fast. Follows `xfref.core`."""

import math

import numpy as np

from xfaccel.arrays import (
    check_array,
    codes_and_scales,
    distinct,
    empty,
    largest,
    leading,
    lengths,
    parameter,
    shapes_fit,
    sum_dtype,
)
from xfaccel.engine import tiles
from xfaccel.engine.cpu.decode import FEW
from xfaccel.engine.softmax import attend, attend_few, attend_listed, shares
from xfaccel.half import widened
from xfaccel.patterns import Pattern, past

Array = np.ndarray
Codes = tuple[Array, Array]  # rows as integers and the scale of each, from `quantize_rows`
_CHUNK = 1 << 15  # numbers: 128 KiB of float32


def softmax(scores: Array, axis: int = -1) -> Array:
    """Exponentials of the scores, divided by their sum; a row of -inf is all zeros.

    (...) -> (...). Follows `xfref.softmax`, in place in one new array.

    Raises: TypeError if `scores` is not a float array.
    Cost: O(size) time.
    Memory: (2 * rows + 8192) * size; NumPy buffers 8192 numbers.
    """
    check_array("scores", scores)
    top = largest(scores, axis)
    np.copyto(top, 0, where=np.isneginf(top))
    weights = np.subtract(scores, top)
    np.exp(weights, out=weights)
    total = weights.sum(axis=axis, keepdims=True)
    np.copyto(total, 1, where=total == 0)
    return np.divide(weights, total, out=weights)


def layer_norm(x: Array, gain: Array, bias: Array, eps: float = 1e-5) -> Array:
    """Each row shifted to mean 0, divided by its standard deviation, then scaled and shifted.

    (...,w),(w),(w) -> (...,w). Follows `xfref.layer_norm`, in place in one new array.

    Raises: TypeError or ValueError naming the array whose type or shape does not fit.
    Cost: O(size) time.
    Memory: (3 * rows + 8192) * size; NumPy buffers 8192 numbers.
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


def attention(q: Array, k: Array | Codes, v: Array | Codes, *, mask: Array | Pattern | None = None,
              key_mask: Array | None = None, bias: Array | None = None, causal: bool = False,
              scale: float | None = None) -> Array:
    """Softmax attention without the (n, m) matrix. `mask` may also be a pattern of `xfaccel.patterns`.

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). Follows `xfref.attention`: an online softmax over tiles of 64
    queries and 64 keys; tiles that a pattern or `causal` leaves empty are skipped.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n m (d + e)) time, half of it if causal.
    Memory: threads * tile(d, e) + 4 * n, where tile(d, e) = 64 * (69 + 2 * d + 3 * e) * size
        and made(r) = 300 * min(r, 2**15) - heads * n * e * size; a pattern of r ranges for each query takes
    made(n * r) when it is first used, before there is a result, and up to 25 * n * r from then on. Up to 8
    queries read every key once, in chunks: heads * n * (e + 2) * size for each 256 of them. Without mask and
    bias they read pairs of `quantize_rows` as they are; all other calls restore these, as copies of k and v.
    """
    return _attend(q, k, v, mask, key_mask, bias, causal, scale, False)[0]


def attention_lse(q: Array, k: Array | Codes, v: Array | Codes, *, mask: Array | Pattern | None = None,
                  key_mask: Array | None = None, bias: Array | None = None, causal: bool = False,
                  scale: float | None = None) -> tuple[Array, Array]:
    """`attention` and the logarithm of each row's denominator, -inf for a query that sees no key.

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e),(...,n). Follows `xfref.attention_lse`.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: as for `attention`.
    Memory: threads * tile(d, e) + 4 * n.
    """
    return _attend(q, k, v, mask, key_mask, bias, causal, scale, True)


def quantize_rows(x: Array) -> Codes:
    """Each row as integers of 8 bits and the scale that they are multiples of, for `attention`.

    (...,m,w) -> (...,m,w),(...,m). Follows `xfref.quantize_rows`. No value on a GPU is looked at by the
    host: there, a row that is not finite has a scale that is not, and any codes.

    Raises: TypeError or ValueError if `x` is no array of finite floats with at least 2 axes.
    Cost: O(size) time.
    Memory: (min(rows * w, 32768) + 8192) * size; a GPU takes all rows at once.
    """
    check_array("x", x, least=2)
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    codes, scales = empty(rows.shape, np.int8, x), empty((len(rows), 1), x.dtype, x)
    # what NumPy goes over several times stays in the cache; a GPU is given its work at once
    step = max(_CHUNK // max(x.shape[-1], 1), 1) if type(x) is np.ndarray else max(len(rows), 1)
    for first in range(0, len(rows), step):
        some = slice(first, first + step)
        _quantize(rows[some], codes[some], scales[some])
    return codes.reshape(x.shape), scales.reshape(x.shape[:-1])


def _quantize(x: Array, codes: Array, scales: Array) -> None:
    """Fill the codes (m, w) and scales (m, 1) of rows (m, w)."""
    rest = np.abs(x)
    np.divide(largest(rest, -1, 0), x.dtype.type(127), out=scales)
    if type(x) is np.ndarray and not np.isfinite(scales).all():
        raise ValueError("x needs finite numbers, got a NaN or an infinity")
    np.divide(x, np.where(scales == 0, x.dtype.type(1), scales), out=rest)
    np.rint(rest, out=rest)
    codes[...] = np.clip(rest, -127, 127, out=rest)


def attention_into(result: tuple[Array, Array], q: Array, k: Array, v: Array, *,
                   mask: Array | Pattern | None = None, key_mask: Array | None = None,
                   bias: Array | None = None, scale: float | None = None) -> None:
    """Join a result of `attention_lse` with that for these keys, in its place."""
    _attend(q, k, v, mask, key_mask, bias, False, scale, True, result)


def merge(out_a: Array, lse_a: Array, out_b: Array, lse_b: Array) -> tuple[Array, Array]:
    """Attention over the union of two disjoint sets of keys, from the two results.

    (...,n,e),(...,n),(...,n,e),(...,n) -> (...,n,e),(...,n). Follows `xfref.merge`.

    Raises: TypeError or ValueError naming the array whose type or shape does not fit.
    Cost: O(n e) time.
    Memory: (heads * n * (e + 2) + 8192) * size; NumPy buffers 8192 numbers.
    """
    for name, out, lse in (("a", out_a, lse_a), ("b", out_b, lse_b)):
        check_array(f"out_{name}", out, least=2, dtype=getattr(out_a, "dtype", None))
        check_array(f"lse_{name}", lse, least=1, dtype=out_a.dtype)
        if out.shape != out_a.shape or lse.shape != out.shape[:-1]:
            raise ValueError(f"out_{name} and lse_{name} need the shapes {out_a.shape} and "
                             f"{out_a.shape[:-1]}, got {out.shape} and {lse.shape}")
    weight_a, weight_b, lse = shares(lse_a, lse_b)
    out = weight_a * out_a
    out += weight_b * out_b
    return out, lse


def merge_into(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
    """`merge` of two results that nobody else holds: in the memory of `a`, and that of `b` is used up."""
    (out, lse_a), (other, lse_b) = a, b
    weight_a, weight_b, lse = shares(lse_a, lse_b)
    out *= weight_a
    other *= weight_b
    out += other
    return out, lse


def _attend(q: Array, k: Array | Codes, v: Array | Codes, mask: Array | Pattern | None,
            key_mask: Array | None, bias: Array | None, causal: bool, scale: float | None,
            with_lse: bool, into: tuple[Array, Array] | None = None) -> tuple[Array, Array | None]:
    if isinstance(k, tuple) or isinstance(v, tuple):
        check_array("q", q, least=2)
        (k, k_scales), (v, v_scales) = codes_and_scales("k", k, q), codes_and_scales("v", v, q)
        n, _ = shapes_fit(q, k, v)
        if _reads_once(q, mask, bias):
            return attend_few(q, k, v, causal=causal, key_mask=key_mask, scale=scale, with_lse=with_lse,
                              scales=(k_scales, v_scales))
        wide, k, v = q.astype(sum_dtype(q), copy=False), _restored(k, k_scales), _restored(v, v_scales)
        out, lse = _attend(wide, k, v, mask, key_mask, bias, causal, scale, with_lse)
        # of NumPy's the door makes 16 bits again
        return out if type(q) is np.ndarray else out.astype(q.dtype, copy=False), lse
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
        if mask.listed is not None and bias is None and into is None:
            return attend_listed(q, k, v, mask.listed, causal=causal, key_mask=key_mask, scale=scale,
                                 with_lse=with_lse)
        if causal:
            mask = mask & past(n, m)
        return _attend_shares(q, k, v, mask.tile_lists(), plane_axes=axes, key_mask=key_mask, bias=bias,
                              scale=scale, with_lse=with_lse, into=into)
    if into is None and _reads_once(q, mask, bias):
        return attend_few(q, k, v, causal=causal, key_mask=key_mask, scale=scale, with_lse=with_lse)
    tile_list = tiles.band(n, m, -tiles.WIDE, 0 if causal else tiles.WIDE)
    return attend(q, k, v, tile_list, key_mask=key_mask, mask=mask, bias=bias, scale=scale,
                  with_lse=with_lse, into=into)


def _reads_once(q: Array, mask: Array | None, bias: Array | None) -> bool:
    """Whether `attend_few` does it."""
    return q.shape[-2] <= FEW and mask is None and bias is None and type(q) is np.ndarray


def _restored(codes: Array, scales: Array) -> Array:
    """The rows that a pair of `quantize_rows` stands for; what is only repeated stays one."""
    return np.broadcast_to(distinct(codes) * distinct(scales[..., None]), codes.shape)


def _attend_shares(q: Array, k: Array, v: Array, shares: tuple[tiles.Share, ...], *, bias: Array | None,
                   with_lse: bool, into: tuple[Array, Array] | None, **options
                   ) -> tuple[Array, Array | None]:
    """Attention over tile lists that share the pairs out among them."""
    before = into
    if len(shares) > 1:
        q, k, v = map(widened, (q, k, v))  # once, not for each list
    with_lse = with_lse or sum(queries is None for queries, _ in shares) > 1
    for queries, tile_list in shares:
        if queries is None:
            into = attend(q, k, v, tile_list, bias=bias, with_lse=with_lse, into=into, **options)
            continue
        # a few queries that see nothing in the lists before
        out, lse = into
        one_row = bias is None or bias.ndim < 2 or bias.shape[-2] == 1
        out[..., queries, :], own_lse = attend(
            q[..., queries, :], k, v, tile_list, bias=bias if one_row else bias[..., queries, :],
            with_lse=lse is not None,
            into=before and (out.take(queries, axis=-2), lse.take(queries, axis=-1)), **options)
        if lse is not None:
            lse[..., queries] = own_lse
    return into
