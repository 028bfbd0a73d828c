"""What `make gpu` does on the GPU: each function is a stage, given CuPy and the report so far."""

import functools
import itertools
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import ml_dtypes
import numpy as np
from gpu_report import spread

import xfaccel
import xfref
from xfaccel.engine.gpu import loader

Array = np.ndarray
FLOATS = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]
BFLOAT16 = FLOATS[-1]
REPEATS = 1000
ROUNDS = 15
BURST = 5e-3           # seconds of calls that are timed together
SIDE = 256             # keys that a window sees on either side
BLOCK = 128            # of the blocks that see each other


def machine(cupy, report: dict) -> Iterator[dict]:
    found = cupy.cuda.runtime.getDeviceProperties(0)
    yield {"what": "GPU", "is": found["name"].decode()}
    yield {"what": "compute capability", "is": f"{found['major']}.{found['minor']}"}
    yield {"what": "multiprocessors", "is": found["multiProcessorCount"]}
    yield {"what": "memory, GiB", "is": round(found["totalGlobalMem"] / 2**30, 1)}
    yield {"what": "driver, runtime, NVRTC", "is": ", ".join(map(str, (
        cupy.cuda.runtime.driverGetVersion(), cupy.cuda.runtime.runtimeGetVersion(),
        ".".join(map(str, cupy.cuda.nvrtc.getVersion())))))}
    yield {"what": "CuPy, NumPy, Python", "is": f"{cupy.__version__}, {np.__version__}, "
                                               f"{sys.version.partition(' ')[0]}"}
    for file in sorted(loader._FOLDER.glob("*.cu")):
        yield {"what": file.name, "is": loader.digest(file.name)}


def conformance(cupy, report: dict) -> Iterator[dict]:
    """The table of tests/cases.py, in several processes: the truth is computed on the host."""
    workers = min(8, os.cpu_count() or 1)
    right = wrong = 0
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for own, errors in pool.map(functools.partial(some_cases, workers), range(workers)):
            right, wrong = right + own, wrong + len(errors)
            yield from errors
    yield {"case": f"all {right + wrong}", "right": right, "wrong": wrong}
    if wrong:
        raise SystemExit(f"{wrong} cases are wrong")


def some_cases(workers: int, first: int) -> tuple[int, list[dict]]:
    """Every so manieth case in each type: how many are right, and a row for each that is wrong."""
    import cupy
    from on_gpu import check, on_arrays

    rows = on_arrays(FLOATS)[first::workers]
    errors = []
    for case, dtype in rows:
        try:
            check(cupy, case, dtype)
        except Exception as error:  # whatever it is, the others are still to be tried
            errors.append({"case": case.name, "dtype": dtype.name, "error": first_line(error)})
    return len(rows) - len(errors), errors


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def repeats(cupy, report: dict) -> Iterator[dict]:
    """Each result beside the first, bit by bit; the host looks once, at the end."""
    for name, call in calls(cupy, n=1000, dtypes=(FLOATS[0], BFLOAT16)):
        first = bits(cupy, call())
        differ = cupy.zeros((), np.int64)
        for _ in range(REPEATS):
            differ += (bits(cupy, call()) != first).any()
        yield {"call": name, "repeats": REPEATS, "different": int(differ)}
        if differ:
            raise SystemExit(f"{name} does not give the same bits every time")


