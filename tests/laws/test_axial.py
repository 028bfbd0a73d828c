"""Laws of axial attention and of the Axial Transformer."""

import functools
import itertools

import numpy as np
import pytest
from lawbook import close, holds, law, qkv

import xfref

SHAPES = [(12,), (3, 4), (1, 12), (12, 1), (2, 3, 2)]


@law("axial")
def test_axial_by_hand(package):
    # an image of two rows and three columns; keys with weights 1 .. 6
    q, k = np.ones((6, 1)), np.log(np.arange(1.0, 7.0))[:, None]
    v = np.array([[6.0], [0.0], [3.0], [0.0], [1.0], [2.0]])
    rows = [15 / 6] * 3 + [17 / 15] * 3
    close(package.axial(q, k, v, shape=(2, 3), axis=1, scale=1.0)[:, 0], np.array(rows))
    columns = [6 / 5, 5 / 7, 21 / 9]
    close(package.axial(q, k, v, shape=(2, 3), axis=0, scale=1.0)[:, 0], np.array(columns * 2))
    close(package.axial(q, k, v, shape=(2, 3), axis=0, causal=True, scale=1.0)[:, 0],
          np.array([6, 0, 3, *columns]))


@law("axial")
@pytest.mark.parametrize("shape, axis", [(shape, axis) for shape in SHAPES for axis in range(len(shape))])
def test_axial_in_loops(package, shape, axis, rng):
    places = list(itertools.product(*map(range, shape)))  # the last axis is the fastest

    def on_a_line(p, j, *_):
        return all(places[p][other] == places[j][other] for other in range(len(shape)) if other != axis)

    def up_to(p, j, *_):
        return on_a_line(p, j) and places[j][axis] <= places[p][axis]

    args = qkv(rng)
    for options in ({}, dict(key_mask=rng.random(12) < 0.7, scale=0.3)):
        options |= dict(shape=shape, axis=axis)
        holds(package.axial, args, options, on_a_line)
        holds(package.axial, args, options | dict(causal=True), up_to)
        close(package.axial(*args, **options | dict(axis=axis - len(shape))), package.axial(*args, **options))


@law("axial")
@pytest.mark.parametrize("shape, axis", [(shape, axis) for shape in SHAPES for axis in range(len(shape))])
@pytest.mark.parametrize("causal", [False, True])
def test_axial_is_attention_with_the_other_axes_in_front(package, shape, axis, causal, rng):
    def lines(x):
        grid = np.moveaxis(x.reshape(*x.shape[:2], *shape, -1), 2 + axis, -2)
        return np.ascontiguousarray(grid)

    args = qkv(rng)
    out = package.axial(*args, shape=shape, axis=axis, causal=causal)
    close(lines(out), package.attention(*map(lines, args), causal=causal))


@law("axial")
def test_limits_of_lines(package, rng):
    args, mask = qkv(rng), dict(key_mask=rng.random((2, 1, 12)) < 0.7)
    close(package.axial(*args, shape=(12,), axis=0, **mask), package.attention(*args, **mask))
    close(package.axial(*args, shape=(12, 1), axis=1), args[2])
    # a row is a block of the raster, and a pixel of a column is one width away from the next
    close(package.axial(*args, shape=(3, 4), axis=1, causal=True),
          package.block_local(*args, block=4, causal=True))
    close(package.axial(*args, shape=(3, 4), axis=0),
          package.sliding_window(*args, left=3, right=3, dilation=4))


@law("axial")
def test_a_row_and_then_a_column_see_the_whole_image(package, rng):
    q, k, v = qkv(rng, lead=())

    def both(v):
        rows = package.axial(q, k, v, shape=(3, 4), axis=1)
        return package.axial(q, k, rows, shape=(3, 4), axis=0)

    out = both(v)
    for pixel in range(12):
        changed = v.copy()
        changed[pixel] += 1
        assert (np.abs(both(changed) - out) > 1e-9).all()


def image_and_weights(rng, outer, inner, lead=(2,), shape=(3, 4), width=6):
    weights = xfref.axial_transformer_weights(rng, shape, width, 10, 5, outer=outer, inner=inner)
    weights = {name: x + 0.1 * rng.standard_normal(x.shape) for name, x in weights.items()}
    return rng.standard_normal((*lead, *shape, width)), weights


