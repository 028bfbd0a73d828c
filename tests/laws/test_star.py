"""Laws of star_ring, star_transformer and star_transformer_weights."""

import functools
import math

import numpy as np
import pytest
from lawbook import close, law, qkv

import xfaccel
import xfref


def around(rng, n, d=4, e=5, lead=()):
    return dict(key_embedded=rng.standard_normal((*lead, n, d)),
                value_embedded=rng.standard_normal((*lead, n, e)),
                key_relay=rng.standard_normal((*lead, 1, d)), value_relay=rng.standard_normal((*lead, 1, e)))


def mean_of(scores, values):
    weights = [math.exp(score) for score in scores]
    return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)


def ring_in_loops(q, k, v, key_embedded, value_embedded, key_relay, value_relay, scale, key_mask):
    n, out = len(q), []
    for i in range(n):
        neighbours = [j for j in sorted({(i - 1) % n, i, (i + 1) % n}) if key_mask[j]]
        keys = [*(k[j] for j in neighbours), key_embedded[i], key_relay[0]]
        values = [*(v[j] for j in neighbours), value_embedded[i], value_relay[0]]
        out.append(mean_of([scale * (q[i] @ key) for key in keys], values))
    return np.array(out)


@law("star_ring")
@pytest.mark.parametrize("n", [1, 2, 3, 4, 12])
def test_star_ring_in_loops(package, n, rng):
    args, own = qkv(rng, n), around(rng, n, lead=(2, 3))
    for options in ({}, dict(scale=0.3), dict(key_mask=rng.random((2, 1, n)) < 0.6)):
        out = package.star_ring(*args, **own, **options)
        mask = np.broadcast_to(options.get("key_mask", True), (2, 3, n))
        for place in np.ndindex(2, 3):
            rows = {name: x[place] for name, x in own.items()}
            close(out[place], ring_in_loops(*(x[place] for x in args), **rows, key_mask=mask[place],
                                            scale=options.get("scale", 0.5)))


@law("star_ring")
def test_star_ring_by_hand(package):
    q, k = np.full((4, 1), math.log(2.0)), np.array([[0.0], [1.0], [2.0], [3.0]])
    v, zero = np.array([[3.0], [5.0], [7.0], [11.0]]), np.zeros((1, 1))
    # weights 1, 2, 4, 8 of the states, 16 of every embedding, and 32 of the relay
    out = package.star_ring(q, k, v, key_embedded=np.full((4, 1), 4.0), value_embedded=-v,
                            key_relay=zero + 5, value_relay=zero, scale=1.0)
    states = np.array([8 * 11 + 1 * 3 + 2 * 5, 1 * 3 + 2 * 5 + 4 * 7, 2 * 5 + 4 * 7 + 8 * 11,
                       4 * 7 + 8 * 11 + 1 * 3])
    close(out[:, 0], (states - 16 * v[:, 0]) / (np.array([11, 7, 14, 13]) + 16 + 32))


@law("star_ring")
@pytest.mark.parametrize("n", [1, 2, 3, 12, 70])
def test_a_turned_ring_gives_turned_results(package, n, rng):
    args, own = qkv(rng, n, lead=()), around(rng, n)
    out = package.star_ring(*args, **own)
    for turn in (lambda x: np.roll(x, 1, axis=0), lambda x: np.roll(x, 5, axis=0), lambda x: x[::-1]):
        turned = {name: turn(x) if "embedded" in name else x for name, x in own.items()}
        close(package.star_ring(*(turn(x) for x in args), **turned), turn(out))


@law("star_ring")
def test_a_ring_of_three_is_attention_to_all_states(package, rng):
    args, own = qkv(rng, 3), around(rng, 3, lead=(2, 3))
    near = package.attention_lse(*args)
    for key, value, mask in (("key_embedded", "value_embedded", np.eye(3, dtype=bool)),
                             ("key_relay", "value_relay", np.ones((3, 1), bool))):
        near = package.merge(*near, *package.attention_lse(args[0], own[key], own[value], mask=mask))
    close(package.star_ring(*args, **own), near[0])


