"""float16 and bfloat16: the casts against NumPy's own, and the door before all functions."""

import pickle
import tracemalloc

import cases
import ml_dtypes
import numpy as np
import pytest
from compare import HALF, assert_matches, expected

import xfaccel
import xfref
from xfaccel.engine import softmax as engine
from xfaccel.engine.cpu import half

BOTH = pytest.mark.parametrize("package", [xfref, xfaccel], ids=["xfref", "xfaccel"])
EACH = pytest.mark.parametrize("dtype", HALF, ids=["float16", "bfloat16"])


def qkv(rng, dtype, shape=(2, 9, 4)):
    return tuple(rng.standard_normal((3, *shape)).astype(dtype))


def same_bits(a, b):
    """Equal in every bit, but for the payload of NaN."""
    assert a.shape == b.shape
    nan = np.isnan(a)
    np.testing.assert_array_equal(nan, np.isnan(b))
    unsigned = f"u{a.itemsize}"
    np.testing.assert_array_equal(a.view(unsigned)[~nan], b.view(unsigned)[~nan])


@EACH
def test_every_number_of_16_bits_is_widened_as_numpy_does(dtype):
    x = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    same_bits(half.widen(x), x.astype(np.float32))


@EACH
def test_numbers_are_rounded_as_numpy_does(dtype, rng):
    """Random bits, what lies halfway between two numbers and its neighbours, and the ends of the range."""
    every = np.sort(np.arange(1 << 16, dtype=np.uint16).view(dtype).astype(np.float32))
    every = every[np.isfinite(every)]
    middle = every[:-1] + (every[1:] - every[:-1]) / 2
    x = np.concatenate([
        rng.integers(0, 1 << 32, 1 << 18, dtype=np.uint32).view(np.float32), middle, every,
        np.nextafter(middle, np.float32(np.inf)), np.nextafter(middle, np.float32(-np.inf)),
        np.array([np.inf, -np.inf, np.nan, 65504, 65519.996, 65520, 3.4e38, -0.0, 1e-45], np.float32),
        # a NaN whose bits lie where they are cut off
        np.array([0x7F800001, 0xFF800001], np.uint32).view(np.float32)])
    with np.errstate(all="ignore"):
        due = x.astype(dtype)
    same_bits(half.narrow(x, dtype), due)


@EACH
def test_any_layout_is_cast(dtype, rng):
    x = rng.standard_normal((3, 70, 5)).astype(dtype)
    for view in (x[:, ::-2], x.T, x[:, :0], x[0, 0, 0, ...]):
        same_bits(half.widen(view), view.astype(np.float32))


@EACH
def test_more_than_one_thread_casts_alike(dtype, rng):
    x = rng.standard_normal(half._CHUNK * 3 + 17).astype(np.float32)
    with xfaccel.engine.cpu.threads.limited(1):
        alone = half.narrow(x, dtype)
    for _ in range(50):
        same_bits(half.narrow(x, dtype), alone)


@BOTH
@EACH
def test_results_have_the_type_of_q_and_what_is_used_again_float32(package, dtype, rng):
    q, k, v = qkv(rng, dtype)
    out, lse = package.attention_lse(q, k, v)
    assert (out.dtype, lse.dtype) == (dtype, np.float32)
    assert [x.dtype for x in package.merge(out, lse, out, lse)] == [dtype, np.float32]
    state, out = package.linear_transformer_step(None, q, k, v)
    assert out.dtype == dtype and {x.dtype for x in state} == {np.dtype(np.float32)}
    state, out = package.linear_transformer_step(state, q, k, v)
    assert out.dtype == dtype
    assert package.softmax(q).dtype == dtype


@BOTH
@EACH
def test_everything_in_between_is_float32(package, dtype, rng):
    """A result is that of float32, rounded once; parameters keep their digits."""
    q, k, v = qkv(rng, dtype)
    bias = rng.standard_normal((9, 9))
    wide = package.attention(*(x.astype(np.float32) for x in (q, k, v)), bias=bias)
    same_bits(package.attention(q, k, v, bias=bias), wide.astype(dtype))


@BOTH
@EACH
def test_arrays_within_pairs_are_taken_too(package, dtype, rng):
    q, k, v = qkv(rng, dtype)
    older, nothing = (k, v), (k[:, :0], v[:, :0])
    out = package.compressive_transformer(q, k, v, memory=older, compressed=nothing,
                                          relative_keys=rng.standard_normal((18, 4)))
    assert out.dtype == dtype


@BOTH
def test_what_is_too_large_for_float16_is_infinite_without_a_warning(package):
    v = np.full((1, 1), 60000, np.float16)
    one = np.ones((1, 1), np.float16)
    gain = np.full(1, 1e6)
    assert package.attention(one, one, v)[0, 0] == 60000
    assert package.layer_norm(np.array([[1, 2]], np.float16), np.repeat(gain, 2), np.zeros(2))[0, 1] == np.inf


@BOTH
def test_types_are_not_mixed(package, rng):
    q, k, v = qkv(rng, np.float16)
    other = k.astype(ml_dtypes.bfloat16)
    with pytest.raises(TypeError, match=r"k needs .* dtype of q, float16, got numpy.ndarray of bfloat16"):
        package.attention(q, other, v)
    with pytest.raises(TypeError, match=r"v needs .* dtype of q, bfloat16, got numpy.ndarray of float32"):
        package.attention(q.astype(other.dtype), v=v.astype(np.float32), k=other)
    with pytest.raises(TypeError, match=r"k needs .*got float16; convert with k.astype"):
        package.attention(q.astype(np.float32), k, v)
    with pytest.raises(TypeError, match=r"q needs .*got >?<?f"):
        package.attention(*(x.astype(x.dtype.newbyteorder()) for x in (q, k, v)))


