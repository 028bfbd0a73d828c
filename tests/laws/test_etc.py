"""Laws of ETC: its four pieces in plain loops, its two softmaxes, its limits, and labels of pairs."""

import math

import numpy as np
import pytest
from lawbook import close, law, qkv

import xfref

SHAPES = [(12, 3, 2), (9, 4, 0), (7, 1, 20), (1, 2, 1), (6, 0, 2), (0, 3, 1)]  # long, global, radius


def streams(rng, n, g, lead=(2, 3)):
    return qkv(rng, n, lead=lead) + qkv(rng, g, lead=lead)


def biases(rng, n, g, radius, *, hide=0.0, lead=(3,)):
    sizes = dict(long_bias=(n, 2 * radius + 1), long_to_global_bias=(n, g), global_bias=(g, g),
                 global_to_long_bias=(g, n))
    return {name: np.where(rng.random((*lead, *own)) < hide, -np.inf, rng.standard_normal((*lead, *own)))
            for name, own in sizes.items()}


def row(query, seen, scale):
    """One softmax over the (key, value, bias) that a query sees."""
    weights = [math.exp(scale * sum(a * b for a, b in zip(query, key, strict=True)) + bias)
               for key, _, bias in seen]
    total = sum(weights)
    return sum(w * value for w, (_, value, _) in zip(weights, seen, strict=True)) / total if total else 0.0


def in_loops(args, place, radius, scale, options):
    """Both outputs at one leading entry, from loops over the pairs of all four pieces."""
    def at(x, *own):
        return np.broadcast_to(x, (2, 3, *own))[place]

    q, k, v, global_q, global_k, global_v = (at(x, *x.shape[-2:]) for x in args)
    n, g = len(q), len(global_q)
    shown, global_shown = at(options.get("key_mask", True), n), at(options.get("global_key_mask", True), g)
    l2l, l2g, g2g, g2l = (at(options.get(name, 0), *own) for name, own in (
        ("long_bias", (n, 2 * radius + 1)), ("long_to_global_bias", (n, g)), ("global_bias", (g, g)),
        ("global_to_long_bias", (g, n))))
    long_k, long_v = (at(x, *x.shape[-2:]) for x in options.get("long_seen_by_global", args[1:3]))
    far_k, far_v = (at(x, *x.shape[-2:]) for x in options.get("global_seen_by_long", args[4:]))
    long_out, global_out = np.zeros((n, v.shape[-1])), np.zeros((g, v.shape[-1]))
    for i in range(n):
        near = [(k[j], v[j], l2l[i, j - i + radius]) for j in range(n) if abs(i - j) <= radius and shown[j]]
        far = [(far_k[j], far_v[j], l2g[i, j]) for j in range(g) if global_shown[j]]
        long_out[i] = row(q[i], near + far, scale)
    for i in range(g):
        own = [(global_k[j], global_v[j], g2g[i, j]) for j in range(g) if global_shown[j]]
        across = [(long_k[j], long_v[j], g2l[i, j]) for j in range(n) if shown[j]]
        global_out[i] = row(global_q[i], own + across, scale)
    return long_out, global_out


def holds(package, args, radius, scale=None, **options):
    results = package.etc(*args, radius=radius, scale=scale, **options)
    for place in np.ndindex(2, 3):
        for out, own in zip(results, in_loops(args, place, radius, scale or 0.5, options), strict=True):
            close(out[place], own)


@law("etc")
@pytest.mark.parametrize("n, g, radius", SHAPES)
def test_etc_in_loops(package, n, g, radius, rng):
    args = streams(rng, n, g)
    masks = dict(key_mask=rng.random((2, 1, n)) < 0.7, global_key_mask=rng.random(g) < 0.7)
    holds(package, args, radius)
    holds(package, args, radius, scale=0.8, **masks)
    holds(package, args, radius, **biases(rng, n, g, radius), **masks)
    holds(package, args, radius, **biases(rng, n, g, radius, hide=0.4, lead=(2, 1)))


@law("etc")
@pytest.mark.parametrize("name", ["long_bias", "long_to_global_bias", "global_bias", "global_to_long_bias"])
def test_each_bias_belongs_to_its_piece(package, name, rng):
    holds(package, streams(rng, 12, 3), 2, **{name: biases(rng, 12, 3, 2, hide=0.2)[name]})


@law("etc")
@pytest.mark.parametrize("names", [("long_seen_by_global",), ("global_seen_by_long",),
                                   ("long_seen_by_global", "global_seen_by_long")])
