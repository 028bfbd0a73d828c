"""The face of the softmax engine: arrays and a pattern in, output and lse out, on any device."""

import functools
import math

import numpy as np

from xfaccel.arrays import (
    Rows,
    check_key_mask,
    check_mask,
    empty,
    is_half,
    leading,
    namespace,
    parameter,
    rows,
    scale_or_default,
    sum_dtype,
)
from xfaccel.engine import tiles
from xfaccel.engine.cpu import decode, gather
from xfaccel.engine.cpu import softmax as cpu
from xfaccel.engine.cpu.vector import casts_half, multiplies_pairs
from xfaccel.half import widened

Array = np.ndarray


def attend(q: Array, k: Array, v: Array, tile_list: tiles.TileList, *, plane_axes: tuple[int, ...] = (),
           key_mask: Array | None = None, mask: Array | None = None, bias: Array | None = None,
           distance_bias: tuple[Array, int] | None = None,
           relative: tuple[Array, Array, int] | None = None,
           labels: tuple[Array, Array, Array] | None = None, order: tuple[Array, Array] | None = None,
           into: tuple[Array, Array] | None = None, scale: float | None = None,
           with_lse: bool = True) -> tuple[Array, Array | None]:
    """Softmax attention over a tile list; q, k and v have been checked by `lengths`.

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e),(...,n), the latter None unless `with_lse`. The planes of
    `tile_list` are laid out over leading axes of lengths `plane_axes`, which broadcast against those of q, k
    and v. `mask` and `bias` are dense and broadcastable to (...,n,m). `distance_bias`, a table (lead..., n or
    1, T) in the dtype of q and an int f, adds table[..., i, clip(j - p - f, 0, T - 1)] to the score of key j
    and the query at position p = i + m - n. `relative`, queries r (lead..., n, d), keys by distance t
    (lead..., T, d) and an int f, adds scale r_i . t_x, x = clip(j - p - f, 0, T - 1). `labels`, int64
    (lead..., L, n), (lead..., L, m) in 0..2**31-1 and limits (L, 2) in the range of an int32, hide a pair
    where low <= key's - query's <= high for any of L. `order`, int64 (lead..., N) and (lead..., M), makes
    sequences of N queries and M keys of the rows of q, of k, v and of the labels that it names, for the tile
    list, the key mask (lead..., M) and the result. `into`, C-ordered results of these queries for other keys,
    zeros and -inf where there were none, are joined with these in their place and returned; an order names a
    query once then, and its result goes where the query lies. All of these have been checked.

    Of NumPy's numbers of 16 bits the result is float32, in all engines.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(tile_list.scores (d + e)) time a leading entry, O(n) memory.
    """
    (n, d), (m, e), lead = q.shape[-2:], v.shape[-2:], leading(q, k, v)
    scale, run = scale_or_default(scale, q), cpu.run
    if type(q) is np.ndarray and is_half(q):
        if order is None and relative is None and _in_pairs(q, k, v):
            q, k, v = (x.view(np.uint16) for x in (q, k, v))
        else:
            q, k, v = map(widened, (q, k, v))
    elif type(q) is not np.ndarray:
        from xfaccel.engine.gpu import run as gpu  # most processes do without
        run = gpu.softmax
    dtype = sum_dtype(q) if type(q) is np.ndarray else q.dtype
    if order is None:
        key_rows = _key_rows(key_mask, k, lead)
    else:
        n, key_rows = order[0].shape[-1], None if key_mask is None else rows(key_mask[..., None, :], lead)
        order = tuple(rows(places[..., None, :], lead) for places in order)
    mask_rows = bias_rows = None
    if mask is not None:
        dense = check_mask("mask", mask, (n, m), lead)
        mask_rows = rows(_at_least_2d(dense, n, m), lead, dense=False)
    if bias is not None:
        added = parameter("bias", bias, dtype, own=(n, m), lead=lead, broadcast=True)
        bias_rows = rows(_at_least_2d(added, n, m), lead, dense=False)
    distance = None
    if distance_bias is not None:
        table, nearest = distance_bias
        wide = np.broadcast_to(table, (*table.shape[:-2], n, table.shape[-1]))
        distance = rows(wide, lead, dense=False), m - n + nearest, table.shape[-1] - 1
    if relative is not None:
        queries, keys, nearest = relative
        relative = rows(queries, lead), rows(keys, lead), m - n + nearest, keys.shape[-2] - 1
    if labels is not None:
        labels = rows(labels[0], lead), rows(labels[1], lead), labels[2]
    out, lse = into or _blank(q, (*lead, n), e, with_lse, dtype)
    run(rows(q, lead), rows(k, lead), rows(v, lead), rows(out, lead),
        None if lse is None else rows(lse[..., None], lead), d=d, e=e, tile_list=tile_list,
        plane_of=_plane_of(plane_axes, lead), scale=scale, key_mask=key_rows, mask=mask_rows, bias=bias_rows,
        distance=distance, relative=relative, labels=labels, order=order, so_far=into is not None)
    return out, lse


