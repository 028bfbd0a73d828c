"""The catalogue's "Rules for every function": one test per sentence, named after it, on both packages.

The variants of the case table stand for every function; a rule about softmax variants alone leaves out the
kernel ones.
"""

import numpy as np
import pytest
from cases import CASES, STEPS, VARIANTS, Shape, draw_qkv, fit, function_of, generator, options_of

import xfref

SOFTMAX = [label for label, variant in VARIANTS.items() if variant.scale and variant.function != "performer"]
SCALED = [label for label, variant in VARIANTS.items() if variant.scale]
CAUSAL = [label for label, variant in VARIANTS.items() if variant.causal]
ALWAYS = [label for label, variant in VARIANTS.items() if variant.always_causal]
# linformer, for one, mixes the keys before the softmax: there a key has no weight of its own
BY_KEY = [label for label, variant in VARIANTS.items() if variant.by_key]
ANY_LENGTH = [label for label in BY_KEY if VARIANTS[label].lengths == "any"]
FROM_KEYS = [label for label in BY_KEY if not VARIANTS[label].own_values]
EVERYWHERE = ("attention", "attention_lse", "linear_transformer", "performer")  # every query sees every key

# parameters that are arrays of numbers, (lead..., own axes)
OWN_ARRAYS = [(label, name) for label, names in {
    "linformer": ["key_projection", "value_projection"], "performer": ["projection"],
    "star_ring": ["key_embedded", "value_embedded", "key_relay", "value_relay"],
    "etc, biased": ["long_bias", "long_to_global_bias", "global_bias", "global_to_long_bias"],
    "adaptive_span, positions": ["position_keys"], "shaw, values": ["key_table", "value_table"],
    "sinkhorn": ["sort"], "sinkhorn_cut": ["sort"], "memory_compressed": ["key_kernel", "value_kernel"],
    "memory_compressed, null slot": ["null_key", "null_value"],
    "transformer_xl, biases": ["relative_keys", "content_bias", "position_bias"],
    "compressive_transformer": ["relative_keys", "content_bias", "position_bias"],
}.items() for name in names]

each_variant = pytest.mark.parametrize("label", VARIANTS)
# those that are called with q, k and v under these names
each_of_qkv = pytest.mark.parametrize("label", [x for x, variant in VARIANTS.items() if variant.call is None])


def inputs(label, rng, n=9, m=11, d=4, e=5, lead=(2, 3), dtype=np.float64, **other):
    shape = fit(label, Shape(n, m, d, e, lead, other.get("k", lead), other.get("v")))
    return draw_qkv(rng, dtype, shape, VARIANTS[label].size), options_of(label, rng, shape)


def outputs(package, label, args, **options):
    """All results of a variant as a tuple, the output first."""
    result = function_of(package, label)(*args, **options)
    return result if isinstance(result, tuple) else (result,)


def same(a, b, tolerance=1e-12):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance, strict=True)


def entry_by_entry(package, label, args, lead, **options):
    """The outputs from calls without leading axes, for arguments broadcast to `lead`."""
    args = [np.broadcast_to(x, (*lead, *x.shape[-2:])) for x in args]
    rows = [outputs(package, label, [x[place].copy() for x in args],
                    **{name: x(place) if callable(x) else x for name, x in options.items()})
            for place in np.ndindex(lead)]
    return tuple(np.reshape(np.stack(part), (*lead, *part[0].shape)) for part in zip(*rows, strict=True))


# shapes


@each_variant
def test_q_n_d_k_m_d_v_m_e_give_n_e_and_no_leading_axes_is_fine(package, label, rng):
    for lead in ((), (2,), (2, 3), (2, 1, 3)):
        args, options = inputs(label, rng, lead=lead)
        out, *_ = outputs(package, label, args, **options)
        assert out.shape == (*lead, args[0].shape[-2], 5)