def test_keys_and_values_may_differ_by_who_looks(package, names, rng):
    args, others = streams(rng, 9, 3), streams(rng, 9, 3, lead=(3,))
    pairs = dict(long_seen_by_global=others[1:3], global_seen_by_long=others[4:])
    holds(package, args, 2, **{name: pairs[name] for name in names},
          key_mask=rng.random((2, 3, 9)) < 0.7, global_key_mask=rng.random((2, 1, 3)) < 0.7)


@law("etc")
def test_leading_axes_come_from_all_six(package, rng):
    long, wide = qkv(rng, 9, lead=(2, 1)), qkv(rng, 3, lead=(3,))
    holds(package, long + wide, 2, key_mask=rng.random((2, 1, 9)) < 0.7,
          global_key_mask=rng.random((3, 3)) < 0.7)
    plain, whole = qkv(rng, 9, lead=()), qkv(rng, 3, lead=(2, 3))
    holds(package, plain + whole, 2, key_mask=rng.random(9) < 0.7)
    holds(package, qkv(rng, 9, lead=(3,)) + whole, 2, key_mask=rng.random((3, 9)) < 0.7)
    # a pair with more axes than k, whose mask it keeps
    holds(package, plain + whole, 2, key_mask=rng.random(9) < 0.7,
          global_key_mask=rng.random((2, 1, 3)) < 0.7,
          long_seen_by_global=qkv(rng, 9, lead=(3,))[1:], global_seen_by_long=qkv(rng, 3, lead=(3,))[1:])


@law("etc")
def test_etc_by_hand(package):
    # all scores are 0: a long row is the mean of three neighbours and two global values
    x, y = np.zeros((4, 1)), np.zeros((2, 1))
    v, global_v = np.array([[1.0], [2.0], [3.0], [4.0]]), np.array([[10.0], [20.0]])
    long, wide = package.etc(x, x, v, y, y, global_v, radius=1)
    close(long, np.array([[33 / 4], [36 / 5], [39 / 5], [37 / 4]]))
    close(wide, np.full((2, 1), 40 / 6))
    # the pair (1, 2) has offset +1, place 2 of 3: three times the weight
    bias = np.zeros((4, 3))
    bias[1, 2] = math.log(3.0)
    long, _ = package.etc(x, x, v, y, y, global_v, radius=1, long_bias=bias)
    close(long[1], np.array([(1 + 2 + 3 * 3 + 10 + 20) / 7]))
    # and one for a global key, in the same softmax
    bias = np.zeros((4, 2))
    bias[0, 1] = math.log(5.0)
    long, _ = package.etc(x, x, v, y, y, global_v, radius=0, long_to_global_bias=bias)
    close(long[0], np.array([(1 + 10 + 5 * 20) / 7]))


@law("etc")
@pytest.mark.parametrize("n, g", [(9, 3), (4, 9)])
def test_a_radius_of_everything_is_attention_to_both_streams(package, n, g, rng):
    args = streams(rng, n, g)
    key_mask, global_key_mask = rng.random((2, 1, n)) < 0.7, rng.random((2, 1, g)) < 0.7
    keys, values = (np.concatenate([args[x], args[x + 3]], axis=-2) for x in (1, 2))
    joined = dict(key_mask=np.concatenate([key_mask, global_key_mask], axis=-1))
    long, wide = package.etc(*args, radius=n, key_mask=key_mask, global_key_mask=global_key_mask)
    close(long, package.attention(args[0], keys, values, **joined))
    close(wide, package.attention(args[3], keys, values, **joined))


@law("etc")
@pytest.mark.parametrize("radius", [0, 2, 30])
def test_without_global_tokens_a_long_row_sees_its_window(package, radius, rng):
    long = qkv(rng)
    out, none = package.etc(*long, *qkv(rng, 0), radius=radius)
    close(out, package.sliding_window(*long, left=radius, right=radius))
    assert none.shape == (2, 3, 0, 5)
    # the same if all of them are hidden
    close(package.etc(*long, *qkv(rng, 4), radius=radius, global_key_mask=np.zeros(4, bool))[0], out)


@law("etc")
def test_a_row_that_sees_nothing_is_zero(package, rng):
    args = streams(rng, 9, 3)
    nothing = dict(key_mask=np.zeros(9, bool), global_key_mask=np.zeros(3, bool))
    for out in package.etc(*args, radius=2, **nothing):
        assert (out == 0).all()
    hidden = biases(rng, 9, 3, 2)
    hidden["long_bias"][:, 4], hidden["long_to_global_bias"][:, 4] = -np.inf, -np.inf
    hidden["global_bias"][:, 1], hidden["global_to_long_bias"][:, 1] = -np.inf, -np.inf
    long, wide = package.etc(*args, radius=2, **hidden)
    assert (long[..., 4, :] == 0).all() and (wide[..., 1, :] == 0).all()
    assert long[..., [3, 5], :].all() and wide[..., [0, 2], :].all()


