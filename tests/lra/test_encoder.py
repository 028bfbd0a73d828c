"""The encoder of the benchmark: by hand, its laws, its profiles, and the variants of both packages in it."""

from functools import partial

import numpy as np
import pytest

import xfref
from xfref.lra import encoder

SIZES = dict(layers=2, width=8, qkv=12, hidden=10, vocabulary=17, length=30, classes=3, head=(5,))


def drawn(rng, **sizes):
    """Weights whose biases, gains and CLS token are no constants either."""
    made = encoder.encoder_weights(rng, **SIZES | sizes)
    return {name: x + 0.1 * rng.standard_normal(x.shape) for name, x in made.items()}


def test_by_hand():
    """Blocks that do nothing but add their biases: 3 in all to the first number of every row."""
    weights = encoder.encoder_weights(np.random.default_rng(0), **SIZES | dict(width=2, head=(2,), cls=True))
    weights |= dict(wo=0 * weights["wo"], w2=0 * weights["w2"], cls=np.array([0.0, 9.0]),
                    g=np.array([2.0, 3.0]), n=np.array([0.0, 1.0]))
    weights["bo"][:, 0], weights["b2"][1, 0], weights["tokens"][7] = 0.5, 2, [5.0, 3.0]
    weights["positions"][:2] = [[0.0, 0.0], [10.0, 12.0]]
    run = partial(encoder.encode, np.array([7]), weights, heads=3)
    # the CLS token, (0 + 3, 9), is 3 from its mean to either side; the other alone, (5 + 3, 3), is 2.5
    near, nearer = 3 / np.sqrt(9 + 1e-5), 2.5 / np.sqrt(6.25 + 1e-5)
    assert run() == pytest.approx([-2 * near, 3 * near + 1], rel=1e-12)
    for pool in ("first", "mean", "masked_mean"):
        assert run(pool=pool) == pytest.approx([2 * nearer, 1 - 3 * nearer], rel=1e-12)
    # (-2, 4) to (2, 4 - 10), of which max(0, .) leaves (2, 0)
    weights |= dict(h1=np.array([[1.0, 0.0], [1.0, 1.0]]), c1=np.array([0.0, -10.0]))
    weights |= dict(h2=np.array([[1.0, 2.0, 0.0], [5.0, 5.0, 5.0]]), c2=np.array([0.0, 0.0, 4.0]))
    assert encoder.classify(np.array([7]), weights, heads=3) == pytest.approx([near + 1, 2 * near + 2, 4])


def test_gelu():
    """As torch has it, approximate="tanh"; odd but for x / 2."""
    x = np.array([-3.0, -1.0, 0.0, 0.5, 2.0])
    known = [-0.003637392, -0.158808009, 0.0, 0.345714010, 1.954597695]
    assert encoder.gelu(x) == pytest.approx(known, abs=1e-9)
    assert encoder.gelu(x.astype(np.float32)).dtype == np.float32


def test_order_counts_by_the_positions_alone(rng):
    weights, ids = drawn(rng), rng.integers(1, 17, (2, 20))
    call = dict(heads=3, pool="mean")
    changed = encoder.classify(ids[:, ::-1], weights, **call)
    assert np.abs(changed - encoder.classify(ids, weights, **call)).min() > 1e-4
    weights["positions"][:] = 0.3
    mixed = encoder.classify(rng.permuted(ids, axis=1), weights, **call)
    assert mixed == pytest.approx(encoder.classify(ids, weights, **call), rel=1e-12)


@pytest.mark.parametrize("pool", encoder.POOLS)
def test_padding_changes_nothing_but_a_mean_of_all_rows(rng, pool):
    weights, ids = drawn(rng, cls=True), rng.integers(1, 17, (3, 20))
    padded = np.pad(ids, ((0, 0), (0, 6)))
    call = dict(heads=3, pool=pool)
    alone, among = encoder.encode(ids, weights, **call), encoder.encode(padded, weights, **call)
    assert (pool == "mean") == (np.abs(among - alone).max() > 1e-3)
    if pool != "mean":
        assert among == pytest.approx(alone, rel=1e-10, abs=1e-12)
    if pool == "masked_mean":  # of what is no padding, the mean
        assert alone == pytest.approx(encoder.encode(ids, weights, heads=3, pool="mean"), rel=1e-12)
    # without a padding id, id 0 is a token like any other
    assert np.abs(encoder.encode(padded, weights, padding=None, **call) - alone).max() > 1e-3
    every = encoder.encode(np.zeros((1, 4), int), weights, **call)
    assert np.isfinite(every).all()  # nothing but padding


