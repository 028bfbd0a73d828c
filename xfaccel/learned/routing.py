"""Routing Transformer, fast: tokens are gathered by cluster, and clusters are one more leading axis."""

import math

import numpy as np

from xfaccel.arrays import (
    as_key_mask,
    check_array,
    check_key_mask,
    check_shape,
    count,
    distinct,
    leading,
    lengths,
    parameter,
    rows_at,
)
from xfaccel.core import attention_lse
from xfaccel.patterns import Pattern, indices_in, prefixes

Array = np.ndarray


def routing_clusters(x: Array, centroids: Array, size: int) -> Array:
    """The `size` tokens nearest to each centroid, in ascending positions (Roy et al. 2020, Section 4.1).

    (...,n,d),(lead...,C,d) -> (...,C,min(size,n)) ints. Follows `xfref.routing_clusters`: a matrix product
    and a partial sort.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n C d) time.
    Memory: heads * n * C * (2 * size + 1).
    """
    check_array("x", x, least=2)
    centroids = parameter("centroids", centroids, x.dtype, own=(None, x.shape[-1]), lead=x.shape[:-2])
    affinity = centroids @ x.swapaxes(-1, -2)
    affinity[np.isnan(affinity)] = -np.inf
    n = x.shape[-2]
    size = min(count("size", size), n)
    if size == n:
        return np.broadcast_to(np.arange(n), affinity.shape).copy()
    last = np.partition(affinity, n - size, axis=-1)[..., n - size, None]
    chosen = affinity >= last
    if np.count_nonzero(chosen) > last.size * size:
        # of the tokens level with the last that counts, as many as there is room for
        level = affinity == last
        chosen ^= level
        chosen |= level & (np.cumsum(level, axis=-1) <= size - chosen.sum(axis=-1, keepdims=True))
    found = np.flatnonzero(chosen).reshape(*affinity.shape[:-1], size)
    return np.remainder(found, n, out=found)


def routing(q: Array, k: Array, v: Array, *, query_clusters: Array, key_clusters: Array, causal: bool = False,
            key_mask: Array | None = None, scale: float | None = None) -> Array:
    """Attention within clusters; a query in several takes the plain mean (Roy et al. 2020, Section 4.1).

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). Follows `xfref.routing`: rows are gathered by cluster,
    clusters are one more leading axis of the softmax engine, and its rows are added up where they belong.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(C w u (d + e)) time for C clusters of w queries and u keys, half if causal.
    Memory: threads * tile(d, e) + heads * C * (w + u) * ((d + e) * size + 16).
    """
    n, m = lengths(q, k, v)
    lead = leading(q, k, v)
    queries = _checked("query_clusters", query_clusters, n, lead)
    keys = _checked("key_clusters", key_clusters, m, lead)
    if queries.shape[-2] != keys.shape[-2]:
        raise ValueError(f"query_clusters and key_clusters need the same number of clusters, "
                         f"got {queries.shape[-2]} and {keys.shape[-2]}")
    seen = np.ones(keys.shape, bool)
    seen[..., 1:] = keys[..., 1:] != keys[..., :-1]  # a key listed twice is seen once
    if key_mask is not None:
        seen = seen & rows_at(check_key_mask(key_mask, k, lead)[..., None, :, None], keys)[..., 0]
    own_q, own_k, own_v = (rows_at(distinct(x)[..., None, :, :], rows)
                           for x, rows in ((q, queries), (k, keys), (v, keys)))
    wide = np.broadcast_shapes(own_q.shape[:-2], seen.shape[:-1])  # a mask may tell apart what q and k repeat
    own_q = np.broadcast_to(own_q, (*wide, *own_q.shape[-2:]))
    out, lse = attention_lse(own_q, own_k, own_v, mask=_past(queries, keys, n, m) if causal else None,
                             key_mask=as_key_mask(seen, own_k), scale=scale)
    mean = _scatter_mean(out, ~np.isneginf(lse), queries, n)
    return mean if mean.shape[:-2] == lead else np.broadcast_to(mean, (*lead, *mean.shape[-2:])).copy()


def _checked(name: str, clusters: Array, size: int, lead: tuple[int, ...]) -> Array:
    """The clusters (..., C, w), each in ascending order."""
    rows = indices_in(name, clusters, size).astype(np.intp)
    check_shape(name, rows.shape, (None, None), lead)
    return np.sort(distinct(rows), axis=-1)


def _past(queries: Array, keys: Array, n: int, m: int) -> Pattern:
    """Which keys of its cluster lie at or before each query: the first ones, as both ascend."""
    axes, length = np.broadcast_shapes(queries.shape[:-1], keys.shape[:-1]), keys.shape[-1]
    queries, keys = (np.broadcast_to(x, (*axes, x.shape[-1])) for x in (queries + m, keys + n))
    # one ascending list of all clusters, each lifted above the one before it
    cluster = np.arange(math.prod(axes)).reshape(*axes, 1)
    lift = (n + m) * cluster
    found = np.searchsorted((keys + lift).ravel(), queries + lift, side="right")  # key + n <= query + m
    return prefixes(found - length * cluster, length)


def _scatter_mean(x: Array, counted: Array, clusters: Array, n: int) -> Array:
    """The rows of x (..., C, w, width) added up where they belong, over the number of them that count."""
    *lead, number, size, width = x.shape
    entries = math.prod(lead)
    rows = np.broadcast_to(clusters, (*lead, number, size)).reshape(entries, number, size)
    rows = rows + n * np.arange(entries)[:, None, None]
    total, count = np.zeros((entries * n, width), x.dtype), np.zeros((entries * n, 1), x.dtype)
    for c in range(number):
        # a query listed twice in a cluster is written twice, with the same sum
        total[rows[:, c]] += x[..., c, :, :].reshape(entries, size, width)
        count[rows[:, c]] += counted[..., c, :].reshape(entries, size, 1)
    total /= np.maximum(count, 1, out=count)
    return total.reshape(*lead, n, width)
