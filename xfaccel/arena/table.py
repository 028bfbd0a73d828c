"""The table of the arena (LRA, Table 2), with a line on every column below it."""

import textwrap

from xfaccel.arena.measure import BOUND

WIDTH = 130
NOTES = {  # n is the longest length
    "cost": "multiplications of a head: n length, d width, b block, w window, span or segment, r slots, "
            "features or keys",
    "growth": "the power of n that the time grows with, beside that of the cost: slope of log time on log n",
    "time": "one call with all heads, forward: best of several, the rows called in turn. Part of the call: "
            "hashing (reformer), clustering (routing), sorting (sinkhorn), the loop over segments and "
            "compressing them. Made before it: what a model has learned, such as projections and centroids, "
            "and the global tokens of etc, each the mean of a stretch of the long ones",
    "vs exact": "how many times faster than xfaccel's exact attention at n = {n}; causal than causal",
    "faster from": "the n from which on it is faster than exact attention, between two measured ones by log "
                   "over log; - not yet at {n}",
    "extra MiB": "memory at the peak of a call at n = {n} (1 MiB = 2^20 bytes), inputs and result not "
                 "counted",
    "error": "largest difference from xfref in float64 at n = {check}; over {bound:.0e} of the largest value "
             "a row DISAGREES",
    "distance": "|result - exact| / |exact| at n = {n}: 0 is the same result, 1 is as far as zeros. Reformer "
                "takes q for k, synthesizer neither",
    "vs xfref": "how many times faster than xfref, plain NumPy in float32, at n = {check}",
    "vs scipy": "and than scipy.sparse products, head by head, where a pattern alone says who sees whom",
}


def text(report: dict) -> str:
    """The report as lines of at most `WIDTH` columns (for up to four lengths)."""
    found, given = report["machine"], report["input"]
    lengths = given["lengths"]
    head = f"{'variant':23} {'parameters':21} {'cost':7}"
    lines = [
        "xfaccel arena: what each attention costs beside exact attention (after Long Range Arena, Table 2)",
        "",
        f"machine   {machine(found)}, {found['kernels']}",
        f"input     {given['task']}: {given['source']}, the first n tokens",
        f"model     one sequence, {given['heads']} heads of width {given['width'] // given['heads']}, width "
        f"{given['width']}, {given['dtype']}; seeded embedding, positions and projections",
        "          untrained weights, so this is cost, not accuracy; not yet: training and LRA's Table 1",
        "",
        f"{'':{len(head)}}{'':7}{'time in ms at n =':>{6 * len(lengths)}}"
        f"{'vs':>7}{'faster':>7}{'extra':>6}{'':13}{'vs':>7}{'vs':>6}",
        f"{head}{'growth':>7}{''.join(f'{n:6}' for n in lengths)}"
        f"{'exact':>7}{'from':>7}{'MiB':>6}{'error':>6}{'dist.':>7}{'xfref':>7}{'scipy':>6}",
    ]
    width = len(lines[-1])
    rows = [(row, _line(row, lengths)) for row in report["rows"]]
    for title, exact in (("both directions", "attention"), ("causal", "attention-causal")):
        section = [line for row, line in rows if row["exact"] == exact]
        if section:
            lines += ["-" * width, title, *section]
    values = dict(n=lengths[-1], check=given["check_length"], bound=BOUND)
    notes = [textwrap.fill(f"{name:13}{note.format(**values)}", WIDTH, subsequent_indent=" " * 13)
             for name, note in NOTES.items()]
    return "\n".join([*lines, "-" * width, *notes])


def _line(row: dict, lengths: list[int]) -> str:
    head = f"{row['function']:23} {row['parameters']:21} {row['cost']:7}"
    if not row["agrees"]:
        return f"{head}  DISAGREES with xfref, error {row['error']:.1e}: not timed"
    each = "".join(f"{digits(1e3 * row['seconds'][str(n)]):>6}" for n in lengths)
    growth = number(row["growth"], "{:.2f}")
    away = "exact" if row["variant"] == row["exact"] else number(row["distance"], "{:.3f}")
    return (f"{head}{growth:>7}{each}{times(row['vs_exact']):>7}{_first(row['faster_from'], lengths):>7}"
            f"{digits(row['extra_bytes'] / 2**20):>6}{row['error']:6.0e}{away:>7}"
            f"{times(row['vs_xfref']):>7}{times(row['vs_scipy']):>6}")


def machine(found: dict) -> str:
    return f"{found['cpu']}, {found['threads']} thread{'s' * (found['threads'] > 1)}"


def digits(x: float) -> str:
    return f"{x:.2f}" if x < 10 else f"{x:.1f}" if x < 100 else f"{x:.0f}"


def number(x: float | None, form: str) -> str:
    return "-" if x is None else form.format(x)


def times(x: float | None) -> str:
    return "-" if x is None else f"{x:.2f}x" if x < 0.995 else f"{x:.1f}x" if x < 99.95 else f"{x:.0f}x"


def _first(n: float | None, lengths: list[int]) -> str:
    return "-" if n is None else f"<{lengths[0]}" if n == lengths[0] else f"{n:.0f}"
