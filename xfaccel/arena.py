"""The arena: what every variant costs beside exact attention, on the same tokens, in one table.

Long Range Arena: A Benchmark for Efficient Transformers. Tay, Dehghani, Abnar, Shen, Bahri, Pham, Rao, Yang,
Ruder, Metzler. 2020. arXiv:2011.04006, Table 2 and Figure 3.

Differs: the paper times training steps of a whole model; here it is the attention alone, forward, on one
sequence. Weights are drawn, not trained, so nothing here speaks of accuracy: a variant's result is compared
with that of exact attention on the same queries, keys and values instead.

Order of work: a row is checked against xfref first, and only a row that agrees is timed.
"""

import io
import platform
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np

import xfaccel
import xfref
from xfaccel.engine.cpu import threads
from xfref.lra import listops, text

Array = np.ndarray
CHECK_LENGTH = 1024      # where xfref, which takes n^2 memory for every variant, still answers quickly
BOUND = 1e-4             # of the largest value: float32 rounding stays a hundred times below it
LEAST_CALLS, LEAST_SECONDS = 3, 0.2
LARGEST_DISC = 60**2     # square points, of the box around it
COLOR, CAUSAL_COLOR = "#1f6fb2", "#c2571a"


class Variant(NamedTuple):
    """A row: the function of both packages, what the table says of it, and its keyword arguments."""

    name: str
    function: str
    parameters: str
    cost: str
    arguments: Callable[[Array, Array, np.random.Generator], dict]  # of q, k and a source of random numbers
    exact: str = "attention"  # the row that it is compared with


def _slots(q: Array, k: Array, rng: np.random.Generator) -> dict:
    key_projection, value_projection = rng.normal(0, 256**-0.5, (2, 256, k.shape[-2]))
    return dict(key_projection=key_projection, value_projection=value_projection)


def _random_features(q: Array, k: Array, rng: np.random.Generator) -> dict:
    return dict(projection=xfref.favor_projection(rng, 256, q.shape[-1]))


VARIANTS = (  # the exact rows first: the others are compared with their results
    Variant("attention", "attention", "", "n^2 d", lambda q, k, rng: {}),
    Variant("attention-causal", "attention", "causal", "n^2 d", lambda q, k, rng: dict(causal=True),
            "attention-causal"),
    Variant("block_local", "block_local", "block 64", "n b d", lambda q, k, rng: dict(block=64)),
    Variant("sliding_window", "sliding_window", "128 to each side", "n w d",
            lambda q, k, rng: dict(left=128, right=128)),
    Variant("longformer", "longformer", "window 256, 1 global", "n w d",
            lambda q, k, rng: dict(window=256, global_tokens=[0])),
    Variant("linformer", "linformer", "256 slots", "n r d", _slots),
    Variant("linear_transformer", "linear_transformer", "", "n d^2", lambda q, k, rng: {}),
    Variant("linear_transformer-causal", "linear_transformer", "causal", "n d^2",
            lambda q, k, rng: dict(causal=True), "attention-causal"),
    Variant("performer", "performer", "256 features", "n r d", _random_features),
    Variant("performer-causal", "performer", "256 features, causal", "n r d",
            lambda q, k, rng: _random_features(q, k, rng) | dict(causal=True), "attention-causal"),
)


class Setup(NamedTuple):
    """What `prepare` found in order: the rows, their inputs of the largest length, and the empty report."""

    variants: list[Variant]
    qkv: tuple[Array, Array, Array]
    report: dict


