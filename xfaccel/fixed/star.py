"""The ring of a Star-Transformer, fast: every query gathers its keys where they lie."""

import functools

import numpy as np

from xfaccel.arrays import leading, lengths, parameter
from xfaccel.engine import tiles
from xfaccel.engine.softmax import attend, attend_listed

Array = np.ndarray


def star_ring(q: Array, k: Array, v: Array, *, key_embedded: Array, value_embedded: Array, key_relay: Array,
              value_relay: Array, key_mask: Array | None = None, scale: float | None = None) -> Array:
    """Attention of every token to itself, its two neighbours on a ring, its own embedding and the relay.

    (...,n,d),(...,n,d),(...,n,e) -> (...,n,e). Follows `xfref.star_ring` (Guo et al. 2019, Section 3.2): the
    keys of the ring are gathered, then the embedding and the relay joined with them, each where it lies.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n (d + e)) time.
    Memory: heads * n * size + (40 + 8 * threads) * n + threads * tile(d, e).
    """
    n, _ = lengths(q, k, v, equal=True)
    lead = leading(q, k, v)
    key_embedded, value_embedded, key_relay, value_relay = (
        parameter(name, x, q.dtype, own=(rows, like.shape[-1]), lead=lead) for name, x, rows, like in (
            ("key_embedded", key_embedded, n, k), ("value_embedded", value_embedded, n, v),
            ("key_relay", key_relay, 1, k), ("value_relay", value_relay, 1, v)))
    q = np.broadcast_to(q, (*lead, *q.shape[-2:]))
    ring, own = _neighbours(n)
    result = attend_listed(q, k, v, ring, key_mask=key_mask, scale=scale)
    attend_listed(q, key_embedded, value_embedded, own, into=result, scale=scale)
    relay = tiles.band(n, 1, -tiles.WIDE, tiles.WIDE)
    return attend(q, key_relay, value_relay, relay, into=result, scale=scale)[0]


@functools.lru_cache(64)
def _neighbours(n: int) -> tuple[Array, Array]:
    """Where those before and after each query and its own state lie (n, 3), and its own embedding (n, 1)."""
    own = np.arange(n)[:, None]
    return (own + [-1, 0, 1]) % max(n, 1), own
