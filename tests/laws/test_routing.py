"""Laws of the Routing Transformer: attention within clusters, the choice of clusters, and their centroids."""

import math

import numpy as np
import pytest
from cases import some_clusters
from lawbook import close, law, qkv

import xfref

LENGTHS = [(12, 12), (7, 12), (12, 7), (1, 5)]


def in_loops(q, k, v, query_clusters, key_clusters, causal=False, key_mask=None, scale=None):
    """Each query of (n,d), cluster by cluster, from sets of rows."""
    n, m, scale = len(q), len(k), q.shape[-1] ** -0.5 if scale is None else scale
    out = np.zeros((n, v.shape[-1]))
    for i in range(n):
        means = []
        for queries, keys in zip(query_clusters, key_clusters, strict=True):
            seen = [j for j in set(keys.tolist()) if (j <= i + m - n or not causal)
                    and (key_mask is None or key_mask[j])]
            if i in queries and seen:
                weights = [math.exp(scale * (q[i] @ k[j])) for j in seen]
                total = sum(w * v[j] for w, j in zip(weights, seen, strict=True))
                means.append(total / sum(weights))
        out[i] = sum(means) / len(means) if means else 0
    return out


# the choice of clusters


@law("routing_clusters")
def test_clusters_by_hand(package):
    x = np.array([[3.0, 0.0], [2.0, 2.0], [0.0, 3.0], [1.0, 1.0]])
    centroids = np.array([[1.0, 0.0], [0.0, 2.0], [-1.0, -1.0]])
    # products: 3 2 0 1; 0 4 6 2; -3 -4 -3 -2
    found = package.routing_clusters(x, centroids, 2)
    np.testing.assert_array_equal(found, [[0, 1], [1, 2], [0, 3]])  # 0 and 2 are level: the earlier
    assert np.issubdtype(found.dtype, np.integer)
    np.testing.assert_array_equal(package.routing_clusters(x, centroids, 1), [[0], [2], [3]])
    np.testing.assert_array_equal(package.routing_clusters(x, centroids, 99), [range(4)] * 3)


@law("routing_clusters")
@pytest.mark.parametrize("size", [1, 4, 11, 12, 20])
def test_clusters_in_loops(package, size, rng):
    for x, centroids in [(rng.standard_normal((2, 3, 12, 4)), rng.standard_normal((3, 5, 4))),
                         (rng.integers(-1, 2, (2, 3, 12, 2)) * 1.0, rng.integers(-1, 2, (2, 1, 5, 2)) * 1.0)]:
        found = package.routing_clusters(x, centroids, size)
        assert found.shape == (2, 3, 5, min(size, 12))
        for b, h, c in np.ndindex(2, 3, 5):
            centre = np.broadcast_to(centroids, (2, 3, *centroids.shape[-2:]))[b, h, c]
            nearest = sorted(range(12), key=lambda i, b=b, h=h, centre=centre: (-(x[b, h, i] @ centre), i))
            np.testing.assert_array_equal(found[b, h, c], sorted(nearest[:size]))


@law("routing_clusters")
def test_length_counts_and_nothing_is_normalised(package):
    x = np.array([[1.0, 0.0], [5.0, 5.0]])
    np.testing.assert_array_equal(package.routing_clusters(x, np.array([[1.0, 0.0]]), 1), [[1]])
    np.testing.assert_array_equal(package.routing_clusters(x, np.array([[1.0, -1.0]]), 1), [[0]])


@law("routing_clusters")
def test_what_is_not_a_number_comes_last(package):
    x = np.array([[np.nan], [-5.0], [np.nan], [-np.inf]])
    np.testing.assert_array_equal(package.routing_clusters(x, np.array([[1.0]]), 1), [[1]])
    np.testing.assert_array_equal(package.routing_clusters(x, np.array([[1.0]]), 3), [[0, 1, 2]])


@law("routing_clusters")
def test_the_choice_of_clusters_looks_ahead(package):
    """No fault of the code: the places in a cluster are limited, and a later token may take one."""
    x, centroids = np.array([[1.0], [2.0], [3.0]]), np.array([[1.0]])
    assert 0 in package.routing_clusters(x[:2], centroids, 2)
    assert 0 not in package.routing_clusters(x, centroids, 2)


# attention within clusters


