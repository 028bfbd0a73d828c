"""The Transformer around attention: positions, heads, feed-forward layer and encoder block.

Attention Is All You Need. Vaswani et al. 2017. arXiv:1706.03762, Sections 3.1 to 3.5. The order with the
normalisation first (`norm="pre"`) is On Layer Normalization in the Transformer Architecture, Xiong et al.
2020, arXiv:2002.04745, Figure 1b. The reversible block is from Reformer: The Efficient Transformer, Kitaev,
Kaiser, Levskaya, 2020, arXiv:2001.04451, Section 3, Eq. 8 and 9.

Differs: projections have biases, as in most released code (pass zeros for the paper's form); no dropout.
Every block takes the attention as an argument, so any variant of this book, or its fast twin, fits in.
"""

from collections.abc import Callable, Mapping

import numpy as np

from xfref.core import attention, check_array, count, describe, layer_norm, parameter

Array = np.ndarray


def sinusoidal_positions(n: int, width: int, offset: int = 0) -> Array:
    """Positions as sines and cosines of wavelengths from 2 pi to 10000 * 2 pi.

    PE[p, 2i] = sin(p / 10000^(2i / width));   PE[p, 2i+1] = cos(p / 10000^(2i / width))

    -> (n,width) float64 for the positions offset .. offset + n - 1.

    Raises: TypeError or ValueError if an argument is no fitting integer.
    Cost: O(n width).

    >>> sinusoidal_positions(1, 4)
    array([[0., 1., 0., 1.]])
    """
    position = np.arange(count("n", n, 0))[:, None] + count("offset", offset, 0)
    column = np.arange(count("width", width))
    angle = position / 10000 ** ((column - column % 2) / width)
    return np.where(column % 2 == 0, np.sin(angle), np.cos(angle))  # Section 3.5


def relu(x: Array) -> Array:
    """max(0, x)"""
    return np.maximum(0, x)


def feed_forward(x: Array, weights: Mapping[str, Array],
                 activation: Callable[[Array], Array] = relu) -> Array:
    """Two linear layers with max(0, .) between them, on every position alike.

    FFN(x) = max(0, x w1 + b1) w2 + b2

    (...,n,w) -> (...,n,w). `weights` holds w1 (w, hidden), b1 (hidden), w2 (hidden, w), b2 (w). `activation`
    takes the place of max(0, .) in later papers.

    Raises: TypeError or ValueError naming the weight that is missing or does not fit.
    Cost: O(n w hidden).

    >>> feed_forward(np.array([[-1.0]]), dict(w1=np.eye(1), b1=np.zeros(1), w2=np.eye(1), b2=np.ones(1)))
    array([[1.]])
    """
    check_array("x", x, least=2)
    hidden = activation(linear(x, weights, "w1", "b1"))
    return linear(hidden, weights, "w2", "b2", width=x.shape[-1])  # Eq. 2


def multi_head(x: Array, context: Array, weights: Mapping[str, Array], *, heads: int,
               attend: Callable[..., Array] = attention) -> Array:
    """Attention in `heads` subspaces at once: project, attend, join, project.

    head_h = attend(x wq_h, context wk_h, context wv_h);   out = [head_1, ..., head_H] wo

    (...,n,w),(...,m,w) -> (...,n,w). `weights` holds wq and wk (w, heads d), wv (w, heads e), wo
    (heads e, w), and biases bq, bk, bv, bo of the widths of their results; d = e = w / heads in the paper.
    `attend` is called with three arrays (..., heads, length, d or e) and nothing else: bind its own
    parameters with functools.partial; a key mask for a batch is (B, 1, m) there.

    Raises: TypeError or ValueError naming the argument or weight that does not fit.
    Cost: O((n + m) w^2) and the cost of `attend`.
    """
    check_array("x", x, least=2)
    check_array("context", context, least=2, dtype=x.dtype, like="x")
    count("heads", heads)
    q = linear(x, weights, "wq", "bq")
    k = linear(context, weights, "wk", "bk", width=q.shape[-1])
    v = linear(context, weights, "wv", "bv")
    heads_out = attend(*(_split(rows, heads) for rows in (q, k, v)))
    joined = heads_out.swapaxes(-2, -3).reshape(*x.shape[:-1], v.shape[-1])
    return linear(joined, weights, "wo", "bo", width=x.shape[-1])


def encoder_block(x: Array, weights: Mapping[str, Array], *, heads: int,
                  attend: Callable[..., Array] = attention, norm: str = "post",
                  activation: Callable[[Array], Array] = relu) -> Array:
    """Self-attention and feed-forward layer, each with a residual connection and a normalisation.

    post: y = LN(x + MultiHead(x, x));   out = LN(y + FFN(y))
    pre:  y = x + MultiHead(LN(x), LN(x));   out = y + FFN(LN(y))

    (...,n,w) -> (...,n,w). `weights` holds those of `multi_head` and `feed_forward` and the gains and biases
    of the two normalisations, g1 n1 g2 n2 (w). `norm` is "post" (Vaswani et al.) or "pre" (Xiong et al.);
    `activation` that of `feed_forward`.

    Raises: TypeError or ValueError naming the argument or weight that does not fit.
    Cost: that of `multi_head` and `feed_forward`.
    """
    if norm not in ("post", "pre"):
        raise ValueError(f"norm needs 'post' or 'pre', got {norm!r}")
    check_array("x", x, least=2)
    if norm == "post":
        y = _normalise(x + multi_head(x, x, weights, heads=heads, attend=attend), weights, 1)
        return _normalise(y + feed_forward(y, weights, activation), weights, 2)
    y = x + _attention_residual(x, weights, heads, attend)
    return y + feed_forward(_normalise(y, weights, 2), weights, activation)