def attend_listed(q: Array, k: Array, v: Array, indices: Array, *, causal: bool = False,
                  key_mask: Array | None = None, into: tuple[Array, Array] | None = None,
                  scale: float | None = None, with_lse: bool = True) -> tuple[Array, Array | None]:
    """Softmax attention of each query to a list of keys of its own; `lengths` has checked q, k and v.

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e),(...,n), the latter None unless `with_lse`. `indices` (lead...,
    n, r) are integers below m in any order, the same one counting once, those below 0 not at all. `into` is
    as for `attend`.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n r (d + e)) time a leading entry, O(m + r) memory for each thread.
    """
    (n, d), (m, e), lead = q.shape[-2:], v.shape[-2:], leading(q, k, v)
    q, k, v = map(widened, (q, k, v))
    scale, key_rows = scale_or_default(scale, q), _key_rows(key_mask, k, lead)
    indices = indices.astype(np.int64, copy=False)
    options = dict(n=n, m=m, d=d, e=e, count=indices.shape[-1], last=m - n if causal else m, scale=scale,
                   key_mask=key_rows)
    if type(q) is not np.ndarray:
        from xfaccel.engine.gpu import run as gpu  # most processes do without
        out, lse = _blank(q, (*lead, n), e, with_lse or into is not None)
        if type(indices) is np.ndarray:  # known to the host, as a ring is
            indices = namespace(q).asarray(indices)
        gpu.gather(rows(q, lead), rows(k, lead), rows(v, lead), rows(out, lead),
                   None if lse is None else rows(lse[..., None], lead), rows(np.sort(indices, axis=-1), lead),
                   **options)
        if into is None:
            return out, lse
        weight, other, into[1][...] = shares(into[1], lse)
        into[0][...] = weight * into[0] + other * out
        return into
    out, lse = into or _blank(q, (*lead, n), e, with_lse)
    gather.run(rows(q, lead), rows(k, lead), rows(v, lead), rows(out, lead),
               None if lse is None else rows(lse[..., None], lead), rows(indices, lead),
               so_far=into is not None, **options)
    return out, lse


def attend_few(q: Array, k: Array, v: Array, *, causal: bool, key_mask: Array | None, scale: float | None,
               with_lse: bool, scales: tuple[Array, Array] | None = None) -> tuple[Array, Array | None]:
    """`attend` over all keys or, if causal, all up to the query, for at most `decode.FEW` queries.

    k and v may be int8, and `scales` (..., m) what to multiply their rows by. NumPy arrays alone.
    """
    (n, d), (m, e), lead = q.shape[-2:], v.shape[-2:], leading(q, k, v)
    scale, key_rows = scale_or_default(scale, q), _key_rows(key_mask, k, lead)
    if is_half(q):
        q = widened(q)
        if k.dtype == np.float16 and not casts_half():
            k, v = widened(k), widened(v)
        elif k.dtype.name == "bfloat16":  # no type that Python's buffers know
            k, v = k.view(np.uint16), v.view(np.uint16)
    if scales is not None:
        scales = tuple(rows(x[..., None, :], lead, dense=False) for x in scales)
    out, lse = _blank(q, (*lead, n), e, with_lse)
    decode.run(rows(q, lead), rows(k, lead), rows(v, lead), rows(out, lead),
               None if lse is None else rows(lse[..., None], lead), n=n, m=m, d=d, e=e,
               last=m - n if causal else m, scale=scale, key_mask=key_rows, scales=scales)
    return out, lse


def _in_pairs(q: Array, k: Array, v: Array) -> bool:
    """Whether this CPU multiplies pairs of numbers as these are, and they lie so that it can."""
    return (q.dtype.name == "bfloat16" and multiplies_pairs() and q.shape[-1] % 2 == v.shape[-1] % 2 == 0
            and all(x.strides[-1] == 2 and x.__array_interface__["data"][0] % 4 == 0
                    and not any(step % 4 for step in x.strides[:-1]) for x in (q, k, v)))


def shares(lse_a: Array, lse_b: Array) -> tuple[Array, Array, Array]:
    """What each of two results counts in their union (..., n, 1), and the union's lse (..., n)."""
    top = np.maximum(lse_a, lse_b)
    np.copyto(top, 0, where=np.isneginf(top))
    weight_a, weight_b = np.exp(lse_a - top), np.exp(lse_b - top)
    total = weight_a + weight_b
    with np.errstate(divide="ignore"):
        lse = np.log(total) + top
    np.copyto(total, 1, where=total == 0)
    weight_a /= total
    weight_b /= total
    return weight_a[..., None], weight_b[..., None], lse


def _blank(q: Array, rows: tuple[int, ...], e: int, with_lse: bool,
           dtype: np.dtype | None = None) -> tuple[Array, Array | None]:
    """A result and, where it is wanted, its lse, for kernels to fill."""
    return empty((*rows, e), dtype or q.dtype, q), empty(rows, sum_dtype(q), q) if with_lse else None


@functools.lru_cache(64)
def _plane_of(axes: tuple[int, ...], lead: tuple[int, ...]) -> Array:
    """The plane of each leading entry, planes being laid out over `axes`."""
    planes = np.arange(math.prod(axes), dtype=np.int64).reshape(axes)
    planes = np.ascontiguousarray(np.broadcast_to(planes, lead)).ravel()
    planes.setflags(write=False)  # as every kept array: a GPU holds on to it
    return planes


def _key_rows(key_mask: Array | None, k: Array, lead: tuple[int, ...]) -> Rows | None:
    if key_mask is None:
        return None
    return rows(check_key_mask(key_mask, k, lead)[..., None, :], lead, dense=False)


def _at_least_2d(x: Array, n: int, m: int) -> Array:
    return np.broadcast_to(x, (*x.shape[:-2], n, m))