@each_variant
def test_leading_axes_broadcast_by_numpys_rules(package, label, rng):
    for q, k, v in [((2, 3), (2, 1), (2, 1)), ((2, 3), (), ()), ((3,), (2, 1), (2, 1)), ((), (2, 3), (2, 3)),
                    ((2, 3), (2, 3), (3,)), ((1, 3), (2, 1), (2, 3))]:
        args, options = inputs(label, rng, lead=q, k=k, v=v)
        lead = np.broadcast_shapes(q, k, v)
        same(outputs(package, label, args, **options), entry_by_entry(package, label, args, lead, **options))


@pytest.mark.parametrize("label, name", OWN_ARRAYS)
def test_every_array_parameter_is_lead_and_own_axes(package, label, name, rng):
    args, options = inputs(label, rng)
    for lead in ((3,), (2, 1), (1, 3), (2, 3), (1,)):
        parameter = rng.standard_normal((*lead, *options[name].shape))
        per_entry = np.broadcast_to(parameter, (2, 3, *options[name].shape))
        own = {name: lambda place, x=per_entry: x[place]}
        same(outputs(package, label, args, **options | {name: parameter}),
             entry_by_entry(package, label, args, (2, 3), **options | own))
    with pytest.raises(ValueError, match=name):
        outputs(package, label, args, **options | {name: rng.standard_normal((4, *options[name].shape))})


def test_h_own_or_own_fit_a_batch_of_heads(package, rng):
    args, _ = inputs("attention", rng)
    for lead in ((3,), (), (2, 1), (2, 3)):
        mask, bias = rng.random((*lead, 9, 11)) < 0.5, rng.standard_normal((*lead, 9, 11))
        wide_mask, wide_bias = (np.broadcast_to(x, (2, 3, 9, 11)) for x in (mask, bias))
        same(outputs(package, "attention_lse", args, mask=mask, bias=bias), entry_by_entry(
            package, "attention_lse", args, (2, 3), mask=lambda place, x=wide_mask: x[place].copy(),
            bias=lambda place, x=wide_bias: x[place].copy()))