@law("star_ring")
def test_equal_scores_give_the_mean_of_five(package, rng):
    _, k, v = qkv(rng, 12)
    own = around(rng, 12)
    out = package.star_ring(np.zeros_like(k), k, v, **own)
    total = np.roll(v, 1, axis=-2) + v + np.roll(v, -1, axis=-2) + own["value_embedded"] + own["value_relay"]
    close(out, total / 5)


# the whole encoder


def project(x, weights, role, name):
    return x @ weights[f"{role}_w{name}"] + weights[f"{role}_b{name}"]


def updated(state, context, weights, role, heads):
    """LayerNorm(ReLU(MultiAtt)) of one row (w) and its context (c, w), head by head."""
    q, k, v = project(state, weights, role, "q"), project(context, weights, role, "k"), project(
        context, weights, role, "v")
    width = len(state) // heads
    parts = [slice(h * width, (h + 1) * width) for h in range(heads)]
    joined = np.concatenate([mean_of(k[:, part] @ q[part] * width**-0.5, v[:, part]) for part in parts])
    row = np.maximum(project(joined, weights, role, "o"), 0)
    row = (row - row.mean()) / np.sqrt(row.var() + 1e-5)
    return weights[f"{role}_g"] * row + weights[f"{role}_n"]


def encoder_in_loops(x, layers, heads, key_mask=None):
    """`layers` holds the weights of each step."""
    n = len(x)
    seen = np.arange(n) if key_mask is None else np.flatnonzero(key_mask)
    satellites, relay = x, x[seen].mean(axis=0)
    for weights in layers:
        rows = []
        for i in range(n):
            neighbours = [j for j in sorted({(i - 1) % n, i, (i + 1) % n}) if j in seen]
            context = np.stack([*satellites[neighbours], x[i], relay])
            rows.append(updated(satellites[i], context, weights, "ring", heads))
        satellites = np.array(rows)
        relay = updated(relay, np.stack([relay, *satellites[seen]]), weights, "relay", heads)
    return satellites, relay[None]


def drawn(rng, width, steps=None):
    """Weights whose gains and biases differ from 1 and 0, which would hide a swap."""
    weights = xfref.star_transformer_weights(rng, width, steps)
    return {name: x + 0.3 * rng.standard_normal(x.shape) for name, x in weights.items()}


def step(weights, t):
    return {name: rows[t] for name, rows in weights.items()}


each_ring = pytest.mark.parametrize("attend", [xfref.star_ring, xfaccel.star_ring], ids=["xfref", "xfaccel"])


@law("star_transformer", "star_ring")
@pytest.mark.parametrize("n", [1, 2, 3, 8])
@each_ring
def test_star_transformer_in_loops(n, attend, rng):
    x, weights = rng.standard_normal((2, n, 6)), drawn(rng, 6, steps=3)
    for given, layers in ((weights, [step(weights, t) for t in range(3)]),
                          (step(weights, 0), [step(weights, 0)] * 3)):
        out = xfref.star_transformer(x, given, heads=2, steps=3, attend=attend)
        for place in range(2):
            for part, want in zip(out, encoder_in_loops(x[place], layers, 2), strict=True):
                close(part[place], want, 1e-11)


@law("star_transformer")
@each_ring
def test_a_masked_token_enters_neither_its_neighbours_nor_the_relay(attend, rng):
    x, weights, mask = rng.standard_normal((2, 8, 6)), drawn(rng, 6), rng.random((2, 8)) < 0.6
    run = functools.partial(xfref.star_transformer, weights=weights, heads=3, steps=2, attend=attend)
    out = run(x, key_mask=mask)
    for place in range(2):
        want = encoder_in_loops(x[place] * mask[place][:, None], [weights] * 2, 3, mask[place])
        for part, rows in zip(out, want, strict=True):
            close(part[place], rows, 1e-11)
    spoilt = np.where(mask[..., None], x, np.nan)
    for a, b in zip(run(spoilt, key_mask=mask), out, strict=True):
        assert a.tobytes() == b.tobytes()
    for a, b in zip(run(x, key_mask=mask[0]), run(x, key_mask=mask[[0, 0]]), strict=True):
        close(a, b)


@law("star_transformer")
def test_a_turned_sequence_has_the_same_relay(rng):
    x, weights = rng.standard_normal((9, 4)), drawn(rng, 4)
    satellites, relay = xfref.star_transformer(x, weights, heads=2, steps=3)
    turned, same = xfref.star_transformer(np.roll(x, 4, axis=0), weights, heads=2, steps=3)
    close(turned, np.roll(satellites, 4, axis=0))
    close(same, relay)


