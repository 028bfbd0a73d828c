"""ETC, fast: a band and a few global keys, in two passes that share one softmax."""

import numpy as np

from xfaccel.arrays import (
    check_array,
    check_key_mask,
    companion,
    count,
    describe,
    leading,
    lengths,
    parameter,
)
from xfaccel.core import attention_into, attention_lse
from xfaccel.engine import tiles
from xfaccel.engine.softmax import attend

Array = np.ndarray


def etc(q: Array, k: Array, v: Array, global_q: Array, global_k: Array, global_v: Array, *, radius: int,
        long_bias: Array | None = None, long_to_global_bias: Array | None = None,
        global_bias: Array | None = None, global_to_long_bias: Array | None = None,
        long_seen_by_global: tuple[Array, Array] | None = None,
        global_seen_by_long: tuple[Array, Array] | None = None, key_mask: Array | None = None,
        global_key_mask: Array | None = None, scale: float | None = None) -> tuple[Array, Array]:
    """Global-local attention: long tokens see their neighbours and all global tokens, global tokens see all.

    (...,n,d),(...,n,d),(...,n,e),(...,g,d),(...,g,d),(...,g,e) -> (...,n,e),(...,g,e). Follows `xfref.etc`:
    the long sequence is a band whose biases by offset the engine reads tile by tile; each of the four pieces
    is one pass, and the second of two goes on where the first one stopped.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O((n (radius + g) + g (n + g)) (d + e)) time.
    Memory: threads * tile(d, e) + heads * (n + g) * size + 12 * n.
    """
    n, _ = lengths(q, k, v, equal=True)
    radius = count("radius", radius, 0)
    streams = (("global_q", global_q, q), ("global_k", global_k, k), ("global_v", global_v, v))
    for name, x, _ in streams:
        check_array(name, x, least=2, dtype=q.dtype)
    lead, g = leading(q, k, v, global_q, global_k, global_v), global_q.shape[-2]
    key_mask = _wide_mask("key_mask", key_mask, k, lead)
    global_key_mask = _wide_mask("global_key_mask", global_key_mask, global_k, lead)
    global_q, global_k, global_v = (_wide(name, x, like, g, lead) for name, x, like in streams)
    q, k, v = (np.broadcast_to(x, (*lead, *x.shape[-2:])) for x in (q, k, v))
    long_k, long_v = _pair("long_seen_by_global", long_seen_by_global, (k, v), lead)
    far_k, far_v = _pair("global_seen_by_long", global_seen_by_long, (global_k, global_v), lead)

    def bias(name, x, *own):
        return None if x is None else parameter(name, x, q.dtype, own=own, lead=lead)

    offsets = bias("long_bias", long_bias, n, 2 * radius + 1)
    long_to_long = attend(q, k, v, tiles.band(n, n, -radius, radius), key_mask=key_mask,
                          distance_bias=None if offsets is None else (offsets, -radius), scale=scale)
    attention_into(long_to_long, q, far_k, far_v, key_mask=global_key_mask, scale=scale,
                   bias=bias("long_to_global_bias", long_to_global_bias, n, g))
    global_to_global = attention_lse(global_q, global_k, global_v, key_mask=global_key_mask, scale=scale,
                                     bias=bias("global_bias", global_bias, g, g))
    attention_into(global_to_global, global_q, long_k, long_v, key_mask=key_mask, scale=scale,
                   bias=bias("global_to_long_bias", global_to_long_bias, g, n))
    return long_to_long[0], global_to_global[0]


def _wide(name: str, x: Array, like: Array, length: int, lead: tuple[int, ...]) -> Array:
    """`x`, checked to be (lead..., length, width of `like`), with all leading axes; nothing is copied."""
    x = companion(name, x, like.dtype, (length, like.shape[-1]), lead)
    return np.broadcast_to(x, (*lead, *x.shape[-2:]))


def _wide_mask(name: str, mask: Array | None, keys: Array, lead: tuple[int, ...]) -> Array | None:
    if mask is None:
        return None
    return np.broadcast_to(check_key_mask(mask, keys, lead, name), (*lead, keys.shape[-2]))


def _pair(name: str, pair: tuple[Array, Array] | None, usual: tuple[Array, Array],
          lead: tuple[int, ...]) -> tuple[Array, Array]:
    """Keys and values of the lengths and widths of the usual ones, which are the default."""
    if pair is None:
        return usual
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError(f"{name} needs None or a pair (keys, values), got {describe(pair)}")
    keys, values = (_wide(f"{name}[{place}]", x, like, like.shape[-2], lead)
                    for place, (x, like) in enumerate(zip(pair, usual, strict=True)))
    return keys, values
