"""The rules of the house, as tests: signatures, imports, sizes, and that nothing new is without its test."""

import ast
import doctest
import importlib
import inspect
import io
import pkgutil
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import lawbook
import numpy as np
import pytest
from cases import CASES

import xfaccel
import xfref

ROOT = Path(__file__).parents[1]
PACKAGES = [xfref, xfaccel]
# `lra` is no room of papers: its __init__ is a contents page
ROOMS = ["fixed", "learned", "lowrank", "kernel", "recurrent"]
MAX_LINE = 110
CHECKS = ("indices_in", "token_mask")  # in `patterns` of both packages: no patterns, they check arguments
CORE = {"xfref.core", "xfref.patterns", "xfref.transformer"}

# in xfref alone: what draws or fills arrays, whole blocks (which take the attention as an argument), and lra
REF_ONLY = {
    "favor_projection", "pooling_projection", "star_transformer", "star_transformer_weights",
    "relative_label_bias", "bigbird_random_blocks",
    "dynamic_span", "span_penalty",
    "dense_logits", "factorized_dense_logits", "random_logits", "factorized_random_logits",
    "mab", "sab", "isab", "pma", "mab_weights", "pma_weights",
    "update_centroids",
    "compress_mean", "compress_max", "compress_conv", "compress_dilated", "compress_most_used",
    "compressive_update", "reconstruction_loss",
    "sinusoidal_positions", "feed_forward", "feed_forward_weights", "multi_head", "multi_head_weights",
    "encoder_block", "encoder_block_weights",
    "axial_transformer", "axial_transformer_weights",
    "lsh_rotations",
    "reversible_block", "reversible_inverse",
    "lra",
}


FAST_ONLY = ["set_threads", "warmup"]  # what a specification has no use for
REF_ONLY_PAPERS = {"lowrank/set_transformer"}  # whole blocks that take the attention as an argument


def both_names():
    """The public names that both packages have, in the order of the contents page."""
    return [name for name in xfref.__all__ if name not in REF_ONLY]


def sources(package):
    return sorted(Path(package.__file__).parent.rglob("*.py"))


def relative(path):
    return path.relative_to(ROOT).as_posix()


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


ALL_SOURCES = [path for package in PACKAGES for path in sources(package)]
each_source = pytest.mark.parametrize("path", ALL_SOURCES, ids=relative)


# names and signatures


def test_both_packages_have_the_same_contents_in_the_same_order():
    assert xfaccel.__all__ == both_names() + FAST_ONLY
    assert set(xfref.__all__) >= REF_ONLY


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_all_is_what_the_package_offers(package):
    assert len(set(package.__all__)) == len(package.__all__)
    imported = {alias.asname or alias.name for node in ast.parse(Path(package.__file__).read_text()).body
                if isinstance(node, ast.ImportFrom) for alias in node.names}
    imported = {name for name in imported if not name.startswith("_")}
    assert imported == set(package.__all__)
    for name in package.__all__:
        assert hasattr(package, name)


def pairs():
    """Each function of both packages, beside its twin."""
    for name in both_names():
        if name != "patterns":
            yield pytest.param(getattr(xfref, name), getattr(xfaccel, name, None), id=name)
    for name in public_functions(xfref.patterns, {"xfref.patterns"}):
        if name not in CHECKS:
            yield pytest.param(getattr(xfref.patterns, name), getattr(xfaccel.patterns, name, None),
                               id=f"patterns.{name}")


def public_functions(module, homes):
    return [name for name, x in vars(module).items() if inspect.isfunction(x) and x.__module__ in homes
            and not name.startswith("_")]


@pytest.mark.parametrize("reference, twin", list(pairs()))
def test_both_have_the_same_signature(reference, twin):
    assert twin is not None, "xfaccel has no such function"
    assert form(reference) == form(twin)


def form(function):
    return [(x.name, x.kind, x.default) for x in inspect.signature(function).parameters.values()]


def test_no_signature_takes_what_it_does_not_name():
    for package in PACKAGES:
        for name in package.__all__:
            function = getattr(package, name)
            if inspect.isfunction(function):
                kinds = {x.kind for x in inspect.signature(function).parameters.values()}
                assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}, name


# imports


