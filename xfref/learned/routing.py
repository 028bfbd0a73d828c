"""Routing Transformer: tokens near the same centroid attend to each other.

Efficient Content-Based Sparse Attention with Routing Transformers. Roy, Saffar, Vaswani, Grangier. 2020.
arXiv:2003.05997, Section 4.1 (routing attention with clustering).

Differs: attention takes the queries and keys as they are and has a scale, as in the public PyTorch code; the
paper's are normalised to the unit ball first (`layer_norm` them outside for that). Released code divides a
query's sum over its clusters by their number plus 1e-2; here by the number alone. Released code is causal by
rank within a cluster, right only where queries and keys share their clusters; here by position, always:
attention is causal given the clusters. Their choice is not, in any code: a later token that is nearer to a
centroid pushes an earlier one out of its cluster.
"""

import numpy as np

from xfref.core import (
    attention_lse,
    check_array,
    check_key_mask,
    check_shape,
    count,
    hide_keys,
    leading,
    lengths,
    number,
    parameter,
)
from xfref.patterns import indices_in


def routing_clusters(x: np.ndarray, centroids: np.ndarray, size: int) -> np.ndarray:
    """The `size` tokens nearest to each centroid, in ascending positions.

    clusters_c = the `size` positions i with the largest x_i . centroid_c

    (...,n,d),(lead...,C,d) -> (...,C,min(size,n)) ints. Of equally near tokens the earlier ones count first;
    a product that is NaN counts as -inf. Clusters are all of one size: a token may lie in several of them
    or in none. Both arguments are taken as they are. The paper has normalised queries and keys, one set of
    centroids for both, and sqrt(n) centroids, which cost least.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n C d) time, O(n C) memory.

    >>> x = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    >>> routing_clusters(x, np.array([[1.0, 0.0], [0.0, 1.0]]), 2)
    array([[0, 1],
           [1, 2]])
    """
    check_array("x", x, least=2)
    centroids = parameter("centroids", centroids, x.dtype, own=(None, x.shape[-1]), lead=x.shape[:-2])
    size = count("size", size)
    affinity = centroids @ x.swapaxes(-1, -2)  # (...,C,n)
    affinity = np.where(np.isnan(affinity), -np.inf, affinity)
    nearest = np.argsort(-affinity, axis=-1, kind="stable")[..., :size]
    return np.sort(nearest, axis=-1)


def update_centroids(centroids: np.ndarray, q: np.ndarray, k: np.ndarray, *,
                     decay: float = 0.999) -> np.ndarray:
    """One step of online k-means: each centroid moves towards the queries and keys that are nearest to it.

    mu_c = decay mu_c + (1 - decay) / 2 (sum of the q_i nearest to mu_c + sum of the k_j nearest to mu_c)

    (lead...,C,d),(...,n,d),(...,m,d) -> (lead...,C,d). The sums run over the sequence and over the leading
    axes that the centroids lack or have with length 1: centroids (H,C,d) learn from a whole batch (B,H,n,d).
    Nearest is the largest product, the first of equals; a token of zeros, such as padding, adds nothing. The
    result is not normalised. The paper has a decay of 0.999.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O((n + m) C d).

    >>> q, k = np.array([[2.0, 0.0]]), np.array([[0.0, 4.0], [4.0, 0.0]])
    >>> update_centroids(np.eye(2), q, k, decay=0.5)
    array([[2. , 0. ],
           [0. , 1.5]])
    """
    check_array("q", q, least=2)
    check_array("k", k, least=2, dtype=q.dtype)
    check_array("centroids", centroids, least=2, dtype=q.dtype)
    decay = number("decay", decay, 0, 1)
    moved = np.zeros_like(centroids)
    for x in (q, k):
        check_shape("centroids", centroids.shape, (None, x.shape[-1]), x.shape[:-2])
        nearest = np.argmax(x @ centroids.swapaxes(-1, -2), axis=-1)  # (...,n)
        belongs = nearest[..., None, :] == np.arange(centroids.shape[-2])[:, None]  # (...,C,n)
        sums = belongs @ x
        own = (1,) * (sums.ndim - centroids.ndim) + centroids.shape
        shared = tuple(axis for axis, length in enumerate(own) if length < sums.shape[axis])
        moved += sums.sum(axis=shared).reshape(centroids.shape)
    return decay * centroids + (1 - decay) / 2 * moved