def prepare(*, task: str, file: str | None, names: Sequence[str], lengths: Sequence[int], heads: int,
            width: int | None, machine: dict) -> Setup:
    """Read the tokens and lay out the report; `lengths` ascend, `names` are those of `VARIANTS`.

    Raises: ValueError with one line that says what is wrong with the input.
    """
    width = width or 64 * heads
    if width % heads:
        raise ValueError(f"--width {width} is not a multiple of --heads {heads}")
    ids, vocabulary, source = read_tokens(task, file, lengths[-1])
    needed = {variant.exact for variant in VARIANTS if variant.name in names}.union(names)
    variants = [variant for variant in VARIANTS if variant.name in needed]
    report = {
        "schema": 1,
        "complete": False,
        "machine": machine,
        "input": {"task": task, "source": source, "lengths": lengths, "heads": heads, "width": width,
                  "dtype": "float32", "check_length": min(CHECK_LENGTH, lengths[-1])},
        "rows": [{"variant": v.name, "function": v.function, "parameters": v.parameters, "cost": v.cost,
                  "exact": v.exact, "agrees": None, "error": None, "relative_error": None,
                  "reference_seconds": None, "vs_xfref": None, "seconds": {}, "growth": None,
                  "vs_exact": None, "extra_bytes": None, "distance": None} for v in variants],
    }
    return Setup(variants, project(ids, vocabulary, heads, width), report)


def read_tokens(task: str, file: str | None, count: int) -> tuple[Array, int, str]:
    """Ids (count,) of the task, the size of their vocabulary and a few words on where they come from.

    Raises: ValueError with one line if the file cannot be read or holds fewer tokens.
    """
    if task == "listops":
        examples = listops.generate(0) if file is None else listops.read_tsv(file)
        ids, found = [], 0
        while found < count and (example := next(examples, None)):
            ids.append(example[0])
            found += len(example[0])
        ids, vocabulary = np.concatenate(ids), len(listops.WORDS)
        source = "expressions of " + ("Long ListOps, seed 0, one after another" if file is None
                                      else repr(file))
    else:
        data = text.standard_text() if file is None else text.read_text(file)
        ids, vocabulary, found = text.encode(data, min(count, len(data))), text.VOCABULARY, len(data)
        source = "bytes of " + (f"the help topics of Python {platform.python_version()}" if file is None
                                else repr(file))
    if found < count:
        raise ValueError(f"--lengths asks for {count} tokens, there are {found} in the {source}")
    return ids[:count], vocabulary, source


