"""Star-Transformer: neighbours on a ring see each other, and one relay node sees and is seen by all.

Star-Transformer. Guo, Qiu, Liu, Shao, Xue, Zhang. 2019. arXiv:1902.09113, Section 3.2 (the update of the
satellites and of the relay, step by step).

Differs: in a ring of one or two the neighbours coincide, and each counts once. A masked token is nobody's
neighbour and no part of the first relay; the ring is not closed over it. Projections have biases and the
normalisation an epsilon, as in released code; released code leaves the ring open, so that the first and the
last token have a vector of zeros for the neighbour that is missing. No dropout.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from xfref.core import (
    attention,
    check_array,
    check_key_mask,
    count,
    hide_keys,
    joined,
    layer_norm,
    leading,
    lengths,
    parameter,
)
from xfref.transformer import multi_head, multi_head_weights, weight

Array = np.ndarray
_ROLES = ("ring", "relay")
_NAMES = ("wq", "bq", "wk", "bk", "wv", "bv", "wo", "bo", "g", "n")


def star_ring(q: Array, k: Array, v: Array, *, key_embedded: Array, value_embedded: Array, key_relay: Array,
              value_relay: Array, key_mask: Array | None = None, scale: float | None = None) -> Array:
    """Attention of every token to itself, its two neighbours on a ring, its own embedding and the relay.

    out_i = attention over C_i = [h_{i-1}; h_i; h_{i+1}; e_i; s],  i - 1 and i + 1 modulo n

    (...,n,d),(...,n,d),(...,n,e) -> (...,n,e). Keys and values come from the states h (k and v), from the
    embeddings e, `key_embedded` (lead..., n, d) and `value_embedded` (lead..., n, e), and from the relay s,
    `key_relay` (lead..., 1, d) and `value_relay` (lead..., 1, e). `key_mask` hides states: every query sees
    its own embedding and the relay.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n (d + e)) when the five are gathered; here O(n^2 (d + e)).

    >>> q, k, v = np.zeros((4, 1)), np.zeros((4, 1)), np.array([[0.0], [10.0], [20.0], [30.0]])
    >>> star_ring(q, k, v, key_embedded=k, value_embedded=v, key_relay=k[:1], value_relay=np.zeros((1, 1)))
    array([[ 8.],
           [ 8.],
           [16.],
           [16.]])
    """
    n, _ = lengths(q, k, v, equal=True)
    lead = leading(q, k, v)
    check_key_mask(key_mask, k, lead)
    key_embedded, value_embedded, key_relay, value_relay = (
        parameter(name, x, q.dtype, own=(rows, like.shape[-1]), lead=lead) for name, x, rows, like in (
            ("key_embedded", key_embedded, n, k), ("value_embedded", value_embedded, n, v),
            ("key_relay", key_relay, 1, k), ("value_relay", value_relay, 1, v)))
    apart = np.abs(np.arange(n)[:, None] - np.arange(n))
    ring = np.minimum(apart, n - apart) <= 1
    if key_mask is not None:
        ring = ring & key_mask[..., None, :]
    own = np.broadcast_to(np.eye(n, dtype=bool), ring.shape)
    seen = np.concatenate([ring, own, np.ones((*ring.shape[:-1], 1), bool)], axis=-1)  # C_i
    keys = joined(hide_keys(k, key_mask), key_embedded, key_relay)
    values = joined(hide_keys(v, key_mask), value_embedded, value_relay)
    return attention(q, keys, values, mask=seen, scale=scale)


def star_transformer(x: Array, weights: Mapping[str, Array], *, heads: int, steps: int,
                     key_mask: Array | None = None, attend: Callable[..., Array] = star_ring
                     ) -> tuple[Array, Array]:
    """All tokens and the relay updated in turns, `steps` times: the whole encoder.

    h^0_i = e_i = x_i,   s^0 = mean_i e_i
    h^t_i = LayerNorm(ReLU(MultiAtt(h^{t-1}_i, [h^{t-1}_{i-1}; h^{t-1}_i; h^{t-1}_{i+1}; e_i; s^{t-1}])))
    s^t = LayerNorm(ReLU(MultiAtt(s^{t-1}, [s^{t-1}; H^t])))

    (...,n,w) -> (...,n,w),(...,1,w): the satellites H and the relay s. `weights` holds ring_wq, ring_wk,
    ring_wv, ring_wo (w, w) and ring_bq, ring_bk, ring_bv, ring_bo (w) of the satellites' attention, the gain
    ring_g and bias ring_n (w) of their normalisation, and the same of the relay: relay_wq, relay_wk,
    relay_wv, relay_wo, relay_bq, relay_bk, relay_bv, relay_bo, relay_g, relay_n. All steps share them; with a
    leading axis of length `steps`, each has its own. `key_mask` is (n,) or has x.ndim - 1 axes; `attend` is
    called as `star_ring` is.

    Raises: TypeError or ValueError naming the argument or weight that does not fit.
    Cost: O(steps n w^2) and that of `attend`.

    >>> x = np.array([[1.0, 2.0], [3.0, 5.0], [0.0, 1.0]])
    >>> h, s = star_transformer(x, star_transformer_weights(np.random.default_rng(0), 2), heads=1, steps=2)
    >>> h.shape, s.shape
    ((3, 2), (1, 2))
    """
    check_array("x", x, least=2)
    *lead, n, width = x.shape
    layers = _layers(weights, count("steps", steps), width, x.dtype)
    # a query of zeros weighs all tokens alike: the mean of those that are not masked
    relay = attention(np.zeros((*lead, 1, width), x.dtype), x, x, key_mask=key_mask)
    x = satellites = hide_keys(x, key_mask)
    seen = np.broadcast_to(True if key_mask is None else key_mask, (*lead, n))[..., None, :]  # for all heads
    around = partial(_around, attend=attend, key_mask=seen)
    with_relay = partial(attention, key_mask=np.insert(seen, 0, True, axis=-1))
    for t in range(steps):
        ring, star = ({name: layers[f"{role}_{name}"][t] for name in _NAMES} for role in _ROLES)
        satellites = _update(satellites, joined(satellites, x, relay), ring, heads, around)
        relay = _update(relay, joined(relay, satellites), star, heads, with_relay)
    return satellites, relay


def star_transformer_weights(rng: np.random.Generator, width: int,
                             steps: int | None = None) -> dict[str, Array]:
    """Random weights for `star_transformer`, drawn as those of `multi_head`; gains 1, biases 0; float64.

    With `steps` a set of their own for each, on a leading axis; else one set for all.
    """
    layers = [{f"{role}_{name}": x for role in _ROLES for name, x in (
        multi_head_weights(rng, width) | dict(g=np.ones(width), n=np.zeros(width))).items()}
        for _ in range(1 if steps is None else count("steps", steps))]
    return layers[0] if steps is None else {key: np.stack([own[key] for own in layers]) for key in layers[0]}


def _around(q: Array, k: Array, v: Array, *, attend: Callable[..., Array], key_mask: Array) -> Array:
    """`attend` with the rows of k and v told apart: n states, n embeddings and the relay."""
    n = q.shape[-2]
    (states, embedded, relay), (values, value_embedded, value_relay) = (
        np.split(rows, [n, 2 * n], axis=-2) for rows in (k, v))
    return attend(q, states, values, key_embedded=embedded, value_embedded=value_embedded, key_relay=relay,
                  value_relay=value_relay, key_mask=key_mask)


def _update(state: Array, context: Array, weights: Mapping[str, Array], heads: int,
            attend: Callable[..., Array]) -> Array:
    rows = multi_head(state, context, weights, heads=heads, attend=attend)
    return layer_norm(np.maximum(0, rows), weights["g"], weights["n"])


def _layers(weights: Mapping[str, Array], steps: int, width: int, dtype: np.dtype) -> dict[str, Array]:
    """The weights of every step, (steps, own axes)."""
    layers = {}
    for key in (f"{role}_{name}" for role in _ROLES for name in _NAMES):
        own = (width, width) if "_w" in key else (width,)
        x = parameter(key, weight(weights, key), dtype, own=own, lead=(steps,))
        layers[key] = np.broadcast_to(x, (steps, *own))
    return layers
