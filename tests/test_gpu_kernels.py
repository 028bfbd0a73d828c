"""The GPU's kernels without a GPU: they compile for every architecture, and run in the PTX interpreter.

A call goes the way that it takes on a GPU, `launch` and `loader.run`, with a stand-in for CuPy. Outputs are
blank, and shapes ragged, with at least three tiles of keys.
"""

import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import cupy_stand_in
import numpy as np
import ptx
import pytest
from compare import WIDER, assert_matches
from ptx import blank, nvrtc, sass

import xfref
from xfaccel import patterns
from xfaccel.engine import tiles
from xfaccel.engine.gpu import launch, loader
from xfref.core import kernel_attention

pytestmark = pytest.mark.skipif(nvrtc.library() is None, reason=nvrtc.REMEDY)

EVERYTHING = os.environ.get("XFACCEL_PROOF") == "all"  # make proof-all
# at most, per thread
REGISTERS = {"softmax.cu": 255, "softmax_mma.cu": 255, "gather.cu": 128, "scan.cu": 250,
             "scan_mma.cu": 255, "running.cu": 64}
LEAD = (1, 2)
LOG2_E = math.log2(math.e)
FEW = dict(n=70, m=140)  # tokens where a longer sequence has nothing new


def sample(*own, more):
    """Rows of a table; `make proof-all` has `more`, in which other things meet, none of them new."""
    return [*own, *(more if EVERYTHING else ())]


@pytest.fixture(autouse=True)
def cupy():
    """The stand-in, in the place of CuPy; calling it with a compute capability or a schedule changes it."""
    with cupy_stand_in.installed() as install:
        yield install


# types that NumPy lacks


def bfloat16(x):
    """Rounded to bfloat16, to the nearest and ties to even: the bits as uint16."""
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16)


def stored(x, dtype):
    """Numbers as the kernel's operands hold them."""
    return bfloat16(x) if dtype == "bfloat16" else np.asarray(x).astype(dtype)


def number(x):
    """The numbers of such an operand, for the reference."""
    if x.dtype == np.uint16:
        return (x.astype(np.uint32) << 16).view(np.float32)
    return x.astype(np.float32) if x.dtype == np.float16 else x


def operands(rng, dtype, *, n=130, m=200, d=20, e=36, lead=LEAD, gap=(3, 0, 0)):
    """q, k, v, of which all heads share k; between their rows lie so many NaN."""
    made = []
    for shape, more in zip(((*lead, n, d), (lead[0], 1, m, d), (*lead, m, e)), gap, strict=True):
        x = np.full((*shape[:-1], shape[-1] + more), np.nan)
        x[..., :shape[-1]] = rng.standard_normal(shape)
        made.append(stored(x, dtype)[..., :shape[-1]])
    return made


def read(out):
    """An output, all of which has been written."""
    assert out.written.all(), "part of the output was not written"
    return number(np.asarray(out))


def compared(out, call, args, dtype, what="", **options):
    """Assert that `out` is `call(xfref's operands)`, by the rule of compare.py."""
    numbers = [number(x) for x in args]
    wide = WIDER[numbers[0].dtype]
    truth = call(*(x.astype(wide) for x in numbers))
    if dtype not in launch.HALF:
        assert_matches(out, call(*numbers), truth, what)
        return
    for place, (found, due) in enumerate(zip(out, truth, strict=True)):
        if place == 1:
            # the scores are sums in float of products that are exact in it
            assert_matches(found, call(*numbers)[1], due, f"{what}[1]")
            continue
        rounding = 2.0**-8 if dtype == "bfloat16" else 2.0**-11
        # weights and result are rounded: the error of a weighted mean, and of a number
        values = np.nanmax(np.abs(np.where(np.isfinite(numbers[2]), numbers[2], 0)))
        allowed = rounding * (values + np.abs(due).max())
        assert not np.isnan(found).any(), f"{what}: NaN"
        error = np.abs(found - due).max()
        assert error <= allowed, f"{what}: off by {error}, {allowed} allowed"


# softmax over tile lists


def softmax(q, k, v, tile_list, dtype, *, planes=(), key_mask=None, mask=None, bias=None, distance=None,
            relative=None, labels=None, order=None, into=None, scale=None):
    """What `xfaccel.engine.softmax.attend` does, on the GPU."""
    lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    n, d, e = q.shape[-2] if order is None else order[0].shape[-1], q.shape[-1], v.shape[-1]
    out, lse = into or (blank((*lead, n, e), v.dtype), blank((*lead, n), launch.real(dtype)))
    rows = lambda x: None if x is None else launch.operand(x, lead)
    plane_of = np.broadcast_to(np.arange(math.prod(planes)).reshape(planes), lead).ravel()
    loader.run(launch.softmax(
        rows(q), rows(k), rows(v), rows(out), rows(lse[..., None]), dtype=dtype, d=d, e=e,
        put=loader.resident, tile_list=tile_list, plane_of=plane_of,
        scale=d**-0.5 if scale is None else scale,
        key_mask=rows(None if key_mask is None else key_mask[..., None, :]),
        mask=rows(mask), bias=rows(bias),
        distance=None if distance is None else (rows(distance[0]), *distance[1:]),
        relative=None if relative is None else (rows(relative[0]), rows(relative[1]), *relative[2:]),
        labels=None if labels is None else (rows(labels[0]), rows(labels[1]), labels[2]),
        order=None if order is None else tuple(rows(x[..., None, :]) for x in order),
        so_far=rows(lse[..., None]) if into else None, hopper=loader.hopper()))
    return (number(out), lse) if into else (read(out), read(lse))


