"""Mutants of one file of xfref: small changes, each of which the tests of that file should notice.

    python tests/mutate.py reformer

Sixty changes of the file, drawn by a seed, are tested one by one, each in a process forked from one that has
NumPy, Numba, pytest and xfaccel already; the file's row in `mutants.md` is written anew, with each mutant
that survived. What is written behind a survivor there (`: why it changes nothing`) is kept as long as it
survives.
"""

import ast
import copy
import functools
import importlib.machinery
import inspect
import json
import os
import random
import re
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "tests" / "mutants.md"
SEED, NUMBER, AT_ONCE = 20201106, 60, 2
PLACES = ["test_bad_input.py", "laws", "test_laws.py", "test_golden.py", "test_house.py::test_doctests",
          "test_house.py::test_both_have_the_same_signature", "test_rules.py", "test_conformance.py",
          "lra"]  # quick ones first

OTHER = {  # what stands for what
    ast.Add: [ast.Sub], ast.Sub: [ast.Add], ast.Mult: [ast.Div], ast.Div: [ast.Mult],
    ast.FloorDiv: [ast.Mult], ast.Mod: [ast.FloorDiv], ast.Pow: [ast.Mult],
    ast.BitAnd: [ast.BitOr], ast.BitOr: [ast.BitAnd], ast.BitXor: [ast.BitAnd],
    ast.And: [ast.Or], ast.Or: [ast.And],
    ast.Lt: [ast.LtE, ast.Gt], ast.LtE: [ast.Lt, ast.GtE], ast.Gt: [ast.GtE, ast.Lt],
    ast.GtE: [ast.Gt, ast.LtE], ast.Eq: [ast.NotEq], ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot], ast.IsNot: [ast.Is], ast.In: [ast.NotIn], ast.NotIn: [ast.In],
}
NAMES = {"min": "max", "minimum": "maximum", "any": "all", "argmin": "argmax", "zeros": "ones",
         "ceil": "floor"}
NAMES |= {b: a for a, b in NAMES.items()}


class Mutant(NamedTuple):
    line: int
    change: str   # `what was written` → `what is written instead`
    text: str     # of the whole file


def mutants_of(text, number=NUMBER, seed=SEED):
    """Up to `number` distinct mutants of a source that compile, in the order of their lines."""
    tree = ast.parse(text)
    sites = list(changes(tree, tree))
    random.Random(seed).shuffle(sites)
    seen, found = {ast.unparse(tree)}, []
    for holder, key, new, node, statement in sites:
        if len(found) == number:
            break
        before = ast.unparse(statement)
        old = put(holder, key, new)
        mutated = ast.unparse(tree)
        after = ast.unparse(new if old is statement else statement)
        put(holder, key, old)
        if mutated not in seen and compiles(mutated):
            seen.add(mutated)
            found.append(Mutant(node.lineno, difference(before, after), mutated))
    return sorted(found)


def put(holder, key, new):
    """Set an item of a list or a field of a node; returns what stood there."""
    if isinstance(holder, list):
        old, holder[key] = holder[key], new
    else:
        old = getattr(holder, key)
        setattr(holder, key, new)
    return old


def compiles(text):
    try:
        compile(text, "mutant", "exec")
    except (SyntaxError, ValueError):
        return False
    return True


def difference(before, after, around=32):
    """The first line that differs, cut to what is near the change."""
    before, after = next(((a, b) for a, b in zip(before.splitlines(), after.splitlines(), strict=False)
                          if a != b), (before, after))
    same = len(os.path.commonprefix([before, after]))
    rest = len(os.path.commonprefix([before[same:][::-1], after[same:][::-1]]))
    start, tail = max(same - around, 0), max(rest - around, 0)
    return " → ".join(f"`{x[start:len(x) - tail].strip()}`" for x in (before, after))


def changes(node, statement):
    """(holder, key, what to put there, the node it is about, its statement) of every change below a node.

    Left alone: docstrings, annotations, imports and all of `raise`, where the texts of errors stand.
    """
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        places = enumerate(value) if isinstance(value, list) else [(field, value)]
        holder = value if isinstance(value, list) else node
        for key, child in places:
            if isinstance(child, ast.Import | ast.ImportFrom | ast.Raise | ast.JoinedStr) or is_text(child):
                continue
            inside = child if isinstance(child, ast.stmt) else statement
            if isinstance(child, ast.AST):
                about = child if hasattr(child, "lineno") else node
                yield from ((holder, key, new, about, inside) for new in instead(child))
                yield from changes(child, inside)
            if isinstance(child, ast.Call):
                yield from ((child, "keywords", [x for x in child.keywords if x is not gone], child, inside)
                            for gone in child.keywords)
            if isinstance(child, ast.Slice):
                yield from ((child, bound, None, child, inside) for bound in ("lower", "upper"))
            if isinstance(child, ast.If | ast.IfExp | ast.While):
                yield child, "test", ast.UnaryOp(ast.Not(), child.test), child.test, inside
            if isinstance(child, ast.Name | ast.Attribute):
                name = "id" if isinstance(child, ast.Name) else "attr"
                if getattr(child, name) in NAMES:
                    yield child, name, NAMES[getattr(child, name)], child, inside


