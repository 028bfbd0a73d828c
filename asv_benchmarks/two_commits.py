"""Which variants are slower in one commit than in another, by calls in turns.

    python asv_benchmarks/two_commits.py BASE HEAD [--names attention bigbird] [--n 1024 4096]

The packages of both commits lie side by side, each in a process of its own that knows today's table of
variants. For a few rounds either process is asked for the shortest of some calls, so that whatever slows the
machine slows both. A variant is slower if its best time is at least 1.25 times as long and 200 us longer, and
again so in a second pair of processes: then the exit code is 1. A name that a commit lacks is left out.
"""

import argparse
import contextlib
import importlib
import io
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
RATIO, SECONDS = 1.25, 200e-6
ROUNDS, WARM, LASTING = 5, 0.005, 0.03    # of a turn, in seconds: calls that do not count, and those that do
NEAR = 1.1                                # what differs by less is not listed


class Row(NamedTuple):
    room: str
    variant: str
    n: int
    base: float = 0.0     # seconds
    head: float = 0.0

    @property
    def ratio(self) -> float:
        return self.head / self.base

    @property
    def slower(self) -> bool:
        return self.ratio >= RATIO and self.head - self.base >= SECONDS


def rows(names: list[str], lengths: list[int]) -> list[Row]:
    import benchmarks

    rooms = [info.name for info in pkgutil.iter_modules(benchmarks.__path__)]
    return [Row(room, name, n) for room in rooms for name, variant in variants(room).items() for n in lengths
            if not names or variant.function in names]


def variants(room: str) -> dict:
    return getattr(importlib.import_module(f"benchmarks.{room}"), "VARIANTS", {})


def answer() -> None:
    """The process of one commit: for every line [room, variant, n] the seconds of a call, or null."""
    from benchmarks import measure

    last = None
    for line in sys.stdin:
        room, name, n = json.loads(line)
        if last != (room, name, n):     # arrays of long sequences are not kept for later
            measure.warmed.cache_clear()
            measure.prepared.cache_clear()
        last = room, name, n
        try:
            call = measure.warmed(variants(room)[name], n)
        except NotImplementedError:
            print("null", flush=True)
            continue
        _best(call, WARM)
        print(json.dumps(_best(call, LASTING)), flush=True)


def _best(call, lasting: float) -> float:
    best, start = float("inf"), time.perf_counter()
    while True:
        before = time.perf_counter()
        call()
        now = time.perf_counter()
        best = min(best, now - before)
        if now - start > lasting:
            return best


@contextlib.contextmanager
def packages(commit: str) -> Iterator[str]:
    """A folder with the packages of a commit."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["git", "archive", "--format=zip", commit, "xfref", "xfaccel"], cwd=HERE.parent,
                              capture_output=True)
        if done.returncode:
            raise SystemExit(f"{commit}: {done.stderr.decode().strip()}")
        with zipfile.ZipFile(io.BytesIO(done.stdout)) as archive:
            archive.extractall(folder)
        yield folder


def process(folder: str) -> subprocess.Popen:
    code = "import two_commits; two_commits.answer()"
    return subprocess.Popen([sys.executable, "-c", code], cwd=HERE, text=True, stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": folder})


def measured(wanted: list[Row], base: str, head: str) -> list[Row]:
    """Those of the rows that both folders have, with their best times."""
    found = []
    with process(base) as first, process(head) as second:
        for row in wanted:
            best = {}
            for number in range(ROUNDS):
                turn = [("base", first), ("head", second)]
                for name, running in turn[::-1] if number % 2 else turn:
                    print(json.dumps(row[:3]), file=running.stdin, flush=True)
                    if not (line := running.stdout.readline()):
                        raise SystemExit(f"the process of {name} ended at {row.variant}, n = {row.n}")
                    seconds = json.loads(line)
                    best[name] = min(best.get(name, float("inf")), seconds or float("inf"))
            if float("inf") not in best.values():
                found.append(row._replace(**best))
    return found


def show(found: list[Row]) -> None:
    print(f"{'variant':32}{'n':>6}{'base, ms':>12}{'head, ms':>12}{'head / base':>13}")
    for row in found:
        print(f"{row.variant:32}{row.n:6}{row.base * 1e3:12.3f}{row.head * 1e3:12.3f}{row.ratio:13.2f}"
              + ("  slower" if row.slower else ""))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("base")
    parser.add_argument("head")
    parser.add_argument("--names", nargs="+", default=[], help="functions (default: all)")
    parser.add_argument("--n", nargs="+", type=int, default=[1024, 4096])
    options = parser.parse_args()
    with packages(options.base) as base, packages(options.head) as head:
        found = measured(rows(options.names, options.n), base, head)
        if not found:
            raise SystemExit("no such variant in both commits")
        apart = sorted((row for row in found if not 1 / NEAR < row.ratio < NEAR), key=lambda row: -row.ratio)
        if apart:
            show(apart)
        print(f"{len(found) - len(apart)} of {len(found)} within a factor of {NEAR}")
        suspects = [row for row in found if row.slower]
        slower = [row for row in measured(suspects, base, head) if row.slower] if suspects else []
    if suspects:
        print(f"\nmeasured again: {len(slower)} of {len(suspects)} are slower by {RATIO} and 0.2 ms")
        if slower:
            show(slower)
    return bool(slower)


if __name__ == "__main__":
    sys.exit(main())
