"""The tables of papers in README.md, made from the code: `python tests/papers.py` writes them anew.

Title, year and number come from the heads of `xfref`, costs from the docstrings, what a function takes from
its signature and from the table of cases.
"""

import inspect
import re
import sys
from pathlib import Path

from cases import VARIANTS

import xfaccel
import xfref

README = Path(__file__).parents[1] / "README.md"
BESIDE = {"attention": ["attention_lse", "merge", "softmax"]}  # they share its row
OTHER_HEADS = {  # further ones in their file's head
    "layer_norm": ("Layer Normalization", "2016", "1607.06450"),
    "quantize_rows": ("Q8BERT: Quantized 8Bit BERT", "2019", "1910.06188")}
BORDERS = "<!-- papers: made by tests/papers.py -->", "<!-- end of papers -->"


def head_of(module) -> tuple[str, str, str]:
    """Title, year and arXiv number of the paper that a file of `xfref` is a page of."""
    paragraph = " ".join(inspect.getdoc(module).split("\n\n")[1].split())
    found = re.match(r"(.+?)\. .*?\b((?:19|20)\d\d)[.,] arXiv:(\d{4}\.\d{4,5})", paragraph)
    if not found:
        raise ValueError(f"{module.__name__} has no head of the form: Title. Authors. Year. arXiv:number")
    return found.groups()


def cost_of(function) -> str:
    """The time of a call, as its docstring says it: what stands between the brackets of the first O(...)."""
    text = " ".join(inspect.getdoc(function).split())
    start = text.find("Cost: O(") + len("Cost: O(")
    if start < len("Cost: O("):
        raise ValueError(f"{function.__name__} says no cost of the form: Cost: O(...)")
    depth = 1
    for stop, letter in enumerate(text[start:], start):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return text[start:stop]
    raise ValueError(f"{function.__name__} says a cost whose brackets do not close")


def takes(name: str) -> tuple[str, str, str, str]:
    """Whether a function takes `causal`, a key mask, other numbers of queries than of keys, and steps."""
    parameters = inspect.signature(getattr(xfaccel, name)).parameters
    variants = [variant for variant in VARIANTS.values() if variant.function == name]
    if not variants:
        return "", "", "", ""
    causal = ("yes" if "causal" in parameters else "always" if all(x.always_causal for x in variants)
              else "right = 0" if name == "sliding_window" else "no")
    lengths = {"any": "yes", "equal": "no", "more keys": "m >= n"}[variants[0].lengths]
    steps = "yes" if f"{name}_step" in xfaccel.__all__ else ""
    return causal, "yes" if "key_mask" in parameters else "no", lengths, steps


def papers() -> str:
    """A row for each public function of both packages, those of a paper in a row's neighbours."""
    lines = ["| paper | year, arXiv | name in both packages | time of `xfaccel` | causal | key mask | n != m "
             "| streaming |", "|---|---|---|---|---|---|---|---|"]
    for name in (name for name in xfaccel.__all__ if name in xfref.__all__):
        if name == "patterns" or name.endswith("_step") or any(name in beside for beside in BESIDE.values()):
            continue
        home = sys.modules[inspect.unwrap(getattr(xfref, name)).__module__]
        title, year, number = OTHER_HEADS.get(name) or head_of(home)
        steps = [f"{name}_step"] if f"{name}_step" in xfaccel.__all__ else []
        names = ", ".join(f"`{each}`" for each in [name, *BESIDE.get(name, []), *steps])
        link = f"{year}, [{number}](https://arxiv.org/abs/{number})"
        row = (title, link, names, cost_of(getattr(xfaccel, name)), *takes(name))
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def reference_only() -> str:
    """A row for each public name that `xfref` alone has."""
    lines = ["| only in `xfref` | what it is |", "|---|---|"]
    for name in xfref.__all__:
        if name not in xfaccel.__all__:
            first = inspect.getdoc(getattr(xfref, name)).split("\n\n")[0]
            lines.append(f"| `{name}` | {' '.join(first.split())} |")
    return "\n".join(lines)


def text() -> str:
    """What README.md has to hold between its borders."""
    return f"{BORDERS[0]}\n{papers()}\n\n{reference_only()}\n{BORDERS[1]}"


def between(readme: str) -> str:
    return readme[readme.index(BORDERS[0]):readme.index(BORDERS[1]) + len(BORDERS[1])]


if __name__ == "__main__":
    whole = README.read_text()
    README.write_text(whole.replace(between(whole), text()))