def reversible_block(x1: Array, x2: Array, weights: Mapping[str, Array], *, heads: int,
                     attend: Callable[..., Array] = attention) -> tuple[Array, Array]:
    """Self-attention and feed-forward layer on two streams, from whose outputs the inputs can be computed.

    y1 = x1 + MultiHead(LN(x2), LN(x2));   y2 = x2 + FFN(LN(y1))

    (...,n,w),(...,n,w) -> (...,n,w),(...,n,w). `weights` are those of `encoder_block`. Where queries and keys
    are one, `attend` leaves out the keys that it is given: lambda q, k, v: reformer(q, v, ...).

    Raises: TypeError or ValueError naming the argument or weight that does not fit.
    Cost: that of `multi_head` and `feed_forward`; training need not store the inputs of any block.
    """
    _check_streams("x", x1, x2)
    y1 = x1 + _attention_residual(x2, weights, heads, attend)
    return y1, x2 + _feed_forward_residual(y1, weights)  # Kitaev et al., Eq. 9


def reversible_inverse(y1: Array, y2: Array, weights: Mapping[str, Array], *, heads: int,
                       attend: Callable[..., Array] = attention) -> tuple[Array, Array]:
    """The inputs of `reversible_block`, from its outputs; `attend` has to decide as it did there.

    x2 = y2 - FFN(LN(y1));   x1 = y1 - MultiHead(LN(x2), LN(x2))

    (...,n,w),(...,n,w) -> (...,n,w),(...,n,w), equal to the inputs but for rounding.

    Raises: TypeError or ValueError naming the argument or weight that does not fit.
    Cost: that of `reversible_block`.
    """
    _check_streams("y", y1, y2)
    x2 = y2 - _feed_forward_residual(y1, weights)
    return y1 - _attention_residual(x2, weights, heads, attend), x2  # Kitaev et al., Eq. 8


def multi_head_weights(rng: np.random.Generator, width: int) -> dict[str, Array]:
    """Random weights for `multi_head`: normal of variance 1 / width, zero biases; float64."""
    count("width", width)
    drawn = {f"w{name}": rng.normal(0, width**-0.5, (width, width)) for name in "qkvo"}
    return drawn | {f"b{name}": np.zeros(width) for name in "qkvo"}


def feed_forward_weights(rng: np.random.Generator, width: int, hidden: int) -> dict[str, Array]:
    """Random weights for `feed_forward`: normal of variance 1 / (number of inputs), zero biases; float64."""
    count("width", width), count("hidden", hidden)
    return dict(w1=rng.normal(0, width**-0.5, (width, hidden)), b1=np.zeros(hidden),
                w2=rng.normal(0, hidden**-0.5, (hidden, width)), b2=np.zeros(width))


def encoder_block_weights(rng: np.random.Generator, width: int, hidden: int) -> dict[str, Array]:
    """Random weights for `encoder_block`: those of its parts, gains 1 and biases 0; float64."""
    norms = dict(g1=np.ones(width), n1=np.zeros(width), g2=np.ones(width), n2=np.zeros(width))
    return multi_head_weights(rng, width) | feed_forward_weights(rng, width, hidden) | norms


def _attention_residual(x: Array, weights: Mapping[str, Array], heads: int,
                        attend: Callable[..., Array]) -> Array:
    x = _normalise(x, weights, 1)
    return multi_head(x, x, weights, heads=heads, attend=attend)


def _feed_forward_residual(x: Array, weights: Mapping[str, Array]) -> Array:
    return feed_forward(_normalise(x, weights, 2), weights)


def _normalise(x: Array, weights: Mapping[str, Array], place: int) -> Array:
    return layer_norm(x, weight(weights, f"g{place}"), weight(weights, f"n{place}"))


def _check_streams(name: str, first: Array, second: Array) -> None:
    check_array(f"{name}1", first, least=2)
    check_array(f"{name}2", second, dtype=first.dtype, like=f"{name}1")
    if first.shape != second.shape:
        raise ValueError(f"{name}1 and {name}2 need equal shapes, got {first.shape} and {second.shape}")


def _split(x: Array, heads: int) -> Array:
    """(...,n,w) -> (...,heads,n,w/heads)"""
    if x.shape[-1] % heads:
        raise ValueError(f"heads needs to divide the width {x.shape[-1]}, got {heads}")
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads).swapaxes(-2, -3)


def linear(x: Array, weights: Mapping[str, Array], matrix: str, bias: str,
           width: int | None = None) -> Array:
    """x w + b, with w and b under these keys of `weights`; `width`, if given, is that of the output."""
    w = parameter(matrix, weight(weights, matrix), x.dtype, own=(x.shape[-1], width), lead=())
    return x @ w + parameter(bias, weight(weights, bias), x.dtype, own=(w.shape[-1],), lead=())


def weight(weights: Mapping[str, Array], key: str) -> Array:
    """The array under `key`. Raises ValueError, naming the key, if there is none."""
    try:
        return weights[key]
    except (KeyError, TypeError):
        raise ValueError(f"weights needs the key {key!r}, got {describe(weights)}") from None