def is_text(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def instead(node):
    """What may stand in the place of a node."""
    yield from (new() for new in OTHER.get(type(node), []))
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield from (ast.Constant(node.value + step) for step in (1, -1))
    if isinstance(node, ast.Constant) and type(node.value) is bool:
        yield ast.Constant(not node.value)
    if isinstance(node, ast.UnaryOp):
        yield node.operand
    if isinstance(node, ast.Slice) and node.step is None:
        yield ast.Slice(node.upper, node.lower)
    if isinstance(node, ast.IfExp):
        yield from (node.body, node.orelse)
    if isinstance(node, ast.Call):  # hide_keys(x, mask) -> x, x.swapaxes(-1, -2) -> x
        method = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) not in ("np", "math")
        first = node.func.value if method else node.args[0] if node.args else None
        if first is not None and not isinstance(first, ast.Constant | ast.Starred | ast.Tuple):
            yield copy.deepcopy(first)
    anew = isinstance(node, ast.Assign) and loaded(node.targets) <= loaded([node.value])  # k = hidden(k)
    if anew or isinstance(node, ast.Expr | ast.AugAssign | ast.If):
        yield ast.Pass()


def loaded(nodes):
    return {x.id for node in nodes for x in ast.walk(node) if isinstance(x, ast.Name)}


def names_in(text):
    """The public functions of a source."""
    return {node.name for node in ast.parse(text).body
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")}


class Selection:
    """A pytest plugin: keeps the tests of a paper on xfref."""

    def __init__(self, paper, names):
        self.paper, self.names = paper, names
        self.of_lra = (ROOT / "xfref" / "lra" / f"{paper}.py").exists()

    def pytest_collection_modifyitems(self, items):
        items[:] = [item for item in items if self.keeps(item)]

    def keeps(self, item):
        import test_house

        import xfref

        source, params = source_of(item.function), getattr(item, "callspec", None)
        params = params.params if params else {}
        conforms = item.path.name == "test_conformance.py"
        if params.get("package") == "xfaccel":
            return False
        if "package" not in params and "xfaccel" in source and "xfref" not in source and not conforms:
            return False  # about the engines alone
        if item.path.name == f"test_{self.paper}.py":
            return True
        if item.path.parent.name == "lra":
            return self.of_lra
        if self.paper == "core" and not conforms:
            return True  # whatever is called, core checks it and adds it up
        words = set(words_of({name: x for name, x in params.items() if name != "package"}))
        known = {*xfref.__all__, *test_house.public_functions(xfref.patterns, {"xfref.patterns"}), "xfref"}
        if words & known:
            return bool(words & self.names)
        # a rule that names no function is a rule for all
        return item.path.name == "test_rules.py" or any(re.search(rf"\b{x}\b", source) for x in self.names)


source_of = functools.cache(inspect.getsource)


def words_of(x):
    """The names of functions, variants and modules among the parameters of a test."""
    import test_golden
    from cases import VARIANTS

    if isinstance(x, dict) and {"paper", "case"} <= x.keys():
        call = json.loads(str(test_golden.read(x["paper"])[x["case"]]["call"]))
        yield from (x["paper"], call.get("function", x["paper"]))
    elif isinstance(x, dict | tuple | list):
        for part in x.values() if isinstance(x, dict) else x:
            yield from words_of(part)
        if hasattr(x, "function"):
            yield from x.function.split(".")
    elif isinstance(x, str):
        yield from (VARIANTS[x].function if x in VARIANTS else x).split(".")
    elif inspect.isfunction(x):
        yield x.__name__


def start(path, text, selection, quiet=True):
    """Forks a process that runs the tests with `text` in the place of a file; returns its number."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        if quiet:
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        plain = importlib.machinery.SourceFileLoader.get_code

        def get_code(loader, name):
            return compile(text, str(path), "exec") if name == module else plain(loader, name)

        importlib.machinery.SourceFileLoader.get_code = get_code
        code = run_tests(selection)
    finally:
        sys.stdout.flush()
        os._exit(code)  # whatever was raised: no mutant comes back into this program


def run_tests(selection):
    """0 if all pass. The file's own tests come first: the tables of all papers take seconds to collect."""
    import pytest

    own = [ROOT / "tests" / room / f"test_{selection.paper}.py" for room in ("laws", "lra")]
    first = [path for path in own if path.exists()] or [ROOT / "tests" / "test_laws.py"]
    for places in (first, [ROOT / "tests" / place for place in PLACES]):
        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--rootdir={ROOT}",
                            *map(str, places)], plugins=[selection])
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            break
    return int(code)


