"""Learned patterns: who sees whom is chosen first, then attended to."""

import numpy as np

from . import measure
from .measure import HEADS, WIDTH, Variant, normal, qkv

BLOCK = 64


def _rounds(n):
    """Two rounds of as many buckets as have half a chunk each, chosen at random."""
    return dict(buckets=np.random.default_rng(n).integers(0, 2 * n // BLOCK, (HEADS, 2, n)), chunk=BLOCK)


def _tokens_and_rotations(n):
    return qkv(n)[0], normal(WIDTH, 2, -(-n // BLOCK))


def _clusters(n, seed):
    """As many clusters per head as each has tokens, about sqrt(n), chosen at random."""
    size = round(n**0.5)
    return np.sort(np.argsort(normal(HEADS, -(-n // size), n + seed)[..., :n], axis=-1)[..., :size], axis=-1)


def _routes(n):
    return dict(query_clusters=_clusters(n, 0), key_clusters=_clusters(n, 1))


def _tokens_and_centroids(n):
    return qkv(n)[0], normal(HEADS, round(n**0.5), WIDTH)


def _sort(n):
    """A mixture of blocks whose rows sum to 1."""
    blocks = -(-n // BLOCK)
    weights = np.exp(normal(HEADS, blocks, blocks))
    return dict(sort=weights / weights.sum(axis=-1, keepdims=True), block=BLOCK)


def _sides(n):
    """Clusters, their queries and their keys; the most clusters that a query is in."""
    size, queries = round(n**0.5), _routes(n)["query_clusters"]
    most = max(np.bincount(own.ravel()).max() for own in queries)
    return dict(C=-(-n // size), w=size, u=size, r=most)


VARIANTS = {
    "lsh_buckets": Variant("lsh_buckets", arguments=_tokens_and_rotations,
                           letters=lambda n: dict(R=2, b=2 * -(-n // BLOCK))),
    "reformer": Variant("reformer", _rounds, lambda n: qkv(n)[1:], letters=lambda n: dict(R=2)),
    "reformer, causal": Variant("reformer", lambda n: _rounds(n) | dict(causal=True), lambda n: qkv(n)[1:],
                                letters=lambda n: dict(R=2)),
    "routing_clusters": Variant("routing_clusters", lambda n: dict(size=round(n**0.5)),
                                _tokens_and_centroids, letters=lambda n: dict(C=round(n**0.5))),
    "routing": Variant("routing", _routes, letters=_sides),
    "routing, causal": Variant("routing", lambda n: _routes(n) | dict(causal=True), letters=_sides),
    "sinkhorn_sort": Variant("sinkhorn_sort", lambda n: dict(iterations=8),
                             lambda n: (normal(HEADS, -(-n // BLOCK), -(-n // BLOCK)),),
                             letters=lambda n: dict(N=-(-n // BLOCK))),
    "sinkhorn": Variant("sinkhorn", _sort),
    "sinkhorn, causal": Variant("sinkhorn", lambda n: _sort(n) | dict(causal=True)),
    "sinkhorn_cut": Variant("sinkhorn_cut", lambda n: _sort(n) | dict(keep=2)),
}

time_learned, track_learned_memory, track_learned_error, track_learned_ratio = measure.benchmarks(
    "learned", "Learned patterns", VARIANTS)
