"""Arrays of CuPy through every public function, without a GPU, against `xfref`.

The stand-in's arrays refuse what CuPy's refuse, and what would make the host wait for the GPU. Kernels run in
the PTX interpreter for a small case of each name in each type, and every case of the table runs with the
engines of the CPU in their place.
"""

import functools
import inspect
import os

import cupy_arrays
import cupy_stand_in
import host_engines
import numpy as np
import pytest
from cases import CASES
from compare import HALF, assert_matches, expected
from on_gpu import ON_ARRAYS, OnGPU, check, on_arrays
from ptx import nvrtc

import xfaccel
import xfref
from xfaccel import device
from xfaccel.engine import scan

EVERYTHING = os.environ.get("XFACCEL_PROOF") == "all"  # make proof-all
NAMES = [name for name in xfaccel.__all__ if name not in ("patterns", "set_threads", "warmup")]
CASE = {case.name: case for case in CASES}
FLOATS = [np.dtype(np.float32), np.dtype(np.float64)]


@pytest.fixture(autouse=True)
def cupy():
    """The stand-in in the place of CuPy."""
    with cupy_stand_in.installed():
        yield cupy_arrays


def on_kernels():
    """A small case of each name in float32 and one more type, in turns, or in each."""
    for turn, name in enumerate(NAMES):
        own = [case for case in CASES if case.function == name]
        case = CASE.get(f"{name}: no leading axes") or own[0]
        others = (FLOATS[1], *HALF)
        for dtype in (FLOATS[0], *(others if EVERYTHING else others[turn % 3:turn % 3 + 1])):
            yield pytest.param(case, dtype, id=f"{case.name}, {dtype.name}")
    # results so far joined with those of no keys; hidden keys of a type that CuPy widens
    for name, dtype in (("compressive_transformer: memory alone", FLOATS[0]),
                        ("sinkhorn: 1-D key mask", HALF[1])):
        yield pytest.param(CASE[name], dtype, id=f"{name}, {dtype.name}")


@pytest.mark.skipif(nvrtc.library() is None, reason=nvrtc.REMEDY)
@pytest.mark.parametrize("case, dtype", list(on_kernels()))
def test_every_name_on_the_kernels(case, dtype):
    check(cupy_arrays, case, dtype)