@pytest.mark.parametrize("label", [x for x, variant in VARIANTS.items() if variant.lengths != "equal"])
def test_broadcast_axes_are_never_copied(label, rng):
    """A thousand query heads of one query each share one K/V head."""
    import tracemalloc

    import xfaccel

    single = draw_qkv(rng, np.float32, Shape(1, 2000, 8, 8, (), ()))
    q, k, v = (np.broadcast_to(x, (1000, *x.shape)) for x in single)
    options = VARIANTS[label].options(rng, 1, 2000, 8, 8)
    outputs(xfaccel, label, (q[:1], k[:1], v[:1]), **options)
    tracemalloc.start()
    try:
        outputs(xfaccel, label, (q, k, v), **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # a copy of the keys alone would be that large
    assert peak < k.size * k.itemsize, f"{peak} bytes for keys of {k[0].nbytes}"


# key_mask and scale


@each_variant
def test_key_mask_is_bool_true_attend_1_d_or_k_ndim_minus_1_axes(package, label, rng):
    args, options = inputs(label, rng)
    for lead in ((), (2, 1), (1, 3), (2, 3), (1, 1)):
        key_mask = rng.random((*lead, 11)) < 0.6
        per_entry = np.broadcast_to(key_mask, (2, 3, 11))
        same(outputs(package, label, args, key_mask=key_mask, **options), entry_by_entry(
            package, label, args, (2, 3), key_mask=lambda place, x=per_entry: x[place].copy(), **options))
    same(outputs(package, label, args, key_mask=np.ones(11, bool), **options),
         outputs(package, label, args, **options))


@pytest.mark.parametrize("label", FROM_KEYS)
def test_true_means_attend(package, label, rng):
    args, options = inputs(label, rng, n=11)
    q, k, v = args
    key_mask = np.arange(11) % 3 != 1
    options |= dict(causal=False) if label in CAUSAL else {}
    out = outputs(package, label, args, key_mask=key_mask, **options)[0]
    v = v.copy()
    v[..., ~key_mask, :] += 5
    same((outputs(package, label, (q, k, v), key_mask=key_mask, **options)[0],), (out,))
    v[..., key_mask, :] += 5
    same((outputs(package, label, (q, k, v), key_mask=key_mask, **options)[0],),
         (out + 5 * (np.abs(out).sum(axis=-1, keepdims=True) > 0),), 1e-10)


@each_of_qkv
def test_key_mask_of_k_ndim_minus_1_axes_counts_the_axes_of_k(package, label, rng):
    for k, v, shape in [((2, 3), (3,), (2, 1, 11)), ((3,), (2, 3), (3, 11)), ((2, 1), (3,), (2, 1, 11)),
                        ((1, 1), (1, 1), (2, 1, 11))]:
        args, options = inputs(label, rng, k=k, v=v)
        key_mask = rng.random(shape) < 0.6
        per_entry = np.broadcast_to(key_mask, (2, 3, 11))
        same(outputs(package, label, args, key_mask=key_mask, **options), entry_by_entry(
            package, label, args, (2, 3), key_mask=lambda place, x=per_entry: x[place].copy(), **options))


@each_variant
def test_any_other_key_mask_raises_and_shows_the_reshape(package, label, rng):
    args, options = inputs(label, rng)
    for shape in [(2, 11), (3, 11), (2, 3, 10), (10,), (1, 2, 3, 11), (11, 1), (4, 1, 11), ()]:
        with pytest.raises(ValueError, match="key_mask") as error:
            outputs(package, label, args, key_mask=np.ones(shape, bool), **options)
        if len(shape) == 2:
            assert "(B, 1, m)" in str(error.value) and "[:, None, :]" in str(error.value)


@each_variant
def test_a_key_mask_that_is_not_bool_raises(package, label, rng):
    args, options = inputs(label, rng)
    for key_mask in [np.ones(11), np.ones(11, int), [True] * 11, np.ones(11, object), np.ma.ones(11, bool)]:
        with pytest.raises(TypeError, match="key_mask.*bool"):
            outputs(package, label, args, key_mask=key_mask, **options)


@pytest.mark.parametrize("label", SCALED)
def test_scale_none_means_d_to_the_minus_one_half(package, label, rng):
    args, options = inputs(label, rng, d=7)
    default = outputs(package, label, args, **options)
    same(outputs(package, label, args, scale=None, **options), default)
    same(outputs(package, label, args, scale=7**-0.5, **options), default)
    if "relu" not in label:  # the scale of a relu cancels
        assert np.abs(outputs(package, label, args, scale=1.5, **options)[0] - default[0]).max() > 1e-4


@pytest.mark.parametrize("label", [label for label in SCALED if VARIANTS[label].linear_in_q])
def test_scale_multiplies_the_scores(package, label, rng):
    (q, k, v), options = inputs(label, rng, d=4)
    if "performer" in label:  # half of the scale goes to either side
        same(outputs(package, label, (q, k, v), scale=0.25, **options),
             outputs(package, label, (q / 2, k / 2, v), scale=1, **options), 1e-11)
    elif label == "linformer":
        same(outputs(package, label, (q, k, v), scale=0.25, **options),
             outputs(package, label, (q / 4, k, v), scale=1.0, **options), 1e-11)
    else:
        for scale in (0.25, 0, -0.5, np.float32(0.25)):
            same(outputs(package, label, (q, k, v), scale=scale, **options),
                 outputs(package, label, (float(scale) * q, k, v), scale=1.0, **options), 1e-11)


def test_both_exist_on_every_softmax_variant(package):
    import inspect

    for label in SOFTMAX:
        parameters = inspect.signature(getattr(package, VARIANTS[label].function)).parameters
        for name in ("key_mask", "scale"):
            assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
            assert parameters[name].default is None


# positions


@pytest.mark.parametrize("label", [label for label in BY_KEY if not VARIANTS[label].per_query
                                   and VARIANTS[label].lengths != "equal"])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_the_position_of_query_i_is_i_plus_m_minus_n(package, label, n, rng):
    """The last n queries of a square problem, alone, give the last n rows."""
    (q, k, v), options = inputs(label, rng, n=11)
    if label in CAUSAL:
        options["causal"] = True
    whole = outputs(package, label, (q, k, v), **options)
    last = outputs(package, label, (q[..., -n:, :], k, v), **options)
    same(last, (x.take(range(11 - n, 11), axis=2) for x in whole))


@pytest.mark.parametrize("label", [label for label in ANY_LENGTH if VARIANTS[label].by_distance
                                   and not VARIANTS[label].per_query])
def test_queries_before_the_first_key_have_negative_positions(package, label, rng):
    """Keys that nobody may see, put before the others, change nothing."""
    (q, k, v), options = inputs(label, rng, n=11, m=7)
    if label in CAUSAL:
        options["causal"] = True
    tokens = [j + 4 for j in options.get("global_tokens", ())]
    before = np.arange(11) >= 4
    k_wide, v_wide = (np.concatenate([np.ones_like(x[..., :4, :]), x], axis=-2) for x in (k, v))
    wide = options | dict(key_mask=before) | (dict(global_tokens=tokens) if tokens else {})
    same(outputs(package, label, (q, k, v), **options), outputs(package, label, (q, k_wide, v_wide), **wide))


@pytest.mark.parametrize("label", [label for label in ANY_LENGTH if label in FROM_KEYS])
def test_causal_with_more_queries_than_keys_gives_the_first_queries_nothing(package, label, rng):
    args, options = inputs(label, rng, n=9, m=4)
    options |= dict(causal=True) if label in CAUSAL else {}
    out, *lse = outputs(package, label, args, **options)
    first = 5 if label in CAUSAL + ALWAYS else 0
    assert not out[..., :first, :].any()
    assert all(np.isneginf(x[..., :first]).all() for x in lse)


@pytest.mark.parametrize("function", STEPS)
def test_variants_that_need_equal_lengths_raise_value_error_naming_both(package, function, rng):
    (q, k, v), options = inputs(STEPS[function][0], rng, n=4, m=7)
    with pytest.raises(ValueError, match="(?s)4.*7"):
        getattr(package, function)(None, q, k, v, **options)


@pytest.mark.parametrize("label", [x for x, variant in VARIANTS.items() if variant.lengths == "equal"])
@pytest.mark.parametrize("n, m", [(4, 7), (7, 4)])
def test_variants_that_need_equal_lengths_say_so(package, label, n, m, rng):
    q, k, v = draw_qkv(rng, np.float64, Shape(n, m))
    with pytest.raises(ValueError, match=f"n = {n} and m = {m}"):
        outputs(package, label, (q, k, v), **options_of(label, rng, Shape(n, n)))


# sets of keys


def test_a_key_listed_twice_counts_once(package, rng):
    args, _ = inputs("longformer", rng, n=11)
    same(outputs(package, "longformer", args, window=2, global_tokens=[3, 3, 7, 3]),
         outputs(package, "longformer", args, window=2, global_tokens=[3, 7]))
    # a global token inside the window, and one that is everywhere inside it
    same(outputs(package, "longformer", args, window=22, global_tokens=[3]),
         outputs(package, "longformer", args, window=22))
    p = package.patterns
    for twice, once in [(p.hubs(11, [2, 2]), p.hubs(11, [2])),
                        (p.window(11, left=3, right=0) | p.window(11, left=1, right=1),
                         p.window(11, left=3, right=0) | p.window(11, left=0, right=1)),
                        (p.scattered(11, np.array([[4, 4, 1]] * 11)),
                         p.scattered(11, np.array([[1, 4]] * 11))),
                        (p.blocks(np.array([[1, 1], [0, 0]]), 6, 11), p.blocks(np.array([[1], [0]]), 6, 11))]:
        same(outputs(package, "attention_lse", args, mask=twice),
             outputs(package, "attention_lse", args, mask=once))


@pytest.mark.parametrize("label", FROM_KEYS)
def test_a_query_that_sees_nothing_gets_zeros_and_lse_minus_infinity(package, label, rng):
    for dtype in (np.float32, np.float64):
        args, options = inputs(label, rng, dtype=dtype)
        for hidden in (np.zeros(11, bool), np.zeros((2, 1, 11), bool)):
            out, *lse = outputs(package, label, args, key_mask=hidden, **options)
            assert not out.any()
            assert all(np.isneginf(x).all() for x in lse)
        # one entry of the batch alone, and the other as ever
        first_hidden = np.array([[[False] * 11], [[True] * 11]])
        out, *lse = outputs(package, label, args, key_mask=first_hidden, **options)
        assert not out[0].any() and all(np.isneginf(x[0]).all() for x in lse)
        full = outputs(package, label, args, **options)
        same((x[1] for x in (out, *lse)), (x[1] for x in full), 1e-5 if dtype == np.float32 else 1e-12)


def test_a_row_without_a_visible_key_gets_zeros_beside_rows_that_have_one(package, rng):
    args, _ = inputs("attention", rng)
    mask = np.ones((9, 11), bool)
    mask[4] = False
    out, lse = package.attention_lse(*args, mask=mask)
    assert not out[..., 4, :].any() and np.isneginf(lse[..., 4]).all()
    assert np.isfinite(lse[..., [0, 8]]).all() and out[..., [0, 8], :].any(axis=-1).all()
    biased = package.attention_lse(*args, bias=np.where(mask, 0.0, -np.inf))
    same(biased, (out, lse))


def test_no_keys_at_all_gives_zeros(package, rng):
    for label in ANY_LENGTH:
        if label in FROM_KEYS:
            args, options = inputs(label, rng, m=0)
            out, *lse = outputs(package, label, args, **options)
            assert out.shape == (2, 3, 9, 5) and not out.any()
            assert all(np.isneginf(x).all() for x in lse)


@each_variant
@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1e38])
def test_a_key_hidden_by_key_mask_never_touches_a_row(package, label, garbage, rng):
    for dtype, lead in [(np.float32, ()), (np.float32, (2, 1)), (np.float64, (2, 3))]:
        (q, k, v), options = inputs(label, rng, n=11, dtype=dtype)
        key_mask = rng.random((*lead, 11)) < 0.6
        clean = outputs(package, label, (q, k, v), key_mask=key_mask, **options)
        k, v = k.copy(), v.copy()
        for x in (k, v):
            x[np.broadcast_to(~key_mask[..., None], x.shape)] = garbage
        dirty = outputs(package, label, (q, k, v), key_mask=key_mask, **options)
        for a, b in zip(clean, dirty, strict=True):
            assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("label", [label for label in BY_KEY if VARIANTS[label].sees_itself])
