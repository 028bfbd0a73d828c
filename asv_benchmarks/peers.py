"""xfaccel beside torch, ONNX Runtime, OpenVINO and others, on one machine, in one process, in turns.

    python asv_benchmarks/peers.py [--quick] [--lengths 1024 4096] [--threads 2] [--only full causal]
    python asv_benchmarks/peers.py --only variants [--names reformer bigbird] [--n 4096] [--peer-dir FOLDER]

In a hot loop every contender is called for ten milliseconds, or once, and then as often again, which counts:
the first half wakes its own threads, and those of the contender before it, some of which spin for a while,
fall asleep. After an idle gap the first call counts. Ratios are medians over rounds of the peer's time over
that of xfaccel in the same round: above 1, xfaccel is faster. The peak is a loop of multiply-adds in
registers, one more contender of every round. Errors are relative L2 against float64, of the first head. A
causal pair of query and key counts as work only if the query sees the key; of linear attention only the sums
count, 4 n d e, not what a chunked form adds.
"""

import sys
import threading

import contest  # before NumPy: it tells BLAS how many threads it has
import numpy as np
import own_forms
from contest import MISSING, OPTIONS, SIDE, Array, Contender, error_of, load, measure, ours
from numba import njit
from numba.extending import intrinsic
from torch_forms import torch_linear, torch_sdpa, torch_window

import xfref
from xfaccel.engine.cpu.threads import limited
from xfaccel.engine.cpu.vector import kernel, vector_bytes

ROUNDS = contest.rounds(15)
SUMS = 24 if vector_bytes() == 64 else 12    # more than a multiply-add takes cycles, fewer than registers
PEAK_LOOPS = 3_000_000
PEAK_WORK = 2.0 * PEAK_LOOPS * OPTIONS.threads * SUMS * vector_bytes() / 4
WIDTHS = (64, 16, 24, 32, 40, 48, 80, 96, 100, 112, 128)  # the first is what the others are compared with


@intrinsic
def multiply_adds(typing, loops, out, zero):
    """`loops` times SUMS vectors of multiply-adds that wait for nothing but themselves."""
    def emit(e, loops, out):
        factor, term = e.splat(0.999), e.splat(0.5)
        sums = e.loop(0, loops, lambda i, *sums: [e.multiply_add(x, factor, term) for x in sums],
                      [e.splat(float(start)) for start in range(SUMS)])
        for place, x in enumerate(sums):
            e.store(x, e.at(out, place * vector_bytes()))
    return kernel(emit, zero, "ii")


@njit(nogil=True)
def spin(loops, out, zero):
    multiply_adds(loops, out, zero)


def peak() -> None:
    """PEAK_LOOPS of multiply-adds in every thread."""
    outs = [np.empty(SUMS * vector_bytes(), np.uint8) for _ in range(OPTIONS.threads)]
    tasks = [threading.Thread(target=spin, args=(PEAK_LOOPS, out.ctypes.data, np.float32(0))) for out in outs]
    for task in tasks:
        task.start()
    for task in tasks:
        task.join()


def onnx_runtime(q: Array, k: Array, v: Array, causal: bool) -> Contender | None:
    onnx, runtime = load("onnx"), load("onnxruntime")
    if not (onnx and runtime):
        return None
    heads, n, d = q.shape
    make, real = onnx.helper, onnx.TensorProto.FLOAT
    node = make.make_node("MultiHeadAttention", ["q", "k", "v"], ["out"], domain="com.microsoft",
                          num_heads=heads, unidirectional=int(causal))
    *inputs, output = (make.make_tensor_value_info(name, real, [1, n, heads * d])
                       for name in ("q", "k", "v", "out"))
    graph = make.make_graph([node], "attention", inputs, [output])
    versions = [make.make_opsetid("", 17), make.make_opsetid("com.microsoft", 1)]
    model = make.make_model(graph, opset_imports=versions, ir_version=8)
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = OPTIONS.threads
    session = runtime.InferenceSession(model.SerializeToString(), settings, ["CPUExecutionProvider"])
    # its own layout: heads side by side in a row
    feed = {name: x.swapaxes(0, 1).reshape(1, n, -1) for name, x in (("q", q), ("k", k), ("v", v))}
    return Contender("ONNX Runtime", lambda: session.run(None, feed)[0],
                     lambda out: out.reshape(n, heads, d).swapaxes(0, 1))


