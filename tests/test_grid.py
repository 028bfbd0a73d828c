"""The kernels at every length and width where tiles and vectors begin or end, and at every memory layout."""

import itertools

import numpy as np
import pytest
from cases import STEPS, VARIANTS, Shape, draw_qkv, function_of, options_of, plain
from compare import LONGEST_DOUBLE, assert_matches, expected

import xfaccel

LENGTHS = [0, 1, 2, 3, 7, 8, 9, 63, 64, 65, 1023]
WIDTHS = [1, 2, 3, 7, 8, 31, 33, 64, 127, 128]

ENGINES = {  # what drives each engine through its different loops: (function, own parameters)
    "attention": ("attention_lse", lambda rng, d: {}),
    "causal attention": ("attention_lse", lambda rng, d: dict(causal=True)),
    "window": ("sliding_window", lambda rng, d: dict(left=5, right=3)),
    "blocks": ("block_local", lambda rng, d: dict(block=7, before=1)),
    "linear": ("linear_transformer", lambda rng, d: {}),
    "causal linear": ("linear_transformer", lambda rng, d: dict(causal=True)),
    "features": ("performer", lambda rng, d: dict(projection=rng.standard_normal((13, d)))),
    "causal features": ("performer", lambda rng, d: dict(
        projection=rng.standard_normal((13, d)), causal=True)),
}


def check(engine, n, m, d, e, dtype):
    function, options = ENGINES[engine]
    rng = np.random.default_rng([n, m, d, e])
    lead = (2,) if max(n, m) < 1000 else ()
    # entries of size 2 d**-0.5 leave the scores of order one, whatever the width
    args = draw_qkv(rng, dtype, Shape(n, m, d, e, lead, lead), size=min(1, 2 * d**-0.5))
    kwargs = options(rng, d)
    call = plain(function)
    assert_matches(call(xfaccel, args, kwargs), *expected(call, args, kwargs), f"{engine} {n} {m} {d} {e}")


def dtypes(*lengths):
    return [np.float32, np.float64] if max(lengths) <= LONGEST_DOUBLE else [np.float32]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("n", LENGTHS)
def test_every_length(engine, n):
    for m, (d, e) in itertools.product(sorted({n, n + 5, max(n - 3, 0)}), [(8, 8), (33, 7)]):
        for dtype in dtypes(n, m):
            check(engine, n, m, d, e, dtype)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("n, m", [(1, 1023), (64, 1023), (1023, 1), (1023, 65), (3, 64), (65, 3), (8, 65)])
def test_lengths_far_apart(engine, n, m):
    for dtype in dtypes(n, m):
        check(engine, n, m, 8, 8, dtype)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("d", WIDTHS)
def test_every_width(engine, d):
    for dtype in (np.float32, np.float64):
        check(engine, 65, 64, d, d, dtype)
        check(engine, 1, 9, d, d, dtype)
        check(engine, 9, 9, d, 3, dtype)
        check(engine, 9, 9, 3, d, dtype)


@pytest.mark.unjitted
@pytest.mark.parametrize("engine", ENGINES)
def test_small_lengths_and_widths(engine):
    for n, m, d in itertools.product([0, 1, 9], [0, 1, 9], [1, 8]):
        check(engine, n, m, d, 5, np.float32)


def other(x):
    """Wrong values to lie between the right ones."""
    return ~x if x.dtype == bool else np.full_like(x, np.nan if x.dtype.kind == "f" else -99)


def strided(x):
    """Every second entry of a longer array along the last axis."""
    wide = np.repeat(other(x), 2, axis=-1)
    wide[..., ::2] = x
    return wide[..., ::2]


def strided_rows(x):
    tall = np.repeat(other(x), 3, axis=-2)
    tall[..., ::3, :] = x
    return tall[..., ::3, :]


def padded_rows(x):
    """Rows that lie further apart than they are long."""
    return np.concatenate([x, other(x)], axis=-1)[..., :x.shape[-1]]


def reversed_rows(x):
    return x[..., ::-1, :].copy()[..., ::-1, :]


def reversed_everywhere(x):
    return np.flip(np.flip(x).copy())


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def unaligned(x):
    buffer = np.zeros(x.nbytes + 1, np.uint8)
    moved = buffer[1:].view(x.dtype).reshape(x.shape)
    moved[...] = x
    assert x.size == 0 or not moved.flags.aligned
    return moved


def length_before_heads(x):
    """Stored as (B, n, H, d), as most models store it."""
    return x.swapaxes(-2, -3).copy().swapaxes(-2, -3)


