"""Every way through the engines, as a call that takes it: threads, forks and repeats are tried on these.

A path is named after the driver that it reaches and what the driver is given there; `ways` reads these names
off a call.
"""

import contextlib
import hashlib
import inspect
import itertools
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple
from unittest import mock

import numpy as np
from cases import Shape, draw_qkv, hashed, in_steps, plain, shared_qk
from numba import njit

import xfaccel
from xfaccel.arrays import address
from xfaccel.engine import scan as scan_face
from xfaccel.engine.cpu import decode, gather, hashing, product, scan, softmax, steps, threads
from xfaccel.engine.cpu.memory import fetch_add, invoke, load_int, pause, peek
from xfaccel.engine.tiles import WIDE

N, LONG = 150, 1040  # several tiles; a sequence that the scan engine cuts into parts
MODES = {scan.SUM: "sum", scan.READ: "read", scan.CAUSAL: "causal", scan.WHOLE: "whole"}
CAME, DUE, LOOKS, KERNEL, JOB, SWITCHES = range(0, 8 * 6, 8)  # of the record that wraps a driver's job


class Path(NamedTuple):
    function: str
    options: Callable[[np.random.Generator], dict]
    length: int = N
    splits: tuple[int, ...] = ()  # of a streaming form
    heads: int = 2
    adapter: Callable | None = None  # (function, q, k, v, **options), where a function takes other arguments


class Call(NamedTuple):
    own: Callable
    args: tuple
    kwargs: dict

    def bits(self) -> bytes:
        found = self.own(xfaccel, self.args, self.kwargs)
        return b"".join(x.tobytes() for x in (found if isinstance(found, tuple) else (found,)))


def call(name: str, seed: int = 0) -> Call:
    """The call that takes a path, with arguments of this seed."""
    path, rng = PATHS[name], np.random.default_rng(seed)
    own = in_steps(path.function, path.splits) if path.splits else plain(path.function, path.adapter)
    # entries of 0.3: large ones cost some features their digits
    shape = Shape(path.length, path.length, 16, 16, (path.heads,), (path.heads,))
    return Call(own, draw_qkv(rng, np.float32, shape, 0.3), path.options(rng))


def options(*draws: Callable | dict) -> Callable[[np.random.Generator], dict]:
    """All of these options together, those that are random being drawn."""
    return lambda rng: {name: x for draw in draws
                        for name, x in (draw(rng) if callable(draw) else draw).items()}


def key_mask(rng):
    return dict(key_mask=rng.random((2, N)) < 0.7)


def mask(rng):
    return dict(mask=rng.random((N, N)) < 0.6)


def bias(rng):
    return dict(bias=rng.standard_normal((2, N, N)))


def blocks(rng):
    return dict(mask=lambda p: p.same_block(N, 9, 1))


def scattered(rng):
    indices = rng.integers(-1, N, (N, 9))
    return dict(mask=lambda p: p.scattered(N, indices))


def key_table(rng):
    return dict(key_table=rng.standard_normal((33, 16)))


def value_table(rng):
    return dict(value_table=rng.standard_normal((33, 16)))


def position_keys(rng):
    return dict(position_keys=rng.standard_normal((70, 16)))


def older(rng):
    """A memory, which all queries see, none that is compressed, and keys for all distances."""
    memory, nothing = (tuple(rng.standard_normal((2, length, 16)) for _ in range(2)) for length in (N, 0))
    return dict(memory=memory, compressed=nothing, relative_keys=rng.standard_normal((2 * N, 16)))


def rounds(rng):
    return hashed(rng, N, chunk=30)


def clusters(rng):
    # nine of 20 tokens each: some tokens are in none, some in several
    every = np.tile(np.arange(N), (2, 9, 1))
    return dict(query_clusters=rng.permuted(every, axis=-1)[..., :20],
                key_clusters=rng.permuted(every, axis=-1)[..., :20])


def global_tokens(rng):
    return dict(radius=9, **{f"global_{name}": rng.standard_normal((2, 5, 16), np.float32)
                             for name in "qkv"})


def global_biases(rng):
    return dict(long_to_global_bias=rng.standard_normal((N, 5)),
                global_to_long_bias=rng.standard_normal((5, N)))


def embedded(rng):
    own = dict(key_embedded=N, value_embedded=N, key_relay=1, value_relay=1)
    return {name: rng.standard_normal((2, length, 16)) for name, length in own.items()}


def of_queries(function, q, k, v, **options):
    return function(q, **options)


def few(function, q, k, v, **options):
    return function(q[..., :7, :], k, v, **options)


