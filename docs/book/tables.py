"""Tables made from the code and from what the arena measured, as Markdown."""

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


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def costs(module: ModuleType) -> str:
    """What the functions of a page cost: stated, in time and memory, and measured."""
    own = [name for name in members(module) if name in xfaccel.__all__
           and "Cost: O(" in inspect.getdoc(getattr(xfaccel, name))]  # others cost what another one does
    stated = table(["`xfaccel`", "time", "memory beside arguments and result, in bytes"], [
        [f"`{name}`", f"O({papers.cost_of(getattr(xfaccel, name))})", memory(getattr(xfaccel, name))]
        for name in own])
    report = json.loads(MEASURED.read_text())
    rows = [row for row in report["rows"] if row["function"] in own]
    source = ("Measured by [the arena](../measured.md), where it says on what machine, and what a column "
              "means; [the letters of the memory](../contributing.md#memory).")
    return f"{stated}\n\n{measured(report, rows)}\n\n{source}\n" if rows else f"{stated}\n"


def memory(function) -> str:
    """The formula under `Memory:` in a docstring of xfaccel."""
    text = " ".join(inspect.getdoc(function).split())
    return "`" + re.search(r"Memory: (.*?)(?:[.;] |[.;]?$)", text)[1].rstrip(".") + "`"


def measured(report: dict, rows: list[dict]) -> str:
    given, longest = report["input"], str(report["input"]["lengths"][-1])
    return table(
        ["row", "cost", "grows as", f"ms at n = {longest}", "exact / this", "faster from n",
         "largest error", "distance from exact"],
        [[_label(row["variant"], row["function"], row["parameters"]), row["cost"].replace(" ", NO_BREAK),
          f"n^{row['growth']:.2f}", digits(1e3 * row["seconds"][longest]), f"{row['vs_exact']:.1f}",
          _first(row["faster_from"], given["lengths"]), f"{row['error']:.0e}",
          "exact" if row["variant"] == row["exact"] else f"{row['distance']:.2f}"] for row in rows])


def both_directions() -> str:
    return _section("attention")


def causal() -> str:
    return _section("attention-causal")


def _section(exact: str) -> str:
    """The rows of the arena that are compared with this one."""
    report = json.loads(MEASURED.read_text())
    return measured(report, [row for row in report["rows"] if row["exact"] == exact])


def notes() -> str:
    """What the columns of the arena mean, as its own table says it."""
    given = json.loads(MEASURED.read_text())["input"]
    values = dict(n=given["lengths"][-1], check=given["check_length"], bound=BOUND)
    shown = "\n".join(f"**{name}**\n: {note.format(**values)}\n" for name, note in NOTES.items())
    return f"{_machine()}\n\n{shown}"


def capabilities() -> str:
    """What each attention takes, from its signature, the table of test cases, and a call for each type."""
    rows = []
    for name in xfaccel.__all__:
        if callable(getattr(xfaccel, name)) and any(papers.takes(name)):
            case = next(case for case in CASES if case.function == name)
            types = [_type_of(case, dtype) for dtype in TYPES]
            rows.append([f"`{name}`", *papers.takes(name), ", ".join(filter(None, types))])
    return table(["function", "causal", "key mask", "n != m", "streaming", "types"], rows)


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
    return table(["row", "float16: rounding", "storing", "bfloat16: rounding", "storing",
                  "float32"], rows)


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


def _machine() -> str:
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
    return table(["model", *(name.capitalize() for name in columns)], [
        [model, *(_printed(f"{x:.2f}", 1, model, column) if x == x else "failed"
                  for column, x in zip(columns, row, strict=True))]
        for model, row in published.ACCURACY.items()])


def published_efficiency() -> str:
    """Table 2 of the Long Range Arena, likewise."""
    kinds = ("steps", "gigabytes")
    return table(["model", *(f"{kind} at {n}" for kind in kinds for n in published.LENGTHS)], [
        [model, *(_printed(f"{x:g}", 2, model, f"{kind} at {n}") for kind in kinds
                  for n, x in zip(published.LENGTHS, getattr(row, kind), strict=True))]
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