@law("routing")
def test_routing_by_hand(package):
    q, v = np.zeros((4, 1)), np.array([[1.0], [3.0], [8.0], [20.0]])
    clusters = np.array([[0, 1], [1, 2]])
    # 1 lies in both: the mean of 2 and 5.5; 3 in none
    close(package.routing(q, q, v, query_clusters=clusters, key_clusters=clusters),
          np.array([[2.0], [3.75], [5.5], [0.0]]))
    # causal: 1 sees only itself in the second cluster
    close(package.routing(q, q, v, query_clusters=clusters, key_clusters=clusters, causal=True),
          np.array([[1.0], [2.5], [5.5], [0.0]]))


@law("routing")
@pytest.mark.parametrize("n, m", LENGTHS)
@pytest.mark.parametrize("causal", [False, True])
def test_routing_in_loops(package, n, m, causal, rng):
    q, k, v = qkv(rng, n, m)
    for queries, keys in [(some_clusters(rng, n, 4, (2, 3)), some_clusters(rng, m, 4, (2, 3))),
                          (rng.integers(0, n, (2, 3, 3, 5)), rng.integers(0, m, (2, 3, 3, 6)))]:
        for key_mask in (None, rng.random((2, 3, m)) < 0.5):
            out = package.routing(q, k, v, query_clusters=queries, key_clusters=keys, causal=causal,
                                  scale=0.7, key_mask=key_mask)
            for place in np.ndindex(2, 3):
                close(out[place], in_loops(
                    *(x[place] for x in (q, k, v, queries, keys)), causal, scale=0.7,
                    key_mask=None if key_mask is None else key_mask[place]))


@law("routing")
@pytest.mark.parametrize("n, m", LENGTHS)
@pytest.mark.parametrize("causal", [False, True])
def test_one_cluster_of_everything_is_attention(package, n, m, causal, rng):
    args, mask = qkv(rng, n, m), rng.random((2, 1, m)) < 0.7
    clusters = dict(query_clusters=np.arange(n)[None], key_clusters=np.arange(m)[None])
    close(package.routing(*args, causal=causal, key_mask=mask, **clusters),
          package.attention(*args, causal=causal, key_mask=mask))
    # several such clusters: the mean of equals
    same = {name: np.repeat(x, 3, axis=0) for name, x in clusters.items()}
    close(package.routing(*args, causal=causal, **same), package.attention(*args, causal=causal))


@law("routing")
def test_clusters_side_by_side_are_local_attention(package, rng):
    args, blocks = qkv(rng), np.arange(12).reshape(4, 3)
    for causal in (False, True):
        close(package.routing(*args, query_clusters=blocks, key_clusters=blocks, causal=causal),
              package.block_local(*args, block=3, causal=causal))
    alone = np.arange(12)[:, None]
    close(package.routing(*args, query_clusters=alone, key_clusters=alone), args[2])


@law("routing")
def test_a_whole_from_centroids_to_attention(package, rng):
    """Two bundles of tokens around two centroids: each bundle attends to itself."""
    side = np.array([1, -1, -1, 1, 1, -1, 1, -1, -1, 1, -1, 1])
    x = side[:, None] * (np.array([3.0, 1.0]) + 0.1 * rng.standard_normal((12, 2)))
    clusters = package.routing_clusters(x, np.array([[3.0, 1.0], [-3.0, -1.0]]), 6)
    v = rng.standard_normal((12, 5))
    close(package.routing(x, x, v, query_clusters=clusters, key_clusters=clusters, causal=True),
          package.attention(x, x, v, mask=side[:, None] == side, causal=True))


@law("routing")
def test_neither_the_order_of_clusters_nor_that_of_their_rows_matters(package, rng):
    args, (queries, keys) = qkv(rng), (some_clusters(rng, 12, 5, (3,)) for _ in range(2))
    order = rng.permutation(5)
    for causal in (False, True):
        close(package.routing(*args, query_clusters=rng.permuted(queries[:, order], axis=-1), causal=causal,
                              key_clusters=rng.permuted(keys[:, order], axis=-1)),
              package.routing(*args, query_clusters=queries, key_clusters=keys, causal=causal))


@law("routing")
def test_a_row_listed_twice_counts_once(package):
    q, v = np.zeros((3, 1)), np.array([[1.0], [4.0], [7.0]])
    out = package.routing(q, q, v, query_clusters=np.array([[0, 0, 2], [0, 1, 1]]),
                          key_clusters=np.array([[2, 0, 2, 2], [1, 1, 1, 1]]))
    close(out, np.array([[4.0], [4.0], [4.0]]))