@law("axial_transformer")
@pytest.mark.parametrize("outer, inner", [(0, 1), (1, 1), (2, 1), (2, 2), (3, 2)])
def test_the_axial_transformer_sees_all_pixels_before_and_none_after(package, outer, inner, rng):
    x, weights = image_and_weights(rng, outer, inner)
    model = functools.partial(xfref.axial_transformer, weights=weights, heads=2, outer=outer,
                              attend=package.axial)
    before = model(x)
    for row, column in np.ndindex(3, 4):
        changed = x.copy()
        changed[0, row, column] = rng.standard_normal(6)
        moved, other = np.abs(model(changed) - before).max(axis=-1)
        for r, c in np.ndindex(3, 4):
            # a row above is seen as far as the pixel; all of it after a layer of rows; and after one of
            # columns all rows above are
            seen = (r == row and c > column) or (r == row + 1 and (c >= column or outer > 0)) or (
                r > row and outer > 1)
            assert moved[r, c] > 1e-9 if seen else moved[r, c] < 1e-12
        assert other.max() < 1e-12


@law("axial_transformer")
def test_without_weights_in_the_layers_pixels_move_by_one(package, rng):
    """Each layer adds nothing: what is left are the two shifts, the positions and the last layer."""
    x, weights = image_and_weights(rng, 2, 2)
    for name in ("wo", "bo", "w2", "b2"):
        weights[name] = np.zeros_like(weights[name])
    context = rng.standard_normal((2, 3, 4, 6))
    out = xfref.axial_transformer(x, weights, heads=3, outer=2, context=context, attend=package.axial)
    for b, r, c in np.ndindex(2, 3, 4):
        def place(r, c, b=b):
            return weights["rows"][r] + weights["columns"][c] + context[b, r, c]

        hidden = place(r, c)
        if c:
            hidden = hidden + x[b, r, c - 1]
        if r:
            hidden = hidden + x[b, r - 1, c] + place(r - 1, c)
        spread = np.sqrt(hidden.var() + 1e-5)
        hidden = weights["gl"] * (hidden - hidden.mean()) / spread + weights["nl"]
        close(out[b, r, c], hidden @ weights["wl"] + weights["bl"])


@law("axial_transformer")
def test_one_inner_layer_is_causal_attention_in_rows(package, rng):
    """The inner layer written out, its activation included."""
    x, weights = image_and_weights(rng, 0, 1)
    w = {name: y[0] if name not in ("rows", "columns", "gl", "nl", "wl", "bl") else y
         for name, y in weights.items()}

    def norm(y, gain, bias):
        return gain * (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-5) + bias

    place = w["rows"][:, None] + w["columns"]
    left, above = np.zeros_like(x), np.zeros_like(x)
    left[:, :, 1:], above[:, 1:] = x[:, :, :-1], (x + place)[:, :-1]
    y = left + above + place
    z = norm(y, w["g1"], w["n1"])
    q, k, v = ((z @ w[f"w{name}"] + w[f"b{name}"]).reshape(2, 3, 4, 2, 3).swapaxes(-2, -3) for name in "qkv")
    rows = package.attention(*map(np.ascontiguousarray, (q, k, v)), causal=True)
    y = y + rows.swapaxes(-2, -3).reshape(2, 3, 4, 6) @ w["wo"] + w["bo"]
    z = norm(y, w["g2"], w["n2"]) @ w["w1"] + w["b1"]
    y = y + (z / (1 + np.exp(-1.702 * z))) @ w["w2"] + w["b2"]
    close(xfref.axial_transformer(x, weights, heads=2, outer=0, attend=package.axial),
          norm(y, w["gl"], w["nl"]) @ w["wl"] + w["bl"], 1e-11)


@law("axial_transformer")
def test_the_axial_transformer_keeps_leading_axes_and_dtype(package, rng):
    x, weights = image_and_weights(rng, 2, 1, lead=(2, 1))
    options = dict(heads=2, outer=2, attend=package.axial)
    out = xfref.axial_transformer(x, weights, **options)
    assert out.shape == (2, 1, 3, 4, 5)
    close(xfref.axial_transformer(x[1, 0], weights, **options), out[1, 0])
    context = rng.standard_normal((3, 4, 6))
    close(xfref.axial_transformer(x, weights, context=context, **options), xfref.axial_transformer(
        x, weights, context=np.broadcast_to(context, x.shape).copy(), **options))
    single = xfref.axial_transformer(x.astype(np.float32), weights, **options)
    assert single.dtype == np.float32
    close(single.astype(np.float64), out, 1e-4)