def large(cupy, report: dict) -> Iterator[dict]:
    """Operands of more than 2^31 numbers: the last heads beside the same heads alone, bit by bit."""
    n, width = 512, 128  # a part of a sequence that is not cut: all heads add up in one order
    heads = 2**31 // (n * width) + 40
    some = random(cupy, (3, 8, n, width), np.dtype(np.float16))
    q, k, v = (cupy.tile(x, (heads // 8, 1, 1)) for x in some)
    for name in ("attention", "linear_transformer"):
        function = functools.partial(getattr(xfaccel, name), causal=True)
        out = function(q, k, v)
        last = function(*(x[-8:].copy() for x in (q, k, v)))
        different = int((bits(cupy, out[-8:]) != bits(cupy, last)).sum())
        other = int((bits(cupy, out) != cupy.tile(bits(cupy, out[:8]), (heads // 8, 1, 1))).any((1, 2)).sum())
        yield {"call": f"{name}, {q.shape}", "numbers": q.size, "different": different,
               "heads that are not like the first": other}
        if different or other:
            raise SystemExit(f"{name} of many heads is not what it is of some")
        del out


def leaks(cupy, report: dict) -> Iterator[dict]:
    """Bytes of the memory pool in use after calls whose results are gone, against those after the first."""
    pool = cupy.get_default_memory_pool()
    for name, call in calls(cupy, n=500):
        call()
        before = pool.used_bytes()
        for _ in range(200):
            call()
        yield {"call": name, "bytes before": before, "bytes left": pool.used_bytes() - before}


def sanitizer(cupy, report: dict) -> Iterator[dict]:
    program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not os.path.exists(program):
        raise SystemExit("compute-sanitizer is not there: the CUDA toolkit brings it")
    for tool in ("memcheck", "racecheck", "initcheck", "synccheck"):
        try:
            ended = subprocess.run(
                [program, "--tool", tool, "--error-exitcode", "9", sys.executable,
                 os.path.join(os.path.dirname(__file__), "gpu.py"), "--stage", "tiny"],
                capture_output=True, text=True, timeout=40)
            said = [line for line in ended.stdout.splitlines() if line.startswith("=" * 9)]
            yield {"tool": tool, "exit status": ended.returncode,
                   "it says": (said or ended.stderr.splitlines() or [""])[-1].strip("= ")}
        except subprocess.TimeoutExpired:
            yield {"tool": tool, "it says": "stopped after 40 s"}


def tiny(cupy, report: dict) -> Iterator[dict]:
    """What the sanitizer watches: every kernel, on shapes that no tile divides."""
    for name, call in calls(cupy, n=150):
        call()
        yield {"call": name}


def calls(cupy, n: int, dtypes: Iterable[np.dtype] = FLOATS) -> Iterator[tuple[str, Callable[[], Array]]]:
    """A call for every kernel and type, by way of the public functions."""
    rng = np.random.default_rng(0)
    for dtype in dtypes:
        q, k, v = random(cupy, (3, 2, n, 40), dtype)
        indices, table = rng.integers(0, n, (n, 20)), rng.standard_normal((2 * 30 + 1, 40))
        for name, options in (("attention", {}), ("sliding_window", dict(left=70, right=0, dilation=3)),
                              ("random_tokens", dict(indices=indices)), ("shaw", dict(key_table=table)),
                              ("linear_transformer", dict(causal=True)), ("linear_transformer", {}),
                              ("performer", dict(projection=rng.standard_normal((50, 40)), causal=True))):
            yield f"{name}, {dtype.name}", functools.partial(getattr(xfaccel, name), q, k, v, **options)


def random(cupy, shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """Drawn on the host: the GPU's generators are a library of their own, which may be missing."""
    return cupy.asarray(np.random.default_rng(1).standard_normal(shape, np.float32).astype(dtype))


def bits(cupy, x: Array) -> Array:
    return cupy.ascontiguousarray(x).view(f"u{x.dtype.itemsize}")


# speed


class Contender(NamedTuple):
    name: str
    call: Callable[[], object]
    rows: Callable[[object], Array]  # the last rows of the first head of its result, on the host, as float64


def ceilings(cupy, report: dict) -> Iterator[dict]:
    """What the machine can do: a product of matrices of random numbers, and a copy; the best of some."""
    n, size = 8192, 2**30
    import torch
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        a, b = torch.randn(2, n, n, device="cuda").to(dtype)
        seconds = min(turns(cupy, [lambda a=a, b=b: a @ b], rounds=8)[0])
        yield {"what": f"matmul {str(dtype).partition('.')[2]}, {n}^3", "TFLOP/s": 2 * n**3 / seconds / 1e12}
    source, target = cupy.ones(size, np.float32), cupy.empty(size, np.float32)
    seconds = min(turns(cupy, [lambda: cupy.copyto(target, source)], rounds=8)[0])
    yield {"what": "copy, read and written", "GB/s": 8 * size / seconds / 1e9}


def turns(cupy, calls: list[Callable], rounds: int = ROUNDS) -> list[list[float]]:
    """Seconds of a call, by contender and round: in turns, each for about BURST, by the GPU's clock."""
    event, stream = cupy.cuda.Event, cupy.cuda.get_current_stream()

    def timed(call, times):
        begin, end = event(), event()
        begin.record(stream)
        for _ in range(times):
            call()
        end.record(stream)
        end.synchronize()
        return cupy.cuda.get_elapsed_time(begin, end) / 1e3 / times

    for call in calls:
        timed(call, 2)  # what is compiled or kept, once
    times = [max(1, round(BURST / timed(call, 2))) for call in calls]
    return [list(row) for row in zip(*([timed(*each) for each in zip(calls, times, strict=True)]
                                       for _ in range(rounds)), strict=True)]


def benchmark(cupy, report: dict) -> Iterator[dict]:
    """Contenders in turns; TFLOP/s count what is seen, GB/s operands and result once."""
    import torch

    torch.set_grad_enabled(False)
    known = report.get("stages", {}).get("ceilings", {}).get("rows", [])
    peak = next((row["TFLOP/s"] for row in known if row["what"].startswith("matmul bfloat16")), math.nan)
    copy = next((row["GB/s"] for row in known if "GB/s" in row), math.nan)
    for name, heads, n, width, sees, pairs, ours, theirs in problems(torch):
        q, k, v = random(cupy, (3, heads, n, width), BFLOAT16)
        # the same numbers for torch, which shares no type of 16 bits with every CuPy
        tensors = [torch.as_tensor(x.view(np.int16), device="cuda").view(torch.bfloat16)[None]
                   for x in (q, k, v)]
        contenders = [Contender("xfaccel", lambda ours=ours, q=q, k=k, v=v: ours(q, k, v),
                                lambda out: cupy.asnumpy(out[0, -64:]).astype(np.float64))]
        for each, make in theirs:
            try:
                call = make(*tensors)
                call()
                contenders.append(Contender(
                    each, call, lambda out: out[0, 0, -64:].double().cpu().numpy()))
            except Exception as error:  # whatever a backend does not have on this machine
                yield {"what": name, "who": each, "note": f"did not run: {first_line(error)}"}
        exact = reference(name, *(cupy.asnumpy(x[0]).astype(np.float64) for x in (q, k, v)), sees)
        for contender, seconds in zip(contenders, turns(cupy, [c.call for c in contenders]), strict=True):
            low, middle, high = spread(seconds)
            found = contender.rows(contender.call())
            row = {"what": name, "who": contender.name, "ms": 1e3 * middle,
                   "from": 1e3 * low, "to": 1e3 * high,
                   "error": float(np.linalg.norm(found - exact) / np.linalg.norm(exact))}
            if name.startswith("linear"):
                rate = 4 * 2 * q.size / middle / 1e9
                yield row | {"GB/s": rate, "of copy": rate / copy}
            else:
                rate = 4 * heads * pairs * width / middle / 1e12
                yield row | {"TFLOP/s": rate, "of matmul": rate / peak}


def problems(torch) -> Iterator[tuple]:
    """Name, heads, n, width, who sees whom (of indices), pairs of a head, and who computes it."""
    n, long = 16384, 65536
    past, everything = lambda i, j: j <= i, lambda i, j: j >= 0
    for width, (name, sees, pairs) in itertools.product((128, 64), (
            ("full", everything, n * n), ("causal", past, n * (n + 1) / 2))):
        yield (f"{name}, n = {n}, d = {width}", 16, n, width, sees, pairs,
               functools.partial(xfaccel.attention, causal=sees is past),
               [(f"torch SDPA, {backend}", functools.partial(pinned, torch, backend, sees is past))
                for backend in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION")])
    near = lambda i, j: abs(i - j) <= SIDE
    yield (f"window of {SIDE} to each side, n = {long}, d = 128", 8, long, 128, near,
           long * (2 * SIDE + 1) - SIDE * (SIDE + 1),
           functools.partial(xfaccel.sliding_window, left=SIDE, right=SIDE),
           [("torch flex_attention, compiled", functools.partial(flex, torch, near)),
            ("torch SDPA, chunks", functools.partial(chunks, torch))])
    blocks = n // BLOCK
    seen = np.random.default_rng(2).random((blocks, blocks)) < 0.1
    np.fill_diagonal(seen, True)
    table = np.full((blocks, seen.sum(1).max()), -1)
    for block, row in enumerate(seen):
        table[block, :row.sum()] = np.flatnonzero(row)
    on_gpu = torch.as_tensor(seen, device="cuda")
    yield (f"blocks of {BLOCK}, a tenth of them seen, n = {n}, d = 128", 16, n, 128,
           lambda i, j: seen[i // BLOCK, j // BLOCK], seen.sum() * BLOCK**2,
           functools.partial(xfaccel.attention, mask=xfaccel.patterns.blocks(table, BLOCK, n)),
           [("torch flex_attention, compiled",
             functools.partial(flex, torch, lambda i, j: on_gpu[i // BLOCK, j // BLOCK]))])
    for length in (n, long):
        yield (f"linear, causal, n = {length}, d = 64", 16, length, 64, None, 0,
               functools.partial(xfaccel.linear_transformer, causal=True),
               [("torch, chunks of 64", functools.partial(linear, torch, 64)),
                ("torch, chunks of 128", functools.partial(linear, torch, 128))])


def reference(name: str, q: Array, k: Array, v: Array, sees: Callable | None) -> Array:
    """The last 64 rows, by the specification."""
    if sees is None:
        return np.concatenate([xfref.linear_transformer(q[i:i + 1], k[:i + 1], v[:i + 1])
                               for i in range(len(q) - 64, len(q))])
    i, j = np.arange(len(q) - 64, len(q))[:, None], np.arange(len(k))
    return xfref.attention(q[-64:], k, v, mask=np.broadcast_to(sees(i, j), (64, len(k))))


def pinned(torch, backend: str, causal: bool, q, k, v) -> Callable:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def call():
        with sdpa_kernel([getattr(SDPBackend, backend)]):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)

    return call


def flex(torch, sees: Callable, q, k, v) -> Callable:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    mask = create_block_mask(lambda b, h, i, j: sees(i, j), None, None, q.shape[-2], k.shape[-2],
                             device=q.device)
    return functools.partial(torch.compile(flex_attention), q, k, v, block_mask=mask)


def chunks(torch, q, k, v) -> Callable:
    """A window by chunks of SIDE queries, each with the three chunks of keys around it, and a mask."""
    n = q.shape[-2]
    places = torch.arange(n, device="cuda").view(-1, SIDE, 1)
    near = torch.arange(3 * SIDE, device="cuda") + SIDE * (
        torch.arange(n // SIDE, device="cuda").view(-1, 1, 1) - 1)
    seen = ((near - places).abs() <= SIDE) & (near >= 0) & (near < n)

    def around(x):
        x = torch.nn.functional.pad(x, (0, 0, SIDE, SIDE)).unflatten(-2, (-1, SIDE))
        return torch.cat([x[..., :-2, :, :], x[..., 1:-1, :, :], x[..., 2:, :, :]], dim=-2)

    return lambda: torch.nn.functional.scaled_dot_product_attention(
        q.unflatten(-2, (-1, SIDE))[0], around(k)[0], around(v)[0], attn_mask=seen).flatten(-3, -2)[None]


def linear(torch, size: int, q, k, v) -> Callable:
    """Causal linear attention: sums of whole chunks by cumsum, in float32, and the triangle of each."""

    def call():
        a, b, c = (x.unflatten(-2, (-1, size)) for x in (
            torch.nn.functional.elu(q) + 1, torch.nn.functional.elu(k) + 1, v))
        own, own_keys = (b.mT @ c).float(), b.float().sum(-2)
        before, keys_before = own.cumsum(-3) - own, own_keys.cumsum(-2) - own_keys
        weights = (a @ b.mT).tril()
        total = weights.float().sum(-1, keepdim=True) + a.float() @ keys_before[..., None]
        return ((weights @ c + a @ before.to(c.dtype)) / total).to(c.dtype).flatten(-3, -2)

    return call
