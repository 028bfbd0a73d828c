"""The host's side of `make gpu`: stages in processes of their own, and the file of what they found."""

import inspect
import subprocess
import sys
import time
import types
from pathlib import Path

import cupy_stand_in
import host_engines
import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "asv_benchmarks"


@pytest.fixture
def report(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import gpu_report
    return gpu_report


def stage(report, name, code, seconds=60.0):
    return report.Stage(name, name.title(), [sys.executable, "-c", code], seconds)


ROWS = "print('of a library'); print('{\"what\": \"a|b\", \"ms\": 1.23456}'); print('{\"ms\": 4567.8}')"


def test_a_stage_that_fails_or_hangs_touches_no_other(report, tmp_path):
    """A process that a stage has started holds its output open, and ends with it."""
    path, said = tmp_path / "report.md", []
    child = f"{sys.executable!r}, '-c', 'import time; time.sleep(60)'"
    hangs = f"{ROWS.replace('print(', 'print(flush=True, *[').replace(')', '])')}" \
            f"; import subprocess; subprocess.run([{child}])"
    begin = time.monotonic()
    found = report.run([stage(report, "fails", f"{ROWS}; raise SystemExit('no such GPU')"),
                        stage(report, "hangs", hangs, 2.0), stage(report, "works", ROWS)],
                       path, {"gpu": "none"}, 100, said.append)
    assert time.monotonic() - begin < 30
    stages = found["stages"]
    assert [(x["state"], x["reason"]) for x in stages.values()] == [
        ("failed", "no such GPU"), ("out of time", "stopped after 2 s"), ("done", "")]
    assert [x["rows"] for x in stages.values()] == 3 * [[{"what": "a|b", "ms": 1.23456}, {"ms": 4567.8}]]
    assert report.exit_code(found) == 1 and len(said) == 3
    assert report.read(path) == found
    assert "| what | ms |\n| --- | --- |\n| a\\|b | 1.23 |\n|  | 4568 |\n" in path.read_text()


def test_what_is_done_is_not_done_again_unless_something_changed(report, tmp_path):
    path, mark = tmp_path / "report.md", tmp_path / "runs"
    counted = [stage(report, "counts", f"open({str(mark)!r}, 'a').write('x')")]
    for key, runs in (("a", "x"), ("a", "x"), ("b", "xx")):
        found = report.run(counted, path, {"kernels": key}, 60, lambda line: None)
        assert mark.read_text() == runs and report.exit_code(found) == 0
    late = report.run([*counted, stage(report, "late", "1")], path, {"kernels": "b"}, 0.5, lambda line: None)
    assert late["stages"]["late"]["state"] == "not begun" and report.exit_code(late) == 1


def test_the_spread_is_that_of_the_quartiles(report):
    assert report.spread([5.0, 1.0, 2.0, 4.0, 3.0]) == (2.0, 3.0, 4.0)


def test_without_a_gpu_one_line_says_what_is_missing(tmp_path):
    (tmp_path / "cupy.py").write_text("raise ImportError('not here')")
    ended = subprocess.run([sys.executable, str(FOLDER / "gpu.py"), "--report", str(tmp_path / "report.md")],
                           env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert ended.returncode == 2 and not ended.stdout
    line, = ended.stderr.splitlines()
    assert line.startswith("make gpu: GPU arrays need CuPy, which cannot be imported (not here)")


def test_every_stage_has_a_function_a_title_and_a_limit(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import gpu
    import gpu_stages
    assert gpu.SECONDS.keys() == gpu.TITLES.keys()
    assert all(callable(getattr(gpu_stages, name)) for name in (*gpu.SECONDS, "tiny"))


# the stages, as far as they go without a GPU


@pytest.fixture
def stages(monkeypatch):
    """`gpu_stages`, with the stand-in in the place of CuPy and the engines of the CPU in that of kernels."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import gpu_stages
    with cupy_stand_in.installed():
        host_engines.install(monkeypatch)
        yield gpu_stages


def test_cases_and_calls_fit_what_they_call(stages):
    right, errors = stages.some_cases(401, 0)
    assert right > 20 and not errors
    made = [call().shape for _, call in stages.calls(sys.modules["cupy"], 20, stages.FLOATS)]
    assert len(made) > 10 and set(made) == {(2, 20, 40)}


def test_contenders_fit_what_they_call(stages):
    torch = types.SimpleNamespace(as_tensor=lambda x, device: x)
    q, k, v = np.random.default_rng(0).standard_normal((3, 70, 4))
    for name, _, _, _, sees, _, ours, theirs in stages.problems(torch):
        for call in (ours, *(make for _, make in theirs)):
            inspect.signature(call).bind(q, k, v)
        assert stages.reference(name, q, k, v, sees).shape == (64, 4)


def test_the_machine_is_described(stages):
    """By names that the loader has, for every file of kernels."""
    found = dict.fromkeys(("major", "minor", "multiProcessorCount", "totalGlobalMem"), 8) | {"name": b"none"}
    one = lambda: 13020
    cupy = types.SimpleNamespace(__version__="14", cuda=types.SimpleNamespace(
        nvrtc=types.SimpleNamespace(getVersion=lambda: (13, 0)), runtime=types.SimpleNamespace(
            getDeviceProperties=lambda number: found, driverGetVersion=one, runtimeGetVersion=one)))
    rows = {row["what"]: row["is"] for row in stages.machine(cupy, {})}
    assert rows["GPU"] == "none"
    assert {"softmax.cu", "softmax_mma.cu", "gather.cu", "scan.cu"} <= set(rows)