def imports(path):
    """(module, the function it is imported in or None) of each import; relative ones made absolute."""
    found = []

    def visit(node, inside):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend((alias.name, inside) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    package = module_name(path).split(".")
                    keep = len(package) - child.level + (path.name == "__init__.py")
                    base = ".".join([*package[:keep], *filter(None, [base])])
                # `from package import module` imports the module
                is_package = (ROOT / base.replace(".", "/")).is_dir()
                found.extend((f"{base}.{alias.name}" if is_package else base, inside)
                             for alias in child.names)
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            visit(child, child.name if is_function else inside)

    visit(ast.parse(path.read_text()), None)
    return found


@pytest.mark.parametrize("path", sources(xfref), ids=relative)
def test_xfref_imports_numpy_the_standard_library_and_itself(path):
    for module, _ in imports(path):
        top = module.split(".")[0]
        assert top in ("numpy", "xfref") or top in sys.stdlib_module_names, f"imports {module}"


@pytest.mark.parametrize("path", [path for path in sources(xfref) if path.parent.name in ROOMS], ids=relative)
def test_a_paper_imports_core_patterns_and_transformer_alone(path):
    for module, _ in imports(path):
        if module.split(".")[0] == "xfref":
            assert ".".join(module.split(".")[:2]) in CORE, f"imports {module}"


@pytest.mark.parametrize("path", sources(xfaccel), ids=relative)
def test_no_module_of_xfaccel_imports_xfref_but_the_arena(path):
    for module, inside in imports(path):
        top = module.split(".")[0]
        if path.parent.name == "arena":
            continue
        assert top != "xfref", f"imports {module}"
        if module.startswith("xfaccel.arena"):
            assert path.name == "__main__.py" and inside, "the arena is for __main__, inside a function"


@pytest.mark.parametrize("path", sources(xfaccel), ids=relative)
def test_cupy_and_matplotlib_are_imported_inside_functions(path):
    for module, inside in imports(path):
        if module.split(".")[0] in ("cupy", "matplotlib", "tqdm"):
            assert inside, f"imports {module} at the top"


def loaded_by(statement):
    code = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return {name.split(".")[0] for name in done.stdout.split()}


def test_import_xfref_loads_numpy_as_its_only_third_party():
    new = loaded_by("import xfref") - loaded_by("import numpy.random")
    assert new - set(sys.stdlib_module_names) == {"xfref"}


def test_import_xfaccel_leaves_xfref_matplotlib_and_cupy_out():
    loaded = loaded_by("import xfaccel")
    assert not loaded & {"xfref", "matplotlib", "cupy", "tqdm"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_an_empty_init(room):
    """Then `xfref.longformer` is the function and `xfref.fixed.longformer` the module."""
    for package in ("xfref", "xfaccel"):
        assert (ROOT / package / room / "__init__.py").read_text() == ""


def test_rooms_are_all_listed_here():
    found = {path.parent.name for path in sources(xfref) if path.name == "__init__.py"}
    assert found == {*ROOMS, "lra", "xfref"}


def test_a_paper_has_the_same_room_in_both_packages():
    def papers(package):
        return {path.relative_to(Path(package.__file__).parent).as_posix() for path in sources(package)
                if path.parent.name in ROOMS}

    assert papers(xfaccel) == papers(xfref) - {f"{room}.py" for room in REF_ONLY_PAPERS}


# nothing without its test and its line for readers; benchmarks: test_benchmarks.py


@pytest.mark.parametrize("name", both_names())
def test_every_name_has_a_case(name):
    functions = {case.function.split(".")[0] for case in CASES}
    assert name in functions, f"tests/cases.py has no case of {name}"


def test_every_pattern_has_a_case():
    functions = {case.function for case in CASES}
    for name in public_functions(xfref.patterns, {"xfref.patterns"}):
        if name not in CHECKS:
            assert f"patterns.{name}" in functions, f"tests/cases.py has no case of patterns.{name}"


def laws():
    """The tests that are laws of a public name, from every module that holds laws."""
    folder = ROOT / "tests" / "laws"
    sys.path.insert(0, str(folder))
    try:
        for name in ["test_laws", *sorted(path.stem for path in folder.glob("test_*.py"))]:
            importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))
    return lawbook.LAWS


@pytest.mark.parametrize("name", xfref.__all__)
def test_every_name_has_a_law(name):
    assert name in laws(), f"tests/test_laws.py and tests/laws have no law of {name}"


def test_every_law_is_of_a_public_name():
    assert set(laws()) <= set(xfref.__all__)


def test_every_attention_has_a_row_in_the_arena():
    from xfaccel.arena.variants import VARIANTS

    pieces = {"softmax", "layer_norm", "attention_lse", "merge", "quantize_rows", "patterns"}
    decisions = {"lsh_buckets", "routing_clusters", "sinkhorn_sort"}  # taken inside the rows of their papers
    steps = {name for name in both_names() if name.endswith("_step")}
    assert {variant.function for variant in VARIANTS} == set(both_names()) - pieces - decisions - steps


@pytest.mark.parametrize("name", xfref.__all__)
def test_every_name_has_a_row_in_the_readme(name):
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.lstrip().startswith("|")]
    assert any(re.search(rf"\b{name}\b", row) for row in rows), f"no row of README.md names {name}"


def test_the_tables_of_papers_are_what_the_code_says():
    import papers

    found = papers.between((ROOT / "README.md").read_text())
    assert found == papers.text(), "write them anew: python tests/papers.py"


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "golden").rglob("*.py")), ids=relative)
def test_the_makers_of_golden_numbers_import_neither_package(path):
    assert not {module.split(".")[0] for module, _ in imports(path)} & {"xfref", "xfaccel"}
    loads = re.findall(r"import_module\((.*)|__import__", path.read_text())
    assert all(what.startswith('f"recipes.{') for what in loads)


# sizes


