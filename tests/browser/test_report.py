"""asv's web report in a browser without a network: every kind of page, in a wide window and on a telephone.

The results are made up, for every benchmark of the suite and twelve commits of a repository made for it: a
grid without gaps, and one benchmark that is slower from a known commit on.
"""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "asv_benchmarks"
COMMITS, SLOWER_FROM, SLOWER = 12, 7, "core.track_core_ratio"
WIDTHS = [390, 1400]
sys.path.insert(0, str(FOLDER))
import report  # noqa: E402


def git(home, *arguments):
    return subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *arguments], cwd=home,
                          check=True, text=True, stdout=subprocess.PIPE).stdout.strip()


@pytest.fixture(scope="session")
def html(chromium, lacking, tmp_path_factory):
    """The folder of the report; after the browser, so that nothing is built for nothing."""
    home = tmp_path_factory.mktemp("report")
    try:
        report.fetch()
    except SystemExit as error:
        lacking(str(error))
    settings = json.loads((FOLDER / "asv.conf.json").read_text())
    settings |= {"repo": ".", "benchmark_dir": str(FOLDER / settings["benchmark_dir"])}
    (home / "asv.conf.json").write_text(json.dumps(settings))
    git(home, "init", "--quiet", "--initial-branch", "main")
    for number in range(COMMITS):
        git(home, "commit", "--quiet", "--allow-empty", "--message", f"commit {number}",
            f"--date=2026-01-{number + 1:02}T12:00")
    report.build(home)  # lists the benchmarks
    commits = git(home, "rev-list", "--reverse", "main").split()
    benchmarks = json.loads((home / "results" / "benchmarks.json").read_text())
    del benchmarks["version"]
    machine = home / "results" / "made-up"
    machine.mkdir()
    (machine / "machine.json").write_text(json.dumps(dict(
        machine="made-up", cpu="none", os="none", arch="none", num_cpu="2", ram="1", version=1)))
    for number, commit in enumerate(commits):
        results = {}
        for name, benchmark in benchmarks.items():
            factor = 1.5 if name == SLOWER and number >= SLOWER_FROM else 1
            unit = 2**20 if benchmark["unit"] == "bytes" else 1e-3
            values = [unit * (place + 1) * factor
                      for place, _ in enumerate(itertools.product(*benchmark["params"]))]
            results[name] = [values, benchmark["params"], benchmark["version"]]
        (machine / f"{commit[:10]}-made-up.json").write_text(json.dumps(dict(
            commit_hash=commit, env_name="made-up", date=1767268800000 + number * 86400000, python="3.11",
            params=dict(machine="made-up"), requirements={}, env_vars={}, durations={}, version=2,
            result_columns=["result", "params", "version"], results=results)))
    return report.build(home)


@pytest.fixture(scope="session")
def address(html, serve):
    return serve(html)


def demand_whole(visit):
    visit.page.wait_for_timeout(300)  # the page draws after its data came
    assert not visit.errors and not visit.failed
    assert visit.overhang <= 0, f"{visit.overhang} pixels stand out on the right"


@pytest.mark.parametrize("width", WIDTHS)
def test_the_grid_shows_a_tile_for_each_benchmark(address, visit, picture, html, width):
    seen = visit(f"{address}/#/", width)
    picture(seen, f"grid-{width}")
    demand_whole(seen)
    benchmarks = json.loads((html / "index.json").read_text())["benchmarks"].values()
    titles = seen.page.locator(".benchmark-text").all_inner_texts()
    assert sorted(titles) == sorted(benchmark["pretty_name"] for benchmark in benchmarks)
    assert seen.page.locator(".benchmark-plot canvas").count() > 0


@pytest.mark.parametrize("width", WIDTHS)
def test_the_list_has_a_row_for_each_variant(address, visit, picture, html, width):
    seen = visit(f"{address}/#/summarylist", width)
    picture(seen, f"list-{width}")
    demand_whole(seen)
    rows = seen.page.locator("#summarylist-body tbody tr").all_inner_texts()
    assert any("sliding_window, dilated', 4096" in row for row in rows)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_graph_is_drawn(address, visit, picture, width):
    seen = visit(f"{address}/#{SLOWER}", width)
    picture(seen, f"graph-{width}")
    demand_whole(seen)
    assert seen.page.locator("#main-graph canvas").count() > 0
    box = seen.page.locator("#main-graph").bounding_box()
    assert box["x"] >= 0 and box["width"] > 250 and box["x"] + box["width"] <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_the_regression_is_shown_at_its_commit(address, visit, picture, html, width):
    seen = visit(f"{address}/#/regressions", width)
    picture(seen, f"regressions-{width}")
    demand_whole(seen)
    commit = json.loads((html / "index.json").read_text())["revision_to_hash"][str(SLOWER_FROM)][:10]
    rows = seen.page.locator("#regressions-body tbody tr:visible").all_inner_texts()
    assert rows and all(commit in row for row in rows)
    there = visit(f"{address}/commits.html#{commit}", width)
    picture(there, f"commits-{width}")
    demand_whole(there)
    assert there.page.locator("article:target h2").inner_text() == f"commit {SLOWER_FROM}"
    links = seen.page.locator(f'a[href="commits.html#{commit}"]')
    assert links.count() == len(rows)