def of_pattern(pattern):
    """The one tile list of a pattern."""
    (queries, tile_list), = pattern.tile_lists()
    assert queries is None
    return tile_list


def everything(n, m):
    return tiles.band(n, m, -tiles.WIDE, tiles.WIDE)


def full(rng, dtype):
    return operands(rng, dtype), everything(130, 200), {}, {}


def causal(rng, dtype):
    q, k, v = operands(rng, dtype, n=200, d=64, e=64)
    return (q, k, v), tiles.band(200, 200, -tiles.WIDE, 0), {}, dict(causal=True)


def dilated_window(rng, dtype):
    """More keys than queries, and tiles whose queries lie 3 apart."""
    tile_list = tiles.band(430, 500, -20, 3, 3)
    mask = xfref.patterns.window(430, 500, left=20, right=3, dilation=3)
    return operands(rng, dtype, n=430, m=500), tile_list, {}, dict(mask=mask)


def fewer_keys(rng, dtype):
    """Queries before the first key, which see nothing."""
    q, k, v = operands(rng, dtype, n=200, m=140, d=33, e=17)
    return (q, k, v), tiles.band(200, 140, -tiles.WIDE, 0), {}, dict(causal=True)


def bits(rng, dtype):
    """Bits in the masks of head 0, which has fewer tiles than head 1."""
    n, table = 130, rng.integers(-1, 4, (4, 2))
    made = [of_pattern(patterns.blocks(table, 40, n) | patterns.window(n, left=9, right=9)),
            tiles.band(n, n, -9, 9, 4)]
    assert len(made[0].tiles) < len(made[1].tiles) and len(made[0].masks) > 64
    mask = np.stack([xfref.patterns.blocks(table, 40, n) | xfref.patterns.window(n, left=9, right=9),
                     xfref.patterns.window(n, left=9, right=9, dilation=4)])
    return operands(rng, dtype, n=n, m=n), tiles.join(made), dict(planes=(2,)), dict(mask=mask)


def padding(rng, dtype):
    """NaN under a key mask, under which one batch entry has no key left."""
    q, k, v = operands(rng, dtype, lead=(2, 2), d=18)
    key_mask = rng.random((2, 1, 200)) < 0.4
    key_mask[0, :, 60:140] = False
    key_mask[1] = False
    garbage = stored(np.float32(np.nan), dtype)
    k, v = (np.where(key_mask[..., None], x, garbage) for x in (k, v))
    return (q, k, v), everything(130, 200), dict(key_mask=key_mask), dict(key_mask=key_mask)


def pairs(rng, dtype):
    """A mask whose rows lie transposed in memory, and a bias that all queries share."""
    mask = rng.random((2, 200, 130)).swapaxes(-1, -2) < 0.3
    mask[:, 77] = False
    bias = np.broadcast_to(stored(rng.standard_normal((2, 1, 200)), dtype), (2, 130, 200))
    return (operands(rng, dtype), everything(130, 200), dict(mask=mask, bias=bias),
            dict(mask=mask, bias=number(bias)))


def by_distance(rng, dtype):
    """A bias by distance, clipped at both ends, and labels that hide pairs, under a causal band."""
    n, m = 130, 200
    table = stored(rng.standard_normal((2, 1, 40)), dtype)
    own, other = rng.integers(0, 9, (2, 2, n)), rng.integers(0, 9, (1, 2, m))
    limits = np.array([[-1, 1], [4, 6]])
    apart = np.arange(m) - np.arange(n)[:, None] - (m - n - 45)
    difference = other[..., None, :] - own[..., None]
    seen = ~((limits[:, :1, None] <= difference) & (difference <= limits[:, 1:, None])).any(-3)
    bias = number(table)[:, 0][:, np.clip(apart, 0, 39)]
    wide = np.broadcast_to(table, (2, n, 40))
    return (operands(rng, dtype), tiles.band(n, m, -tiles.WIDE, 0),
            dict(distance=(wide, m - n - 45, 39), labels=(own, other, limits)),
            dict(causal=True, mask=seen, bias=bias))


