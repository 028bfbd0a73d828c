"""The tables of whole encoders, one for each task, beside what the paper printed (LRA, Tables 1 and 2)."""

import textwrap

from xfaccel.arena import lra
from xfaccel.arena.table import WIDTH, digits, machine, number, times
from xfaccel.arena.variants import Variant
from xfref.lra import encoder, published, uniform_span

NOTES = {
    "steps/s": "steps a second. A step is one sequence (retrieval: one pair) from ids to logits, forward: "
               "the attention of one block, timed and counted as often as the encoder has it, and the rest, "
               "which is NumPy's and the same for every variant. Running all blocks takes up to a tenth more",
    "vs exact": "how many times as many steps as with exact attention, at the largest n; causal than causal",
    "share": "of the attention, in the time of a step at the largest n",
    "MiB": "2^20 bytes, at the peak of a step and of one call of the attention in it, at the largest n; both "
           "without weights, inputs and result",
    "span": "required attention span of the first block, untrained: the mean distance to the attended "
            "tokens, as a share of that of uniform attention, ({n}^2 - 1) / (3 * {n}) = {uniform:.0f} tokens "
            "at n = {n}; mean of the heads. Linformer's weights may be negative and count by their size",
    "paper": "for text training steps a second on 4 x 4 TPU v3 chips, batch of 32, and how many times those "
             "of its Transformer, and GB a chip, at the largest n (Table 2); for other tasks accuracy in per "
             "cent (Table 1). Its models were trained; nothing here is",
    "?": "a printed number in doubt: {doubts}",
}


def text(report: dict, cells: list[tuple[str, int, Variant]]) -> str:
    """These cells of the report as lines of at most `WIDTH` columns (for up to four lengths)."""
    found = {(cell["task"], cell["length"], cell["variant"]): cell for cell in report["cells"]}
    lines = [
        "xfaccel lra: what a whole encoder costs with each attention in it (after Long Range Arena, Table 2)",
        "",
        f"machine   {machine(report['machine'])}, {report['machine']['kernels']}",
        f"encoders  {report['profile']} sizes, {report['dtype']}, seeded weights; untrained, so this is "
        "cost, not accuracy",
    ]
    doubts, spans = set(), set()
    for task in dict.fromkeys(task for task, _, _ in cells):
        lengths = list(dict.fromkeys(n for other, n, _ in cells if other == task))
        variants = dict.fromkeys(variant for other, _, variant in cells if other == task)
        own = {variant.name: [found[task, n, variant.name] for n in lengths] for variant in variants}
        spans.update(n for n in lengths if n <= lra.SPAN_LENGTH)
        lines += ["", *_section(report, task, lengths, list(variants), own, doubts)]
    uniform = max(spans, default=lra.SPAN_LENGTH)
    values = dict(n=uniform, uniform=uniform_span(uniform), doubts="; ".join(sorted(doubts)))
    notes = [textwrap.fill(f"{name:13}{note.format(**values)}", WIDTH, subsequent_indent=" " * 13)
             for name, note in NOTES.items() if name != "?" or doubts]
    return "\n".join([*lines, "", *notes])


def _section(report: dict, task: str, lengths: list[int], variants: list[Variant], own: dict[str, list[dict]],
             doubts: set[str]) -> list[str]:
    sizes, call = encoder.PROFILES[report["profile"]][task]
    head, n_first = f"{'variant':23} {'parameters':21}", "".join(f"{n:6}" for n in lengths)
    near = [min(published.LENGTHS, key=lambda printed, n=n: abs(printed - n)) for n in lengths]
    above, below = "", f"{'paper':>8}"
    if task == "text":
        above = f"{'paper, n =':>{max(5 * len(near), 11)}}{'vs':>6}{'GB':>6}"
        below = "".join(f"{n:5}" for n in near).rjust(11) + f"{near[-1]:12}"
    lines = [
        f"{task}: {sizes['layers']} block{'s' * (sizes['layers'] > 1)}, width {sizes['width']}, "
        f"{call['heads']} heads of {sizes['qkv'] // call['heads']}, feed-forward {sizes['hidden']}, pool "
        f"{call['pool']}; {report['sources'][task]}",
        f"{'':{len(head)}}{'steps/s, n =':>{6 * len(lengths)}}{'vs':>6}{'':6}{'MiB':>6}{'MiB':>6}"
        + f"{'':5}{above}".rstrip(),
        f"{head}{n_first}{'exact':>6}{'share':>6}{'step':>6}{'attn.':>6}{'span':>5}{below}",
    ]
    for title, exact in (("both directions", "attention"), ("causal", "attention-causal")):
        rows = [_line(report, variant, own[variant.name], own[exact], _printed(variant, task, near, doubts))
                for variant in variants if variant.exact == exact]
        if rows:
            lines += ["-" * len(rows[0]), title, *rows]
    return lines


def _line(report: dict, variant: Variant, cells: list[dict], exact: list[dict], printed: str) -> str:
    head = f"{variant.function:23} {variant.parameters:21}"
    steps = "".join(f"{_rate(report, cell):>6}" for cell in cells)
    last, reference = cells[-1], exact[-1]
    if last["attention_seconds"] is None:
        return f"{head}{steps}  not enough memory"
    seconds = lra.step_seconds(report, last)
    vs = (None if reference["attention_seconds"] is None
          else lra.step_seconds(report, reference) / seconds)
    reach = [cell["span"] / uniform_span(cell["length"]) for cell in cells if cell["span"] is not None]
    return (f"{head}{steps}{times(vs):>6}{last['attention_seconds'] / seconds:6.0%}"
            f"{digits(last['peak_bytes'] / 2**20):>6}{digits(last['attention_bytes'] / 2**20):>6}"
            f"{number(reach[-1] if reach else None, '{:.2f}'):>5}{printed}")


def _rate(report: dict, cell: dict) -> str:
    return "-" if cell["attention_seconds"] is None else digits(1 / lra.step_seconds(report, cell))


def _printed(variant: Variant, task: str, near: list[int], doubts: set[str]) -> str:
    """What the paper says of the variant: Table 2 for text, else its accuracy."""
    model = lra.MODELS.get(variant.name)
    if task != "text":
        accuracy = getattr(published.ACCURACY[model], task) if model else None
        return f"{'-' if model is None else 'FAIL' if accuracy != accuracy else accuracy:>8}"
    if model not in published.EFFICIENCY:
        return (f"{'-':>5}" * len(near)).rjust(11) + f"{'-':>6}" * 2

    def kept(column: str, n: int) -> str:
        """The number as it is printed, marked if it is in doubt."""
        key = (2, model, f"{column} at {n}")
        doubtful = key in published.DOUBTS
        if doubtful:
            doubts.add(f"{model}, {key[2]}: {published.DOUBTS[key]}")
        row = getattr(published.EFFICIENCY[model], column)
        return f"{row[published.LENGTHS.index(n)]}{'?' * doubtful}"

    last = published.LENGTHS.index(near[-1])
    factor = published.EFFICIENCY[model].steps[last] / published.EFFICIENCY["Transformer"].steps[last]
    return ("".join(kept("steps", n).rjust(5) for n in near).rjust(11) + f"{times(factor):>6}"
            + kept("gigabytes", near[-1]).rjust(6))