LAYOUTS = [np.asfortranarray, strided, strided_rows, padded_rows, reversed_rows, reversed_everywhere,
           read_only, unaligned, length_before_heads]
LEAST_AXES = {length_before_heads: 3, strided_rows: 2, reversed_rows: 2}


def laid(x, layout):
    """An array argument in another layout, where the layout has a meaning for it."""
    if isinstance(x, tuple):
        return tuple(laid(part, layout) for part in x)
    if not isinstance(x, np.ndarray) or x.ndim < LEAST_AXES.get(layout, 1):
        return x
    if x.dtype == bool and layout is unaligned:  # a byte is never unaligned
        return x
    return layout(x)


def arguments(label, rng, n=21, m=21, dtype=np.float32, lead=(2, 3)):
    shape = Shape(n, m, 7, 10, lead, lead)
    args = draw_qkv(rng, dtype, shape, VARIANTS[label].size)
    # parameters already in the dtype of q, so that no cast hides how a layout is read
    return args, {name: cast(x, dtype) for name, x in options_of(label, rng, shape).items()}


def cast(x, dtype):
    if isinstance(x, tuple):
        return tuple(cast(part, dtype) for part in x)
    return x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x


def same_bits(a, b):
    a, b = (x if isinstance(x, tuple) else (x,) for x in (a, b))
    return all(x.shape == y.shape and x.dtype == y.dtype and x.tobytes() == y.tobytes()
               for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("label", VARIANTS)
def test_layouts_give_the_same_bits(label, layout, rng):
    function = function_of(xfaccel, label)
    for dtype in (np.float32, np.float64):
        args, kwargs = arguments(label, rng, dtype=dtype)
        kwargs |= {"key_mask": rng.random((2, 1, 21)) < 0.7}
        laid_kwargs = {name: laid(x, layout) for name, x in kwargs.items()}
        result = function(*(laid(x, layout) for x in args), **laid_kwargs)
        assert same_bits(result, function(*args, **kwargs))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("function", STEPS)
def test_layouts_of_a_step_give_the_same_bits(function, layout, rng):
    step = getattr(xfaccel, function)
    for label in STEPS[function]:
        args, kwargs = arguments(label, rng)
        state, _ = step(None, *args, **kwargs)
        after, out = step(state, *args, **kwargs)
        laid_after, laid_out = step(tuple(laid(x, layout) for x in state), *(laid(x, layout) for x in args),
                                    **kwargs)
        assert same_bits((laid_out, *laid_after), (out, *after))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_layouts_of_masks_and_biases_give_the_same_bits(layout, rng):
    args, _ = arguments("attention", rng)
    kwargs = dict(mask=rng.random((2, 3, 21, 21)) < 0.5,
                  bias=rng.standard_normal((2, 3, 21, 21)).astype(np.float32))
    assert same_bits(xfaccel.attention_lse(*args, **{name: laid(x, layout) for name, x in kwargs.items()}),
                     xfaccel.attention_lse(*args, **kwargs))


@pytest.mark.parametrize("label", VARIANTS)
def test_broadcast_axes_give_the_bits_of_copies(label, rng):
    args, kwargs = arguments(label, rng)
    function = function_of(xfaccel, label)
    shared = [np.broadcast_to(x[:1, :1], x.shape) for x in args]
    shared_keys = [np.broadcast_to(x[..., :1, :], x.shape) for x in args]
    for views in (shared, shared_keys):
        assert same_bits(function(*views, **kwargs), function(*(x.copy() for x in views), **kwargs))


@pytest.mark.parametrize("label", VARIANTS)
def test_one_kv_head_gives_the_bits_of_its_copies(label, rng):
    (q, k, v), kwargs = arguments(label, rng)
    function = function_of(xfaccel, label)
    k, v = k[:, :1], v[:, :1]
    copies = (np.ascontiguousarray(np.broadcast_to(x, (2, 3, *x.shape[-2:]))) for x in (k, v))
    assert same_bits(function(q, k, v, **kwargs), function(q, *copies, **kwargs))


@pytest.mark.parametrize("label", VARIANTS)
def test_each_entry_is_computed_as_if_alone(label, rng):
    (q, k, v), kwargs = arguments(label, rng, n=70, m=70)
    function = function_of(xfaccel, label)
    whole = function(q, k, v, **kwargs)
    alone = function(q[1, 2], k[1, 2], v[1, 2], **kwargs)
    parts = whole if isinstance(whole, tuple) else (whole,)
    assert same_bits(tuple(np.ascontiguousarray(x[1, 2]) for x in parts),
                     alone if isinstance(alone, tuple) else (alone,))