@law("axial_transformer_weights")
def test_weights_of_the_axial_transformer(rng):
    weights = xfref.axial_transformer_weights(rng, (3, 4), 6, 10, 5, outer=2, inner=3)
    block = xfref.encoder_block_weights(rng, 6, 10)
    shapes = {name: (5, *x.shape) for name, x in block.items()}
    shapes |= dict(rows=(3, 6), columns=(4, 6), gl=(6,), nl=(6,), wl=(6, 5), bl=(5,))
    assert {name: x.shape for name, x in weights.items()} == shapes
    assert all(x.dtype == np.float64 for x in weights.values())
    assert len({x.tobytes() for x in weights["wq"]}) == 5


@law("axial_transformer_weights", "encoder_block_weights", "multi_head_weights", "feed_forward_weights")
def test_weights_are_drawn_with_the_variance_of_one_over_their_rows(rng):
    weights = xfref.axial_transformer_weights(rng, (50, 60), 40, 90, 70, outer=1, inner=1)
    rows = dict.fromkeys(("wq", "wk", "wv", "wo", "w1", "wl", "rows", "columns"), 40) | dict(w2=90)
    for name, x in weights.items():
        if name in rows:
            assert abs(x.std() * rows[name] ** 0.5 - 1) < 0.07 and abs(x.mean()) < 0.01
        else:
            assert (x == (1 if name in ("g1", "g2", "gl") else 0)).all()


@pytest.mark.parametrize("change, error, words", [
    (dict(x=np.zeros((4, 6))), ValueError, ["x needs", "3 axes", "(4, 6)"]),
    (dict(x=np.zeros((3, 4, 6), int)), TypeError, ["x needs", "float32 or float64", "int64"]),
    (dict(x=np.zeros((3, 5, 6))), ValueError, ["columns needs", "5, 6", "(4, 6)"]),
    (dict(x=np.zeros((2, 4, 6))), ValueError, ["rows needs", "2, 6", "(3, 6)"]),
    (dict(outer=4), ValueError, ["outer", "at most the number of layers, 3", "4"]),
    (dict(outer=-1), ValueError, ["outer", "at least 0", "-1"]),
    (dict(outer=1.0), TypeError, ["outer", "integer", "float 1.0"]),
    (dict(heads=4), ValueError, ["heads", "divide the width 6", "4"]),
    (dict(context=np.zeros((2, 4, 6))), ValueError, ["context needs", "3, 4, 6", "(2, 4, 6)"]),
    (dict(context=np.zeros((3, 4, 6), np.float32)), TypeError, ["context needs", "float64", "float32"]),
    (dict(weights=None), ValueError, ["weights needs the key 'wq'", "NoneType"]),
    (dict(wq=np.zeros((6, 6))), ValueError, ["wq needs", "(6, 6)"]),
    (dict(b2=np.zeros((2, 6))), ValueError, ["b2 needs a leading axis of 3 layers", "(2, 6)"]),
    (dict(wk=np.zeros((3, 5, 6))), ValueError, ["wk needs", "6, 6", "(5, 6)"]),
    (dict(bl=np.zeros(4)), ValueError, ["bl needs", "5", "(4,)"]),
], ids=lambda x: " ".join(x) if isinstance(x, list) else None)
def test_the_axial_transformer_names_what_does_not_fit(change, error, words, rng):
    x, weights = image_and_weights(rng, 2, 1, lead=())
    options = dict(x=x, weights=weights, heads=2, outer=2)
    options |= {name: y for name, y in change.items() if name not in weights}
    if options["weights"] is weights:
        options["weights"] = weights | {name: y for name, y in change.items() if name in weights}
    with pytest.raises(error) as caught:
        xfref.axial_transformer(**options)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"


@pytest.mark.parametrize("change, error, word", [
    (dict(shape=(3,)), ValueError, "shape needs 2 integers"), (dict(shape=12), TypeError, "shape"),
    (dict(levels=0), ValueError, "levels"), (dict(outer=-1), ValueError, "outer"),
    (dict(inner=0), ValueError, "inner"), (dict(width=0), ValueError, "width"),
    (dict(hidden=1.5), TypeError, "hidden"),
])
def test_axial_transformer_weights_names_what_does_not_fit(change, error, word, rng):
    options = dict(shape=(3, 4), width=6, hidden=10, levels=5, outer=1, inner=1)
    with pytest.raises(error, match=word):
        xfref.axial_transformer_weights(rng, **options | change)
