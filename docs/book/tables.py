"""Tables made from the code and from what the arena measured, as Markdown."""

import importlib
import inspect
import json
import re
from pathlib import Path
from types import ModuleType

import ml_dtypes
import numpy as np
import papers
from cases import CASES, Case

import xfaccel
import xfref
from book.links import members
from xfaccel.arena.measure import BOUND, drawn, parts
from xfaccel.arena.table import NOTES, digits
from xfaccel.arena.variants import VARIANTS, Variant
from xfref.lra import published

Array = np.ndarray
README = Path(__file__).parents[2] / "README.md"
NO_BREAK = "\u00a0"
TYPES = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)
MEASURED = Path(__file__).parents[1] / "arena.json"  # written by `xfaccel arena --json`
ADVICE = {
    "the exact result": "attention",
    "text to understand, what matters is near": "sliding_window longformer bigbird etc",
    "what matters may be anywhere": "reformer routing",
    "images, video, grids": "axial image_2d",
    "causal, with a period or without": "sparse_strided sparse_fixed",
    "streams, segment by segment": "transformer_xl compressive_transformer",
    "token by token, at constant cost": "linear_transformer_step performer_step",
    "speed first, at any length": "linear_transformer performer",
    "as many tokens in every call": "linformer synthesizer",
}
PAYS = "pays from n =".replace(" ", NO_BREAK)
COLUMNS = {  # of the book, and the arena's note on each
    "cost": "cost", "time grows as": "growth", "ms at n = {n}": "time", "times faster than exact": "vs exact",
    "faster from n =": "faster from", "MiB beside the result": "extra MiB", "largest error": "error",
    "distance from exact": "distance", "times faster than xfref": "vs xfref",
}


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def costs(module: ModuleType) -> str:
    """What the functions of a page cost: stated, in time and memory, and measured."""
    own = [name for name in members(module) if name in xfaccel.__all__
           and "Cost: O(" in inspect.getdoc(getattr(xfaccel, name))]  # others cost what another one does
    stated = table(["`xfaccel`", "time", "memory beside arguments and result, in bytes"], [
        [f"`{name}`", _raised(f"O({papers.cost_of(getattr(xfaccel, name))})"), memory(getattr(xfaccel, name))]
        for name in own])
    letters = "[The letters of the memory](../contributing.md#memory)."
    report = json.loads(MEASURED.read_text())
    rows = [row for row in report["rows"] if row["function"] in own]
    if not rows:
        return f"{stated}\n\n{letters}\n"
    source = ("By [the arena](../measured.md), which names the machine. The cost counts multiplications: "
              f"{NOTES['cost'].partition(': ')[2]}. The error is against float64. The distance is |result - "
              "exact| / |exact|, 1 being as far as zeros: weights are not trained, and those of another kind "
              "of attention differ.")
    head, *lines = zip(*_measured(report, rows), strict=True)
    return f"{stated}\n\n{letters}\n\n{table(list(head), [list(line) for line in lines])}\n\n{source}\n"


def memory(function) -> str:
    """What stands under `Memory:` in a docstring of xfaccel: formulas as code, what explains them as text."""
    text = " ".join(inspect.getdoc(function).split())
    stated = re.split(r"\. |\.$", text.partition("Memory: ")[2])[0]
    formulas, *words = stated.split("; ")
    shown = [" and ".join(f"`{part}`" for part in piece.split(" and "))
             for piece in formulas.split(", where ")]
    return "; ".join([", where ".join(shown), *(part.replace("*", r"\*") for part in words)])


def measured(report: dict, rows: list[dict]) -> str:
    head, *lines = _measured(report, rows)
    return table(head, lines)


def _measured(report: dict, rows: list[dict]) -> list[list[str]]:
    """The words of COLUMNS, then a line for each row of the arena."""
    given, longest = report["input"], str(report["input"]["lengths"][-1])
    lines = [[name.format(n=longest) for name in ("variant", *COLUMNS)]]
    for row in rows:
        exact = row["variant"] == row["exact"]
        lines.append([
            _label(row["variant"], row["function"], row["parameters"]), _raised(row["cost"]),
            _raised(f"n^{row['growth']:.2f}"), digits(1e3 * row["seconds"][longest]),
            "" if exact else f"{row['vs_exact']:.1f}",
            "" if exact else _first(row["faster_from"], given["lengths"]),
            digits(row["extra_bytes"] / 2**20), f"{row['error']:.0e}",
            "exact" if exact else f"{row['distance']:.2f}", f"{row['vs_xfref']:.0f}"])
    return lines