@pytest.mark.parametrize("which", ["key", "value"])
def test_a_visible_nan_makes_the_row_nan(package, label, which, rng):
    (q, k, v), options = inputs(label, rng, n=11)
    (k if which == "key" else v)[..., 4, :] = np.nan
    # some functions see key 4 from everywhere, the others at least from query 4
    out = outputs(package, label, (q, k, v), **options)[0]
    rows = out if VARIANTS[label].function in EVERYWHERE else out[..., 4, :]
    assert np.isnan(rows).all()


@pytest.mark.parametrize("label", [label for label in BY_KEY if VARIANTS[label].call is None])
def test_a_nan_in_a_query_makes_its_row_nan_and_no_other(package, label, rng):
    (q, k, v), options = inputs(label, rng, n=11)
    q[..., 4, 1] = np.nan
    out = outputs(package, label, (q, k, v), **options)[0]
    assert np.isnan(out[..., 4, :]).all()
    assert np.isfinite(np.delete(out, 4, axis=-2)).all()


@each_variant
def test_scores_up_to_1e30_stay_finite(package, label, rng):
    for dtype, causal in [(np.float32, False), (np.float64, False), (np.float32, True), (np.float64, True)]:
        (q, k, v), options = inputs(label, rng, n=11, dtype=dtype)
        options |= dict(causal=True) if causal and label in CAUSAL else {}
        top = np.abs(q @ k.swapaxes(-1, -2)).max()
        for factor in (1e30 / top, 1e6):
            factor = dtype(np.sqrt(factor))
            shared = [(factor, factor), (-factor, factor)]
            # random features have the squared norms of q and k among their exponents: these count as scores
            apart = [] if "performer" in label else [(factor**2, 1), (1, factor**2)]
            for a, b in shared + apart:
                for x in outputs(package, label, (dtype(a) * q, dtype(b) * k, v), **options):
                    assert np.isfinite(x).all()