def project(ids: Array, vocabulary: int, heads: int, width: int) -> tuple[Array, Array, Array]:
    """q, k, v of shape (heads, n, width / heads), float32: embedding + positions, times seeded weights."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((vocabulary, width))[ids] + xfref.sinusoidal_positions(len(ids), width)
    rows = (x @ rng.normal(0, width**-0.5, (width, width)) for _ in "qkv")
    q, k, v = (y.reshape(len(ids), heads, -1).swapaxes(0, 1).astype(np.float32, order="C") for y in rows)
    return q, k, v


def measure(setup: Setup, *, limit: int, repeats: int | None, save: Callable[[], None]) -> None:
    """Fill the rows of the report on `limit` threads, calling `save` after each result."""
    lengths, rows = setup.report["input"]["lengths"], {row["variant"]: row for row in setup.report["rows"]}
    with threads.limited(limit), progress(len(setup.variants) * (len(lengths) + 2)) as advance:

        def keep(name: str, **results: object) -> None:
            rows[name].update(results)
            save()
            advance()

        qkv = shorten(setup.qkv, setup.report["input"]["check_length"])
        for variant in setup.variants:
            keep(variant.name, **check(variant, qkv, repeats))
        agreeing = [variant for variant in setup.variants if rows[variant.name]["agrees"]]
        for n in lengths:
            qkv = shorten(setup.qkv, n)
            calls = {variant.name: bind(xfaccel, variant, qkv) for variant in agreeing}
            for name, seconds in times_in_turn(calls, repeats):
                keep(name, seconds=rows[name]["seconds"] | {str(n): seconds})
        results = {}
        for variant in agreeing:
            extra, results[variant.name] = extra_memory(bind(xfaccel, variant, setup.qkv))
            seconds = rows[variant.name]["seconds"]
            keep(variant.name, extra_bytes=extra, growth=growth(lengths, list(seconds.values())))
            if variant.exact in results:  # exact attention agrees with xfref
                longest = str(lengths[-1])
                rows[variant.name]["vs_exact"] = rows[variant.exact]["seconds"][longest] / seconds[longest]
                rows[variant.name]["distance"] = distance(results[variant.name], results[variant.exact])
    setup.report["complete"] = True
    save()


def check(variant: Variant, qkv: Sequence[Array], repeats: int | None) -> dict:
    """Compare the fast variant with xfref in float64, then its time with that of xfref in float32."""
    fast, reference = bind(xfaccel, variant, qkv), bind(xfref, variant, qkv)
    truth = bind(xfref, variant, qkv, np.float64)()
    error = float(np.max(np.abs(fast() - truth)))
    relative = error / float(np.max(np.abs(truth)))
    if not relative <= BOUND:  # NaN too
        return dict(agrees=False, error=error, relative_error=relative)
    seconds = dict(times_in_turn({"xfaccel": fast, "xfref": reference}, repeats))
    return dict(agrees=True, error=error, relative_error=relative, reference_seconds=seconds["xfref"],
                vs_xfref=seconds["xfref"] / seconds["xfaccel"])


def bind(package: object, variant: Variant, qkv: Sequence[Array],
         dtype: type = np.float32) -> Callable[[], Array]:
    """The variant of one package, ready to be called with nothing; random arguments are always the same."""
    arguments = variant.arguments(qkv[0], qkv[1], np.random.default_rng(1))
    for name, value in arguments.items():
        if isinstance(value, np.ndarray) and value.dtype == np.float64:
            arguments[name] = value.astype(np.float32).astype(dtype)  # the same numbers in every type
    arrays = (x.astype(dtype, copy=False) for x in qkv)
    return partial(getattr(package, variant.function), *arrays, **arguments)


def shorten(qkv: Sequence[Array], n: int) -> tuple[Array, ...]:
    """The first n positions of each array, contiguous."""
    return tuple(np.ascontiguousarray(x[:, :n]) for x in qkv)


def times_in_turn(calls: dict[str, Callable], repeats: int | None) -> Iterator[tuple[str, float]]:
    """Yield each name with its best time in seconds, as soon as it has been called often enough.

    All are called in turn, so that a slow moment of the machine meets every one of them.
    """
    times = {name: [] for name in calls}
    while times:
        for name in list(times):
            start = time.perf_counter()
            calls[name]()
            times[name].append(time.perf_counter() - start)
            taken = times[name]
            if len(taken) >= (repeats or LEAST_CALLS) and (repeats or sum(taken) >= LEAST_SECONDS):
                yield name, min(times.pop(name))


def growth(lengths: Sequence[int], seconds: Sequence[float]) -> float | None:
    """The exponent a of the best fit time = c n^a: slope of log time over log n; None for a single length."""
    if len(lengths) < 2:
        return None
    return float(np.polyfit(np.log(lengths), np.log(seconds), 1)[0])


def extra_memory(call: Callable[[], Array]) -> tuple[int, Array]:
    """Bytes that a call takes at its peak beside its result, and the result.

    Counts what Python and NumPy allocate; xfaccel's scratch is NumPy memory.
    """
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        out = call()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return max(peak - before - out.nbytes, 0), out


def distance(out: Array, exact: Array) -> float:
    """|out - exact| / |exact|, with the length of all numbers as one vector."""
    return float(np.linalg.norm((out - exact).ravel()) / np.linalg.norm(exact.ravel()))


@contextmanager
def progress(total: int) -> Iterator[Callable[[], object]]:
    """A bar on stderr if that is a terminal and tqdm is installed; gives the function that advances it."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda: None
        return
    with tqdm(total=total, desc="xfaccel arena", unit="result", leave=False, disable=None) as bar:
        yield bar.update