@law("etc")
def test_what_key_masks_hide_never_touches_a_row(package, rng):
    args = streams(rng, 9, 3)
    masks = dict(key_mask=np.arange(9) % 3 > 0, global_key_mask=np.arange(3) != 1)
    clean = package.etc(*args, radius=2, **masks)
    dirty = [x.copy() for x in args]
    for place, mask in ((1, masks["key_mask"]), (2, masks["key_mask"]), (4, masks["global_key_mask"]),
                        (5, masks["global_key_mask"])):
        dirty[place][..., ~mask, :] = np.nan
    for a, b in zip(clean, package.etc(*dirty, radius=2, **masks), strict=True):
        assert a.tobytes() == b.tobytes()


@law("etc")
def test_biases_beyond_the_ends_are_never_looked_at(package, rng):
    args, bias = streams(rng, 9, 3), rng.standard_normal((3, 9, 7))
    clean = package.etc(*args, radius=3, long_bias=bias)
    key = np.arange(9)[:, None] + np.arange(7) - 3
    for garbage in (np.nan, np.inf, -np.inf, 1e30):
        dirty = np.where((key < 0) | (key > 8), garbage, bias)
        for a, b in zip(clean, package.etc(*args, radius=3, long_bias=dirty), strict=True):
            assert a.tobytes() == b.tobytes()


@law("etc")
def test_biases_may_lie_in_memory_in_any_order(package, rng):
    args, bias = streams(rng, 9, 3), rng.standard_normal((2, 3, 9, 7))
    expected = package.etc(*args, radius=3, long_bias=bias)
    wider = np.zeros((2, 3, 9, 20))
    wider[..., 4:18:2] = bias
    reversed_heads = bias[:, ::-1].copy()[:, ::-1]
    for other in (np.asfortranarray(bias), wider[..., 4:18:2], reversed_heads):
        for a, b in zip(expected, package.etc(*args, radius=3, long_bias=other), strict=True):
            close(a, b)
    # one row of offsets for all tokens, without a copy of it
    table = np.broadcast_to(bias[0, :, :1], (3, 9, 7))
    for a, b in zip(package.etc(*args, radius=3, long_bias=table),
                    package.etc(*args, radius=3, long_bias=table.copy()), strict=True):
        close(a, b)


@law("etc")
def test_global_tokens_that_see_their_own_segment_alone(package, rng):
    """The paper's hard mask from global to long tokens, and soft attention the other way."""
    args, segment = streams(rng, 12, 3), np.arange(12) // 4
    belongs = np.arange(3)[:, None] == segment
    long, wide = package.etc(*args, radius=2, global_to_long_bias=np.where(belongs, 0.0, -np.inf))
    close(long, package.etc(*args, radius=2)[0])
    for token in range(3):
        own = [np.concatenate([args[x + 3], args[x][..., belongs[token], :]], axis=-2) for x in (1, 2)]
        close(wide[..., token:token + 1, :], package.attention(args[3][..., token:token + 1, :], *own))


@law("etc")
def test_reversed_tokens_with_reversed_biases_give_the_reversed_rows(package, rng):
    args, options = streams(rng, 11, 3), biases(rng, 11, 3, 2)
    long, wide = package.etc(*args, radius=2, **options)
    backwards = [x[..., ::-1, :] for x in args[:3]]
    options |= dict(long_bias=options["long_bias"][..., ::-1, ::-1],
                    long_to_global_bias=options["long_to_global_bias"][..., ::-1, :],
                    global_to_long_bias=options["global_to_long_bias"][..., ::-1])
    again, same = package.etc(*backwards, *args[3:], radius=2, **options)
    close(again[..., ::-1, :], long)
    close(same, wide)


@law("etc")
def test_a_long_token_hears_of_a_far_one_by_no_way_but_global_rows(package, rng):
    q, k, v, *wide = streams(rng, 12, 3)
    long, seen = package.etc(q, k, v, *wide, radius=2)
    k, v = k.copy(), v.copy()
    k[..., 7, :] += 1
    v[..., 7, :] += 1
    other, other_seen = package.etc(q, k, v, *wide, radius=2)
    moved = (other != long).any(axis=(0, 1, 3))
    assert moved[5:10].all() and not moved[:5].any() and not moved[10:].any()
    assert (other_seen != seen).any(axis=(0, 1, 3)).all()