def few_to_codes(function, q, k, v, **options):
    """The same codes and scales whatever the type of k and v."""
    pairs = (xfaccel.quantize_rows(x.astype(np.float32)) for x in (k, v))
    return function(q[..., :7, :], *pairs, **options)


def projections(rng):
    return dict(key_projection=rng.standard_normal((70, N)), value_projection=rng.standard_normal((70, N)))


def features(kind):
    return lambda rng: dict(projection=rng.standard_normal((12, 16)), features=kind)


def subsets(**draws: Callable | dict) -> Iterator[tuple[list[str], list]]:
    for size in range(len(draws) + 1):
        for names in itertools.combinations(draws, size):
            yield list(names), [draws[name] for name in names]


def _paths() -> Iterator[tuple[str, Path]]:
    functions = (([], "attention"), (["lse"], "attention_lse"))
    for (keys, own), (lse, function) in itertools.product(
            [("full", {}), ("band", dict(causal=True)), ("bits", blocks)], functions):
        for operands, draws in subsets(key_mask=key_mask, mask=mask, bias=bias):
            if own is not blocks or "mask" not in operands:
                yield _name("softmax", keys, *operands, *lse), Path(function, options(own, *draws))
    for operands, draws in subsets(key_mask=key_mask):
        for keys, by_distance, function, *own in (
                ("full", ["relative"], "shaw", key_table),
                ("band", ["relative"], "shaw", key_table, dict(causal=True)),
                ("band", ["relative", "lse"], "compressive_transformer", older),
                ("band", ["distance"], "adaptive_span", dict(span=30.5, ramp=40)),
                ("band", ["distance", "relative"], "adaptive_span", dict(span=30.5, ramp=40), position_keys),
                ("band", ["distance", "lse"], "shaw", key_table, value_table)):
            yield _name("softmax", keys, *operands, *by_distance), Path(function, options(*own, *draws))
        yield _name("product", *operands), Path("linformer", options(projections, *draws))
        yield _name("softmax", "bits", *operands, "labels", "order", "lse", "joined"), Path(
            "reformer", options(rounds, *draws), adapter=shared_qk)
        for labels, own in (([], {}), (["labels"], dict(causal=True))):
            yield _name("softmax", "bits", *operands, *labels, "order", "lse"), Path(
                "routing", options(clusters, own, *draws))
        for words, function, own in (
                (["band", *operands], "sparse_strided", dict(stride=7, causal=False)),
                (["bits", *operands], "sparse_fixed", dict(stride=9, summary=2)),
                (["full", *operands], "etc", global_tokens),
                (["full", *operands, "bias"], "etc", options(global_tokens, global_biases))):
            yield _name("softmax", *words, "lse", "joined"), Path(function, options(own, *draws))
    yield _name("hashing"), Path("lsh_buckets", lambda rng: dict(rotations=rng.standard_normal((16, 3, 20))),
                                 adapter=of_queries)
    yield _name("softmax", "full", "relative", "lse", "joined"), Path(
        "compressive_transformer", options(older))
    for operands, draws in subsets(causal=dict(causal=True), key_mask=key_mask):
        for lse, function in functions:
            yield _name("gather", *operands, *lse), Path(function, options(scattered, *draws))
    for operands, draws in subsets(causal=dict(causal=True),
                                   key_mask=lambda rng: dict(key_mask=rng.random((2, LONG)) < 0.7)):
        for lse, function in functions:
            yield _name("decode", *operands, *lse), Path(function, options(*draws), LONG, adapter=few)
        yield _name("decode", *operands, "scales", "lse"), Path("attention_lse", options(*draws), LONG,
                                                                adapter=few_to_codes)
    yield _name("gather", "lse", "joined"), Path("star_ring", options(embedded))
    for kind in ("elu", *scan_face.KINDS):
        function, own = ("linear_transformer", {}) if kind == "elu" else ("performer", features(kind))
        for operands, draws in subsets(key_mask=lambda rng: dict(key_mask=rng.random((1, LONG)) < 0.7)):
            # a call that sums also reads
            for mode, causal, heads in (("sum", False, 2), ("causal", True, 2), ("whole", False, 8)):
                yield _name("scan", kind, mode, *operands), Path(
                    function, options(own, dict(causal=causal), *draws), LONG, heads=heads)
        yield _name("scan", kind, "step"), Path(f"{function}_step", options(own), splits=(90, 60))
        yield _name("steps", kind), Path(f"{function}_step", options(own), 8, splits=(1, 7))


def _name(driver: str, *words: str) -> str:
    return f"{driver}: {', '.join(words) or 'alone'}"


PATHS = dict(_paths())