def test_a_score_of_1e30_wins_alone(package):
    q, v = np.ones((1, 1), np.float32), np.array([[1.0], [2.0], [3.0]], np.float32)
    for k in ([-1e30, 1e30, 0], [0, 1e30, 1e29], [-2e30, -1e30, -3e30]):
        out, lse = package.attention_lse(q, np.array(k, np.float32)[:, None], v)
        assert out == 2 and lse == np.float32(max(k))


# types


class Tensor:
    """A stand-in for the arrays of other libraries: all that NumPy asks for, and still to be refused."""

    def __init__(self, x):
        self.x, self.shape, self.dtype, self.ndim = x, x.shape, x.dtype, x.ndim

    def __array__(self, dtype=None, copy=None):
        return self.x

    def __getattr__(self, name):
        return getattr(self.x, name)


class Subclass(np.ndarray):
    pass


WRONG = {
    "int": (lambda x: x.astype(int), "astype"),
    "bool": (lambda x: x.astype(bool), "astype"),
    "complex": (lambda x: x.astype(complex), "astype"),
    "other byte order": (lambda x: x.astype(x.dtype.newbyteorder()), "astype"),
    "object": (lambda x: x.astype(object), "astype"),
    "list": (lambda x: x.tolist(), "asarray"),
    "masked": (lambda x: np.ma.masked_array(x, np.zeros(x.shape, bool)), "filled.*key_mask"),
    "subclass": (lambda x: x.view(Subclass), "asarray"),
    "foreign tensor": (Tensor, "asarray"),
    "number": (lambda x: 1.0, "asarray"),
    "none": (lambda x: None, "asarray"),
}