@law("relative_label_bias")
def test_labels_in_loops(rng):
    q, a, b = rng.standard_normal((2, 3, 5, 4)), rng.standard_normal((3, 6, 4)), rng.standard_normal((3, 6))
    labels = rng.integers(0, 6, (2, 1, 5, 7))
    for scale, factor in ((None, 0.5), (0.3, 0.3)):
        out = xfref.relative_label_bias(q, a, b, labels, scale)
        assert out.shape == (2, 3, 5, 7)
        for at, h, i, w in np.ndindex(2, 3, 5, 7):
            label = labels[at, 0, i, w]
            product = sum(x * y for x, y in zip(q[at, h, i], a[h, label], strict=True))
            assert abs(out[at, h, i, w] - factor * (product + b[h, label])) < 1e-13
    assert xfref.relative_label_bias(q.astype(np.float32), a, b, labels).dtype == np.float32


@law("etc", "relative_label_bias")
def test_labels_are_vectors_added_to_the_keys(package, rng):
    """The paper's e_ij = q_i . (k_j + a_l) / sqrt(d), in all four pieces; clipped offsets for long tokens."""
    args, table, zero = streams(rng, 9, 3), rng.standard_normal((3, 7, 4)), np.zeros(7)
    offsets = np.clip(np.arange(-3, 4), -2, 2) + 2
    to_global, among, to_long = (rng.integers(5, 7, shape) for shape in ((9, 3), (3, 3), (3, 9)))
    labels = dict(long_bias=np.broadcast_to(offsets, (9, 7)), long_to_global_bias=to_global,
                  global_bias=among, global_to_long_bias=to_long)
    options = {name: xfref.relative_label_bias(args[0 if name.startswith("long") else 3], table, zero, x)
               for name, x in labels.items()}
    long, wide = package.etc(*args, radius=3, **options)
    for b, h in np.ndindex(2, 3):
        q, k, v, global_q, global_k, global_v = (x[b, h] for x in args)
        a = table[h]
        for i in range(9):
            near = [(k[j] + a[offsets[j - i + 3]], v[j], 0.0) for j in range(9) if abs(i - j) <= 3]
            far = [(global_k[j] + a[to_global[i, j]], global_v[j], 0.0) for j in range(3)]
            close(long[b, h, i], row(q[i], near + far, 0.5))
        for i in range(3):
            own = [(global_k[j] + a[among[i, j]], global_v[j], 0.0) for j in range(3)]
            across = [(k[j] + a[to_long[i, j]], v[j], 0.0) for j in range(9)]
            close(wide[b, h, i], row(global_q[i], own + across, 0.5))


Q, A, B, LABELS = np.zeros((2, 3, 5, 4)), np.zeros((6, 4)), np.zeros(6), np.zeros((5, 7), int)


@pytest.mark.parametrize("args, error, words", [
    ((Q.tolist(), A, B, LABELS), TypeError, "q needs .*list"),
    ((Q[0, 0, 0], A, B, LABELS), ValueError, "q needs at least 2 axes"),
    ((Q, A.astype(int), B, LABELS), TypeError, "label_keys needs .*int64"),
    ((Q, A[:, :3], B, LABELS), ValueError, r"label_keys needs .*4\).*\(6, 3\)"),
    ((Q, np.zeros((2, 6, 4)), B, LABELS), ValueError, r"label_keys .*\(2, 3\).*\(2, 6, 4\)"),
    ((Q, A, [0.0] * 6, LABELS), TypeError, "label_bias needs .*list"),
    ((Q, A, B[:5], LABELS), ValueError, r"label_bias .*6.*\(5,\)"),
    ((Q, A, B, LABELS[:4]), ValueError, r"labels .*5, any.*\(4, 7\)"),
    ((Q, A, B, LABELS[0]), ValueError, r"labels .*\(7,\)"),
    ((Q, A, B, LABELS + 0.5), TypeError, "labels needs integers"),
    ((Q, A, B, LABELS + 6), ValueError, r"labels .*0\.\.5.*6"),
    ((Q, A, B, LABELS - 1), ValueError, r"labels .*0\.\.5.*-1"),
    ((Q, A, B, LABELS, "1"), TypeError, "scale needs a number"),
])
def test_wrong_labels_raise(args, error, words):
    with pytest.raises(error, match=words):
        xfref.relative_label_bias(*args)