# what a call does


def _softmax_words(x: dict) -> list[str]:
    limits = x["tile_list"].segments[:, 3:5]
    keys = "bits" if x["tile_list"].masks.size else "band" if (abs(limits) < WIDE // 2).any() else "full"
    return [keys, *_given(x, "key_mask", "mask", "bias", "distance", "relative", "labels", "order", "lse"),
            *["joined"] * x["so_far"]]


def _gather_words(x: dict) -> list[str]:
    return ["causal"] * (x["last"] < x["m"]) + _given(x, "key_mask", "lse") + ["joined"] * x["so_far"]


def _decode_words(x: dict) -> list[str]:
    return ["causal"] * (x["last"] < x["m"]) + _given(x, "key_mask", "scales", "lse")


def _scan_words(x: dict) -> list[str]:
    in_place = x["begin"] is not None and x["begin"] is x["end"]
    mode = "step" if in_place else MODES[x["mode"]]
    return [_kind(x), mode, *_given(x, "key_mask")]


def _steps_words(x: dict) -> list[str]:
    return [_kind(x)]


def _hashing_words(x: dict) -> list[str]:
    return []


def _product_words(x: dict) -> list[str]:
    return _given(x, "key_mask")


def _kind(x: dict) -> str:
    return next((name for name, number in scan_face.KINDS.items() if number == x["kind"]), "elu")


def _given(x: dict, *names: str) -> list[str]:
    return [name for name in names if x[name] is not None]


def ways(called: Callable[[], object]) -> set[str]:
    """The names of all paths that a call takes."""
    found = set()

    def watched(driver, words):
        run = driver.run
        signature = inspect.signature(run)

        def watch(*args, **kwargs):
            own = signature.bind(*args, **kwargs)
            own.apply_defaults()
            found.add(_name(driver.__name__.rpartition(".")[2], *words(own.arguments)))
            return run(*args, **kwargs)

        return mock.patch.object(driver, "run", watch)

    with contextlib.ExitStack() as stack:
        for driver, words in ((softmax, _softmax_words), (gather, _gather_words),
                              (decode, _decode_words), (scan, _scan_words),
                              (steps, _steps_words), (product, _product_words),
                              (hashing, _hashing_words)):
            stack.enter_context(watched(driver, words))
        called()
    return found


@njit(nogil=True)
def _together(job, _, __, ___, zero):
    """Do the driver's job when all threads have come, or do not come."""
    fetch_add(job + CAME, 1)
    for _ in range(load_int(job + LOOKS)):
        if peek(job + CAME) == load_int(job + DUE):
            break
        pause()
    a, b, c = load_int(job + SWITCHES), load_int(job + SWITCHES + 8), load_int(job + SWITCHES + 16)
    invoke(load_int(job + KERNEL), load_int(job + JOB), a, b, c, zero)
    return 0


@contextlib.contextmanager
def on(count: int, looks: int = 0) -> Iterator[list[int]]:
    """In this block every job of several tiles has `count` threads, however small it is.

    They wait for each other for so many looks, and then share its tiles. Gives the list of how many came to
    each such job.
    """
    run, came = threads.run, []

    def shared(kernel, job, switches, zero, helpers):
        if helpers == 0:
            run(kernel, job, switches, zero, 0)
            return
        entry = threads._entry(kernel, tuple(x is None for x in switches), zero.dtype)
        own = np.array([0, 1 + helpers, looks, entry, address(job), *(x or 0 for x in switches)], np.int64)
        run(_together, own, (None, None, None), zero, helpers)
        came.append(int(own[CAME]))

    # on a busy machine a helper that is woken takes the core of its caller, and sleeps before there is a job
    with (mock.patch.object(threads, "worth", lambda multiplications, items: min(count, items)),
          mock.patch.object(threads, "run", shared),
          mock.patch.object(threads, "_PATIENCE", max(looks, threads._PATIENCE))):
        yield came


def repeated(own: Call, times: int) -> set[bytes]:
    """What that many calls give, and those after them until two threads have come to each of their jobs."""
    found, most, deadline = set(), [], time.monotonic() + 60
    with on(2, looks=1 << 18) as came:
        while times > 0 or min(most) < 2:
            assert time.monotonic() < deadline, f"{most} threads came to the jobs of a call"
            came.clear()
            found.add(own.bits())
            most = [max(pair) for pair in zip(most or came, came, strict=True)]
            times -= 1
    return found


def digest() -> str:
    """Of what all paths give."""
    total = hashlib.sha256()
    for name in PATHS:
        total.update(call(name).bits())
    return total.hexdigest()
