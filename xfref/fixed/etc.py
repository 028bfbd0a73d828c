"""ETC: a long sequence that looks around itself, and a few global tokens that see all and are seen by all.

ETC: Encoding Long and Structured Inputs in Transformers. Ainslie, Ontanon, Alberti, Cvicek, Fisher, Pham,
Ravula, Sanghai, Wang, Yang. 2020. arXiv:2004.08483, the parts "Relative Position Encoding" and "Global-Local
Attention": the scores e_ij, the four pieces of attention, and the two softmaxes over two pieces each.

Differs: a masked pair has a bias of -inf, where the paper subtracts 10000 from its score. A label has a bias
beside its vector, as in the released code (zero is the paper's form). The projections are outside.
"""

import numpy as np

from xfref.core import (
    attention_lse,
    check_array,
    check_key_mask,
    check_shape,
    companion,
    count,
    describe,
    leading,
    lengths,
    merge,
    parameter,
    scale_or_default,
)
from xfref.patterns import indices_in, window

Array = np.ndarray


def etc(q: Array, k: Array, v: Array, global_q: Array, global_k: Array, global_v: Array, *, radius: int,
        long_bias: Array | None = None, long_to_global_bias: Array | None = None,
        global_bias: Array | None = None, global_to_long_bias: Array | None = None,
        long_seen_by_global: tuple[Array, Array] | None = None,
        global_seen_by_long: tuple[Array, Array] | None = None, key_mask: Array | None = None,
        global_key_mask: Array | None = None, scale: float | None = None) -> tuple[Array, Array]:
    """Global-local attention: long tokens see their neighbours and all global tokens, global tokens see all.

    e_ij = scale * q_i . k_j + bias_ij
    long row i:    softmax of e_ij over { long j : |j - i| <= radius } and { every global j }
    global row i:  softmax of e_ij over { every global j } and { every long j }

    (...,n,d),(...,n,d),(...,n,e),(...,g,d),(...,g,d),(...,g,e) -> (...,n,e),(...,g,e). Biases carry relative
    positions (see `relative_label_bias`) and masks (-inf hides): `long_bias` (lead..., n, 2 * radius + 1) has
    the pair i, i + o - radius at [i, o]; `long_to_global_bias` is (lead..., n, g), `global_bias` (lead..., g,
    g), `global_to_long_bias` (lead..., g, n). Keys and values may differ by who looks:
    `long_seen_by_global` is the pair that stands for k and v, `global_seen_by_long` the pair that stands for
    global_k and global_v. `key_mask` hides long keys from all queries, `global_key_mask` global ones. The
    paper has a radius of 84 in its base model, 169 in its large one.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O((n (radius + g) + g (n + g)) (d + e)); here O((n + g)^2 (d + e)).

    >>> x, y = np.zeros((3, 1)), np.zeros((1, 1))
    >>> etc(x, x, np.array([[0.0], [3.0], [6.0]]), y, y, np.array([[9.0]]), radius=0)
    (array([[4.5],
           [6. ],
           [7.5]]), array([[4.5]]))
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

    # e_ij, piece by piece
    offsets = bias("long_bias", long_bias, n, 2 * radius + 1)
    long_to_long = attention_lse(q, k, v, mask=window(n, left=radius, right=radius), key_mask=key_mask,
                                 bias=None if offsets is None else _by_key(offsets), scale=scale)
    long_to_global = attention_lse(q, far_k, far_v, key_mask=global_key_mask, scale=scale,
                                   bias=bias("long_to_global_bias", long_to_global_bias, n, g))
    global_to_global = attention_lse(global_q, global_k, global_v, key_mask=global_key_mask, scale=scale,
                                     bias=bias("global_bias", global_bias, g, g))
    global_to_long = attention_lse(global_q, long_k, long_v, key_mask=key_mask, scale=scale,
                                   bias=bias("global_to_long_bias", global_to_long_bias, g, n))
    # one softmax over two pieces
    return merge(*long_to_long, *long_to_global)[0], merge(*global_to_global, *global_to_long)[0]


def relative_label_bias(q: Array, label_keys: Array, label_bias: Array, labels: Array,
                        scale: float | None = None) -> Array:
    """What relative positions, or any other labels of pairs, add to the scaled scores.

    bias_ij = scale * (q_i . a_l + b_l)   with l = labels_ij

    (...,n,d),(...,V,d),(...,V),(...,n,w) -> (...,n,w) for V labels: `label_keys` a, `label_bias` b, and
    `labels`, ints in 0..V-1 of (lead..., n, w), where w stands for the keys of any bias of `etc`: offsets for
    `long_bias`, tokens elsewhere. `scale` is that of `etc`. The paper labels long pairs by their offset,
    clipped to 12 on either side in its base model and 24 in its large one, and pairs of a long and a global
    token by whether they belong together.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n (V d + w)).

    >>> a, b = np.array([[0.0], [1.0]]), np.array([0.0, 0.5])
    >>> relative_label_bias(np.array([[2.0]]), a, b, np.array([[1, 0, 1]]), scale=1.0)
    array([[2.5, 0. , 2.5]])
    """
    check_array("q", q, least=2)
    lead, (n, d) = q.shape[:-2], q.shape[-2:]
    label_keys = parameter("label_keys", label_keys, q.dtype, own=(None, d), lead=lead)
    number = label_keys.shape[-2]
    label_bias = parameter("label_bias", label_bias, q.dtype, own=(number,), lead=lead)
    check_shape("labels", np.shape(labels), (n, None), lead)
    labels = indices_in("labels", labels, number)
    scores = q @ label_keys.swapaxes(-1, -2) + label_bias[..., None, :]
    chosen = np.broadcast_to(labels, (*lead, *labels.shape[-2:]))
    return scale_or_default(scale, q) * np.take_along_axis(scores, chosen, axis=-1)


def _by_key(offsets: Array) -> Array:
    """(...,n,2r+1) by offset -> (...,n,n) by key; pairs further than r apart get the value at the edge."""
    n, radius = offsets.shape[-2], offsets.shape[-1] // 2
    own = np.arange(n)[:, None]
    return offsets[..., own, np.clip(np.arange(n) - own + radius, 0, 2 * radius)]


def _wide(name: str, x: Array, like: Array, length: int, lead: tuple[int, ...]) -> Array:
    """`x`, checked to be (lead..., length, width of `like`), with all leading axes; nothing is copied."""
    x = companion(name, x, like.dtype, (length, like.shape[-1]), lead)
    return np.broadcast_to(x, (*lead, *x.shape[-2:]))


def _wide_mask(name: str, mask: Array | None, keys: Array, lead: tuple[int, ...]) -> Array | None:
    check_key_mask(mask, keys, lead, name)
    return None if mask is None else np.broadcast_to(mask, (*lead, keys.shape[-2]))


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
