"""The sorts behind learned patterns, wherever the numbers lie: tokens by bucket, by nearness, by cluster.

On a GPU no shape may depend on values, which the host does not know: a list for each token is then as long as
it may become.
"""

import numpy as np

from xfaccel.arrays import namespace

Array = np.ndarray


def by_bucket(buckets: Array, chunk: int, across_buckets: bool) -> tuple[Array, Array]:
    """The tokens in the order of their buckets (..., R, n), and the chunk of that order that each lies in.

    Unless `across_buckets`, chunks of two buckets are as many apart as there are chunks, at least.
    """
    n, xp = buckets.shape[-1], namespace(buckets)
    if xp is np:  # which sorts numbers of 8 or 16 bits in linear time
        buckets = buckets.astype(np.min_scalar_type(buckets.max()))
    order = np.argsort(buckets, axis=-1, kind="stable")
    there = np.broadcast_to(xp.arange(n) // chunk, order.shape)
    if not across_buckets:
        ascending = np.take_along_axis(buckets, order, axis=-1)
        new = np.concatenate([0 * there[..., :1], ascending[..., 1:] != ascending[..., :-1]], axis=-1)
        there = there + np.cumsum(new, axis=-1) * -(-n // chunk)
    own = np.empty_like(order)
    np.put_along_axis(own, order, there, axis=-1)
    return order, own


def nearest(affinity: Array, size: int) -> Array:
    """Where the `size` largest of each row lie, in ascending order; the first of equals. Written over."""
    n = affinity.shape[-1]
    if type(affinity) is not np.ndarray:
        order = np.argsort(np.where(np.isnan(affinity), np.inf, -affinity), axis=-1, kind="stable")
        return np.sort(order[..., :size], axis=-1)
    if size == n:
        return np.tile(np.arange(n), (len(affinity), 1))
    affinity[np.isnan(affinity)] = -np.inf
    last = np.partition(affinity, n - size, axis=-1)[:, n - size, None]
    chosen = affinity >= last
    if np.count_nonzero(chosen) > last.size * size:
        # of the tokens level with the last that counts, as many as there is room for
        level = affinity == last
        chosen ^= level
        chosen |= level & (np.cumsum(level, axis=-1) <= size - chosen.sum(axis=-1, keepdims=True))
    return np.remainder(np.flatnonzero(chosen), n).reshape(-1, size)


def places(clusters: Array, n: int) -> Array:
    """Where in the clusters (..., C, w), one after another, each of n tokens stands: (..., n, r), -1 filled.

    Each cluster is in ascending order; a token that it lists twice stands there once.
    """
    number, w = clusters.shape[-2:]
    first = np.ones_like(clusters, dtype=bool)
    first[..., 1:] = clusters[..., 1:] != clusters[..., :-1]
    tokens, xp = np.where(first, clusters, n), namespace(clusters)
    if xp is not np:
        listed = xp.full((*clusters.shape[:-2], number, n + 1), -1)
        standing = np.where(first, xp.arange(number * w).reshape(number, w), -1)
        np.put_along_axis(listed, tokens, standing, axis=-1)
        return listed[..., :n].swapaxes(-1, -2)
    tokens = tokens.reshape(*clusters.shape[:-2], number * w)
    order = np.argsort(tokens, axis=-1, kind="stable")
    tokens = np.take_along_axis(tokens, order, axis=-1)
    place, new = np.arange(tokens.shape[-1]), np.diff(tokens, axis=-1, prepend=-1) != 0
    rank = place - np.maximum.accumulate(np.where(new, place, 0), axis=-1)
    kept = tokens < n
    listed = np.full((*tokens.shape[:-1], n, rank[kept].max(initial=-1) + 1), -1)
    *axes, _ = np.nonzero(kept)
    listed[*axes, tokens[kept], rank[kept]] = order[kept]
    return listed
