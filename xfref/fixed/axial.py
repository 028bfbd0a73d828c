"""Axial attention: along one axis of an image, a video or any other grid at a time.

Axial Attention in Multidimensional Transformers. Ho, Kalchbrenner, Weissenborn, Salimans. 2019.
arXiv:1912.12180: axial attention, and the Axial Transformer for images of one channel. The layers' details
(their activation, where positions and context are added) are those of the authors' released code.

Differs: pixels come in embedded, and there is no dropout. For several channels the authors' code runs the
model once per channel, with a summary of the channels before it as `context`.
"""

import functools
from collections.abc import Callable, Mapping

import numpy as np

from xfref.core import (
    attention,
    check_array,
    check_shape,
    count,
    extents,
    grid,
    layer_norm,
    lengths,
    parameter,
)
from xfref.transformer import encoder_block, encoder_block_weights, linear, weight

Array = np.ndarray


def axial(q: Array, k: Array, v: Array, *, shape: tuple[int, ...], axis: int, causal: bool = False,
          key_mask: Array | None = None, scale: float | None = None) -> Array:
    """Attention along one axis of a grid: to the positions that differ in that coordinate alone.

    out_i = attention over { j : j_a = i_a for every axis a other than `axis` }

    (...,n,d),(...,n,d),(...,n,e) -> (...,n,e). The n positions of the grid `shape`, their number its product,
    lie in row-major order (the last axis is the fastest). `axis` counts from 0, or from the end if negative:
    in an image of shape (height, width), axis 0 runs down a column and axis 1 along a row. `causal` hides the
    positions further along the axis.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n shape[axis] (d + e)) when the pattern is used; here O(n^2 (d + e)).

    >>> v = np.array([[0.0], [2.0], [4.0], [8.0]])
    >>> axial(np.zeros((4, 1)), np.zeros((4, 1)), v, shape=(2, 2), axis=0)
    array([[2.],
           [5.],
           [2.],
           [5.]])
    """
    n, _ = lengths(q, k, v, equal=True)
    shape = grid(shape, n)
    axis = count("axis", axis, -len(shape))
    if axis >= len(shape):
        raise ValueError(f"axis needs to be below {len(shape)}, the number of axes of shape, got {axis}")
    position = np.arange(n).reshape(shape)
    # a line is known by its first position; along it, positions ascend as coordinates do
    line = np.broadcast_to(position.min(axis, keepdims=True, initial=n), shape).reshape(n)
    return attention(q, k, v, mask=line[:, None] == line, causal=causal, key_mask=key_mask, scale=scale)


def axial_transformer(x: Array, weights: Mapping[str, Array], *, heads: int, outer: int,
                      context: Array | None = None, attend: Callable[..., Array] = axial) -> Array:
    """The logits of every pixel given those before it, row by row: an outer and an inner stack of layers.

    u = outer layers of x + p:            a whole row, then a column down to the pixel, in turn
    h = right(x) + down(u) + p            the pixel to the left, and all rows above
    logits = LN(inner layers of h) wl + bl:    a row up to the pixel

    (...,height,width,w) -> (...,height,width,levels). `x` holds the embedded pixels; `right` and `down` move
    everything by one pixel, and zeros move in; p is rows[r] + columns[c] + context[r, c], where `context` has
    the shape of `x` up to leading axes. `weights` holds rows (height, w), columns (width, w), gl and nl (w)
    of the last normalisation, wl (w, levels), bl (levels) and, stacked along a leading axis, those of one
    `encoder_block` per layer: the `outer` outer ones, then the inner ones. `attend` is called as `axial` is.

    Raises: TypeError or ValueError naming the argument or weight that does not fit.
    Cost: O(height width (height + width + w) w) per layer, with a fast `attend`.
    """
    check_array("x", x, least=3)
    height, width, depth = x.shape[-3:]
    layers = _layers(weights)
    if count("outer", outer, 0) > len(layers):
        raise ValueError(f"outer needs to be at most the number of layers, {len(layers)}, got {outer}")
    rows, columns = (parameter(name, weight(weights, name), x.dtype, own=(length, depth), lead=())
                     for name, length in (("rows", height), ("columns", width)))
    added = rows[:, None] + columns
    if context is not None:
        check_array("context", context, dtype=x.dtype)
        check_shape("context", context.shape, x.shape[-3:], x.shape[:-3])
        added = added + context

    def block(pixels: Array, own: dict[str, Array], axis: int, causal: bool) -> Array:
        along = functools.partial(attend, shape=(height, width), axis=axis, causal=causal)
        flat = pixels.reshape(*x.shape[:-3], height * width, depth)
        out = encoder_block(flat, own, heads=heads, attend=along, norm="pre", activation=_gelu)
        return out.reshape(x.shape)

    upper = x + added
    for place, own in enumerate(layers[:outer]):
        down = place % 2 == 1
        upper = block(upper, own, axis=0 if down else 1, causal=down)
    hidden = _shift(x) + _shift(upper.swapaxes(-2, -3)).swapaxes(-2, -3) + added
    for own in layers[outer:]:
        hidden = block(hidden, own, axis=1, causal=True)
    hidden = layer_norm(hidden, weight(weights, "gl"), weight(weights, "nl"))
    return linear(hidden, weights, "wl", "bl")


def axial_transformer_weights(rng: np.random.Generator, shape: tuple[int, int], width: int, hidden: int,
                              levels: int, *, outer: int, inner: int) -> dict[str, Array]:
    """Random weights for `axial_transformer` with so many outer and inner layers; float64."""
    layers = count("outer", outer, 0) + count("inner", inner)
    blocks = [encoder_block_weights(rng, width, hidden) for _ in range(layers)]
    stacked = {name: np.stack([block[name] for block in blocks]) for name in blocks[0]}
    height, columns = extents("shape", shape, axes=2)
    own = dict(rows=(height, width), columns=(columns, width), wl=(width, count("levels", levels)))
    drawn = {name: rng.normal(0, width**-0.5, size) for name, size in own.items()}
    return stacked | drawn | dict(gl=np.ones(width), nl=np.zeros(width), bl=np.zeros(levels))


def _layers(weights: Mapping[str, Array]) -> list[dict[str, Array]]:
    """The weights of each layer, from the arrays that stack them along a leading axis."""
    check_shape("wq", np.shape(weight(weights, "wq")), (None, None, None), ())
    number = len(weights["wq"])
    others = ("rows", "columns", "gl", "nl", "wl", "bl")
    stacked = {name: x for name, x in weights.items() if name not in others}
    for name, x in stacked.items():
        if np.shape(x)[:1] != (number,):
            raise ValueError(f"{name} needs a leading axis of {number} layers, like wq, got {np.shape(x)}")
    return [{name: x[layer] for name, x in stacked.items()} for layer in range(number)]


def _shift(x: Array) -> Array:
    """Every row one place down; zeros come first, and the last row is gone."""
    return np.concatenate([np.zeros_like(x[..., :1, :]), x[..., :-1, :]], axis=-2)


def _gelu(x: Array) -> Array:
    """x / (1 + exp(-1.702 x)), in a form that does not overflow."""
    return x * (np.tanh(0.851 * x) + 1) / 2
