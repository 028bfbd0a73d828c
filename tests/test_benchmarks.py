"""The benchmarks that asv runs, run here once at a small length: a broken one is found without asv."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_house import both_names, code_lines

from xfaccel.engine.cpu import cache

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "asv_benchmarks"
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
                axes=[len(function.params), len(function.param_names)])
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
        assert tile["axes"][0] == tile["axes"][1], f"{place}: a parameter has no name"


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
NO_VARIANTS = {"softmax", "layer_norm", "attention_lse", "merge", "patterns", "lsh_buckets",
               "routing_clusters", "sinkhorn_sort", "linear_transformer_step", "performer_step"}
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