@each_of_qkv
def test_other_types_raise_with_the_remedy(package, label, rng):
    args, options = inputs(label, rng, dtype=np.float32)
    for change, remedy in WRONG.values():
        for place, name in enumerate("qkv"):
            wrong = list(args)
            wrong[place] = change(args[place])
            with pytest.raises(TypeError, match=f"(?s){name} needs.*{remedy}"):
                outputs(package, label, wrong, **options)
        with pytest.raises(TypeError, match="q needs"):
            outputs(package, label, [change(x) for x in args], **options)


@each_of_qkv
def test_q_k_v_share_one_float_dtype(package, label, rng):
    (q, k, v), options = inputs(label, rng, dtype=np.float32)
    wide = np.float64
    for name, args in [("k", (q, k.astype(wide), v)), ("v", (q, k, v.astype(wide))),
                       ("k", (q.astype(wide), k, v))]:
        with pytest.raises(TypeError, match=f"{name} needs the dtype of q"):
            outputs(package, label, args, **options)
    for dtype in (np.float32, np.float64):
        for x in outputs(package, label, (q.astype(dtype), k.astype(dtype), v.astype(dtype)), **options):
            assert x.dtype == dtype


PARAMETERS = [*OWN_ARRAYS, ("performer, relu", "projection"), ("attention", "bias"),
              ("attention_lse", "bias"), ("adaptive_span, per token", "span")]