@law("routing")
def test_a_cluster_in_which_a_query_sees_no_key_does_not_count(package):
    q, v = np.zeros((3, 1)), np.array([[1.0], [4.0], [7.0]])
    clusters = dict(query_clusters=np.array([[0, 1], [1, 2]]), key_clusters=np.array([[0, 1], [2, 2]]))
    # for query 1 the second cluster holds the future alone: not half of its value
    close(package.routing(q, q, v, causal=True, **clusters), np.array([[1.0], [2.5], [7.0]]))
    close(package.routing(q, q, v, key_mask=np.array([True, True, False]), **clusters),
          np.array([[2.5], [2.5], [0.0]]))


@law("routing")
def test_causal_is_by_position_not_by_rank(package):
    """The first query of a cluster may come before its first key, and the last key after its last query."""
    q, v = np.zeros((6, 1)), np.arange(6.0)[:, None]
    out = package.routing(q, q, v, query_clusters=np.array([[0, 2, 4]]), key_clusters=np.array([[1, 2, 5]]),
                          causal=True)
    close(out, np.array([[0.0], [0.0], [1.5], [0.0], [1.5], [0.0]]))


@law("routing")
@pytest.mark.parametrize("n", [1, 2, 7])
def test_the_last_queries_alone_give_the_last_rows(package, n, rng):
    q, k, v = qkv(rng)
    queries, keys = some_clusters(rng, 12, 4), some_clusters(rng, 12, 4)
    whole = package.routing(q, k, v, query_clusters=queries, key_clusters=keys, causal=True)
    # each cluster without the queries that are gone, filled up with its last
    shifted = np.maximum(queries - (12 - n), np.max(queries, axis=-1, keepdims=True) - (12 - n))
    present = queries >= 12 - n
    kept = present.any(axis=-1)
    shifted = np.where(present, queries - (12 - n), shifted)[kept]
    close(package.routing(q[..., -n:, :], k, v, query_clusters=shifted, key_clusters=keys[kept], causal=True),
          whole[..., -n:, :])


@law("routing")
@pytest.mark.parametrize("query_lead, key_lead", [((), (3,)), ((3,), ()), ((2, 1), (3,)), ((1, 3), (2, 3))])
def test_clusters_have_leading_axes_of_their_own(package, query_lead, key_lead, rng):
    args = qkv(rng)
    queries, keys = some_clusters(rng, 12, 3, query_lead), some_clusters(rng, 12, 3, key_lead)
    out = package.routing(*args, query_clusters=queries, key_clusters=keys, causal=True)
    wide = [np.broadcast_to(x, (2, 3, 3, 6)) for x in (queries, keys)]
    for place in np.ndindex(2, 3):
        close(out[place], in_loops(*(x[place] for x in (*args, *wide)), True))


@law("routing")
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64])
def test_any_integers_name_the_rows(package, dtype, rng):
    args, (queries, keys) = qkv(rng, 190, 250, lead=()), (some_clusters(rng, length) for length in (190, 250))
    close(package.routing(*args, query_clusters=queries.astype(dtype), key_clusters=keys.astype(dtype),
                          causal=True), in_loops(*args, queries, keys, True))


@law("routing")
def test_clusters_that_are_broadcast_views_are_read_as_they_are(package, rng):
    q, k, v = (np.broadcast_to(x, (2, 3, *x.shape)) for x in qkv(rng, lead=()))
    clusters = some_clusters(rng, 12)
    for key_mask in (np.broadcast_to(np.arange(12) > 2, (2, 3, 12)), rng.random((2, 3, 12)) < 0.6):
        out = package.routing(q, k, v, query_clusters=np.broadcast_to(clusters, (2, 3, 3, 6)),
                              key_clusters=clusters, key_mask=key_mask)
        assert out.shape == (2, 3, 12, 5) and out.flags.writeable
        for place in np.ndindex(2, 3):
            close(out[place], in_loops(*(x[place] for x in (q, k, v)), clusters, clusters,
                                       key_mask=key_mask[place]))


@law("routing")
def test_a_visible_nan_makes_the_rows_of_its_cluster_nan(package, rng):
    blocks = np.arange(12).reshape(3, 4)
    for place in (1, 2):
        args = qkv(rng, lead=())
        args[place][5] = np.nan
        out = package.routing(*args, query_clusters=blocks, key_clusters=blocks)
        assert np.isnan(out[4:8]).all()


