"""The command line: the arena's table, JSON, chart, errors and interruption; the doctor; how both measure."""

import ctypes
import importlib.util
import itertools
import json
import math
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import xfaccel
from xfaccel.__main__ import main
from xfaccel.arena import chart, measure, table
from xfaccel.arena.variants import VARIANTS
from xfref.lra import listops

QUICK = ["--lengths", "64,128", "--heads", "2", "--repeats", "1"]
NAMES = [variant.name for variant in VARIANTS]
ROW = {"variant": str, "function": str, "parameters": str, "cost": str, "exact": str, "agrees": bool,
       "stated_growth": float, "error": float, "relative_error": float, "reference_seconds": float,
       "vs_xfref": float, "scipy_seconds": float, "vs_scipy": float, "seconds": dict, "growth": float,
       "vs_exact": float, "faster_from": float, "extra_bytes": int, "distance": float}


def run(*arguments: str) -> subprocess.CompletedProcess:
    # the time is for a machine whose kernels are not yet compiled
    return subprocess.run([sys.executable, "-m", "xfaccel", *arguments], capture_output=True, text=True,
                          timeout=180)


def status(*arguments: str) -> int:
    """The exit status of a command in this process."""
    try:
        return main(arguments)
    except SystemExit as stop:
        return stop.code


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole small run: the finished process and its JSON."""
    path = tmp_path_factory.mktemp("arena") / "out.json"
    done = run("arena", *QUICK, "--json", str(path))
    assert done.returncode == 0, done.stderr
    assert [file.name for file in path.parent.iterdir()] == ["out.json"]
    return done, json.loads(path.read_text())


def test_the_table_is_for_strangers(finished):
    done, _ = finished
    assert done.stderr == ""  # no progress bar without a terminal
    lines = done.stdout.splitlines()
    assert done.stdout.isascii() and max(map(len, lines)) <= 130
    for words in ("untrained weights, so this is cost, not accuracy", "not yet: training and LRA's Table 1",
                  "2 heads of width 64, width 128, float32", "threads", "bytes of the help topics of Python"):
        assert words in done.stdout
    rules = [i for i, line in enumerate(lines) if set(line) == {"-"}]
    sections = [lines[start + 1:stop] for start, stop in itertools.pairwise(rules)]
    assert [section.pop(0) for section in sections] == ["both directions", "causal"]
    rows = [row for section in sections for row in section]
    assert {len(row) for row in rows} == {len(lines[rules[0]]), len(lines[rules[0] - 1])}
    for row, variant in zip(rows, VARIANTS, strict=True):
        assert row.startswith(f"{variant.function:23} {variant.parameters:21} {variant.cost:7} ")
    assert [len(section) for section in sections] == [
        sum(variant.exact == exact for variant in VARIANTS) for exact in ("attention", "attention-causal")]
    legend = [line[:13].strip() for line in lines[rules[-1] + 1:]]
    assert [name for name in legend if name] == list(table.NOTES)


def test_four_lengths_fit_in_130_columns(finished):
    _, report = finished
    given = report["input"] | {"lengths": [1024, 2048, 3072, 4096]}
    rows = [row | {"seconds": dict.fromkeys(map(str, given["lengths"]), 12.3456), "vs_exact": 123.4}
            for row in report["rows"]]
    lines = table.text(report | {"input": given, "rows": rows}).splitlines()
    assert max(map(len, lines)) <= 130


def test_the_json_has_every_number(finished):
    _, report = finished
    assert list(report) == ["schema", "complete", "machine", "input", "rows"]
    assert report["schema"] == 1 and report["complete"] is True
    assert {"cpu", "threads", "kernels", "system", "python", "numpy", "numba"} <= set(report["machine"])
    assert report["input"] | {"source": ""} == {
        "task": "text", "source": "", "lengths": [64, 128], "heads": 2, "width": 128, "dtype": "float32",
        "check_length": 128}
    assert [row["variant"] for row in report["rows"]] == NAMES
    for row in report["rows"]:
        assert {key: ROW[key] if value is None else type(value) for key, value in row.items()} == ROW
        assert row["agrees"] and row["relative_error"] <= measure.BOUND and row["extra_bytes"] >= 0
        has_pattern = next(v.pattern is not None for v in VARIANTS if v.name == row["variant"])
        missing = {"faster_from"} | (set() if has_pattern else {"scipy_seconds", "vs_scipy"})
        assert {key for key, value in row.items() if value is None} | {"faster_from"} == missing
        assert list(row["seconds"]) == ["64", "128"] and all(x > 0 for x in row["seconds"].values())
    by_name = {row["variant"]: row for row in report["rows"]}
    for name in ("attention", "attention-causal"):
        assert (by_name[name]["distance"], by_name[name]["vs_exact"]) == (0, 1)
    # 128 positions lie within the window of every query
    assert by_name["sliding_window"]["distance"] < 1e-5 < by_name["block_local"]["distance"]
    causal = by_name["performer-causal"]
    ratio = by_name["attention-causal"]["seconds"]["128"] / causal["seconds"]["128"]
    assert causal["vs_exact"] == pytest.approx(ratio)


def test_the_chart_names_every_variant_once(finished, tmp_path):
    pytest.importorskip("matplotlib")
    _, report = finished
    image = chart.svg(report)
    assert ElementTree.fromstring(image).tag == "{http://www.w3.org/2000/svg}svg"
    for name in NAMES:
        assert image.count(f"<!-- {name} -->".encode()) == 1
    assert chart.svg(report) == image


def test_labels_of_the_chart_overlap_nothing(finished):
    text = pytest.importorskip("matplotlib.text")
    _, report = finished
    figure = chart.draw(report)
    renderer = figure.canvas.get_renderer()
    # of the words alone: an annotation's own extent takes in its line
    boxes = [text.Text.get_window_extent(label, renderer) for label in figure.axes[0].texts]
    frame = figure.axes[0].bbox
    assert len(boxes) == len(NAMES)
    for i, box in enumerate(boxes):
        assert not box.count_overlaps(boxes[:i])
        assert frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 and box.y1 < frame.y1


def test_arena_is_the_default_and_adds_the_exact_row(tmp_path, capsys):
    path = tmp_path / "chart.svg"
    draws = ["--svg", str(path)] if importlib.util.find_spec("matplotlib") else []
    assert status("--lengths", "64", "--repeats", "1", "--variants", "performer-causal", *draws) == 0
    out = capsys.readouterr().out
    assert out.startswith("xfaccel arena: ")
    rows = [line for line in out.splitlines() if line.startswith(("attention ", "performer "))]
    assert len(rows) == 2 and all(" - " in row for row in rows)  # no growth from one
    assert "both directions" not in out and "\ncausal\n" in out
    if draws:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")


@pytest.mark.parametrize("task", ["text", "listops"])
def test_a_file_is_read(task, tmp_path, capsys):
    path = tmp_path / "été.txt"
    if task == "text":
        path.write_text("Ein langer Text. " * 10)
    else:
        examples = listops.generate(3, **listops.SIZES["mini"])
        listops.write_tsv(path, [next(examples) for _ in range(9)])
    arguments = ["--task", task, "--file", str(path), "--lengths", "100", "--variants", "attention"]
    assert status(*arguments, "--repeats", "1") == 0
    assert "été.txt" in capsys.readouterr().out


def test_generated_listops(capsys):
    assert status("arena", "--task", "listops", "--variants", "attention", *QUICK) == 0
    assert "listops: expressions of Long ListOps, seed 0" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "words"), [
    (["--lenghts", "64"], "--lenghts"),
    (["--length", "64"], "--length"),
    (["arena", "64"], "64"),
    (["--lengths"], "--lengths"),
    (["--lengths", "0"], "'0'"),
    (["--lengths", "64,-5"], "'-5'"),
    (["--lengths", "64,,128"], "''"),
    (["--lengths", "1e3"], "'1e3'"),
    (["--lengths", "9" * 5000], "999"),
    (["--lengths", "10000000"], "there are"),
    (["--variants", "attention,linfromer"], "'linfromer'"),
    (["--task", "images"], "images"),
    (["--heads", "0"], "--heads"),
    (["--heads", "3", "--width", "64"], "multiple"),
    (["--threads", "1000000"], "available"),
    (["--repeats", "no"], "'no'"),
    (["--json", "{folder}/none/out.json"], "no folder"),
    (["--json", "{folder}"], "no regular file"),
    (["--svg", ""], "no regular file"),
    (["--file", "{folder}/missing"], "No such file"),
    (["--file", "{folder}"], "directory"),
    (["--file", ""], "No such file"),
    (["--file", "{folder}/two\nlines"], "No such file"),
    (["--file", "{folder}/empty"], "empty"),
    (["--file", "{folder}/binary"], "binary"),
    (["--file", "{folder}/latin"], "not UTF-8"),
    (["--file", "{folder}/short"], "there are 5"),
    (["--task", "listops", "--file", "{folder}/short"], "header"),
    (["aren"], "arena, lra, doctor"),
    (["doctor", "--verbose"], "--verbose"),
])
def test_bad_input_is_one_line_and_status_2(arguments, words, tmp_path, capsys):
    for name, data in {"empty": b"", "binary": b"a\0b", "latin": b"\xe9t\xe9", "short": b"short"}.items():
        (tmp_path / name).write_bytes(data)
    assert status(*(word.replace("{folder}", str(tmp_path)) for word in arguments)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and words in err
    program = {"doctor": "xfaccel doctor", "aren": "xfaccel"}.get(arguments[0], "xfaccel arena")
    assert err.startswith(f"{program}: ")


def test_bad_input_of_the_program():
    done = run("--lengths", "none")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_a_missing_matplotlib_names_the_extra(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert status("--svg", str(tmp_path / "out.svg")) == 2
    assert "extra `arena`" in capsys.readouterr().err


@pytest.mark.parametrize("factor", [1 + 1e-3, math.nan])
def test_a_wrong_result_is_not_timed(factor, tmp_path, capsys, monkeypatch):
    right = xfaccel.linformer
    monkeypatch.setattr(xfaccel, "linformer", lambda *qkv, **named: right(*qkv, **named) * np.float32(factor))
    path = tmp_path / "out.json"
    assert status(*QUICK, "--variants", "linformer,block_local", "--json", str(path)) == 1
    out, err = capsys.readouterr()
    assert err == "xfaccel arena: disagrees with xfref: linformer\n"
    assert [line.split()[0] for line in out.splitlines() if "DISAGREES with" in line] == ["linformer"]
    rows = {row["variant"]: row for row in json.loads(path.read_text())["rows"]}
    assert rows["linformer"]["agrees"] is False and rows["linformer"]["seconds"] == {}
    assert (rows["linformer"]["error"] is None) == math.isnan(factor)
    assert rows["block_local"]["agrees"] is True and rows["block_local"]["vs_exact"] > 0


def test_no_comparison_with_a_wrong_exact_row(capsys, monkeypatch):
    right = xfaccel.attention
    monkeypatch.setattr(xfaccel, "attention", lambda *qkv, **named: right(*qkv, **named) + np.float32(1))
    assert status(*QUICK, "--variants", "linear_transformer") == 1
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("linear_transformer"))
    assert row.split().count("-") == 4  # vs exact, faster from, distance and vs scipy


def test_an_interruption_keeps_the_results(tmp_path):
    path = tmp_path / "out.json"
    # a shell's background job ignores the signal, and so would the child of a test run there
    code = ("import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
            "from xfaccel.__main__ import main; sys.exit(main(sys.argv[1:]))")
    arguments = ["--lengths", "64,8192", "--heads", "2", "--repeats", "9", "--variants", "attention"]
    child = subprocess.Popen([sys.executable, "-c", code, *arguments, "--json", str(path)],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 180
        while not (path.exists() and json.loads(path.read_text())["rows"][0]["seconds"]):
            assert time.monotonic() < deadline and child.poll() is None
            time.sleep(0.02)
        time.sleep(0.2)  # into a call at the larger length
        start = time.monotonic()
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=10)
        assert time.monotonic() - start < 2
    finally:
        child.kill()
    assert (child.returncode, out) == (130, "")
    assert err == f"xfaccel arena: interrupted, {str(path)!r} keeps what was measured\n"
    report = json.loads(path.read_text())
    assert report["complete"] is False and report["rows"][0]["agrees"] is True
    assert [file.name for file in tmp_path.iterdir()] == ["out.json"]


def test_nobody_reads_the_output():
    child = subprocess.Popen([sys.executable, "-m", "xfaccel", "doctor"], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)
    child.stdout.close()
    assert child.stderr.read() == ""
    assert child.wait(timeout=30) == 141
    child.stderr.close()


def test_the_doctor_says_everything(capsys):
    done = run("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    facts = {line.split()[0]: line[10:] for line in done.stdout.splitlines()}
    assert list(facts) == ["xfaccel", "python", "numpy", "scipy", "numba", "cpu", "features", "kernels",
                           "threads", "cache", "gpu"]
    assert all(facts.values())
    assert np.__version__ == facts["numpy"] and "llvmlite" in facts["numba"]
    assert int(facts["threads"].split()[0]) >= 1 and "writable" in facts["cache"]


class Driver:
    """A CUDA driver that answers as told."""

    def __init__(self, start: int, devices: int):
        self.start, self.devices = start, devices

    def cuInit(self, flags):
        return self.start

    def cuDeviceGetCount(self, count):
        count._obj.value = self.devices
        return 0

    def cuDeviceGetName(self, name, size, device):
        name.value = b"NVIDIA Test 1"
        return 0

    def cuDriverGetVersion(self, version):
        version._obj.value = 12040
        return 0


@pytest.mark.parametrize(("driver", "missing", "words"), [
    (None, "", "none: no NVIDIA driver"),
    (Driver(100, 0), "", "none: the NVIDIA driver finds no device"),
    (Driver(0, 0), "", "none: the NVIDIA driver finds no device"),
    (Driver(0, 2), "xfaccel.engine.gpu", "no GPU kernels; found NVIDIA Test 1 (2 in all)"),
    (Driver(0, 1), "cupy", "CuPy is not installed (extra gpu12 of xfaccel); found NVIDIA Test 1"),
    (Driver(0, 1), "", "NVIDIA Test 1 (1 in all), driver for CUDA 12"),
])
def test_the_doctor_finds_the_gpu_or_says_why_not(driver, missing, words, capsys, monkeypatch):
    def load(name):
        if driver is None:
            raise OSError(name)
        return driver

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else name)
    assert status("doctor") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("gpu ") and words in last


def test_the_command_line_loads_no_more_than_it_needs():
    code = ("import sys, xfaccel.__main__; "
            "print(sorted({'xfref', 'matplotlib', 'tqdm', 'cupy', 'xfaccel.arena'} & set(sys.modules)))")
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_growth_is_the_exponent():
    lengths = [1024, 2048, 3072, 4096]
    for exponent in (0, 1, 1.5, 2):
        assert measure.growth(lengths, [3e-9 * n**exponent for n in lengths]) == pytest.approx(exponent)
    assert measure.growth([1024], [1.0]) is None


def test_where_it_is_faster_is_interpolated():
    lengths = [1024, 2048, 4096]
    exact = [1e-9 * n**2 for n in lengths]
    for n in (1500, 3000):  # where a linear cost meets the quadratic one
        times = [1e-9 * n * length for length in lengths]
        assert measure.faster_from(lengths, times, exact) == pytest.approx(n)
    assert measure.faster_from(lengths, [x / 2 for x in exact], exact) == 1024
    assert measure.faster_from(lengths, exact, exact) is None
    # faster, slower, faster again: the last crossing counts
    times = [x * y for x, y in zip(exact, (0.5, 2, 0.5), strict=True)]
    assert measure.faster_from(lengths, times, exact) == pytest.approx(2048 * 2**0.5)


def test_extra_memory_is_what_a_call_takes_beside_its_result():
    def call():
        scratch = np.ones(3_000_000)
        del scratch
        return np.ones(1000)

    extra, out = measure.extra_memory(call)
    assert extra == pytest.approx(24_000_000 - out.nbytes, abs=10_000) and out.size == 1000
    assert measure.extra_memory(lambda: np.ones(1000))[0] < 5_000


def test_times_are_the_best_of_calls_in_turn():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    assert [name for name, _ in measure.times_in_turn(calls, 3)] == ["a", "b"]
    assert order == list("ababab")
    pauses = iter([0.06, 0.02, 0.05, 0.09])
    (_, seconds), = measure.times_in_turn({"a": lambda: time.sleep(next(pauses))}, 4)
    assert 0.02 <= seconds < 0.05
    for seconds, count in ((measure.LEAST_SECONDS, measure.LEAST_CALLS), (measure.SLOW_SECONDS / 2, 2)):
        slow = {"a": lambda seconds=seconds: time.sleep(seconds) or order.append(seconds)}
        assert len(list(measure.times_in_turn(slow, None))) == 1 and order.count(seconds) == count


def test_inputs_are_the_same_every_time_and_shorter_ones_are_their_beginning():
    ids, vocabulary, _ = measure.read_tokens("text", None, 96)
    first = measure.project(ids, vocabulary, 2, 64)
    assert all(x.shape == (2, 96, 32) and x.dtype == np.float32 and x.flags.c_contiguous for x in first)
    for once, again in zip(first, measure.project(ids, vocabulary, 2, 64), strict=True):
        assert np.array_equal(once, again)
    for whole, part in zip(first, measure.shorten(first, 40), strict=True):
        assert part.flags.c_contiguous and np.array_equal(part, whole[:, :40])


def test_distance_is_relative():
    exact = np.array([[3.0, 4.0]])
    assert measure.distance(exact, exact) == 0
    assert measure.distance(exact + [[0.0, 1.0]], exact) == pytest.approx(0.2)