def survivors_of(path, mutants, selection, limit):
    """The mutants that all tests let pass; one that runs longer than `limit` seconds counts as noticed."""
    waiting, running, left = list(reversed(mutants)), {}, []
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            mutant = waiting.pop()
            running[start(path, mutant.text, selection)] = mutant, time.monotonic()
        time.sleep(0.02)
        for child, (mutant, begun) in list(running.items()):
            if time.monotonic() - begun > limit:
                os.kill(child, signal.SIGKILL)
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                del running[child]
                code = os.waitstatus_to_exitcode(status)
                if code > 3 or code == 99:  # pytest: 4 is wrong usage, 5 no tests
                    raise RuntimeError(f"pytest ended with {code} for {mutant.change}")
                if code == 0:
                    left.append(mutant)
                fate = "survives" if code == 0 else "out of time" if code < 0 else "killed"
                print(f"{mutant.line}: {mutant.change} {fate}, {time.monotonic() - begun:.1f} s", flush=True)
    return sorted(left)


def warm(names):
    """Runs the paper's cases on xfaccel: forked processes find its kernels compiled, and no other cases."""
    import pytest  # noqa: F401 - loaded once, for all that are forked
    import scipy.sparse
    import scipy.special
    import scipy.stats  # noqa: F401
    from cases import CASES, generator

    import xfaccel

    # those of other papers would only cost time: pytest makes a test of each before it asks which are wanted
    CASES[:] = [case for case in CASES if names & set(case.function.split("."))]
    for case in CASES:
        for dtype in (np.float32, np.float64):
            case.call(xfaccel, *case.draw(generator(case), dtype))
    assert "xfref" not in sys.modules, "a mutant would come too late"


HEAD = """# Mutants of the specification

`make mutate PAPER=<paper>` makes up to sixty small changes to one file of `xfref`, one at a time, and runs
the tests of that file on each (`mutate.py`). It writes the file's row here, and below the table each mutant
that no test noticed, with its line. An explanation behind a survivor says why the change changes nothing that
can be seen; it is kept for as long as the mutant survives.

| file | mutants | killed | share |
|---|---|---|---|
"""
ROW = re.compile(r"\| (\w+) \| (\d+) \| (\d+) \| .*\|")
SURVIVOR = re.compile(r"- (\d+): (`.*` → `.*?`)(?:: (.*))?")


def read(text):
    """The table: {file: (mutants, killed, {(line, change): explanation})}."""
    table, paper = {}, None
    for line in text.splitlines():
        if row := ROW.fullmatch(line):
            table[row[1]] = int(row[2]), int(row[3]), {}
        elif line.startswith("## "):
            paper = line[3:]
        elif found := SURVIVOR.fullmatch(line):
            table[paper][2][int(found[1]), found[2]] = found[3] or ""
    return table


def written(table):
    rows = [f"| {paper} | {number} | {killed} | {100 * killed / number:.0f} % |"
            for paper, (number, killed, _) in sorted(table.items())]
    for paper, (*_, survivors) in sorted(table.items()):
        rows += [f"\n## {paper}"] * bool(survivors)
        rows += [f"- {line}: {change}{': ' if why else ''}{why}"
                 for (line, change), why in sorted(survivors.items())]
    return HEAD + "\n".join(rows) + "\n"


def with_row(text, paper, number, survivors):
    """The table's text with one paper's row anew; an explanation goes with its change to any other line."""
    table = read(text)
    known = {change: why for (_, change), why in table.get(paper, (0, 0, {}))[2].items()}
    table[paper] = number, number - len(survivors), {(x.line, x.change): known.get(x.change, "")
                                                     for x in survivors}
    return written(table)


def main(paper):
    path = next(iter([*ROOT.glob(f"xfref/{paper}.py"), *ROOT.glob(f"xfref/*/{paper}.py")]), None)
    if path is None or path.stem != paper:  # its folder is none of the name
        raise SystemExit(f"no file {paper}.py in xfref; make mutate PAPER=reformer")
    text = path.read_text()
    mutants, names = mutants_of(text), names_in(text) | {paper}
    selection = Selection(paper, names)
    warm(names)
    begun = time.monotonic()
    if os.waitstatus_to_exitcode(os.waitpid(start(path, text, selection, quiet=False), 0)[1]):
        raise SystemExit("the tests fail without any mutant")
    took = time.monotonic() - begun
    survivors = survivors_of(path, mutants, selection, limit=30 + 4 * took)
    TABLE.write_text(with_row(TABLE.read_text() if TABLE.exists() else "", paper, len(mutants), survivors))
    print(f"{paper}: {len(mutants) - len(survivors)} of {len(mutants)} mutants killed, "
          f"{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("name one file of xfref: make mutate PAPER=reformer")
    sys.path.insert(1, str(ROOT))
    # two mutants at a time, each on one core
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS="1")
    main(sys.argv[1])
