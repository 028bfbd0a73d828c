"""routing-transformer's KmeansAttention; torch with explicit masks, cluster by cluster."""

import numpy as np
from frame import case, generator, heads_qkv, np_attention, qkv_case, table, tensor, torch_attention


def np_routing(q, k, v, query_clusters, key_clusters, visible=True, epsilon=0.0):
    """Gathered and added up cluster by cluster; `epsilon` is added to the number of clusters of a query."""
    out, number = np.zeros((*q.shape[:-1], v.shape[-1])), np.zeros((*q.shape[:-1], 1))
    visible = np.broadcast_to(visible, (*q.shape[:-1], k.shape[-2]))
    for b, h in np.ndindex(*q.shape[:2]):
        for queries, keys in zip(query_clusters[b, h], key_clusters[b, h], strict=True):
            seen = visible[b, h][np.ix_(queries, keys)]
            rows, _ = np_attention(q[b, h, queries], k[b, h, keys], v[b, h, keys], seen)
            out[b, h, queries] += rows
            number[b, h, queries] += seen.any(-1)[:, None]
    return np.divide(out, number + epsilon, out=np.zeros_like(out), where=number > 0)


def sees_in_all(query_clusters, key_clusters, visible, n):
    """(B,H,n): the queries that see a key in each of their clusters; the peer takes a plain mean elsewhere.
    """
    whole = np.ones((*query_clusters.shape[:2], n), bool)
    for b, h in np.ndindex(*query_clusters.shape[:2]):
        for queries, keys in zip(query_clusters[b, h], key_clusters[b, h], strict=True):
            whole[b, h, queries] &= visible[b, h][np.ix_(queries, keys)].any(-1)
    return whole


def cases(_):
    import torch
    from routing_transformer import routing_transformer as peer

    cases = {}

    def unit(x):
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    def ascending(products, size):
        """The peer's clusters (B,H,C,size), which it lists by nearness."""
        found = peer.distribution(products, size).numpy()
        return np.sort(found.reshape(*found.shape[:2], -1, min(size, products.shape[2])), axis=-1)

    def add(name, n, m, clusters, window, *, causal=False, masked=False):
        rng = generator("routing/" + name)
        q, k, v = heads_qkv(rng, n, m, d=4, e=4)
        module = peer.KmeansAttention(
            clusters, window, num_heads=2, head_dim=4, causal=causal, context_window_size=window + n % 3,
            receives_context=n != m,
        ).double().eval().requires_grad_(False)
        module.kmeans.means.copy_(tensor(unit(rng.standard_normal((2, clusters, 4)))))
        module.kmeans.initted.fill_(True)
        module.num_mem_kv = 0  # it learns a null key for each cluster
        module.mem_key = module.mem_value = torch.nn.Parameter(
            torch.zeros(2, clusters, 0, 4).double(), requires_grad=False)
        present = np.ones((2, m), bool)
        if masked:
            present = rng.random((2, m)) < 0.7
        out = module(*map(tensor, (q, k, v)), query_mask=tensor(np.ones((2, n), bool)),
                     key_mask=tensor(present))[0].numpy()
        query_clusters, key_clusters = (
            ascending(module.kmeans(tensor(x))[0], size)
            for x, size in ((q, window), (k, module.context_window_size if n != m else window)))
        visible = np.broadcast_to(present[:, None, None, :], (2, 2, n, m))
        if causal:
            visible = visible & table(n, m, lambda p, j: j <= p)
        restated, paper = (np_routing(q, k, v, query_clusters, key_clusters, visible, epsilon)
                           for epsilon in (1e-5, 0.0))
        call = {"query_clusters": query_clusters, "key_clusters": key_clusters, "causal": causal}
        if masked:
            call["key_mask"] = present[:, None, :]
        cases[name] = qkv_case("routing-transformer", (q, k, v), out, restated, call, paper=paper,
                               rows=sees_in_all(query_clusters, key_clusters, visible, n))

    add("released", 16, 16, 4, 5)
    add("released_causal", 16, 16, 4, 6, causal=True)
    add("released_more_keys", 10, 19, 3, 5)
    add("released_key_mask", 16, 16, 4, 6, masked=True)

    def add_torch(name, n, m, shape, *, causal=False, masked=False):
        rng = generator("routing/" + name)
        q, k, v = heads_qkv(rng, n, m)
        query_clusters, key_clusters = (
            np.sort(rng.permuted(np.broadcast_to(np.arange(length), (2, 2, shape[0], length)), axis=-1)
                    [..., :size], axis=-1) for length, size in ((n, shape[1]), (m, shape[2])))
        call = {"query_clusters": query_clusters, "key_clusters": key_clusters, "causal": causal}
        allowed = torch.ones(n, m, dtype=torch.bool).tril(m - n if causal else m)
        if masked:
            call["key_mask"] = rng.random((2, 1, m)) < 0.5
            allowed = allowed & tensor(call["key_mask"])[..., None, :]
        total = number = 0
        for c in range(shape[0]):
            of_query, of_key = (
                torch.zeros(2, 2, length, dtype=torch.bool).scatter(-1, tensor(rows[:, :, c]), True)
                for length, rows in ((n, query_clusters), (m, key_clusters)))
            out, lse = torch_attention(q, k, v, of_query[..., :, None] & of_key[..., None, :] & allowed)
            seen = np.isfinite(lse)[..., None]
            total, number = total + np.where(seen, out, 0.0), number + seen
        out = total / np.maximum(number, 1)
        restated = np_routing(q, k, v, query_clusters, key_clusters, allowed.numpy())
        cases[name] = qkv_case("torch", (q, k, v), out, restated, call)

    add_torch("more_queries", 17, 12, (3, 8, 5))
    add_torch("causal_more_keys", 12, 17, (4, 5, 6), causal=True)
    add_torch("causal_key_mask", 15, 15, (4, 6, 6), causal=True, masked=True)

    def add_clusters(name, n, clusters, size):
        rng = generator("routing/" + name)
        x, centroids = unit(rng.standard_normal((2, 2, n, 4))), unit(rng.standard_normal((2, clusters, 4)))
        out = ascending(peer.similarity(tensor(x), tensor(centroids)), min(size, n))
        products = np.einsum("bhnd,hcd->bhcn", x, centroids)
        restated = np.sort(np.argsort(-products, axis=-1)[..., :size], axis=-1)
        cases[name] = case("routing-transformer", {"x": x, "centroids": centroids}, out, restated,
                           {"function": "routing_clusters", "inputs": ["x", "centroids"], "size": size})

    add_clusters("clusters", 23, 5, 7)
    add_clusters("clusters_of_all", 6, 3, 9)
    return cases