@pytest.mark.parametrize("pool", encoder.POOLS)
def test_sequences_of_a_batch_do_not_meet(rng, pool):
    weights, ids = drawn(rng, cls=True), rng.integers(0, 17, (2, 3, 20))
    together = encoder.classify(ids, weights, heads=3, pool=pool)
    assert together.shape == (2, 3, 3)
    for lead in np.ndindex(2, 3):
        alone = encoder.classify(ids[lead], weights, heads=3, pool=pool)
        assert together[lead] == pytest.approx(alone, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("interaction", [True, False, None])
def test_rows_meet_in_the_perceptron_alone(rng, interaction):
    """Those of a pair, compared or not, or that of one sequence; encoded by the same keywords."""
    weights = drawn(rng, inputs={True: 4, False: 2, None: 1}[interaction], head=(5, 4))
    one, two = np.pad(rng.integers(1, 17, (2, 1, 20)), ((0, 0), (0, 0), (0, 3)))
    call = dict(heads=3, pool="masked_mean", attend=partial(xfref.sliding_window, left=2, right=2))
    x, y = (encoder.encode(ids, weights, padding=0, **call) for ids in (one, two[:, :13]))
    row = {True: [x, y, x * y, x - y], False: [x, y], None: [x]}[interaction]
    row = np.concatenate(row, axis=-1)
    for place in "123":
        row = (row if place == "1" else np.maximum(row, 0)) @ weights[f"h{place}"] + weights[f"c{place}"]
    out = (encoder.classify(one, weights, **call) if interaction is None else
           encoder.match(one, two[:, :13], weights, interaction=interaction, **call))
    assert out == pytest.approx(row, rel=1e-12)


def test_an_attention_without_key_mask_does_where_there_is_no_padding(rng):
    out = encoder.encode(rng.integers(1, 17, (2, 20)), drawn(rng), heads=3, pool="mean",
                         attend=lambda q, k, v: v)
    assert out.shape == (2, 8)


def test_any_attention_of_either_package_fits_in(package, rng):
    """One for all layers, or one for each; the key mask of the padding comes with it."""
    weights, ids = drawn(rng), np.pad(rng.integers(1, 17, (2, 20)), ((0, 0), (0, 5)))
    near = partial(package.sliding_window, left=2, right=2)
    e = rng.standard_normal((25, 4))
    low = partial(package.linformer, key_projection=e.T, value_projection=e.T)
    run = partial(encoder.encode, ids, weights, heads=3, pool="masked_mean")
    every, mixed = run(attend=near), run(attend=[near, low])
    assert every == pytest.approx(run(attend=[near, near]), rel=1e-12)
    assert np.abs(every - mixed).max() > 1e-3
    plain = run(attend=[partial(xfref.sliding_window, left=2, right=2),
                        partial(xfref.linformer, key_projection=e.T, value_projection=e.T)])
    assert mixed == pytest.approx(plain, rel=1e-10, abs=1e-12)
    seen = []

    def looks(q, k, v, key_mask):
        seen.append((q.shape, key_mask))
        return xfref.attention(q, k, v, key_mask=key_mask)

    run(attend=looks)
    assert [shape for shape, _ in seen] == [(2, 3, 25, 4)] * 2
    assert np.array_equal(seen[0][1], (ids != 0)[:, None])


def test_the_dtype_is_that_of_the_weights(rng):
    weights, ids = drawn(rng, cls=True, inputs=4), rng.integers(0, 17, (2, 20))
    wide = encoder.match(ids, ids[::-1], weights, heads=3)
    narrow = {name: x.astype(np.float32) for name, x in weights.items()}
    found = encoder.match(ids, ids[::-1], narrow, heads=3)
    assert found.dtype == np.float32 and found == pytest.approx(wide, abs=1e-4)


@pytest.mark.parametrize("name, task", [(name, task) for name in encoder.PROFILES for task in encoder.TASKS])
def test_a_profile_makes_logits(name, task, rng):
    sizes, call = encoder.PROFILES[name][task]
    vocabulary, length, classes = encoder.TASKS[task]
    weights = encoder.encoder_weights(rng, **sizes | dict(length=12))
    ids = rng.integers(0, vocabulary, (2, 12))
    out = (encoder.match(ids, ids[::-1], weights, **call) if task == "retrieval"
           else encoder.classify(ids, weights, **call))
    assert out.shape == (2, classes) and np.isfinite(out).all()
    assert sizes["length"] == length
    assert weights["wq"].shape == (sizes["layers"], sizes["width"], sizes["qkv"])
    assert (call["padding"] is None) == (task in ("image", "pathfinder", "pathx"))  # where 0 is black


# number of ids, length and classes; then layers, width, heads, width of all heads, hidden, pool and whether
# positions are learned: of the appendix, in emb_dim, num_heads, qkv_dim ... of the released configurations,
# and of the Nystromformer's lra_config.py, whose vocabularies stand behind
SIZES_OF_TASKS = {
    "listops": ("17 2000 10", "6 512 8 512 2048 cls False", "4 512 8 512 1024 cls False", 32),
    "text": ("257 4000 2", "6 512 8 512 2048 cls False", "4 256 4 256 1024 cls False", 512),
    "retrieval": ("257 4000 2", "4 128 4 128 512 cls False", "4 128 4 128 512 first False", 512),
    "image": ("256 1024 10", "3 64 4 64 128 cls True", "1 128 8 64 128 cls True", 512),
    "pathfinder": ("256 1024 2", "4 128 8 128 128 mean False", "4 32 4 16 32 mean False", 512),
    "pathx": ("256 16384 2", "4 128 8 128 128 mean False", "1 32 2 16 32 mean True", 512),
}


@pytest.mark.parametrize("task", encoder.TASKS)
def test_profiles_are_those_of_their_sources(task):
    ends, paper, official, vocabulary = SIZES_OF_TASKS[task]
    assert " ".join(map(str, encoder.TASKS[task])) == ends
    written = {"paper": paper, "official": official, "nystrom": "2 64 2 64 128 masked_mean True"}
    for name, numbers in written.items():
        sizes, call = encoder.PROFILES[name][task]
        found = [sizes["layers"], sizes["width"], call["heads"], sizes["qkv"], sizes["hidden"], call["pool"],
                 sizes["learned"]]
        assert " ".join(map(str, found)) == numbers
        assert sizes["cls"] == (call["pool"] == "cls")
        assert sizes["vocabulary"] == (vocabulary if name == "nystrom" else encoder.TASKS[task][0])
        # Dense(mlp), and for pairs as released, whose rows are not compared, Dense(mlp // 2) behind it
        released = name == "official" and task == "retrieval"
        assert sizes["head"] == ((512, 256) if released else (sizes["hidden"],))
        if task == "retrieval":
            assert (sizes["inputs"], call["interaction"]) == ((2, False) if released else (4, True))


def test_weights_are_drawn_as_released():
    rng = np.random.default_rng(1)
    made = encoder.encoder_weights(rng, **SIZES | dict(width=64, qkv=96, hidden=200, learned=True, cls=True,
                                                       length=999, vocabulary=200))
    for name, ends in dict(wq=160, wk=160, wv=160, wo=160, w1=264, w2=264).items():
        assert made[name].var() == pytest.approx(2 / ends, rel=0.05), name
        assert np.abs(made[name]).max() <= np.sqrt(6 / ends)
    assert made["tokens"].std() == pytest.approx(1, rel=0.05)
    assert made["positions"].std() == pytest.approx(0.02, rel=0.05) and made["positions"].shape == (1000, 64)
    assert not made["cls"].any() and all(x.dtype == np.float64 for x in made.values())
    fixed = encoder.encoder_weights(rng, **SIZES)["positions"]
    assert np.array_equal(fixed, xfref.sinusoidal_positions(30, 8))
    again = encoder.encoder_weights(np.random.default_rng(3), **SIZES)
    for name, x in encoder.encoder_weights(np.random.default_rng(3), **SIZES).items():
        assert np.array_equal(x, again[name])


@pytest.mark.parametrize(("changed", "call", "error", "words"), [
    ({}, dict(pool="max"), ValueError, "pool needs to be one of cls, first, mean, masked_mean, got 'max'"),
    ({}, dict(ids=np.array([[0, 17]])), ValueError, "ids need to be under 17"),
    ({}, dict(ids=np.array([[0, -1]])), ValueError, "ids needs integers of at least 0"),
    ({}, dict(ids=np.zeros((1, 4))), TypeError, "ids needs a numpy.ndarray of integers"),
    ({}, dict(ids=np.zeros((1, 31), int)), ValueError, "positions needs a row for each of 32 tokens, got 31"),
    ({}, dict(attend=[xfref.attention]), ValueError, "one for each of 2 layers, got 1"),
    ({}, dict(heads=5), ValueError, "heads needs to divide the width 12, got 5"),
    (dict(w1=np.zeros((1, 8, 10))), {}, ValueError, "w1 needs a leading axis of 2 layers"),
    (dict(positions=np.zeros((40, 7))), {}, ValueError, "positions"),
    (dict(cls=np.zeros(7)), {}, ValueError, "cls"),
    (dict(tokens=np.zeros(8)), {}, ValueError, "tokens"),
    *((dict.fromkeys([name]), {}, ValueError, f"weights needs the key '{name}'")
      for name in ("tokens", "positions", "cls", "wq", "b2", "g", "n", "h1", "c1", "h2", "c2")),
])
def test_bad_input(changed, call, error, words, rng):
    weights = {name: x for name, x in (drawn(rng, cls=True) | changed).items() if x is not None}
    call = dict(ids=np.zeros((1, 4), int), heads=3) | call
    with pytest.raises(error, match=words):
        encoder.classify(call.pop("ids"), weights, **call)