def openvino(q: Array, k: Array, v: Array, causal: bool) -> Contender | None:
    if not (vino := load("openvino")):
        return None
    from openvino import opset13 as ops
    inputs = [ops.parameter([1, *x.shape], np.float32) for x in (q, k, v)]
    model = vino.Model([ops.scaled_dot_product_attention(*inputs, causal=causal)], inputs)
    compiled = vino.Core().compile_model(model, "CPU", {
        "INFERENCE_NUM_THREADS": OPTIONS.threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"})
    request, feed = compiled.create_infer_request(), [x[None] for x in (q, k, v)]
    return Contender("OpenVINO", lambda: request.infer(feed, share_inputs=True, share_outputs=True),
                     lambda out: out[0][0].copy())


def truth(kind: str, q: Array, k: Array, v: Array) -> Array:
    """The first head's result in float64, by xfref, a stretch of queries at a time."""
    q, k, v = (x[0].astype(np.float64) for x in (q, k, v))
    outs, state = [], None
    for start in range(0, len(q), 256):
        stop = start + 256
        low, high = {"full": (0, None), "causal": (0, stop), "window": (max(start - SIDE, 0), stop + SIDE),
                     "linear": (start, stop)}[kind]
        part = q[start:stop], k[low:high], v[low:high]
        if kind == "linear":
            state, out = xfref.linear_transformer_step(state, *part)
        else:
            distance = np.arange(low, low + len(part[1])) - np.arange(start, start + len(part[0]))[:, None]
            out = xfref.attention(*part, causal=kind == "causal",
                                  mask=abs(distance) <= SIDE if kind == "window" else None)
        outs.append(out)
    return np.concatenate(outs)


def work(kind: str, n: int) -> float:
    """Floating-point operations that count."""
    i = np.arange(n)
    pairs = {"full": n * n, "causal": n * (n + 1) // 2, "linear": n * OPTIONS.width,
             "window": int((np.minimum(i + SIDE, n - 1) - np.maximum(i - SIDE, 0) + 1).sum())}[kind]
    return 4.0 * OPTIONS.heads * OPTIONS.width * pairs


def contenders_for(kind: str, arrays: tuple) -> list[Contender]:
    """xfaccel first."""
    if kind == "window":
        return [ours("sliding_window", arrays, left=SIDE, right=SIDE), *torch_window(*arrays)]
    if kind == "linear":
        return [ours("linear_transformer", arrays, causal=True), *torch_linear(*arrays)]
    causal = kind == "causal"
    peers = [make(*arrays, causal) for make in (onnx_runtime, openvino)]
    return [ours("attention", arrays, causal=causal), *torch_sdpa(*arrays, causal), *filter(None, peers)]


def compare(kind: str, n: int, gaps: list[float] | None = None) -> None:
    """A table of all contenders in a hot loop, or one per idle gap (in ms)."""
    arrays = tuple(np.random.default_rng(0).standard_normal((3, OPTIONS.heads, n, OPTIONS.width), np.float32))
    contenders = contenders_for(kind, arrays)
    if gaps:
        contenders.insert(1, ours("attention", arrays, threads=1))
    exact = truth(kind, *arrays)
    errors = [error_of(x, exact) for x in contenders]
    for gap in gaps or []:
        rounds = ROUNDS if OPTIONS.quick else max(ROUNDS, 30)
        report(f"{kind}, n = {n}, {gap:g} ms idle", contenders, errors, work(kind, n),
               measure(contenders, rounds, gap / 1e3))
    if not gaps:
        entrants = [*contenders, Contender("peak of multiply-adds", peak)]
        report(f"{kind}, n = {n}, hot", contenders, errors, work(kind, n), measure(entrants, ROUNDS))


def compare_few(m: int) -> None:
    """One new token, or a handful, against all keys so far: what counts is how fast these are read."""
    q, k, v = np.random.default_rng(0).standard_normal((3, OPTIONS.heads, m, OPTIONS.width), np.float32)
    for n in (1, 4, 8):
        arrays = np.ascontiguousarray(q[:, :n]), k, v
        contenders = [ours("attention", arrays), *own_forms.small_keys(*arrays), *torch_sdpa(*arrays, False)]
        errors = [error_of(x, truth("full", *arrays)) for x in contenders]
        report(f"{n} queries, {m} keys, hot", contenders, errors, 4.0 * OPTIONS.heads * n * m * OPTIONS.width,
               measure(contenders, ROUNDS))


def compare_widths(n: int = 1024, heads: int = 4) -> None:
    """What one thread computes in a second at other widths than 64, and in float64, in turns."""
    entrants = {}
    for width, dtype in [*((width, np.float32) for width in WIDTHS), (64, np.float64)]:
        arrays = np.random.default_rng(0).standard_normal((3, heads, n, width)).astype(dtype)
        entrants[width, dtype.__name__] = ours("attention", tuple(arrays), threads=1)
    seconds = measure(list(entrants.values()), ROUNDS)
    rates = np.array([width for width, _ in entrants]) / seconds
    print(f"\nn = {n}, {heads} heads, 1 thread: multiply-adds a second, those of width 64 in float32 being 1")
    for place, (width, dtype) in enumerate(entrants):
        print(f"{f'd = e = {width}, {dtype}':32}{np.median(rates[:, place] / rates[:, 0]):18.2f}")


def report(title: str, contenders: list[Contender], errors: list[float], operations: float,
           seconds: Array) -> None:
    """The table; if `seconds` has a column more than there are contenders, it is that of the peak."""
    has_peak = seconds.shape[1] > len(contenders)
    print(f"\n{title:32}{'ms':>10}{'ratio':>8}{'GFLOP/s':>9}{'error':>10}" + "  of peak" * has_peak)
    for place, (contender, error) in enumerate(zip(contenders, errors, strict=True)):
        own, rate = seconds[:, place], operations / seconds[:, place] / 1e9
        line = (f"{contender.name:32}{np.median(own) * 1e3:10.3f}{np.median(own / seconds[:, 0]):8.2f}"
                f"{np.median(rate):9.0f}{error:10.1e}")
        if has_peak:
            line += f"{np.median(rate * seconds[:, -1]) / PEAK_WORK * 1e9:9.0%}"
        print(line)
    if has_peak:
        print(f"{'peak of multiply-adds':32}{'':18}{np.median(PEAK_WORK / seconds[:, -1]) / 1e9:9.0f}")
    sys.stdout.flush()


def main() -> None:
    with limited(OPTIONS.threads):
        every_comparison()


def every_comparison() -> None:
    if set(OPTIONS.only) != {"variants"}:
        print(f"{OPTIONS.heads} heads of width {OPTIONS.width}, float32, {OPTIONS.threads} threads; "
              f"medians of {ROUNDS} rounds; ratio: time over that of xfaccel")
    for kind in ("full", "causal"):
        for n in OPTIONS.lengths:
            if kind in OPTIONS.only:
                compare(kind, n)
    for kind in ("window", "linear"):
        if kind in OPTIONS.only:
            compare(kind, OPTIONS.long)
    if "few" in OPTIONS.only:
        compare_few(OPTIONS.long)
    if "idle" in OPTIONS.only:
        for n in (256, 1024):
            compare("full", n, OPTIONS.gaps)
    if "widths" in OPTIONS.only:
        compare_widths()
    if "half" in OPTIONS.only:
        for n in OPTIONS.lengths:
            if n >= 1024:
                own_forms.half(n, lambda *arrays: truth("full", *arrays), ROUNDS)
    if "terms" in OPTIONS.only:
        own_forms.terms(ROUNDS)
    if "variants" in OPTIONS.only:
        import peer_variants  # not before it is asked for: it loads the suite of asv
        peer_variants.compare()
    for name, why in MISSING.items():
        print(f"missing: {name} ({why})", file=sys.stderr)


if __name__ == "__main__":
    main()