def on_the_cpu():
    """Every fifth case in float32, some in 16 bits, or every one in each type."""
    turns = {case.name: turn for turn, case in enumerate(ON_ARRAYS)}
    for case, dtype in on_arrays([*FLOATS, *HALF]):
        turn = turns[case.name]
        own = FLOATS[:1] * (turn % 5 == 0) + [HALF[turn // 8 % 2]] * (turn % 8 == 0)
        if EVERYTHING or dtype in own:
            yield pytest.param(case, dtype, id=f"{case.name}, {dtype.name}")
    for dtype in HALF:
        case = CASE["attention_lse: codes, few queries"]
        yield pytest.param(case, dtype, id=f"{case.name}, {dtype.name}")


@pytest.mark.parametrize("case, dtype", list(on_the_cpu()))
def test_every_case_with_the_engines_of_the_cpu(case, dtype, monkeypatch):
    host_engines.install(monkeypatch)
    check(cupy_arrays, case, dtype)


def test_every_name_takes_arrays_of_a_gpu():
    assert {case.function for case, *_ in (row.values for row in on_kernels())} == set(NAMES)


# sums of features


def features(rng, n, m, d, number):
    """Operands and options; keys get shorter, so that exponents rise by thousands."""
    q, k, v = (rng.standard_normal((2, length, width)) for length, width in ((n, d), (m, d), (m, 5)))
    lengths = np.linspace(80, 0, m)[:, None] if number else 1
    options = dict(projection=rng.standard_normal((number, d))) if number else {}
    return tuple(x.astype(np.float32) for x in (q, k * lengths, v)), options


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("function, n, m", [
    ("performer", 300, 450), ("performer", 300, 300), ("linear_transformer", 450, 300)])
def test_parts_of_a_sequence_are_added_up(monkeypatch, function, n, m, causal):
    host_engines.install(monkeypatch)
    monkeypatch.setattr(scan, "_PART", scan.TILE)
    args, options = features(np.random.default_rng(3), n, m, 4, 6 if function == "performer" else 0)
    assert len(scan._ranges(0, min(n, m), (2,))) > 2
    call = lambda package, args, options: getattr(package, function)(*args, causal=causal, **options)
    out = call(OnGPU(cupy_arrays), args, options)
    assert_matches(out, *expected(call, args, options))


@pytest.mark.parametrize("number", [0, 300])
@pytest.mark.parametrize("function", ["whole", "causal", "step"])
def test_more_features_than_the_kernel_holds(function, number):
    """By matrix products, which the stand-in does; a kernel would need a compiler."""
    rng, name = np.random.default_rng(4), "performer" if number else "linear_transformer"
    args, options = features(rng, 9, 9, 7 if number else 520, number)
    if number:
        options["features"] = "hyperbolic"

    def call(package, args, options):
        if function != "step":
            return getattr(package, name)(*args, causal=function == "causal", **options)
        step = functools.partial(getattr(package, f"{name}_step"), **options)
        state, first = step(None, *(x[:, :5].copy() for x in args))
        return step(state, *(x[:, 5:].copy() for x in args))[1], first

    assert_matches(call(OnGPU(cupy_arrays), args, options), *expected(call, args, options))


# where arrays have to lie


def qkv(cupy, n=5):
    return tuple(map(cupy.asarray, np.random.default_rng(0).standard_normal((3, 2, n, 4), np.float32)))


@pytest.mark.parametrize("place", ["q", "k", "v"])
def test_data_on_both_sides_is_refused(cupy, place):
    given = dict(zip("qkv", qkv(cupy), strict=True))
    given[place] = cupy.asnumpy(given[place])
    named = "k" if place == "q" else place  # q says where a call computes
    with pytest.raises(TypeError, match=rf"^{named} needs a (numpy|cupy)\.ndarray.*cupy\.asarray"):
        xfaccel.attention(**given)


def test_codes_of_the_host_beside_queries_on_a_gpu_are_refused(cupy):
    q, k, v = qkv(cupy)
    codes, scales = xfaccel.quantize_rows(k)
    with pytest.raises(TypeError, match=r"^k needs a cupy\.ndarray.*cupy\.asarray"):
        xfaccel.attention(q, (cupy.asnumpy(codes), scales), xfaccel.quantize_rows(v))


@pytest.mark.parametrize("call, name", [
    (lambda q, mask: xfaccel.attention(q, q, q, key_mask=mask), "key_mask"),
    (lambda q, mask: xfaccel.etc(q, q, q, q, q, q, radius=1, long_seen_by_global=(mask, q)),
     "long_seen_by_global")])
def test_parameters_on_a_gpu_beside_data_on_the_host_are_refused(cupy, call, name):
    with pytest.raises(TypeError, match=rf"^{name} needs a numpy\.ndarray.*cupy\.asnumpy"):
        call(np.ones((5, 4), np.float32), cupy.asarray(np.ones(5, bool)))


def test_what_decides_which_keys_are_visited_stays_on_the_host(cupy):
    q, k, v = qkv(cupy)
    with pytest.raises(TypeError, match=r"^span decides which keys are visited.*cupy\.asnumpy\(span\)"):
        xfaccel.adaptive_span(q, k, v, span=cupy.asarray(np.ones(5, np.float32)), ramp=2)
    names = {name for function in NAMES for name in inspect.signature(getattr(xfaccel, function)).parameters}
    assert device.HOST <= names and device.DATA <= names


def test_parameters_may_lie_on_the_gpu_already(cupy, monkeypatch):
    host_engines.install(monkeypatch)
    q, k, v = qkv(cupy)
    mask = np.array([True, False, True, True, False])
    table = np.random.default_rng(1).standard_normal((3, 4))
    for put in (np.asarray, cupy.asarray):
        hidden = xfaccel.attention(q, k, v, key_mask=put(mask))
        shifted = xfaccel.shaw(q, k, v, key_table=put(table))
        due = xfref.attention(*map(cupy.asnumpy, (q, k, v)), key_mask=mask)
        np.testing.assert_allclose(cupy.asnumpy(hidden), due, rtol=1e-5, atol=1e-6)
        due = xfref.shaw(*map(cupy.asnumpy, (q, k, v)), key_table=table)
        np.testing.assert_allclose(cupy.asnumpy(shifted), due, rtol=1e-5, atol=1e-6)


def test_a_call_computes_on_the_gpu_of_its_data(cupy, monkeypatch):
    host_engines.install(monkeypatch)
    with cupy.Device(1):
        q, k, v = qkv(cupy)
    out = xfaccel.attention(q, k, v, key_mask=np.ones(5, bool))
    assert out.device.id == 1 and cupy.Device.current == 0
    with pytest.raises(ValueError, match=r"^k needs to lie on the GPU of q, .*Device 1>, got .*Device 0>"):
        xfaccel.attention(q, qkv(cupy)[1], v)


@pytest.mark.parametrize("function", [xfaccel.attention, xfaccel.linear_transformer])
def test_rows_that_are_not_dense_are_copied(cupy, monkeypatch, function):
    host_engines.install(monkeypatch)
    q, k, v = qkv(cupy)
    turned = [cupy.asarray(np.ascontiguousarray(cupy.asnumpy(x).mT)).mT for x in (q, k, v)]
    assert turned[0].strides[-1] != turned[0].itemsize
    found, due = (cupy.asnumpy(function(*x)) for x in (turned, (q, k, v)))
    np.testing.assert_array_equal(found, due)


def test_integers_out_of_range_count_as_the_nearest(cupy, monkeypatch):
    host_engines.install(monkeypatch)
    q, k, v = qkv(cupy)
    indices = np.array([[-5, 0], [1, 7], [4, 4], [2, 3], [-1, -1]])
    near = np.clip(indices, -1, 4)
    found, due = (cupy.asnumpy(xfaccel.random_tokens(q, k, v, indices=x)) for x in (indices, near))
    np.testing.assert_array_equal(found, due)


# the stand-in itself


@pytest.mark.parametrize("what", [
    lambda x, host: np.asarray(x), lambda x, host: x + host, lambda x, host: host * x,
    lambda x, host: np.where(x > 0, x, host), lambda x, host: np.concatenate([x, host]),
    lambda x, host: np.unique(x), lambda x, host: np.maximum.accumulate(x),
    lambda x, host: np.linalg.norm(x), lambda x, host: np.ascontiguousarray(x)])
def test_what_cupy_refuses_is_refused(cupy, what):
    with pytest.raises(TypeError):
        what(cupy.asarray(np.ones(3)), np.ones(3))


@pytest.mark.parametrize("what", [
    lambda x: x.get(), lambda x: bool(x[0] > 0), lambda x: int(x[0]), lambda x: x[x > 0], lambda x: x.item(),
    lambda x: x.__setitem__(x > 0, 0)])
def test_the_host_never_waits(cupy, what):
    with pytest.raises(cupy_arrays.HostMustWait):
        what(cupy.asarray(np.ones(3)))


def test_an_argument_that_cupy_lacks_is_refused(cupy):
    with pytest.raises(AssertionError, match="takes no initial"):
        cupy.asarray(np.ones(3)).max(initial=0)