@pytest.mark.parametrize("label, name", PARAMETERS)
def test_parameters_are_cast_to_the_dtype_of_q(package, label, name, rng):
    args, options = inputs(label, rng)
    parameter = options.get(name, rng.standard_normal((9, 11))).astype(np.float32)
    for dtype in (np.float32, np.float64):
        typed = [x.astype(dtype) for x in args]
        results = [outputs(package, label, typed, **options | {name: parameter.astype(other)})
                   for other in (np.float32, np.float64)]
        for a, b in zip(*results, strict=True):
            assert a.dtype == b.dtype == dtype and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("label, name", PARAMETERS)
@pytest.mark.parametrize("kind", ["int", "list", "masked", "object", "foreign tensor"])
def test_parameters_of_other_types_raise_with_the_remedy(package, label, name, kind, rng):
    args, options = inputs(label, rng)
    parameter = options.get(name, rng.standard_normal((9, 11)))
    with pytest.raises(TypeError, match=f"(?s){name} needs.*(asarray|astype|filled)"):
        outputs(package, label, args, **options | {name: WRONG[kind][0](parameter)})


def test_numpy_parameters_beside_cupy_q_are_moved_to_its_device():
    pytest.skip("needs a GPU engine, which is not built yet")


@pytest.mark.parametrize("function", sorted({case.function for case in CASES}))
def test_inputs_are_never_written(package, function):
    for case in CASES:
        if case.function != function or not case.tiny:
            continue
        args, kwargs = case.draw(generator(case), np.float32)
        parts = (part for x in (*args, *kwargs.values()) for part in (x if isinstance(x, tuple) else (x,)))
        arrays = [x for x in parts if isinstance(x, np.ndarray)]
        before = [x.tobytes() for x in arrays]
        result = case.call(package, args, kwargs)
        assert [x.tobytes() for x in arrays] == before, case.name
        for out in result if isinstance(result, tuple) else (result,):
            assert out.flags.writeable, f"{case.name}: a result that the caller cannot write"
            assert not any(np.shares_memory(out, x) for x in arrays), f"{case.name}: a view of an input"


def test_a_zero_denominator_gives_zero(package, rng):
    (q, k, v), w = inputs("performer", rng)[0], np.eye(4)
    q, k = np.abs(q), np.abs(k)  # no direction sees both a query and a key of the opposite sign
    for causal in (False, True):
        assert (package.performer(q, -k, v, projection=w, features="relu", causal=causal) == 0).all()
    assert (package.performer_step(None, k, -k, v, projection=w, features="relu")[1] == 0).all()
    assert (package.softmax(np.full((2, 3), -np.inf)) == 0).all()


def test_there_is_no_epsilon(package):
    """Weights of 1e-30 and 3e-30 are weights as good as 1 and 3."""
    tiny = np.float32(1e-15)
    q, k, v = tiny * np.ones((1, 1), np.float32), tiny * np.array([[1.0], [3.0]], np.float32), np.array(
        [[0.0], [4.0]], np.float32)
    out = package.performer(q, k, v, projection=np.ones((1, 1)), features="relu")
    np.testing.assert_allclose(out, [[3.0]], rtol=1e-6)
    far = np.array([[-60.0]])  # elu + 1 = exp(-60) on both sides
    out = package.linear_transformer(far, np.array([[-60.0], [-60.0]]), np.array([[1.0], [2.0]]))
    np.testing.assert_allclose(out, [[1.5]], rtol=1e-12)


# steps


def test_a_step_has_no_epsilon(package):
    """Weights of 1e-40 and 3e-40, of which one over their sum would be infinite in float32."""
    x, v = np.float32(1e-20) * np.array([[1.0], [3.0]], np.float32), np.array([[0.0], [4.0]], np.float32)
    _, out = package.performer_step(None, x, x, v, projection=np.ones((1, 1)), features="relu")
    np.testing.assert_allclose(out, [[0.0], [3.0]], rtol=1e-4)


