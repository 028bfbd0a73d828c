"""The benchmarks that asv runs, run here once at a small length: a broken one is found without asv."""

import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_house import both_names, code_lines

from xfaccel.engine.cpu import cache

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "asv_benchmarks"
sys.path.insert(0, str(FOLDER))
import history  # noqa: E402
import plant  # noqa: E402
import report  # noqa: E402
import two_commits  # noqa: E402

MOST_TILES = 25  # asv's first page draws an unlabelled tile for each function

# in a process of its own: importing the suite pins the threads of BLAS
DESCRIBE = """
import importlib, inspect, json, pkgutil, benchmarks
found = {}
for info in pkgutil.iter_modules(benchmarks.__path__):
    module = importlib.import_module(f"benchmarks.{info.name}")
    for name, function in vars(module).items():
        if inspect.isfunction(function) and name.startswith(("time_", "track_")):
            results, kind = {}, name.rsplit("_")[-1]
            for variant in function.params[0] if kind in ("error", "memory") else ():
                place = (1024,) * (kind == "memory")
                function.setup(variant, *place)
                results[variant] = function(variant, *place)
                # `patterns` is a module: what its patterns hold is stated by the functions that take them
                if kind == "memory" and variant != "patterns":
                    results[variant] /= module.measure.documented(module.VARIANTS[variant], *place)
            found[f"{info.name}.{name}"] = dict(
                name=function.__name__, title=function.pretty_name, unit=getattr(function, "unit", "seconds"),
                version=function.version, results=results,
                functions=[variant.function for variant in getattr(module, "VARIANTS", {}).values()],
                params=function.params, names=function.param_names)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def tiles():
    # asv keeps compiled kernels elsewhere: there all of them would be compiled once more
    env = os.environ | {"PYTHONPATH": str(ROOT), "XFACCEL_CACHE_DIR": str(cache.folder().parent)}
    done = subprocess.run([sys.executable, "-c", DESCRIBE], cwd=FOLDER, capture_output=True, text=True,
                          env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_first_page_stays_readable(tiles):
    assert 0 < len(tiles) <= MOST_TILES
    titles = [tile["title"] for tile in tiles.values()]
    assert len(set(titles)) == len(titles)


def test_asv_finds_each_benchmark_by_its_name(tiles):
    for place, tile in tiles.items():
        assert place.endswith(f".{tile['name']}")
        assert tile["unit"] and tile["version"]
        assert len(tile["params"]) == len(tile["names"]), f"{place}: a parameter has no name"


def test_every_room_has_its_four_tiles_and_every_variant_is_right(tiles):
    rooms = {place.split(".")[0] for place in tiles} - {"start"}
    for room in rooms:
        kinds = (f"time_{room}", f"track_{room}_memory", f"track_{room}_error", f"track_{room}_ratio")
        assert {f"{room}.{name}" for name in kinds} <= set(tiles)
        errors = tiles[f"{room}.track_{room}_error"]["results"]
        assert errors
        for variant, error in errors.items():
            assert 0 <= error < 1e-5, f"{variant} is off by {error}"


def test_every_name_has_a_benchmark(tiles):
    measured = {name for tile in tiles.values() for name in tile["functions"]}
    assert measured == set(both_names())


def test_every_variant_takes_the_memory_that_its_docstring_states(tiles):
    shares = {variant: share for place, tile in tiles.items() if place.endswith("_memory")
              for variant, share in tile["results"].items() if variant != "patterns"}
    assert len(shares) > 40
    for variant, share in shares.items():
        assert 1 / 4 < share < 1.2, f"{variant} takes {share:.2f} of the memory that its docstring states"


def test_the_configuration_is_plain_json_of_this_repository():
    settings = json.loads((FOLDER / "asv.conf.json").read_text())
    assert settings["repo"] == ".." and settings["branches"] == ["main"]
    assert (FOLDER / settings["benchmark_dir"] / "__init__.py").exists()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_a_comparison_with_peers_is_short_enough_to_read(path):
    assert code_lines(path.read_text()) <= 300  # what the house allows a room


# what both packages have beside attention in its variants: parts of it, choices made before it, streaming
NO_VARIANTS = {"softmax", "layer_norm", "attention_lse", "merge", "quantize_rows", "patterns",
               "lsh_buckets", "routing_clusters", "sinkhorn_sort", "linear_transformer_step",
               "performer_step"}
COMPARE = """
import json, peer_variants
peer_variants.compare()
print(json.dumps(sorted({row.variant.function for row in peer_variants.ROWS.values()})))
"""


def test_every_variant_is_compared_with_peers_and_without_any_it_is_still_measured():
    options = ["--names", "etc", "linformer", "--n", "512", "--rounds", "1", "--quick"]
    done = subprocess.run([sys.executable, "-c", COMPARE, *options], cwd=FOLDER, capture_output=True,
                          text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    *lines, names = done.stdout.splitlines()
    assert set(json.loads(names)) == set(both_names()) - NO_VARIANTS
    for name in ("etc", "linformer"):
        (line, *_) = [line.split() for line in lines if line.startswith(name)]
        own_error = float(next(word for word in line if "e-" in word))
        assert line[1] == "512" and float(line[2]) > 0 and own_error < 1e-5


def git(*arguments, home=ROOT):
    return subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *arguments], cwd=home,
                          check=True, capture_output=True, text=True).stdout.strip()


def test_the_quick_run_takes_every_variant_once(tiles):
    (chosen,) = re.findall(r"^QUICKLY .*--bench '(.*)'$", (ROOT / "Makefile").read_text(), re.M)
    runs = [f"{place}({', '.join(map(repr, values))})" for place, tile in tiles.items()
            for values in itertools.product(*tile["params"])]
    runs = [run for run in runs if re.search(chosen, run)]
    for place, tile in tiles.items():
        wanted = 0 if place.endswith("_ratio") else len(tile["params"][0])
        if not place.startswith("start."):  # of these only imports are quick
            assert sum(run.startswith(f"{place}(") for run in runs) == wanted, place


def test_kept_results_are_those_of_commits_on_main():
    if not (ROOT / ".git").exists() or git("rev-parse", "--is-shallow-repository") == "true":
        pytest.skip("no git repository here, or not all of its commits")
    orphans = set(history.measured(history.REFERENCE)) - set(history.commits_of_main())
    assert not orphans, "results of commits that main has not"


def test_history_leaves_out_what_has_results(tmp_path, monkeypatch):
    monkeypatch.setattr(history, "RESULTS", tmp_path)
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "machine.json").write_text("{}")
    (tmp_path / "some" / "0123-env.json").write_text('{"commit_hash": "0123"}')
    assert list(history.measured("some")) == ["0123"] and not history.measured("other")


def test_the_report_knows_a_package_for_each_file():
    wanted = json.loads((FOLDER / "page" / "package.json").read_text())["dependencies"]
    locked = json.loads((FOLDER / "page" / "package-lock.json").read_text())["packages"]
    assert {file.partition("/")[0] for file in report.FILES.values()} == set(wanted)
    assert {f"node_modules/{name}": version for name, version in wanted.items()} == {
        place: package["version"] for place, package in locked.items() if place}
    assert all(package["integrity"].startswith("sha512-") for place, package in locked.items() if place)


def test_the_report_takes_no_file_from_elsewhere():
    page = ('<head><script src="https://code.example/jquery-3.3.1.min.js" integrity="sha256-x" '
            'crossorigin="anonymous" onerror="f()"></script></head>')
    text, needed = report.localize(page)
    assert needed == ["jquery/dist/jquery.min.js"]
    assert '<script src="vendor/jquery/dist/jquery.min.js" onerror="f()">' in text
    with pytest.raises(SystemExit, match=r"else-1.2.min.js"):
        report.localize(page.replace("jquery-3.3.1", "else-1.2"))


@pytest.mark.parametrize("case", plant.PLANTS, ids=lambda case: case.variant)
def test_a_planted_slow_down_compiles(case):
    source = (ROOT / plant.ENGINES / f"{case.engine}.py").read_text()
    slowed = plant.slowed(source, case)
    assert len(slowed.splitlines()) == len(source.splitlines()) + 2
    compile(slowed, case.engine, "exec")


@pytest.mark.parametrize("base, head, slower", [
    (1e-3, 1.25e-3, True), (1e-3, 1.24e-3, False), (1e-4, 2e-4, False), (1e-3, 0.5e-3, False)])
def test_slower_is_by_a_quarter_and_by_200_microseconds(base, head, slower):
    assert two_commits.Row("core", "softmax", 64, base, head).slower == slower


@pytest.mark.parametrize("again, code", [(1e-3, 0), (2e-3, 1)])
def test_a_commit_counts_as_slower_if_a_second_run_says_so_too(monkeypatch, capsys, again, code):
    def measured(wanted, base, head):
        asked.append([row.variant for row in wanted])
        return [row._replace(base=1e-3, head=2e-3 if len(asked) == 1 else again) for row in wanted[:1]]

    asked = []
    monkeypatch.setattr(two_commits, "measured", measured)
    monkeypatch.setattr(two_commits, "packages", contextlib.nullcontext)
    monkeypatch.setattr(two_commits, "rows", lambda names, lengths: [
        two_commits.Row("core", name, 64) for name in ("softmax", "merge")])
    monkeypatch.setattr(sys, "argv", ["two_commits.py", "main", "HEAD"])
    assert two_commits.main() == code
    assert asked == [["softmax", "merge"], ["softmax"]]
    assert f"measured again: {code} of 1 are slower" in capsys.readouterr().out


def test_the_packages_of_two_commits_are_measured_beside_each_other(tmp_path, monkeypatch):
    if not (ROOT / ".git").exists():
        pytest.skip("no git repository here")
    clone = tmp_path / "clone"
    git("clone", "--quiet", "--shared", ROOT, clone)
    with (clone / "xfaccel" / "__init__.py").open("a") as file:
        file.write("import time\nquick = softmax\ndel merge\n"
                   "def softmax(*x, **options):\n    time.sleep(2e-3)\n    return quick(*x, **options)\n")
    git("commit", "--all", "--quiet", "--message", "softmax is slower, merge gone", home=clone)
    monkeypatch.setattr(two_commits, "HERE", clone / "asv_benchmarks")
    monkeypatch.setenv("XFACCEL_CACHE_DIR", str(cache.folder().parent))
    wanted = [two_commits.Row("core", name, 64) for name in ("softmax", "merge", "layer_norm")]
    with two_commits.packages("HEAD~1") as base, two_commits.packages("HEAD") as head:
        found = two_commits.measured(wanted, base, head)
    assert [(row.variant, row.slower) for row in found] == [("softmax", True), ("layer_norm", False)]
