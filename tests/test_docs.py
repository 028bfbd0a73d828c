"""What the book and the README say, as far as that can be seen without a build; `make docs` runs the rest."""

import ast
import importlib
import inspect
import json
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import xfaccel
import xfref
from xfaccel import __main__ as command_line
from xfaccel.arena.variants import VARIANTS

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("**/*.md"))
README = (ROOT / "README.md").read_text()
ON_A_PAGE = [module for page in PAGES
             for module in re.findall(r"```{(?:source|outline)} (\S+)", page.read_text())]


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


@pytest.mark.parametrize("name", dict.fromkeys(xfref.__all__ + xfaccel.__all__))
def test_every_name_has_a_page(name):
    x = getattr(xfref, name, None) or getattr(xfaccel, name)
    homes = [x.__name__] if inspect.ismodule(x) else [inspect.unwrap(x).__module__]
    if name == "lra":
        homes = [getattr(part, "__name__" if inspect.ismodule(part) else "__module__")
                 for part in (getattr(x, part) for part in x.__all__)]
    for home in homes:
        assert ON_A_PAGE.count(home) == 1, f"no page of docs, or more than one, shows {home}"


def test_a_page_shows_what_is_there():
    for module in ON_A_PAGE:
        importlib.import_module(module)


def test_the_measured_rows_are_those_of_the_arena():
    rows = json.loads((ROOT / "docs" / "arena.json").read_text())["rows"]
    found = [(row["variant"], row["parameters"], row["cost"]) for row in rows]
    wanted = [(variant.name, variant.parameters, variant.cost) for variant in VARIANTS]
    assert found == wanted, "measure them anew: xfaccel arena --json docs/arena.json"
    assert all(row["agrees"] for row in rows)


def test_the_first_page_advises_what_exists():
    tables = ast.parse((ROOT / "docs/book/tables.py").read_text())
    advice, = (ast.literal_eval(node.value) for node in tables.body
               if isinstance(node, ast.Assign) and node.targets[0].id == "ADVICE")
    names = " ".join(advice.values()).split()
    assert len(names) > 10 and set(names) <= set(xfaccel.__all__)


def test_the_example_of_the_readme_runs():
    names = {}
    for number, block in enumerate(blocks(README, "python")):
        exec(compile(block, f"README.md, block {number}", "exec"), names)
        assert all(np.isfinite(x).all() for x in names.values() if isinstance(x, np.ndarray))
    assert number == 1 and names["full"].shape == names["q"].shape


def test_the_readme_names_commands_that_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = re.findall(r"\bmake ([a-z][a-z-]*)`", README)
    assert {"arena", "docs", "test"} <= set(named) <= targets
    assert set(re.findall(r"\bxfaccel (arena|doctor|\w+) ?(?:--|`)", README)) <= set(command_line.COMMANDS)


def test_the_readme_says_of_gpus_what_the_report_found(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "asv_benchmarks"))
    import gpu_report
    report = gpu_report.read(ROOT / "asv_benchmarks/gpu-report.md")
    stages = report.get("stages", {})
    right = bool(stages) and gpu_report.exit_code(report) == 0
    assert not right or stages["conformance"]["rows"][-1]["wrong"] == 0
    row, = re.findall(r"^\| GPU .*$", README, re.M)
    said = "yes" if right else "simulated"
    assert row.endswith(f" | {said} | {said} | {said} |")
    assert gpu_report.summary(report) in README


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_the_readme_says_which_numbers_the_cpu_takes(dtype):
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in
                      README.partition("## What runs where")[2].partition("\n## ")[0].splitlines()
                      if line.startswith("|")]
    column = next(place for place, cell in enumerate(head) if np.dtype(dtype).name in cell.split(", "))
    said = next(row[column] for row in rows if row[0].startswith("CPU"))
    x = np.ones((3, 2), dtype)
    assert said.startswith("yes") and xfaccel.attention(x, x, x).dtype == dtype