def routing(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, query_clusters: np.ndarray,
            key_clusters: np.ndarray, causal: bool = False, key_mask: np.ndarray | None = None,
            scale: float | None = None) -> np.ndarray:
    """Attention within clusters; a query in several takes the plain mean of what it gets there.

    out_i = mean over the clusters c of query i of attention(q_i, k, v) over the keys of c

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). `query_clusters` (lead...,C,w) lists query rows 0..n-1 and
    `key_clusters` (lead...,C,u) key rows 0..m-1, as `routing_clusters` gives them or in any order; a row that
    is listed twice counts once. A query in no cluster gets zeros. A cluster in which a query sees no key, due
    to `causal` or `key_mask`, does not count.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(C w u (d + e)), which is O(n^1.5 (d + e)) for sqrt(n) clusters of sqrt(n).

    >>> v = np.array([[0.0], [2.0], [6.0]])
    >>> clusters = np.array([[0, 1], [1, 2]])
    >>> routing(np.zeros((3, 1)), np.zeros((3, 1)), v, query_clusters=clusters, key_clusters=clusters)
    array([[1. ],
           [2.5],
           [4. ]])
    """
    n, m = lengths(q, k, v)
    lead = leading(q, k, v)
    check_key_mask(key_mask, k, lead)
    query_clusters = _ascending("query_clusters", query_clusters, n, lead)
    key_clusters = _ascending("key_clusters", key_clusters, m, lead)
    if query_clusters.shape[-2] != key_clusters.shape[-2]:
        raise ValueError(f"query_clusters and key_clusters need the same number of clusters, "
                         f"got {query_clusters.shape[-2]} and {key_clusters.shape[-2]}")
    q, k, v = (np.broadcast_to(x, (*lead, *x.shape[-2:]))
               for x in (q, hide_keys(k, key_mask), hide_keys(v, key_mask)))
    present = np.broadcast_to(True if key_mask is None else key_mask, (*lead, m))
    total, number_of = np.zeros((*lead, n, v.shape[-1]), q.dtype), np.zeros((*lead, n, 1), q.dtype)
    for c in range(query_clusters.shape[-2]):
        queries, keys = query_clusters[..., c, :, None], key_clusters[..., c, :, None]  # (...,w,1), (...,u,1)
        listed_first = np.diff(keys[..., 0], axis=-1, prepend=-1) > 0
        seen = (listed_first & np.take_along_axis(present, keys[..., 0], axis=-1))[..., None, :]
        if causal:
            seen = seen & (keys.swapaxes(-1, -2) <= queries + m - n)
        gathered = (np.take_along_axis(x, rows, axis=-2)
                    for x, rows in ((q, queries), (k, keys), (v, keys)))
        out, lse = attention_lse(*gathered, mask=seen, scale=scale)
        for sums, rows in ((total, out), (number_of, ~np.isneginf(lse)[..., None])):
            scattered = np.zeros_like(sums)
            np.put_along_axis(scattered, queries, rows, axis=-2)
            sums += scattered
    return total / np.maximum(number_of, 1)


def _ascending(name: str, clusters: np.ndarray, size: int, lead: tuple[int, ...]) -> np.ndarray:
    """The clusters (lead...,C,w), the rows of each in ascending order."""
    rows = indices_in(name, clusters, size).astype(np.intp)
    check_shape(name, rows.shape, (None, None), lead)
    return np.sort(np.broadcast_to(rows, (*lead, *rows.shape[-2:])), axis=-1)
