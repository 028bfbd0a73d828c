"""Routing Transformer, fast: the softmax engine reads tokens cluster by cluster."""

import functools
from types import ModuleType

import numpy as np

from xfaccel.arrays import (
    check_array,
    check_key_mask,
    check_shape,
    count,
    distinct,
    hides_nothing,
    leading,
    lengths,
    namespace,
    parameter,
    rows_at,
)
from xfaccel.engine import tiles
from xfaccel.engine.softmax import attend, attend_listed
from xfaccel.patterns import indices_in
from xfaccel.sorting import nearest, places

Array = np.ndarray


def routing_clusters(x: Array, centroids: Array, size: int) -> Array:
    """The `size` tokens nearest to each centroid, in ascending positions (Roy et al. 2020, Section 4.1).

    (...,n,d),(lead...,C,d) -> (...,C,min(size,n)) ints. Follows `xfref.routing_clusters`: a matrix product
    and a partial sort.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n C d) time.
    Memory: n * C * (2 * size + 1) + 8 * n.
    """
    check_array("x", x, least=2)
    centroids = parameter("centroids", centroids, x.dtype, own=(None, x.shape[-1]), lead=x.shape[:-2])
    (*lead, n, _), clusters = x.shape, centroids.shape[-2]
    size = min(count("size", size), n)
    if type(x) is not np.ndarray:
        return nearest(centroids @ x.swapaxes(-1, -2), size)
    centroids = np.broadcast_to(centroids, (*lead, *centroids.shape[-2:]))
    # one after another, as the affinities of all would not fit the cache
    found = [nearest(centroids[entry] @ x[entry].T, size) for entry in np.ndindex(*lead)]
    return np.array(found, np.intp).reshape(*lead, clusters, size)


def routing(q: Array, k: Array, v: Array, *, query_clusters: Array, key_clusters: Array, causal: bool = False,
            key_mask: Array | None = None, scale: float | None = None) -> Array:
    """Attention within clusters; a query in several takes the plain mean (Roy et al. 2020, Section 4.1).

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). Follows `xfref.routing`: the softmax engine reads the tokens
    cluster by cluster, and a second time, with equal scores, the results of each query.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(C w u (d + e)) time for C clusters of w queries and u keys.
    Memory: threads * tile(d, e) + heads * C * (w * ((e + 1) * size + 40) + u * 18) + heads * n * r * 8;
        a query is in r clusters at most.
    """
    n, m = lengths(q, k, v)
    lead, xp = leading(q, k, v), namespace(q)
    queries = _checked("query_clusters", query_clusters, n, lead, xp)
    keys = _checked("key_clusters", key_clusters, m, lead, xp)
    (clusters, w), (others, u) = queries.shape[-2:], keys.shape[-2:]
    if clusters != others:
        raise ValueError("query_clusters and key_clusters need the same number of clusters, "
                         f"got {clusters} and {others}")
    seen = xp.ones(keys.shape, bool)
    seen[..., 1:] = keys[..., 1:] != keys[..., :-1]  # a key listed twice is seen once
    if key_mask is not None:
        seen = seen & rows_at(check_key_mask(key_mask, k, lead)[..., None, :, None], keys)[..., 0]
    positions = (xp.arange(length)[None] for length in (n, m))
    labels = (*positions, np.array([(m - n + 1, n + m)])) if causal else None  # this far ahead is hidden
    *order, seen_there = (x.reshape(*x.shape[:-2], -1) for x in (queries, keys, seen))
    out, lse = attend(q, k, v, _clusters(clusters, w, u), order=order, labels=labels, scale=scale,
                      key_mask=None if hides_nothing(seen) else seen_there)
    listed, equal = places(queries, n), xp.zeros((1, 1), q.dtype)
    return attend_listed(*(np.broadcast_to(equal, (*lead, length, 1)) for length in (n, clusters * w)), out,
                         listed, key_mask=~np.isneginf(lse), scale=1.0, with_lse=False)[0]


def _checked(name: str, clusters: Array, size: int, lead: tuple[int, ...], xp: ModuleType) -> Array:
    """The clusters (..., C, w), each in ascending order."""
    rows = xp.asarray(indices_in(name, clusters, size), np.intp)
    check_shape(name, rows.shape, (None, None), lead)
    return np.sort(distinct(rows), axis=-1)


@functools.lru_cache(64)
def _clusters(number: int, w: int, u: int) -> tiles.TileList:
    """Clusters of w queries and u keys, one after another."""
    first = u * np.arange(number).repeat(w)[:, None]
    return tiles.from_ranges(first, first + u)