def _raised(formula: str) -> str:
    """A formula in one line, its exponents raised."""
    return re.sub(r"\^([\d.]+)", r"<sup>\1</sup>", formula.replace(" ", NO_BREAK))


def both_directions() -> str:
    return _section("attention")


def causal() -> str:
    return _section("attention-causal")


def _section(exact: str) -> str:
    """The rows of the arena that are compared with this one."""
    report = json.loads(MEASURED.read_text())
    return measured(report, [row for row in report["rows"] if row["exact"] == exact])


def advice() -> str:
    """Which variant for which job, and from how many tokens it pays."""
    from_n = _crossovers()
    return table(["job", "take, from n tokens on"], [
        [job, ", ".join(f"`{name}`" + (NO_BREAK + from_n[name] if name in from_n else "")
                        for name in names.split())] for job, names in ADVICE.items()])


def _crossovers() -> dict[str, str]:
    """From how many tokens on a function is faster than exact attention, to two digits."""
    report, found = json.loads(MEASURED.read_text()), {}
    shortest, *_, longest = report["input"]["lengths"]
    for row in report["rows"]:  # if a function is there twice, first in both directions
        if row["variant"] != row["exact"]:
            n = row["faster_from"]
            found.setdefault(row["function"], f">{NO_BREAK}{longest}" if n is None else
                             f"≤{NO_BREAK}{n:.0f}" if n == shortest else f"{float(f'{n:.2g}'):.0f}")
    return found


def contents() -> str:
    """All papers, in the order of papers/index.md: page, idea, and from how many tokens on it is faster."""
    folder, from_n, parts = MEASURED.parent / "papers", _crossovers(), []
    trees = r":caption: (.+)\n(?::.+\n)*\n((?:\w+\n)+)```"
    for caption, pages in re.findall(trees, (folder / "index.md").read_text()):
        rows = []
        for page in pages.split():
            text = (folder / f"{page}.md").read_text()
            module = importlib.import_module(re.search(r"{paper} (\S+)", text)[1])
            rows.append([f"[{text[2:text.index(chr(10))]}]({page}.md)", idea(module).replace("|", r"\|"),
                         ", ".join(from_n[name] for name in members(module) if name in from_n)])
        parts.append(f"## {caption}\n\n{table(['page', 'idea', PAYS], rows)}\n")
    return "\n".join(parts)


def idea(module: ModuleType) -> str:
    """The first sentence of a page, without its name before the colon."""
    first = " ".join(inspect.getdoc(module).split("\n\n")[0].split())
    said = first.partition(": ")[2] or first
    return said[0].upper() + said[1:]


def notes() -> str:
    """What the columns of the arena mean, as its own table says it."""
    given = json.loads(MEASURED.read_text())["input"]
    values = dict(n=given["lengths"][-1], check=given["check_length"], bound=BOUND)
    said = {name.format(**values): NOTES[note].format(**values).replace("- not yet", "not yet")
            for name, note in COLUMNS.items()}
    return "\n".join(f"**{name}**\n: {note}\n" for name, note in said.items())


def capabilities() -> str:
    """What each attention takes, from its signature, the table of test cases, and a call for each type."""
    rows, taken = [], set()
    for name in xfaccel.__all__:
        if callable(getattr(xfaccel, name)) and any(papers.takes(name)):
            case = next(case for case in CASES if case.function == name)
            types = ", ".join(filter(None, (_type_of(case, dtype) for dtype in TYPES)))
            rows.append([f"`{name}`", *papers.takes(name), types])
            taken.add(types)
    head = ["function", "causal", "key mask", "n ≠ m", "step by step", "types"]
    if len(taken) > 1:
        return table(head, rows)
    return f"All of them take {taken.pop()}.\n\n{table(head[:-1], [row[:-1] for row in rows])}"


def _type_of(case: Case, dtype: type) -> str:
    """The name of the type if a call with it gives a result of it, else nothing."""
    args, kwargs = case.draw(np.random.default_rng(0), np.float32)
    result = case.call(xfaccel, tuple(_cast(x, dtype) for x in args), kwargs)
    first = result[0] if isinstance(result, tuple) else result
    return np.dtype(dtype).name if first.dtype == dtype else ""