@law("star_transformer")
def test_no_tokens_leave_the_relay_with_itself(rng):
    weights = drawn(rng, 4)
    satellites, relay = xfref.star_transformer(np.zeros((2, 0, 4)), weights, heads=1, steps=1)
    assert satellites.shape == (2, 0, 4)
    close(relay, np.broadcast_to(updated(np.zeros(4), np.zeros((1, 4)), weights, "relay", 1), (2, 1, 4)))


@law("star_transformer")
def test_star_transformer_keeps_its_type_and_its_input(rng):
    x, weights = rng.standard_normal((3, 4)).astype(np.float32), drawn(rng, 4)
    before = x.tobytes()
    for part in xfref.star_transformer(x, weights, heads=2, steps=1, key_mask=np.array([True, False, True])):
        assert part.dtype == np.float32 and not np.shares_memory(part, x)
    assert x.tobytes() == before


@law("star_transformer_weights", "star_transformer")
@pytest.mark.parametrize("steps", [None, 2])
def test_star_transformer_weights_are_one_plain_dict_that_the_docstring_lists(steps, rng):
    weights = xfref.star_transformer_weights(rng, 4, steps)
    assert type(weights) is dict and len(weights) == 20
    for key, x in weights.items():
        assert type(x) is np.ndarray and x.dtype == np.float64
        assert x.shape == (() if steps is None else (2,)) + ((4, 4) if "_w" in key else (4,))
        assert key in xfref.star_transformer.__doc__
        missing = {name: own for name, own in weights.items() if name != key}
        with pytest.raises(ValueError, match=f"weights needs the key '{key}'"):
            xfref.star_transformer(np.zeros((3, 4)), missing, heads=2, steps=2)


@law("star_transformer_weights")
def test_star_transformer_weights_are_drawn_with_the_variance_of_multi_head(rng):
    weights = xfref.star_transformer_weights(rng, 40, steps=2)
    for name, x in weights.items():
        if "_w" in name:
            assert abs(x.std() * 40**0.5 - 1) < 0.05
        else:
            assert (x == (1 if name.endswith("_g") else 0)).all()
    drawn_ones = [x[t].tobytes() for name, x in weights.items() if "_w" in name for t in range(2)]
    assert len(set(drawn_ones)) == 16, "two matrices are the same"


@law("star_transformer")
@pytest.mark.parametrize("wrong, error, words", [
    (dict(x=[[1.0]]), TypeError, "x needs.*list"),
    (dict(x=np.zeros(4)), ValueError, "x needs at least 2 axes"),
    (dict(heads=3), ValueError, "heads needs to divide the width 4, got 3"),
    (dict(steps=0), ValueError, "steps needs to be at least 1, got 0"),
    (dict(steps=1.5), TypeError, "steps needs an integer, got float 1.5"),
    (dict(steps=3), ValueError, r"ring_wq needs the shape.*\(3,\), got \(2, 4, 4\)"),
    (dict(key_mask=np.ones(4, bool)), ValueError, r"key_mask needs.*got \(4,\)"),
    (dict(key_mask=np.ones(3)), TypeError, "key_mask needs.*float64"),
    (dict(weights=None), ValueError, "weights needs the key 'ring_wq'"),
], ids=lambda x: "-".join(x) if isinstance(x, dict) else "")
def test_what_star_transformer_refuses(wrong, error, words, rng):
    good = dict(x=np.zeros((3, 4)), weights=xfref.star_transformer_weights(rng, 4, steps=2), heads=2, steps=2)
    xfref.star_transformer(**good)
    with pytest.raises(error, match=words):
        xfref.star_transformer(**good | wrong)


@law("star_transformer_weights")
@pytest.mark.parametrize("width, steps, word", [(0, None, "width"), (4, 0, "steps"), (2.5, 1, "width"),
                                                (4, "2", "steps")])
def test_what_star_transformer_weights_refuses(width, steps, word, rng):
    with pytest.raises((TypeError, ValueError), match=f"{word} needs"):
        xfref.star_transformer_weights(rng, width, steps)