@pytest.mark.parametrize("function, label", [(f, label) for f, labels in STEPS.items() for label in labels])
def test_any_split_of_a_sequence_gives_the_causal_result(package, function, label, rng):
    (q, k, v), options = inputs(label, rng, n=11)
    whole = function_of(package, label)(q, k, v, causal=True, **options)
    for splits in ([11], [1] * 11, [4, 7], [1, 9, 1]):
        state, start = None, 0
        for c in splits:
            part = slice(start, start + c)
            state, out = getattr(package, function)(state, *(x[..., part, :] for x in (q, k, v)), **options)
            assert out.shape == (2, 3, c, 5)
            np.testing.assert_allclose(out, whole[..., part, :], rtol=0, atol=1e-10)
            start += c


@pytest.mark.parametrize("function, label", [(f, label) for f, labels in STEPS.items() for label in labels])
def test_the_state_is_a_tuple_of_arrays_never_written(package, function, label, rng):
    (q, k, v), options = inputs(label, rng, n=11)
    step = getattr(package, function)
    state, _ = step(None, q, k, v, **options)
    assert isinstance(state, tuple) and all(type(x) is np.ndarray and x.dtype == q.dtype for x in state)
    before = [x.tobytes() for x in state]
    after, out = step(state, q, k, v, **options)
    assert [x.tobytes() for x in state] == before
    assert not any(np.shares_memory(x, y) for x in state for y in after)
    # the same state again, frozen, gives the same: nothing is remembered elsewhere
    for x in state:
        x.flags.writeable = False
    again, out_again = step(state, q, k, v, **options)
    assert all(x.tobytes() == y.tobytes() for x, y in zip((out, *after), (out_again, *again), strict=True))


@pytest.mark.parametrize("function", STEPS)
def test_steps_broadcast_their_leading_axes(package, function, rng):
    label = STEPS[function][0]
    (q, k, v), options = inputs(label, rng, n=11, k=(2, 1))
    step = getattr(package, function)
    first, _ = step(None, *(x[..., :4, :] for x in (q, k, v)), **options)
    _, out = step(first, *(x[..., 4:, :] for x in (q, k, v)), **options)
    whole = function_of(package, label)(q, k, v, causal=True, **options)
    np.testing.assert_allclose(out, whole[..., 4:, :], rtol=0, atol=1e-11)


# weights of blocks


def test_weights_of_a_block_are_one_plain_dict_of_arrays_whose_keys_its_docstring_lists(rng):
    x, layer = np.zeros((3, 4)), [xfref.encoder_block, xfref.multi_head, xfref.feed_forward]
    for block, args, options, weights, parts in [
        (xfref.multi_head, (x, x), dict(heads=2), xfref.multi_head_weights(rng, 4), []),
        (xfref.feed_forward, (x,), {}, xfref.feed_forward_weights(rng, 4, 6), []),
        (xfref.encoder_block, (x,), dict(heads=2), xfref.encoder_block_weights(rng, 4, 6), layer),
        (xfref.reversible_block, (x, x), dict(heads=2), xfref.encoder_block_weights(rng, 4, 6), layer),
        (xfref.axial_transformer, (x[None],), dict(heads=2, outer=1),
         xfref.axial_transformer_weights(rng, (1, 3), 4, 6, 5, outer=1, inner=1), layer),
        (xfref.star_transformer, (x,), dict(heads=2, steps=1), xfref.star_transformer_weights(rng, 4), []),
        (xfref.mab, (x, x), dict(heads=2), xfref.mab_weights(rng, 4), []),
        (xfref.pma, (x, x), dict(heads=2), xfref.pma_weights(rng, 4), [xfref.mab]),
    ]:
        assert type(weights) is dict and all(type(x) is np.ndarray for x in weights.values())
        text = " ".join(part.__doc__ for part in [block, *parts])
        block(*args, weights, **options)
        for key in weights:
            assert key in text, f"{block.__name__} does not list {key}"
            missing = {name: x for name, x in weights.items() if name != key}
            with pytest.raises(ValueError, match=f"weights needs the key '{key}'"):
                block(*args, missing, **options)