def precision() -> str:
    """What numbers of 16 bits cost each row of the arena in accuracy."""
    heads, n, d = 2, 640, 32
    whole = tuple(np.random.default_rng(0).standard_normal((3, heads, n, d)))
    rows = []
    for variant in VARIANTS:
        arguments = drawn(variant, _cast(whole, np.float32))
        if variant.decide is not None:
            arguments = variant.decide(xfaccel, *_cast(whole, np.float32), **arguments)
        exact, errors = _result(xfref, variant, whole, arguments, np.float64), []
        for dtype in (np.float16, ml_dtypes.bfloat16):
            rounded = _cast((whole, arguments), dtype)
            out = _result(xfaccel, variant, *rounded, dtype)
            errors += [_share(out, _result(xfref, variant, *rounded, np.float64)), _share(out, exact)]
        errors.append(_share(_result(xfaccel, variant, whole, arguments, np.float32), exact))
        rows.append([_label(variant.name, variant.function), *(f"{error:.1e}" for error in errors)])
    return table(["variant", "float16: rounding", "float16: storing", "bfloat16: rounding",
                  "bfloat16: storing", "float32: rounding"], rows)


def devices() -> str:
    """The table under "What runs where" of README.md."""
    return _table_of_readme("What runs where")


def on_a_gpu() -> str:
    """The table under "On a GPU" of README.md, which a test holds to the report."""
    return _table_of_readme("On a GPU")


def _table_of_readme(heading: str) -> str:
    text = README.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    if not lines:
        raise ValueError(f"README.md has no table under '{heading}'")
    return "\n".join(lines)


def _label(row: str, function: str, parameters: str = "") -> str:
    """A row by its function, so that it is a link, and by what else tells it apart."""
    return ", ".join(filter(None, (f"`{function}`", "causal" * row.endswith("-causal"), parameters)))


def _result(package: ModuleType, variant: Variant, qkv: tuple, arguments: dict, dtype: type) -> Array:
    """The rows that a package gives in a type, as float64."""
    out = variant.call(getattr(package, variant.function), *_cast(qkv, dtype), **_cast(arguments, dtype))
    return parts(out)[0].astype(np.float64)


def _share(x: Array, truth: Array) -> float:
    return float(np.abs(x - truth).max() / np.abs(truth).max())


def _cast(x: object, dtype: type) -> object:
    """Float arrays in another type, also within a tuple or by name; anything else as it is."""
    if isinstance(x, tuple):
        return tuple(_cast(part, dtype) for part in x)
    if isinstance(x, dict):
        return {name: _cast(part, dtype) for name, part in x.items()}
    return x.astype(dtype) if isinstance(x, Array) and x.dtype in TYPES else x


def machine() -> str:
    """Where and on what the arena measured."""
    report = json.loads(MEASURED.read_text())
    found, given = report["machine"], report["input"]
    return (f"Measured on {found['threads']} threads of {found['cpu']} ({found['kernels']}), Python "
            f"{found['python']}, NumPy {found['numpy']}, Numba {found['numba']}: {given['source']}, "
            f"{given['heads']} heads of width {given['width'] // given['heads']}, {given['dtype']}, lengths "
            f"{', '.join(map(str, given['lengths']))}.")


def _first(n: float | None, lengths: list[int]) -> str:
    return "not yet" if n is None else f"{lengths[0]} or less" if n == lengths[0] else f"{n:.0f}"


def published_accuracy() -> str:
    """Table 1 of the Long Range Arena, a dagger at what is in doubt."""
    columns = published.Accuracy._fields
    return table(["model", *(dict(listops="ListOps", pathx="Path-X").get(name, name.capitalize())
                             for name in columns)], [
        [model, *(_printed(f"{x:.2f}", 1, model, column) if x == x else "failed"
                  for column, x in zip(columns, row, strict=True))]
        for model, row in published.ACCURACY.items()])


def published_efficiency() -> str:
    """Table 2 of the Long Range Arena, likewise."""
    kinds = ("steps", "gigabytes")
    return table(["model", *(f"{kind} at {n}" for kind in kinds for n in published.LENGTHS)], [
        [model, *(_printed(f"{x:.1f}" if x == round(x, 1) else f"{x:.2f}", 2, model, f"{kind} at {n}")
                  for kind in kinds for n, x in zip(published.LENGTHS, getattr(row, kind), strict=True))]
        for model, row in published.EFFICIENCY.items()])


def published_pictures() -> str:
    """Table 3 of the Long Range Arena."""
    return table(["model", "test", "training"], [
        [model, *(f"{x:.2f}" for x in pair)] for model, pair in published.IMAGE_TEST_AND_TRAINING.items()])


def doubts() -> str:
    """What is wrong with the numbers at which a dagger stands."""
    return "\n".join(f"- Table {number}, {model}, {column}: {why}."
                     for (number, model, column), why in published.DOUBTS.items())


def _printed(x: str, number: int, model: str, column: str) -> str:
    return f"{x} †" if published.doubtful(number, model, column) else x