def table(report: dict) -> str:
    """The report as lines of at most 130 columns (for up to four lengths), each column explained below it."""
    machine, given = report["machine"], report["input"]
    n, lengths, heads = given["lengths"][-1], given["lengths"], given["heads"]
    lines = [
        "xfaccel arena: what each attention costs beside exact attention (after Long Range Arena, Table 2)",
        "",
        f"machine   {_machine(machine)}, {machine['kernels']}",
        f"input     {given['task']}: {given['source']}, the first n tokens",
        f"model     one sequence, {heads} heads of width {given['width'] // heads}, width {given['width']}, "
        f"{given['dtype']}; seeded embedding, positions and projections",
        "          untrained weights, so this is cost, not accuracy; not yet: training and LRA's Table 1",
        "",
        f"{'time in ms at n =':>{47 + 8 * len(lengths)}}{'vs':>8}{'extra':>16}{'vs':>27}",
        f"{'variant':18}  {'parameters':20}  {'cost':5}" + "".join(f"{length:8}" for length in lengths)
        + f"{'exact':>8}{'growth':>8}{'MiB':>8}{'error':>9}{'distance':>9}{'xfref':>9}",
        "-" * (98 + 8 * len(lengths)),
    ]
    for row in report["rows"]:
        head = f"{row['function']:18}  {row['parameters']:20}  {row['cost']:5}"
        if not row["agrees"]:
            lines.append(f"{head}  DISAGREES with xfref, error {row['error']:.1e}: not timed")
            continue
        lines.append(head + "".join(f"{_digits(1e3 * row['seconds'][str(length)]):>8}" for length in lengths)
                     + f"{_times(row['vs_exact']):>8}{_power(row['growth']):>8}"
                     f"{_digits(row['extra_bytes'] / 2**20):>8}{row['error']:9.1e}"
                     f"{_distance(row):>9}{_times(row['vs_xfref']):>9}")
    lines += [
        "",
        "cost          multiplications of a head: n length, d width, b block, w window, r slots or features",
        "time          one call with all heads, forward: best of several, the rows called in turn",
        f"vs exact      how many times faster than xfaccel's exact attention at n = {n}; causal than causal",
        "growth        the time grows as this power of n: slope of log time over log n",
        f"extra MiB     memory at the peak of a call at n = {n} (1 MiB = 2^20 bytes), inputs and result not "
        "counted",
        f"error         largest difference from xfref in float64 at n = {given['check_length']}; over "
        f"{BOUND:.0e} of the largest value a row DISAGREES",
        f"distance      |result - exact| / |exact| on the same q, k, v at n = {n}: 0 is the same result, 1 "
        "is as far as zeros",
        f"vs xfref      how many times faster than xfref, plain NumPy in float32, at n = "
        f"{given['check_length']}",
    ]
    return "\n".join(lines)


def _machine(machine: dict) -> str:
    return f"{machine['cpu']}, {machine['threads']} thread{'s' * (machine['threads'] > 1)}"


def _digits(x: float) -> str:
    return f"{x:.2f}" if x < 10 else f"{x:.1f}" if x < 100 else f"{x:.0f}"


def _times(x: float | None) -> str:
    return "-" if x is None else f"{x:.2f}x" if x < 0.995 else f"{x:.1f}x" if x < 99.95 else f"{x:.0f}x"


def _power(x: float | None) -> str:
    return "-" if x is None else f"n^{x:.2f}"


def _distance(row: dict) -> str:
    return "exact" if row["variant"] == row["exact"] else "-" if row["distance"] is None else \
        f"{row['distance']:.3f}"


def svg(report: dict) -> bytes:
    """`chart` as a file; the same report gives the same bytes."""
    from matplotlib import rc_context

    image = io.BytesIO()
    with rc_context({"svg.hashsalt": "xfaccel"}):
        chart(report).savefig(image, format="svg", metadata={"Date": None})
    return image.getvalue()