@law("update_centroids")
def test_centroids_by_hand():
    centroids = np.array([[2.0, 0.0], [0.0, 2.0]])
    q, k = np.array([[3.0, 1.0], [1.0, 1.0]]), np.array([[0.0, 1.0], [-1.0, 0.0], [1.0, 5.0]])
    # q to the first (the second q is level: the first centroid); k: second, second (0 > -2), second
    close(xfref.update_centroids(centroids, q, k, decay=0.5),
          np.array([[1 + 4 / 4, 2 / 4], [0 + 0 / 4, 1 + 6 / 4]]))


@law("update_centroids")
@pytest.mark.parametrize("lead, centre_lead", [((), ()), ((2, 3), (3,)), ((2, 3), ()), ((2, 3), (2, 1)),
                                               ((2, 3), (2, 3)), ((1, 3), (3,))])
def test_centroids_in_loops(lead, centre_lead, rng):
    centroids, q, k = (rng.standard_normal(s) for s in ((*centre_lead, 4, 2), (*lead, 7, 2), (*lead, 5, 2)))
    expected = 0.9 * centroids
    for x in (q, k):
        for place in np.ndindex(lead):
            # the place of the own centroids: axes of length 1 count for all entries, missing ones too
            own = tuple(0 if length == 1 else p for p, length in
                        zip(place[len(place) - len(centre_lead):], centre_lead, strict=True))
            for row in x[place]:
                products = [sum(a * b for a, b in zip(row, c, strict=True)) for c in centroids[own]]
                expected[(*own, products.index(max(products)))] += 0.05 * row
    close(xfref.update_centroids(centroids, q, k, decay=0.9), expected)


@law("update_centroids")
def test_centroids_move_as_far_as_decay_lets_them(rng):
    centroids, q, k = (rng.standard_normal((n, 3)) for n in (4, 9, 6))
    close(xfref.update_centroids(centroids, q, k, decay=1), centroids)
    assert np.abs(xfref.update_centroids(centroids, q, k) - centroids).max() < 0.02
    # all halves of all tokens arrive somewhere
    close(xfref.update_centroids(centroids, q, k, decay=0).sum(axis=0), (q.sum(axis=0) + k.sum(axis=0)) / 2)
    padded = np.concatenate([q, np.zeros((3, 3))])
    close(xfref.update_centroids(centroids, padded, k), xfref.update_centroids(centroids, q, k))
    for dtype in (np.float32, np.float64):
        assert xfref.update_centroids(*(x.astype(dtype) for x in (centroids, q, k))).dtype == dtype


@law("update_centroids")
def test_centroids_find_the_bundles(rng):
    """From two neighbours on the circle to the means of two bundles of tokens, on the circle again."""
    angle = np.concatenate([rng.normal(0.0, 0.1, 40), rng.normal(2.0, 0.1, 40)])
    x = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    centroids = np.array([[math.cos(0.9), math.sin(0.9)], [math.cos(1.1), math.sin(1.1)]])
    for _ in range(200):
        centroids = xfref.update_centroids(centroids, x, x, decay=0.9)
        centroids /= np.linalg.norm(centroids, axis=-1, keepdims=True)
    found = np.arctan2(centroids[:, 1], centroids[:, 0])
    close(found, np.array([0.0, 2.0]), 0.06)


@law("update_centroids")
def test_centroids_refuse_what_does_not_fit():
    centroids, q, k = np.ones((4, 3)), np.ones((2, 9, 3)), np.ones((2, 6, 3))
    for wrong, error, words in [
            (dict(q=q.tolist()), TypeError, "q needs.*list"),
            (dict(k=k.astype(np.float32)), TypeError, "k needs the dtype of q"),
            (dict(centroids=centroids.astype(np.float32)), TypeError, "centroids needs the dtype of q"),
            (dict(centroids=np.ones(3)), ValueError, "centroids needs at least 2 axes"),
            (dict(centroids=np.ones((4, 2))), ValueError, "centroids needs the shape"),
            (dict(centroids=np.ones((3, 4, 3))), ValueError, "centroids needs the shape"),
            (dict(k=np.ones((2, 6, 4))), ValueError, "centroids needs the shape"),
            (dict(decay=1.1), ValueError, "decay.*at most 1.*1.1"),
            (dict(decay=-0.1), ValueError, "decay.*at least 0.*-0.1"),
            (dict(decay=np.nan), ValueError, "decay needs to be finite, at least 0, at most 1, got nan"),
            (dict(decay="1"), TypeError, "decay needs a number")]:
        arguments = dict(centroids=centroids, q=q, k=k) | wrong
        with pytest.raises(error, match=words):
            xfref.update_centroids(**arguments)
