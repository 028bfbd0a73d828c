"""The tool that mutates the specification: which mutants it makes, and the table that it writes."""

import pytest
from mutate import Mutant, mutants_of, names_in, read, with_row

SOURCE = '''def mean(x, axis: int = 0):
    """Docstrings stay, with 1 and 2."""
    return x[1:].sum(axis=axis) / max(len(x) - 1, 1) if not x.empty else None
'''


def test_mutants_are_distinct_and_compile():
    found = mutants_of(SOURCE, number=1000)
    texts = {mutant.text for mutant in found}
    assert len(texts) == len(found) > 12
    for mutant in found:
        compile(mutant.text, "mutant", "exec")
        assert "Docstrings stay, with 1 and 2." in mutant.text and "axis: int" in mutant.text
    for part in (" * max(", "+ 1, 1)", "min(len(x)", "x[:1].sum", "x[2:].sum", "x[:].sum", ".sum() /",
                 "- 1, 2)", "return x[1:] / ", "if x.empty", "axis: int=1"):
        hits = [part in mutant.text for mutant in found]
        assert any(hits), f"no mutant with {part}"
    assert {mutant.line for mutant in found} == {1, 3}


def test_a_seed_draws_the_same_mutants_again():
    assert mutants_of(SOURCE, 6) == mutants_of(SOURCE, 6)
    assert mutants_of(SOURCE, 6) != mutants_of(SOURCE, 6, seed=1)
    assert len(mutants_of(SOURCE, 6)) == 6


@pytest.mark.parametrize("text, what", [
    ('def f(x):\n    raise ValueError(f"needs 1, got {x - 1}")\n', []),
    ('"""1."""\nfrom a import b\n', []),
    ("x = hide(x, 1)\n", ["x = x", "pass", "x = hide(x, 2)", "x = hide(x, 0)"]),
    ("x = y\n", []),
    ("x += 1\n", ["pass", "x -= 1", "x += 2", "x += 0"]),
    ("y = a if b else c\n", ["y = a", "y = c", "y = a if not b else c"]),
    ("f(True)\n", ["pass", "f(False)"]),
])
def test_what_is_changed(text, what):
    assert sorted(mutant.text for mutant in mutants_of(text)) == sorted(what)


def test_a_change_is_shown_with_what_is_near_it():
    found = mutants_of("def f(x):\n    if x:\n        return x + y\n")
    assert (3, "`return x + y` → `return x - y`") in {(mutant.line, mutant.change) for mutant in found}


def test_public_names():
    assert names_in(SOURCE + "def _own():\n    pass\n") == {"mean"}


def test_a_row_is_replaced_and_its_explanations_stay():
    left = [Mutant(7, "`a | b` → `a & b`", ""), Mutant(9, "`c: 1` → `c: 2`", "")]
    text = with_row(with_row("", "core", 50, left), "axial", 60, [])
    assert "| axial | 60 | 60 | 100 % |\n| core | 50 | 48 | 96 % |" in text
    explained = text.replace("`a & b`", "`a & b`: both are the same: here")
    moved = with_row(explained, "core", 60, [left[0]._replace(line=8)])
    assert "| core | 60 | 59 | 98 % |" in moved and "c: 1" not in moved
    assert moved.count("- 8: `a | b` → `a & b`: both are the same: here\n") == 1
    assert read(moved)["core"] == (60, 59, {(8, left[0].change): "both are the same: here"})
    assert with_row(moved, "core", 60, [left[0]._replace(line=8)]) == moved