def chart(report: dict) -> "matplotlib.figure.Figure":  # noqa: F821, imported where it is needed
    """Speed against distance to exact attention, disc area = extra memory (LRA, Figure 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    given, n = report["input"], report["input"]["lengths"][-1]
    rows = [row for row in report["rows"] if row["distance"] is not None]
    x, y = [1 / row["seconds"][str(n)] for row in rows], [row["distance"] for row in rows]
    largest = max([row["extra_bytes"] for row in rows] + [1])
    figure = Figure(figsize=(9, 6.4))
    FigureCanvasAgg(figure)  # measures the labels, without a display
    axes = figure.add_axes((0.08, 0.16, 0.9, 0.72), xscale="log")
    axes.set_yscale("symlog", linthresh=1, linscale=2)  # a result of zeros has distance 1, few are beyond
    areas = [LARGEST_DISC * row["extra_bytes"] / largest for row in rows]
    colors = [CAUSAL_COLOR if row["exact"] == "attention-causal" else COLOR for row in rows]
    axes.scatter(x, y, s=areas, c=colors, alpha=0.35, linewidths=0)
    axes.scatter(x, y, s=9, c=colors)  # the place of discs too small to see
    axes.set_xlim(min(x, default=1) / 1.8, max(x, default=1) * 1.8)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1, 2, 5, 10, 20, 50, 100])
    axes.set_ylim(-0.12, max([1.3] + [1.5 * distance for distance in y]))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(f"sequences of {n} tokens a second (further right is faster)")
    axes.set_ylabel("distance to exact attention (0: same result; logarithmic above 1)")
    figure.text(0.08, 0.945, "Speed against distance to exact attention", fontsize=14, weight="bold")
    figure.text(0.08, 0.905, "untrained weights, so this is cost, not accuracy; "
                             f"disc area is extra memory, the largest {_digits(largest / 2**20)} MiB")
    figure.text(0.08, 0.03, f"{_machine(report['machine'])}; {given['heads']} heads, width {given['width']}, "
                            f"{given['dtype']}", fontsize=8, color="0.4")
    figure.text(0.98, 0.945, "both directions", color=COLOR, ha="right")
    figure.text(0.98, 0.905, "causal", color=CAUSAL_COLOR, ha="right")
    _label(axes, list(zip(x, y, strict=True)), areas, [row["variant"] for row in rows], colors)
    return figure


def _label(axes, points, areas, names, colors) -> None:
    """Write each name beside its disc, at the nearest place where it covers no disc and no other name."""
    from matplotlib.transforms import Bbox

    renderer, pixel, frame = axes.figure.canvas.get_renderer(), axes.figure.dpi / 72, axes.bbox
    radii = [max(area**0.5 / 2, 2) * pixel for area in areas]
    centres = [axes.transData.transform(point) for point in points]
    taken = [Bbox([centre - radius, centre + radius]) for centre, radius in zip(centres, radii, strict=True)]
    angles = np.pi * np.array([0, 1, 0.5, 1.5, 0.25, 0.75, 1.75, 1.25])
    for point, radius, name, color in zip(points, radii, names, colors, strict=True):
        line = dict(arrowstyle="-", color=color, linewidth=0.5, alpha=0.6)
        label = axes.annotate(name, point, xytext=(0, 0), textcoords="offset pixels", ha="center",
                              va="center", fontsize=9, color=color, arrowprops=line)
        box = label.get_window_extent(renderer)
        for gap, angle in product(range(4, 200, 6), angles):
            shift = np.array([np.cos(angle), np.sin(angle)]) * (
                radius + gap * pixel + np.array([box.width, box.height]) / 2)
            place = box.translated(*shift)
            inside = frame.x0 < place.x0 and place.x1 < frame.x1 and frame.y0 < place.y0 < place.y1 < frame.y1
            if inside and not place.count_overlaps(taken):
                break
        label.set_position(shift)
        taken.append(place)
