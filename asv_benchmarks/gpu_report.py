"""The report of a run on a GPU: stages in processes of their own, one file that holds what each has found.

A stage is a command that prints a JSON object a line: its rows. One that fails, or takes too long, leaves the
rows that it printed so far and a reason, and does not touch the others: a GPU that has met an illegal access
is of no use to the process that made it. The report is Markdown, tables to read and the same as JSON below
them; a stage that is done in it, with the same kernels on the same machine, is not run again.
"""

import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_DATA = re.compile(r"^```json\n(.*?)^```$", re.M | re.S)


class Stage(NamedTuple):
    name: str
    title: str
    command: list[str]
    seconds: float  # that it may take


def run(stages: Iterable[Stage], path: Path, key: dict, seconds: float, say=print) -> dict:
    """Run the stages that `path` has no result of under `key`; within so many seconds altogether.

    The file is written after each of them, so that a run that is broken off goes on where it was.
    """
    report = read(path)
    if report.get("key") != key:
        report = {"key": key, "stages": {}}
    end = time.monotonic() + seconds
    for stage in stages:
        if report["stages"].get(stage.name, {}).get("state") == "done":
            say(f"{stage.title}: done before")
            continue
        left = end - time.monotonic()
        if left < 1:
            report["stages"][stage.name] = _result(stage, "not begun", "no time was left")
        else:
            report["stages"][stage.name] = _run(stage, min(stage.seconds, left))
        path.write_text(text(report))
        found = report["stages"][stage.name]
        say(f"{stage.title}: {found['state']}, {found['seconds']:.0f} s{_because(found)}")
    return report


def _run(stage: Stage, seconds: float) -> dict:
    begin = time.monotonic()
    # files, not pipes: what a stage has started may hold a pipe open for longer than the stage lives
    with tempfile.TemporaryFile() as rows, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(stage.command, stdout=rows, stderr=errors, start_new_session=True)
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with contextlib.suppress(ProcessLookupError):  # and all that it has started
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        rows.seek(0), errors.seek(0)
        output, said = rows.read(), errors.read().decode(errors="replace").strip().splitlines()
    took = time.monotonic() - begin
    if status is None:
        return _result(stage, "out of time", f"stopped after {seconds:.0f} s", output, took)
    if status:
        return _result(stage, "failed", said[-1] if said else f"exit status {status}", output, took)
    return _result(stage, "done", "", output, took)


def _result(stage: Stage, state: str, reason: str, output: bytes = b"", seconds: float = 0) -> dict:
    rows = []
    for line in output.decode(errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # of some library, or cut off
        if isinstance(row, dict):
            rows.append(row)
    return dict(title=stage.title, state=state, reason=reason, seconds=round(seconds, 1), rows=rows)


def read(path: Path) -> dict:
    """What an earlier report holds, or nothing."""
    found = _DATA.search(path.read_text()) if path.exists() else None
    return json.loads(found[1]) if found else {}


def text(report: dict) -> str:
    """The report as a file: a table for each stage, then the data that `read` takes."""
    parts = ["# xfaccel on a GPU\n"]
    for found in report["stages"].values():
        parts.append(f"## {found['title']}\n\n{found['state']}, {found['seconds']} s{_because(found)}\n")
        if found["rows"]:
            parts.append(table(found["rows"]))
    return "\n".join([*parts, f"## Data\n\n```json\n{json.dumps(report, indent=1)}\n```\n"])


def table(rows: list[dict]) -> str:
    """Rows as a table in Markdown; the columns are those of all rows, in the order in which they come."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, ["---"] * len(names), *([_cell(row.get(name, "")) for name in names] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def summary(report: dict) -> str:
    """What `xfaccel` takes, and how many times as long others do: a table for README.md."""
    took: dict[str, dict[str, float]] = {}
    for row in report["stages"]["benchmark"]["rows"]:
        if "ms" in row:
            took.setdefault(row["what"], {})[row["who"]] = row["ms"]
    own, columns = "xfaccel", {
        "FlashAttention-2 in torch": "torch SDPA, FLASH_ATTENTION",
        "cuDNN in torch": "torch SDPA, CUDNN_ATTENTION",
        "flex_attention, compiled": "torch flex_attention, compiled",
        "chunks of 128 in torch": "torch, chunks of 128"}
    return table([{"": what, "xfaccel, ms": f"{times[own]:.3g}"} | {
        name: f"{times[who] / times[own]:.2g} x" if who in times else "" for name, who in columns.items()}
        for what, times in took.items()])


def _cell(value: object) -> str:
    shown = f"{value:.3g}" if isinstance(value, float) and abs(value) < 1000 else (
        f"{value:.0f}" if isinstance(value, float) else str(value))
    return shown.replace("|", "\\|").replace("\n", " ")


def _because(found: dict) -> str:
    return f": {found['reason']}" if found["reason"] else ""


def spread(seconds: list[float]) -> tuple[float, float, float]:
    """The quartiles of repeated measurements."""
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return low, middle, high


def exit_code(report: dict) -> int:
    return int(any(found["state"] != "done" for found in report["stages"].values()))