def keys_by_distance(rng, dtype, n=150, m=220, d=20, lead=LEAD, dilation=1):
    """Queries and keys by distance, clipped at both ends, that all heads share; tiles may be dilated."""
    (r, keys, _), nearest = operands(rng, dtype, n=n, m=60, d=d, lead=(1, 1), gap=(1, 4, 0)), m - n - 70
    every = number(r) @ number(keys).mT
    apart = np.clip(np.arange(m) - np.arange(n)[:, None] - nearest, 0, 59)
    bias = d**-0.5 * np.take_along_axis(every, np.broadcast_to(apart, (1, 1, n, m)), axis=-1)
    mask = xfref.patterns.window(n, m, left=200, right=0, dilation=dilation)
    key_mask = rng.random(m) < 0.9
    return (operands(rng, dtype, n=n, m=m, d=d, lead=lead), tiles.band(n, m, -200, 0, dilation),
            dict(relative=(r, keys, nearest, 59), key_mask=key_mask),
            dict(mask=mask, key_mask=key_mask, bias=bias))


def keys_by_distance_and_labels(rng, dtype):
    """Keys by distance beside what is said of single pairs."""
    args, tile_list, own, theirs = keys_by_distance(rng, dtype, n=70, m=140, d=64, dilation=2)
    bias = stored(rng.standard_normal((2, 70, 140)), dtype)
    return args, tile_list, dict(own, bias=bias), dict(theirs, bias=theirs["bias"] + number(bias))


CASES = {case.__name__: case for case in (full, causal, dilated_window, fewer_keys, bits, padding, pairs,
                                         by_distance, keys_by_distance, keys_by_distance_and_labels)}


def check_softmax(case, dtype, **sizes):
    args, tile_list, own, theirs = CASES[case](np.random.default_rng(0), dtype, **sizes)
    out = softmax(*args, tile_list, dtype, **own)
    bias = theirs.pop("bias", None)
    compared(out, lambda q, k, v: xfref.attention_lse(
        q, k, v, **theirs, bias=None if bias is None else bias.astype(q.dtype)), args, dtype)


@pytest.mark.parametrize("case", sample(  # whose barriers are tried below
    *sorted(CASES.keys() - {"keys_by_distance"}), more=["keys_by_distance"]))
def test_softmax(case):
    check_softmax(case, "float32")


@pytest.mark.parametrize("case", CASES)
def test_softmax_on_matrix_units(case):
    check_softmax(case, "bfloat16")


@pytest.mark.parametrize("dtype, e", sample(
    ("float32", 36), ("bfloat16", 36), ("bfloat16", 290), more=[("float32", 290)]))
def test_softmax_of_rows_in_any_order_joined_with_results_so_far(dtype, e):
    """The keys below 60 come first; those from there on in an order of their own, and the queries too.

    Head 0 has seen no keys yet, and of those to come labels hide some.
    """
    n, m, rng = 100, 200, np.random.default_rng(11)
    q, k, v = operands(rng, dtype, n=n, m=m, e=e)
    key_mask = np.ones((1, 2, m), bool)
    key_mask[:, 0, :60] = False
    early = [x[..., :60, :] for x in (k, v)]
    so_far = softmax(q, *early, everything(n, 60), dtype, key_mask=key_mask[..., :60])
    out = np.ascontiguousarray(stored(so_far[0], dtype))
    order = (rng.permuted(np.tile(np.arange(n), (1, 2, 1)), axis=-1),
             rng.permuted(np.tile(np.arange(60, m), (1, 2, 1)), axis=-1))
    own, other = rng.integers(0, 9, (1, 2, 1, n)), rng.integers(0, 9, (1, 1, 1, m))
    seen = np.abs(other - own.swapaxes(-1, -2)) > 1
    seen[..., :60] = True
    out = softmax(q, k, v, everything(n, m - 60), dtype, order=order, into=(out, so_far[1].copy()),
                  labels=(own, other, np.array([[-1, 1]])))
    compared(out, lambda q, k, v: xfref.attention_lse(q, k, v, key_mask=key_mask, mask=seen), (q, k, v),
             dtype)


@pytest.mark.parametrize("dtype, d, e", sample(
    ("float32", 5, 3), ("float32", 8, 290), ("float64", 5, 130), ("float16", 30, 24), ("float16", 24, 64),
    ("float16", 130, 40), ("bfloat16", 72, 290), ("bfloat16", 290, 8),
    more=[("float32", 100, 100), ("float64", 20, 36)]))
def test_widths_of_the_softmax(dtype, d, e):
    args = operands(np.random.default_rng(1), dtype, **FEW, d=d, e=e)
    out = softmax(*args, everything(**FEW), dtype, scale=0.3)
    compared(out, lambda q, k, v: xfref.attention_lse(q, k, v, scale=0.3), args, dtype)


def test_rows_that_begin_at_whole_pieces_and_end_within():
    args = operands(np.random.default_rng(12), "float16", **FEW, gap=(4, 12, 4))
    assert all(x.strides[-2] % 16 == 0 and x.shape[-1] % 8 for x in args)
    out = softmax(*args, everything(**FEW), "float16")
    compared(out, lambda q, k, v: xfref.attention_lse(q, k, v), args, "float16")


