"""The ring of a Star-Transformer, fast: every query gathers five keys from states, embeddings and relay."""

import functools

import numpy as np

from xfaccel.arrays import check_key_mask, joined, leading, lengths, parameter
from xfaccel.engine.softmax import attend_listed

Array = np.ndarray


def star_ring(q: Array, k: Array, v: Array, *, key_embedded: Array, value_embedded: Array, key_relay: Array,
              value_relay: Array, key_mask: Array | None = None, scale: float | None = None) -> Array:
    """Attention of every token to itself, its two neighbours on a ring, its own embedding and the relay.

    (...,n,d),(...,n,d),(...,n,e) -> (...,n,e). Follows `xfref.star_ring` (Guo et al. 2019, Section 3.2): one
    softmax over the three kinds of keys, which are copied one below the other and gathered from there.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n (d + e)) time.
    Memory: heads * (2 * n + 1) * (d + e) * size + (40 + 16 * threads) * n.
    """
    n, _ = lengths(q, k, v, equal=True)
    lead = leading(q, k, v)
    key_embedded, value_embedded, key_relay, value_relay = (
        parameter(name, x, q.dtype, own=(rows, like.shape[-1]), lead=lead) for name, x, rows, like in (
            ("key_embedded", key_embedded, n, k), ("value_embedded", value_embedded, n, v),
            ("key_relay", key_relay, 1, k), ("value_relay", value_relay, 1, v)))
    keys, values = joined(k, key_embedded, key_relay), joined(v, value_embedded, value_relay)
    seen = None
    if key_mask is not None:
        axes = check_key_mask(key_mask, k, lead).shape[:-1]
        seen = np.ones((*(1,) * (keys.ndim - 2 - len(axes)), *axes, 2 * n + 1), bool)
        seen[..., :n] = key_mask
    return attend_listed(q, keys, values, _contexts(n), key_mask=seen, scale=scale, with_lse=False)[0]


@functools.lru_cache(64)
def _contexts(n: int) -> Array:
    """Where the five of each query lie among n states, n embeddings and the relay: (n, 5)."""
    own = np.arange(n)
    ring = [(own + step) % max(n, 1) for step in (-1, 0, 1)]
    return np.stack([*ring, n + own, np.full(n, 2 * n)], axis=-1)
