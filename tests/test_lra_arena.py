"""Whole encoders of the Long Range Arena: what is measured, kept and gone on with, table, chart, errors."""

import json
import time
import xml.etree.ElementTree as ElementTree
from functools import partial

import numpy as np
import pytest
from lawbook import close
from test_arena import status

import xfaccel
import xfref
from xfaccel.arena import lra, lra_chart, lra_table, measure
from xfaccel.arena.variants import VARIANTS
from xfref.lra import encoder, listops, published, uniform_span

QUICK = ["lra", "--profile", "nystrom", "--repeats", "1", "--lengths", "64,128"]
FEW = "block_local,synthesizer,performer-causal"
MACHINE = {"cpu": "a processor", "threads": 2, "kernels": "vectors"}


def prepared(tasks, names=(), lengths=None, full=False, profile="paper", held=None):
    return lra.prepare(tasks=tasks, names=names or [v.name for v in VARIANTS], lengths=lengths, full=full,
                       profile=profile, machine=MACHINE, held=held)


def filled(setup, **changed):
    """The report with invented numbers for all of its cells: exact attention takes as long as the rest."""
    for task, n, variant in setup.cells:
        setup.report["sources"][task] = "a source"
        setup.report["rest_seconds"].setdefault(task, {})[str(n)] = n / 1e4
        seconds = n / 1e4 if variant.name == variant.exact else n / 1e5
        cell = dict(task=task, length=n, variant=variant.name, attention_seconds=seconds,
                    attention_bytes=2**20, peak_bytes=2**26,
                    span=uniform_span(n) / 2 if n <= lra.SPAN_LENGTH else None)
        setup.report["cells"].append(cell | changed.get(variant.name, {}))
    return setup.report


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small run: its JSON, and the file."""
    path = tmp_path_factory.mktemp("lra") / "out.json"
    assert status(*QUICK, "--variants", FEW, "--json", str(path)) == 0
    return json.loads(path.read_text()), path


def test_the_json_has_every_cell(finished):
    report, path = finished
    assert [file.name for file in path.parent.iterdir()] == ["out.json"]
    assert list(report) == ["schema", "complete", "machine", "profile", "dtype", "sources", "rest_seconds",
                            "cells"]
    assert report["complete"] is True and report["profile"] == "nystrom"
    names = ["attention", "block_local", "synthesizer", "attention-causal", "performer-causal"]
    assert [(cell["length"], cell["variant"]) for cell in report["cells"]] == [
        (n, name) for n in (64, 128) for name in names]
    for cell in report["cells"]:
        assert {key: type(x) for key, x in cell.items()} == lra.CELL
        assert cell["attention_seconds"] > 0 and cell["peak_bytes"] > cell["attention_bytes"] >= 0
    assert set(report["rest_seconds"]["text"]) == {"64", "128"}
    by_name = {cell["variant"]: cell for cell in report["cells"][5:]}
    # blocks of 64 of 128: every key that is seen is as far as in a sequence of 64
    assert by_name["block_local"]["span"] < by_name["attention"]["span"] / 1.5


def test_a_second_run_goes_on_where_the_first_ended(finished, tmp_path, monkeypatch, capsys):
    report, _ = finished
    path = tmp_path / "out.json"
    half = report | {"complete": False, "cells": report["cells"][:7]}
    path.write_text(json.dumps(half))
    measured, plain = [], lra.measure
    monkeypatch.setattr(lra, "measure", lambda step, variant, repeats: (
        measured.append(variant.name) or plain(step, variant, repeats)))
    assert status(*QUICK, "--variants", FEW, "--json", str(path)) == 0
    assert measured == ["synthesizer", "attention-causal", "performer-causal"]
    again = json.loads(path.read_text())
    assert again["cells"][:7] == half["cells"] and again["complete"] is True
    assert [cell["variant"] for cell in again["cells"]] == [cell["variant"] for cell in report["cells"]]
    first = capsys.readouterr().out
    assert status(*QUICK, "--variants", FEW, "--json", str(path)) == 0
    assert len(measured) == 3 and capsys.readouterr().out == first
    # more variants: the old cells stay, also those that are not shown
    assert status(*QUICK, "--variants", "axial", "--json", str(path)) == 0
    assert measured[3:] == ["axial", "axial"]
    assert json.loads(path.read_text())["cells"][:10] == again["cells"]
    assert "synthesizer" not in capsys.readouterr().out


@pytest.mark.parametrize(("change", "words"), [
    (lambda report: [], "no results of xfaccel lra"),
    (lambda report: report | {"cells": [{}]}, "no results of xfaccel lra"),
    (lambda report: report | {"cells": [report["cells"][0] | {"length": "64"}]}, "no results"),
    (lambda report: report | {"cells": [report["cells"][0] | {"attention_seconds": -1.0}]}, "no results"),
    (lambda report: report | {"cells": [report["cells"][0] | {"task": None}]}, "no results"),
    (lambda report: report | {"rest_seconds": {}}, "no results"),
    (lambda report: report | {"rest_seconds": {"text": {"64": 0, "128": 1.0}}}, "no results"),
    (lambda report: report | {"sources": {"text": 7}}, "no results"),
    (lambda report: report | {"machine": {"cpu": "another"}}, "another machine"),
    (lambda report: report | {"profile": "official"}, "another profile, 'official'"),
    (lambda report: report | {"schema": 2}, "another schema"),
])
def test_a_file_that_is_none_of_this_run_is_refused_and_stays(change, words, finished, tmp_path, capsys):
    path = tmp_path / "out.json"
    path.write_text(json.dumps(change(finished[0])))
    before = path.read_bytes()
    assert status(*QUICK, "--json", str(path)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("xfaccel lra: ") and err.count("\n") == 1 and words in err
    assert path.read_bytes() == before


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000, b'{"schema": NaN}', b"7" * 5000])
def test_broken_json_is_refused(data, tmp_path, capsys):
    path = tmp_path / "out.json"
    path.write_bytes(data)
    assert status(*QUICK, "--json", str(path)) == 2
    assert "holds no results of xfaccel lra, and is not overwritten" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "words"), [
    (["--tasks", "text,images"], "no task 'images', there are text, retrieval"),
    (["--variants", "no"], "no variant 'no'"),
    (["--profile", "large"], "'large'"),
    (["--lengths", "0"], "'0'"),
    (["--lengths", "64,99999999"], "at most 131072"),
    (["--heads", "2"], "--heads"),
    (["--threads", "1000000"], "available"),
    (["--json", "{folder}"], "no regular file"),
    (["--json", "{folder}/none/out.json"], "no folder"),
    (["--tasks", "image", "--svg", "{folder}/out.svg"], "which --tasks leaves out"),
])
def test_bad_input_is_one_line_and_status_2(arguments, words, tmp_path, capsys):
    assert status("lra", *(word.replace("{folder}", str(tmp_path)) for word in arguments)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("xfaccel lra: ") and err.count("\n") == 1 and words in err


def test_what_is_measured():
    assert [(task, n) for task, n, variant in prepared(None, ["attention"]).cells] == [
        ("text", 1024), ("text", 2048)]
    every = prepared(None, full=True).cells
    assert len(every) == len(VARIANTS) * sum(map(len, lra.LENGTHS.values()))
    assert {task: {n for other, n, _ in every if other == task} for task in lra.LENGTHS} == {
        "text": {1024, 2048, 3072, 4096}, "retrieval": {1024, 2048, 3072, 4096}, "listops": {1024, 2048},
        "image": {1024}, "pathfinder": {1024}, "pathx": {16384}}
    chosen = prepared(["image", "text"], ["performer-causal"], [96]).cells
    assert [(task, n, variant.name) for task, n, variant in chosen] == [
        (task, n, name) for task, n in (("image", 1024), ("text", 96))
        for name in ("attention-causal", "performer-causal")]
    assert set(lra.MODELS.values()) == set(published.ACCURACY)
    assert set(lra.MODELS) <= {variant.name for variant in VARIANTS}


@pytest.mark.parametrize("task", lra.LENGTHS)
def test_tokens_are_the_task_s_own(task):
    count = 100 if task in ("text", "retrieval", "listops") else lra.LENGTHS[task][0]
    (ids, source), (again, _) = lra.tokens(task, count), lra.tokens(task, count)
    assert len(ids) == count and np.array_equal(ids, again) and source
    assert ids.min() >= 0 and ids.max() < encoder.TASKS[task][0] and len(np.unique(ids)) > 5
    if task == "listops":
        assert ids[0] in listops.OPERATORS
    if task in ("pathfinder", "pathx"):
        assert 0.5 < (ids == 0).mean() < 0.95  # dashes on black


@pytest.mark.parametrize("task, profile", [
    ("text", "nystrom"), ("retrieval", "official"), ("image", "paper")])
def test_a_step_is_its_attention_and_the_rest(task, profile, monkeypatch):
    n = 1024 if task == "image" else 64
    step, _ = lra.build(task, n, profile)
    sizes, call = encoder.PROFILES[profile][task]
    assert all(x.shape == (call["heads"], n, sizes["qkv"] // call["heads"]) and x.dtype == np.float32
               for x in step.qkv)
    assert step.calls == sizes["layers"] * (2 if task == "retrieval" else 1)
    seen = []
    out = step.run(lambda q, k, v: seen.append((q, k, v)) or v)
    assert out.shape == (encoder.TASKS[task][2],) and len(seen) == (2 if task == "retrieval" else 1)
    for x, own in zip(step.qkv, seen[0], strict=True):
        assert np.array_equal(x, own)
    # a rest whose blocks take 20 ms each and all else 5 ms
    times = {"one": 0.025, "none": 0.005}
    monkeypatch.setattr(lra, "times_in_turn", lambda calls, repeats: [
        (name, times[name]) for name in calls if calls[name]().shape == out.shape])
    assert step.rest() == pytest.approx(0.005 + sizes["layers"] * 0.02)


def test_a_cell_counts_what_a_call_takes(monkeypatch):
    step, _ = lra.build("retrieval", 64, "nystrom")

    def slow(q, k, v):
        time.sleep(0.01)
        scratch = np.ones(10**6)
        return v + scratch[0].astype(v.dtype)

    monkeypatch.setattr(xfaccel, "attention", slow)
    cell = lra.measure(step, VARIANTS[0], 2)
    assert step.calls * 0.01 <= cell["attention_seconds"] < step.calls * 0.1
    assert cell["attention_bytes"] == pytest.approx(8e6, rel=0.05)
    assert 8e6 < cell["peak_bytes"] < 9e6

    def too_large(q, k, v):
        raise MemoryError

    monkeypatch.setattr(xfaccel, "attention", too_large)
    assert set(lra.measure(step, VARIANTS[0], 2).values()) == {None}


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_an_encoder_is_the_same_with_either_package(variant):
    step, _ = lra.build("text", 96, "nystrom")
    arguments = measure.drawn(variant, step.qkv)
    fast, plain = (step.run(partial(lra.rows, package, variant, arguments)) for package in (xfaccel, xfref))
    close(fast, plain, 1e-4)


def test_the_table_says_what_stands_beside_it():
    setup = prepared(["text", "image", "pathx"], full=True)
    lines = lra_table.text(filled(setup), setup.cells).splitlines()
    assert max(map(len, lines)) <= 130 and all(line.isascii() and line == line.rstrip() for line in lines)
    titles = [line.partition(":")[0] for line in lines if " blocks, width " in line]
    assert titles == ["text", "image", "pathx"]
    rows = [line.split() for line in lines if line.startswith("synthesizer ")]
    # exact attention takes as long as the rest, all others a tenth of that: 2 / 1.1 times as fast, share 1/11
    assert rows[0][5:] == ["8.88", "4.44", "2.96", "2.22", "1.8x", "9%", "64.0", "1.00", "0.50", "8.7", "5.7",
                           "6.6?", "1.9", "1.4x", "6.99"]
    assert rows[1][5:] == ["8.88", "1.8x", "9%", "64.0", "1.00", "0.50", "41.61"]
    assert rows[2][5:] == ["0.55", "1.8x", "9%", "64.0", "1.00", "-", "FAIL"]
    exact = next(line.split() for line in lines if line.startswith("attention "))
    assert exact[1:] == ["4.88", "2.44", "1.63", "1.22", "1.0x", "50%", "64.0", "1.00", "0.50", "8.1", "4.9",
                         "2.3", "1.4", "1.0x", "9.48"]
    assert next(line for line in lines if line.startswith("shaw ")).endswith("-     -     -")
    doubts = next(line for line in lines if line.startswith("? "))
    assert "Synthesizer, steps at 3000: between 5.7 and 1.9" in doubts and "341 tokens" in "\n".join(lines)
    assert len([line for line in lines if line in ("both directions", "causal")]) == 6
    setup = prepared(["text"], ["linformer"], [3072])
    lines = lra_table.text(filled(setup), setup.cells).splitlines()
    assert next(line for line in lines if line.startswith("linformer ")).endswith("        8.5  3.7x 0.99?")
    assert "Linformer, gigabytes at 3000" in "\n".join(lines)


def test_the_table_of_few_and_of_what_does_not_fit():
    none = dict.fromkeys(lra.MEASURED)
    setup = prepared(["listops"], ["synthesizer", "linformer"], [64])
    report = filled(setup, synthesizer=none)
    lines = lra_table.text(report, setup.cells).splitlines()
    row = next(line for line in lines if line.startswith("synthesizer "))
    assert row.endswith("     -  not enough memory") and not any(line.startswith("? ") for line in lines)
    setup = prepared(["listops"], ["linformer"], [64])
    lines = lra_table.text(filled(setup, attention=none), setup.cells).splitlines()
    assert next(line for line in lines if line.startswith("linformer ")).split()[4] == "-"
    assert lra.step_seconds(report, report["cells"][0]) == pytest.approx(2 * 64 / 1e4)


def test_the_chart_is_figure_3():
    text = pytest.importorskip("matplotlib.text")
    report = filled(prepared(["text", "image"]))
    n, own = lra_chart.discs(report)
    assert n == 2048 and list(own) == list(published.ACCURACY)
    assert own["Performer"] == pytest.approx((1 / (1.1 * 2048 / 1e4), 51.41, 2**20 / 1e9))
    image = lra_chart.svg(report)
    assert ElementTree.fromstring(image).tag == "{http://www.w3.org/2000/svg}svg"
    assert lra_chart.svg(report) == image
    for model in published.ACCURACY:
        assert image.count(f"<!-- {model} -->".encode()) == 1 + (model in published.FIGURE_3)
    figure = lra_chart.draw(report)
    for axes in figure.axes:
        boxes = [text.Text.get_window_extent(label, figure.canvas.get_renderer()) for label in axes.texts]
        for i, box in enumerate(boxes):
            assert not box.count_overlaps(boxes[:i])
    assert lra_chart.discs(prepared(["image"]).report) == (0, {})