@BOTH
def test_functions_behind_the_door_are_found_by_pickle(package):
    for name in package.__all__:
        function = getattr(package, name)
        if callable(function):
            assert pickle.loads(pickle.dumps(function)) is function, name


def test_one_head_of_keys_for_many_is_cast_once(rng, monkeypatch):
    cast = []
    monkeypatch.setattr(half, "widen", lambda x: cast.append(x.size) or x.astype(np.float32))
    q = rng.standard_normal((8, 9, 4)).astype(np.float16)
    k = np.broadcast_to(q[:1], q.shape)
    xfaccel.attention(q, k, k)
    assert cast == [q.size, q.size // 8, q.size // 8]


@BOTH
@EACH
def test_integers_that_come_out_stay_integers(package, dtype, rng):
    q, _, _ = qkv(rng, dtype)
    directions = rng.standard_normal((4, 2, 3))
    buckets = package.lsh_buckets(q, directions)
    assert buckets.dtype.kind == "i"
    np.testing.assert_array_equal(buckets, package.lsh_buckets(q.astype(np.float32), directions))


@EACH
def test_weights_by_name_are_taken_too(dtype, rng):
    x = qkv(rng, dtype)[0]
    weights = {name: w.astype(dtype) for name, w in xfref.feed_forward_weights(rng, 4, 8).items()}
    wide = {name: w.astype(np.float32) for name, w in weights.items()}
    same_bits(xfref.feed_forward(x, weights), xfref.feed_forward(x.astype(np.float32), wide).astype(dtype))


@pytest.mark.parametrize("step", [1, -1], ids=["rows", "rows backwards"])
def test_pairs_of_bfloat16_are_multiplied_where_the_cpu_can(step, rng, monkeypatch):
    """By other instructions here, if it cannot: with all that the engine adds or hides, rounded once."""
    monkeypatch.setattr(engine, "multiplies_pairs", lambda: True)
    seen = []
    run = engine.cpu.run
    monkeypatch.setattr(engine.cpu, "run", lambda q, *args, **kwargs: seen.append(q.memory.dtype) or run(
        q, *args, **kwargs))
    q, k, v = (x[:, ::step] for x in qkv(rng, HALF[1], (2, 150, 18)))
    own = dict(key_mask=rng.random((2, 150)) < 0.7)
    for name, options in (("attention", own | dict(mask=rng.random((150, 150)) < 0.6, causal=True)),
                          ("attention", own | dict(bias=rng.standard_normal((150, 150)))),
                          ("sliding_window", own | dict(left=70, right=3, dilation=2)),
                          ("block_local", own | dict(block=70, before=1))):
        call = cases.plain(name)
        args = (q, k, v)
        assert_matches(call(xfaccel, args, options), *expected(call, args, options))
    assert seen == [np.uint16] * 4
    for odd in (q[..., :17], q[..., 1:]):  # no pairs, or pairs that lie between two
        xfaccel.attention(odd, odd, v)
    assert seen[4:] == [np.float32] * 2


@EACH
def test_few_queries_read_keys_as_they_are(dtype, rng, monkeypatch):
    """Keys of 16 bits are not copied: that would take longer than the call."""
    widened = []
    cast = half.widen
    monkeypatch.setattr(half, "widen", lambda x: widened.append(x.size) or cast(x))
    (q, _, _), (_, k, v) = qkv(rng, dtype, (2, 5, 16)), qkv(rng, dtype, (2, 600, 16))
    for queries in (q, q[:, :1]):
        call, args = cases.plain("attention_lse"), (queries, k, v)
        assert_matches(call(xfaccel, args, {}), *expected(call, args, {}))
        assert widened == [queries.size]
        widened.clear()


def test_few_queries_read_codes_as_they_are(rng):
    """Nowhere in the call is there a copy of the keys, not even of their bytes."""
    q, k, v = qkv(rng, np.float32, (2, 3, 16))[0], *qkv(rng, np.float32, (2, 8192, 16))[1:]
    pairs = [xfaccel.quantize_rows(x) for x in (k, v)]
    xfaccel.attention(q, *pairs)
    tracemalloc.start()
    try:
        xfaccel.attention(q, *pairs)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < pairs[0][0].nbytes / 2


def test_one_head_of_codes_for_many_is_restored_once(rng, monkeypatch):
    steps = []
    run = engine.cpu.run
    monkeypatch.setattr(engine.cpu, "run", lambda *operands, **options: steps.extend(
        x.memory.strides[0] for x in operands[1:3]) or run(*operands, **options))
    q = rng.standard_normal((8, 9, 4), np.float32)
    codes, scales = xfaccel.quantize_rows(q[:1])
    many = np.broadcast_to(codes, q.shape), np.broadcast_to(scales, q.shape[:-1])
    out = xfaccel.attention(q, many, many)
    assert steps == [0, 0]
    np.testing.assert_array_equal(out, xfaccel.attention(q, (codes, scales), (codes, scales)))


@BOTH
@EACH
def test_parameters_may_have_16_bits_too(package, dtype, rng):
    q, k, v = qkv(rng, dtype)
    bias = rng.standard_normal((9, 9)).astype(dtype)
    same_bits(package.attention(q, k, v, bias=bias), package.attention(q, k, v, bias=bias.astype(np.float32)))
    with pytest.raises(TypeError, match="positional argument"):
        package.attention(q, k, v, bias)