@pytest.mark.parametrize("schedule, dtype", sample(
    ("forward", "bfloat16"), ("backward", "float32"), (7, "bfloat16"),
    more=[("forward", "float32"), ("backward", "bfloat16"), (7, "float32")]))
def test_the_order_of_warps_does_not_matter(cupy, dtype, schedule):
    cupy(schedule=schedule)
    args = operands(np.random.default_rng(2), dtype, **FEW, lead=(1, 1))
    out = softmax(*args, everything(**FEW), dtype)
    cupy()
    for found, due in zip(out, softmax(*args, everything(**FEW), dtype), strict=True):
        np.testing.assert_array_equal(found, due)


# softmax over lists of keys


def gather(q, k, v, indices, dtype, *, causal=False, key_mask=None):
    """What `xfaccel.engine.softmax.attend_listed` does, on the GPU."""
    lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    (n, d), (m, e) = q.shape[-2:], v.shape[-2:]
    out, lse = blank((*lead, n, e), v.dtype), blank((*lead, n), launch.real(dtype))
    rows = lambda x: None if x is None else launch.operand(x, lead)
    loader.run(launch.gather(
        rows(q), rows(k), rows(v), rows(out), rows(lse[..., None]), rows(np.sort(indices, axis=-1)),
        dtype=dtype, n=n, d=d, e=e, count=indices.shape[-1], last=m - n if causal else m, scale=d**-0.5,
        put=loader.resident,
        key_mask=rows(None if key_mask is None else key_mask[..., None, :])))
    return read(out), read(lse)


@pytest.mark.parametrize("dtype, count, e", [("float32", 70, 36), ("float64", 33, 5), ("float16", 40, 290),
                                             ("bfloat16", 31, 100), ("float32", 0, 4)])
def test_gather(dtype, count, e):
    """Lists with repeated and empty places, of which one query has nothing else."""
    rng = np.random.default_rng(3)
    args = operands(rng, dtype, n=37, m=90, e=e)
    indices = rng.integers(-2, 90, (2, 37, count))
    indices[1, 5] = -1
    key_mask = rng.random((1, 1, 90)) < 0.8
    garbage = stored(np.float32(np.nan), dtype)
    q, k, v = (x if i == 0 else np.where(key_mask[..., None], x, garbage) for i, x in enumerate(args))
    out = gather(q, k, v, indices, dtype, causal=True, key_mask=key_mask)
    mask = xfref.patterns.scattered(37, np.maximum(indices, -1), 90)
    compared(out, lambda q, k, v: xfref.attention_lse(q, k, v, mask=mask, causal=True, key_mask=key_mask),
             (q, k, v), dtype)


# sums of features


def running(states, given):
    """The sums over the states before each and over all of them."""
    if not given:
        return np.cumsum(states, axis=-2)
    top = np.maximum.accumulate(states[..., -1:], axis=-2)
    total = [states[..., 0, :]]
    for part in range(1, states.shape[-2]):
        finite = np.maximum(top[..., part, :], np.finfo(states.dtype).min)  # there may be no key so far
        both = sum(x[..., :-1] * np.exp2(x[..., -1:] - finite) for x in (total[-1], states[..., part, :]))
        total.append(np.concatenate([both, top[..., part, :]], axis=-1))
    return np.stack(total, axis=-2)


@pytest.mark.parametrize("dtype, given, parts, numbers, skip", [
    (np.float32, False, 11, 130, 0), (np.float64, False, 8, 70, 8), (np.float32, True, 19, 131, 3),
    (np.float64, True, 3, 9, 0)])