def code_lines(text):
    """Lines that hold code: no blanks, comments or docstrings."""
    skipped = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(
                    first.value.value, str):
                skipped.update(range(first.lineno, first.end_lineno + 1))
    used = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT,
                              tokenize.DEDENT, tokenize.ENDMARKER):
            used.update(range(token.start[0], token.end[0] + 1))
    return len(used - skipped)


def test_code_lines_are_counted_right():
    assert code_lines('"""Head.\n\nMore."""\n\nimport os  # why\n\n\ndef f():\n    """One."""\n    # no\n'
                      '    return """a\n    b"""\n') == 4


@each_source
def test_a_file_is_short_enough_to_read(path):
    """A paper has at most 80 lines of code, a kernel 250, anything else (a room, the front door) 300."""
    folders = path.relative_to(ROOT).parts
    limit = 80 if path.parent.name in ROOMS else 250 if "engine" in folders else 300
    assert code_lines(path.read_text()) <= limit


KERNELS = sorted((ROOT / "xfaccel").rglob("*.cu*"))


@pytest.mark.parametrize("path", KERNELS, ids=relative)
def test_a_kernel_for_the_gpu_is_short_enough_to_read(path):
    lines = path.read_text().splitlines()
    assert sum(bool(line.partition("//")[0].strip()) for line in lines) <= 250
    assert "/*" not in path.read_text(), "comments are lines of their own, or end one"


@pytest.mark.parametrize("path", KERNELS, ids=relative)
def test_inline_assembly_stands_in_primitives(path):
    assert path.name == "primitives.cuh" or not re.search(r"\basm\b", path.read_text())


@pytest.mark.parametrize("path", KERNELS + [
    path for folder in ("xfref", "xfaccel", "tests", "asv_benchmarks/benchmarks", "docs")
    for path in sorted((ROOT / folder).rglob("*.py"))], ids=relative)
def test_lines_are_at_most_110_long(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        assert len(line) <= MAX_LINE, f"line {number} has {len(line)} characters"


@each_source
def test_there_are_no_banners(path):
    assert not re.search(r"^\s*#\s*[-=*#~]{4,}|[-=*#~]{10,}\s*$", path.read_text(), re.M)


# docstrings and annotations


def documented():
    for package in PACKAGES:
        for name in package.__all__:
            if inspect.isfunction(getattr(package, name)):
                yield pytest.param(getattr(package, name), id=f"{package.__name__}.{name}")
        for name in public_functions(package.patterns, {package.patterns.__name__}):
            yield pytest.param(getattr(package.patterns, name), id=f"{package.__name__}.patterns.{name}")


@pytest.mark.parametrize("function", list(documented()))
def test_public_functions_are_annotated(function):
    signature = inspect.signature(function)
    for x in signature.parameters.values():
        assert x.annotation is not inspect.Parameter.empty, f"{x.name} has no annotation"
    assert signature.return_annotation is not inspect.Signature.empty


@pytest.mark.parametrize("function", list(documented()))
def test_docstrings_say_shapes_errors_and_cost(function):
    text = inspect.getdoc(function) or ""
    assert re.match(r"[^\n]+\.(\n|$)", text), "the docstring begins with one plain sentence on one line"
    if function.__module__ in ("xfref.patterns", "xfaccel.patterns"):
        return  # their head says it once for all
    if function.__name__.endswith("_weights"):
        assert "float64" in text
        return
    if function.__name__ in FAST_ONLY:
        return  # no arrays
    assert re.search(r"\(\.\.\..*->|-> \(", text), "no shape line, such as (...,n,d) -> (...,n,e)"
    assert re.search(r"Raises|errors", text), "no word on errors"
    assert re.search(r"Cost:|cost as for", text), "no word on cost"
    if function.__module__.startswith("xfaccel"):
        assert "Memory: " in text, "no formula of the memory, see CONTRIBUTING.md"


@pytest.mark.parametrize("function", [p for p in documented() if p.id.startswith("xfaccel.")])
def test_a_fast_twin_names_the_reference_it_follows(function):
    home = xfref.patterns if function.__module__ == "xfaccel.patterns" else xfref
    if hasattr(home, function.__name__) and function.__name__ not in CHECKS:
        assert f"`{home.__name__}.{function.__name__}`" in inspect.getdoc(function)


def test_documented_parameters_exist():
    """What a docstring shows as `name=` is a parameter."""
    for package in PACKAGES:
        for name in package.__all__:
            function = getattr(package, name)
            if inspect.isfunction(function):
                for word in re.findall(r"`(\w+)=", inspect.getdoc(function)):
                    assert word in inspect.signature(function).parameters, f"{name} documents {word}"


# doctests


def modules():
    for package in PACKAGES:
        yield package.__name__
        for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not found.name.endswith(("__main__", ".arena")):
                yield found.name


@pytest.mark.parametrize("name", list(modules()))
def test_doctests(name):
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, extraglobs={"np": np})
    assert failed == 0


def test_papers_show_an_example():
    for path in sources(xfref):
        if path.parent.name in ROOMS and path.name != "__init__.py":
            assert ">>> " in path.read_text(), f"{relative(path)} has no example"