def test_running_sums_of_states(dtype, given, parts, numbers, skip):
    """The first two states, and one in the middle, are of no keys."""
    rng = np.random.default_rng(17)
    states = rng.standard_normal((2, 2, parts, numbers)).astype(dtype)
    states[..., [0, 1, parts // 2], :] = 0
    if given:
        states[..., -1] = rng.integers(-300, 300, (2, 2, parts))
        states[..., [0, 1, parts // 2], -1] = -np.inf
    nothing = np.zeros((2, 2, 1, numbers), dtype)
    nothing[..., numbers - given:] = -np.inf
    out = blank((2, 2, parts - skip + 1, numbers), dtype)
    loader.run(launch.running(states, out, skip, given=given))
    due = running(np.concatenate([nothing, states], axis=-2).astype(float), given)[..., skip:, :]
    np.testing.assert_allclose(read(out), due, rtol=20 * np.finfo(dtype).eps, atol=20 * np.finfo(dtype).eps)


def scan(q, k, v, dtype, *, causal, key_mask=None, state=None, parts=3, final=None, given=False,
         exponent=None):
    """What `xfaccel.engine.scan.attend` does, on the GPU: parts are summed, then all walked through again."""
    lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    (n, d), (m, e) = q.shape[-2:], v.shape[-2:]
    out, rows = blank((*lead, n, e), v.dtype), lambda x: None if x is None else launch.operand(x, lead)
    before = max(m - n, 0) if causal else m
    out[..., :max(n - m, 0) if causal else 0, :] = 0
    out.written[:] = False
    edges = [0] * causal + np.linspace(before if causal else 0, m, parts + 1).astype(int).tolist()
    ranges = np.array(list(itertools.pairwise(edges)))
    shared = dict(dtype=dtype, entries=math.prod(lead), d=d, e=e, put=loader.resident, given=given)
    keys = dict(k=rows(k), v=rows(v), key_mask=rows(None if key_mask is None else key_mask[..., None, :]),
                exponent=rows(None if exponent is None else exponent[..., None, :]))
    sums = blank((*lead, len(ranges), d * (e + 1) + given), launch.real(dtype))
    loader.run(launch.scan("sum", ranges, **keys, end=rows(sums), **shared))
    first = state
    if state is None:
        first = np.zeros((*lead, 1, sums.shape[-1]), sums.dtype)
        first[..., d * (e + 1):] = -np.inf
    total = running(np.concatenate([first, read(sums)], axis=-2), given)
    if causal:
        loader.run(launch.scan("causal", ranges[1:], q=rows(q), **keys, out=rows(out), shift=n - m, **shared,
                               begin=rows(total[..., 1:-1, :]), end=None if final is None else rows(final)))
    else:
        everywhere = rows(total[..., -1:, :])._replace(row=0)
        loader.run(launch.scan("read", np.array([[0, n // 2], [n // 2, n]]), q=rows(q), out=rows(out),
                               begin=everywhere, **shared))
    return out, total


def check_scan(args, dtype, **options):
    out, _ = scan(*args, dtype, **options)
    options.pop("parts", None)
    written = out.written.reshape(*out.shape, out.itemsize).all(-1)
    n, m = args[0].shape[-2], args[2].shape[-2]
    assert written[..., max(n - m, 0) if options["causal"] else 0:, :].all(), "there are gaps in the output"
    compared((number(np.asarray(out)),), lambda q, k, v: (xfref.linear_transformer(q, k, v, **options),),
             args, dtype)


@pytest.mark.parametrize("causal, dtype, d, e", sample(
    (False, "float32", 20, 36), (True, "float32", 20, 36), (False, "float32", 100, 70),
    (True, "float32", 130, 33), (True, "float64", 20, 36), (True, "bfloat16", 33, 70),
    (False, "float16", 100, 20), (False, "bfloat16", 130, 64),
    more=[(True, "float32", 100, 70), (False, "float32", 130, 33), (False, "float64", 20, 36),
          (False, "bfloat16", 33, 70), (True, "float16", 100, 20), (True, "bfloat16", 130, 64)]))
def test_scan(causal, dtype, d, e):
    rng = np.random.default_rng(4)
    q, k, v = operands(rng, dtype, n=230, m=260, d=d, e=e)
    key_mask = rng.random((1, 1, 260)) < 0.7
    garbage = stored(np.float32(np.nan), dtype)
    k, v = (np.where(key_mask[..., None], x, garbage) for x in (k, v))
    check_scan((q, k, v), dtype, causal=causal, key_mask=key_mask, parts=2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scan_of_fewer_keys_than_queries(dtype):
    check_scan(operands(np.random.default_rng(5), dtype, n=100, m=70), dtype, causal=True)


@pytest.mark.parametrize("e, gap", [(36, 4), (40, 0)])
def test_scan_of_rows_that_begin_at_whole_pieces(e, gap):
    """All but values of 40, and their results, end within one."""
    args = operands(np.random.default_rng(15), "float16", n=150, m=150, e=e, gap=(4, 12, gap))
    assert all(x.strides[-2] % 16 == 0 for x in args)
    check_scan(args, "float16", causal=True, parts=2)


def test_sums_beyond_what_float16_holds():
    """150 keys of features up to 30, with values up to 30000; and queries whose features are below 2**-24."""
    rng = np.random.default_rng(16)
    k, v = (stored(rng.uniform(0, high, (1, 2, 150, 20)), "float16") for high in (30, 30000))
    q = stored(rng.uniform(-24, -20, (1, 2, 150, 20)), "float16")
    check_scan((q, k, v), "float16", causal=True, parts=2)


def random_features(x, projection, kind):
    """Factors and their common exponent, to the base 2, of the features of `xfref.performer`."""
    x = x * x.dtype.type(x.shape[-1] ** -0.25)
    along, half_square = x @ projection.mT, np.sum(x * x, axis=-1, keepdims=True) / 2
    if kind == "relu":
        return np.maximum(along, 0), None
    if kind == "trigonometric":
        factors = np.concatenate([np.cos(along), np.sin(along)], axis=-1)
        return factors, half_square[..., 0] * LOG2_E
    top = along.max(axis=-1, keepdims=True)
    return np.exp(along - top), (top - half_square)[..., 0] * LOG2_E


@pytest.mark.parametrize("dtype, kind, features, causal", sample(
    ("float32", "trigonometric", 35, False), ("float64", "relu", 20, True),
    ("bfloat16", "positive", 260, True), more=[("float32", "positive", 40, True)]))
def test_scan_of_given_features(dtype, kind, features, causal):
    """Keys are of all lengths: exponents differ by hundreds, also within a chunk."""
    rng, real = np.random.default_rng(13), launch.real(dtype)
    n, m = (100, 170) if features < 256 else (40, 90)
    q, k, v = operands(rng, dtype, n=n, m=m, d=8)
    if kind != "trigonometric":  # whose features lose their digits then
        lengths = rng.permuted(np.linspace(0, 20, m)).astype(real)
        k = stored(number(k) * lengths[:, None], dtype)
    projection = rng.standard_normal((features, 8)).astype(real)
    key_mask = rng.random((1, 1, m)) < 0.7
    garbage = stored(np.float32(np.nan), dtype)
    v = np.where(key_mask[..., None], v, garbage)
    q_features, _ = random_features(number(q), projection, kind)
    k_features, exponent = random_features(number(k), projection, kind)
    if exponent is not None and kind == "positive":
        assert np.ptp(exponent) > 300
    final = blank((1, 2, 1, q_features.shape[-1] * 37 + 1), real) if causal else None
    out, total = scan(q_features, k_features, v, dtype, causal=causal, key_mask=key_mask, parts=2 - causal,
                      given=True, exponent=exponent, final=final)
    compared((read(out),), lambda q, k, v: (xfref.performer(
        q, k, v, projection=projection.astype(q.dtype), features=kind, causal=causal, key_mask=key_mask),),
        (q, k, v), dtype)
    if causal:
        np.testing.assert_allclose(read(final)[..., 0, :], total[..., -1, :], rtol=2e-5, atol=1e-5)


def test_scan_goes_on_where_it_ended():
    """Two halves with the state handed on are as good as the whole; the state is the sum over all keys."""
    q, k, v = operands(np.random.default_rng(6), "float32", n=200, m=200)
    whole, total = scan(q, k, v, "float32", causal=True)
    half = [x[..., :96, :] for x in (q, k, v)], [x[..., 96:, :] for x in (q, k, v)]
    _, first = scan(*half[0], "float32", causal=False)
    final = blank((1, 2, 3, 20 * 37), np.float32)
    out, _ = scan(*half[1], "float32", causal=True, state=first[..., -1:, :], final=final)
    np.testing.assert_allclose(out, whole[..., 96:, :], rtol=1e-5, atol=1e-6)
    features = np.where(k > 0, k + 1, np.exp(k)).astype(np.float64)
    norms = np.broadcast_to(features.sum(-2), (1, 2, 20))
    due = np.concatenate([(features.mT @ v).reshape(1, 2, -1), norms], axis=-1)
    for state in (total[..., -1, :], read(final)[..., -1, :]):
        np.testing.assert_allclose(state, due, rtol=1e-5, atol=1e-6 * np.abs(due).max())


# what the compiler makes of them


def forms(file):
    """Every form of a kernel file that a launch may ask for."""
    if file == "running.cu":
        yield from itertools.product((("XF_STORED", "float"), ("XF_STORED", "double")),
                                     (("XF_EXPONENT", 0), ("XF_EXPONENT", 1)))
        return
    widths = launch.FEATURES if file == "scan.cu" else launch.WIDTHS
    for dtype, width in itertools.product(launch.STORED, widths):
        own, half = (("XF_STORED", launch.STORED[dtype]), ("XF_WIDTH", width)), dtype in launch.HALF
        modes = [("XF_MODE", f"XF_{mode}") for mode in ("SUM", "READ", "CAUSAL")]
        if file == "scan.cu":
            features = ("GIVEN",) if half and width <= 128 else ("ELU", "GIVEN")  # the rest on matrix units
            for mode, made in itertools.product(modes, features):
                yield *own, mode, ("XF_FEATURES", f"XF_{made}")
        elif file == "scan_mma.cu":
            yield from ((*own, mode) for mode in modes if half and width in (64, 128))
        elif width == launch.padded(width, dtype) and (file != "softmax_mma.cu" or half):
            said = itertools.product((0, 1), (0, 1) if file == "softmax.cu" or width < 256 else (0,))
            yield from [own] if file == "gather.cu" else (
                (*own, ("XF_PAIRS_SAID", pairs), ("XF_RELATIVE", relative)) for pairs, relative in said)


def compiled(file, macros, sm):
    options = loader.options(launch.Launch(file, macros, (), 0, 0, ()))
    return nvrtc.compile(loader.source(file), sm, (*options, *cupy_stand_in.ADDED))


def sampled(file, sm):
    """Every form, or this architecture's share of few that have each type, width and option."""
    every, few, found = list(forms(file)), [], set()
    if EVERYTHING:
        return every
    for form in reversed(every):  # those that take most registers first
        if not found.issuperset(form):
            few.append(form)
            found.update(form)
    turn = nvrtc.ARCHITECTURES.index(sm)
    return few[turn % len(few)::len(nvrtc.ARCHITECTURES)]


@pytest.mark.parametrize("file", REGISTERS)
def test_the_forms_that_are_compiled_have_each_type_width_and_option(file):
    found = {macro for sm in nvrtc.ARCHITECTURES for form in sampled(file, sm) for macro in form}
    assert found == {macro for form in forms(file) for macro in form}


@pytest.mark.parametrize("sm", nvrtc.ARCHITECTURES)
@pytest.mark.parametrize("file", REGISTERS)
def test_kernels_compile_without_spills(file, sm):
    """Each form for each architecture, or a sample."""
    for macros in sampled(file, sm):
        module = compiled(file, macros, sm)
        resources, = module.resources.values()
        assert (resources.stack, resources.spill_stores, resources.spill_loads) == (0, 0, 0), macros
        assert resources.registers <= REGISTERS[file], macros
        if sass.disassembler():  # the test below says that it is missing
            local = {name for name in sass.instructions(module.cubin) if name.startswith(("LDL", "STL"))}
            assert not local, macros


@pytest.mark.parametrize("dtype", launch.STORED)
def test_a_scan_asks_for_no_more_shared_memory_than_every_architecture_has(dtype):
    for mode, d, given in itertools.product(("sum", "read", "causal"), launch.FEATURES, (False, True)):
        launched = launch.scan(mode, np.array([[0, 9]]), dtype=dtype, entries=1, d=d, e=64, put=np.asarray,
                               given=given)
        assert launched.shared <= 99 << 10, launched.macros  # 8.6, 8.9 and 12.0 have least


# products on matrix units; their factors from shared memory, four matrices at a time, some transposed; copies
# to there by 16 bytes, past the registers; 2 to the x in one instruction
DUE = {"softmax_mma.cu": ("HMMA.16816.F32", "LDSM.16.M88.4", "LDSM.16.MT88.4", "LDGSTS.E.BYPASS", "MUFU.EX2"),
       "scan_mma.cu": ("HMMA.1688.F32.TF32", "LDS.128", "LDGSTS.E.BYPASS", "MUFU.EX2")}


@pytest.mark.skipif(sass.disassembler() is None, reason=sass.REMEDY)
@pytest.mark.parametrize("sm", nvrtc.ARCHITECTURES)
@pytest.mark.parametrize("file", DUE)
def test_the_matrix_units_do_the_products(file, sm):
    for macros in forms(file) if EVERYTHING else [next(forms(file))]:
        module = compiled(file, macros, sm)
        found = sass.instructions(module.cubin)
        for due in DUE[file]:
            missing = not any(name.startswith(due) for name in found)
            assert not missing or ("XF_MODE", "XF_READ") in macros, (macros, due)  # which copies nothing
        assert sum(number for name, number in found.items() if name.startswith("HMMA")) >= module.ptx.count(
            "mma.sync"), macros


# every barrier and every wait is needed


def softmax_once(dtype):
    """In three tiles of keys, the last of them ragged."""
    args = operands(np.random.default_rng(7), dtype, n=20, m=140, d=40, lead=(1, 1))
    out = softmax(*args, everything(20, 140), dtype)
    compared(out, lambda q, k, v: xfref.attention_lse(q, k, v), args, dtype)


def scan_once(causal, dtype="float32"):
    """In two chunks, of two slices of features."""
    args = operands(np.random.default_rng(8), dtype, n=70, m=70, d=40, lead=(1, 1), gap=(3, 0, 4))
    final = blank((1, 1, 1, 40 * 37), np.float32)
    out, total = scan(*args, dtype, causal=causal, parts=1, final=final)
    compared((number(np.asarray(out)),), lambda q, k, v: (xfref.linear_transformer(q, k, v, causal=causal),),
             args, dtype)
    if causal:
        np.testing.assert_allclose(read(final), total[..., -1:, :], rtol=1e-4, atol=1e-3)


def given_once(causal):
    """Keys with exponents, in two chunks."""
    rng = np.random.default_rng(14)
    q, k, v = operands(rng, "float32", n=70, m=70, d=40, e=4, lead=(1, 1))
    q, k, exponent = np.abs(q), np.abs(k), rng.integers(-300, 300, (1, 1, 70)).astype(np.float32)
    final = blank((1, 1, 1, 40 * 5 + 1), np.float32)
    out, total = scan(q, k, v, "float32", causal=causal, parts=1, given=True, exponent=exponent, final=final)
    compared((read(out),), lambda q, k, v: (kernel_attention(
        q, k, v, k_exponent=exponent.astype(q.dtype) / LOG2_E, causal=causal),), (q, k, v), "float32")
    if causal:
        np.testing.assert_allclose(read(final), total[..., -1:, :], rtol=1e-5, atol=1e-5)


ORDERED = {  # a form, and a call that launches it
    "softmax": ("softmax.cu", ("XF_WIDTH", 64), lambda: softmax_once("float32")),
    "matrix units": ("softmax_mma.cu", ("XF_WIDTH", 64), lambda: softmax_once("bfloat16")),
    "keys by distance": ("softmax.cu", ("XF_RELATIVE", 1),
                         lambda: check_softmax("keys_by_distance", "float32", n=20, m=140, lead=(1, 1))),
    "keys by distance on matrix units": (
        "softmax_mma.cu", ("XF_RELATIVE", 1),
        lambda: check_softmax("keys_by_distance", "bfloat16", n=20, m=140, lead=(1, 1))),
    "sum": ("scan.cu", ("XF_MODE", "XF_SUM"), lambda: scan_once(False)),
    "read": ("scan.cu", ("XF_MODE", "XF_READ"), lambda: scan_once(False)),
    "causal": ("scan.cu", ("XF_MODE", "XF_CAUSAL"), lambda: scan_once(True)),
    "sum on matrix units": ("scan_mma.cu", ("XF_MODE", "XF_SUM"), lambda: scan_once(False, "bfloat16")),
    "read on matrix units": ("scan_mma.cu", ("XF_MODE", "XF_READ"), lambda: scan_once(False, "bfloat16")),
    "causal on matrix units": ("scan_mma.cu", ("XF_MODE", "XF_CAUSAL"), lambda: scan_once(True, "bfloat16")),
    "causal with exponents": ("scan.cu", ("XF_MODE", "XF_CAUSAL"), lambda: given_once(True)),
}
if EVERYTHING:  # its barriers are among those of the last
    ORDERED["sum with exponents"] = "scan.cu", ("XF_MODE", "XF_SUM"), lambda: given_once(False)


@pytest.mark.parametrize("name", ORDERED)
def test_each_barrier_and_wait_is_needed(cupy, name):
    file, (macro, value), call = ORDERED[name]
    orders = set()

    def edit(which):
        def change(options, module):
            if f"-D{macro}={value}" not in options:
                return module
            orders.update(enumerate(ptx.ordering(module)))
            return module if which is None else ptx.drop(module, which)

        return change

    cupy(edit=edit(None))
    call()
    assert orders
    for which, instruction in sorted(orders):
        cupy(edit=edit(which))
        with pytest.raises((ptx.Fault, AssertionError)):
            call()
            pytest.fail(f"nobody misses number {which}, {instruction}", pytrace=False)


# the way to CuPy


def test_a_kernel_is_compiled_once(cupy, monkeypatch):
    made = []
    cupy(edit=lambda options, module: made.append(options) or module)
    args = operands(np.random.default_rng(9), "float32", n=5, m=6)
    for bias in (None, None, np.zeros((5, 6), np.float32)):
        softmax(*args, everything(5, 6), "float32", bias=bias)
    assert len(made) == 2
    assert set(made[0]) ^ set(made[1]) == {"-DXF_PAIRS_SAID=0", "-DXF_PAIRS_SAID=1"}


def test_what_never_changes_is_copied_once(cupy):
    tile_list = tiles.band(5, 6, -1, 1)
    assert loader.resident(tile_list.tiles) is loader.resident(tile_list.tiles)
    mine = tile_list.tiles.copy()
    mine.setflags(write=False)
    before = len(loader._RESIDENT)
    loader.resident(mine)
    assert len(loader._RESIDENT) == before + 1
    del mine
    assert len(loader._RESIDENT) == before


def test_the_source_holds_its_headers():
    """CuPy's cache goes by the text of a source: a header beside it could change unnoticed."""
    for file in REGISTERS:
        text = loader.source(file)
        assert "#include" not in text
        assert text.count("cp.async.commit_group") == 1, "a header is there once"


def test_what_is_missing_is_named(cupy, monkeypatch):
    launched = launch.Launch("gather.cu", next(forms("gather.cu")), (1, 1), 128, 0, ())
    cupy(sm=75)
    with pytest.raises(loader.GPUError, match=r"7\.5: use float32"):
        loader.run(launched._replace(macros=(("XF_STORED", "bfloat16"), ("XF_WIDTH", 32))))
    for part, name in ((sys.modules["cupy"].cuda.nvrtc, "getVersion"),
                       (sys.modules["cupy"].cuda.runtime, "getDeviceCount")):
        def fail():
            raise RuntimeError("it does not load")

        monkeypatch.setattr(part, name, fail)
        loader._cupy.cache_clear()
        with pytest.raises(loader.GPUError, match=r"it does not load\).*gpu13"):
            loader.run(launched)
    monkeypatch.setitem(sys.modules, "cupy", None)
    loader._cupy.cache_clear()
    with pytest.raises(loader.GPUError, match=r"need CuPy.*gpu13"):
        loader.run(launched)


def test_nothing_is_launched_for_no_queries(cupy):
    cupy(edit=lambda options, module: pytest.fail("a kernel was compiled"))
    q, k, v = operands(np.random.default_rng(10), "float32", n=0, m=6)
    out, lse = softmax(q, k, v, everything(0, 6), "float32")
    assert out.shape == (1, 2, 0, 36) and lse.shape == (1, 2, 0)


def test_importing_the_gpu_engine_leaves_cupy_out():
    code = "import xfaccel.engine.gpu.loader, sys; sys.exit('cupy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
