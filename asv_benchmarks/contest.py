"""What the comparisons with outside implementations share: options, contenders, and taking turns.

Import this before NumPy: it reads the command line and tells BLAS and OpenMP how many threads they have.
"""

import argparse
import importlib
import importlib.metadata
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

KINDS = ("full", "causal", "few", "window", "linear", "idle", "widths", "half", "terms", "variants")
SIDE = 256               # keys that a window sees on either side


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="xfaccel beside torch, ONNX Runtime, OpenVINO and others")
    parser.add_argument("--only", nargs="+", default=KINDS, choices=KINDS, help="comparisons (default: all)")
    parser.add_argument("--lengths", nargs="+", type=int, help="n of full and causal (default: 64 to 8192)")
    parser.add_argument("--long", type=int, help="n of window and linear, keys of few (default: 16384)")
    parser.add_argument("--gaps", nargs="+", type=float, default=[20, 200], metavar="MS", help="of idleness")
    parser.add_argument("--n", type=int, help="n of terms and variants (default: 4096)")
    parser.add_argument("--names", nargs="+", default=[], help="which variants (default: all)")
    parser.add_argument("--peer-dir", type=Path, help="checkouts of peers that exist only in git")
    parser.add_argument("--heads", type=int, default=8, help="of all but variants, which have 8")
    parser.add_argument("--width", type=int, default=64, help="of a head, of all but variants, which have 64")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, help="of each comparison (default: 15; of variants 7)")
    parser.add_argument("--quick", action="store_true", help="short, few rounds, no torch.compile")
    options = parser.parse_args()
    every = [64, 256, 512, 1024, 2048, 4096, 8192]
    options.lengths = options.lengths or ([256, 1024] if options.quick else every)
    options.long = options.long or (2048 if options.quick else 16384)
    options.n = options.n or (1024 if options.quick else 4096)
    for name, length, step in (("long", options.long, SIDE), ("n", options.n, 2 * SIDE)):
        if length % step:
            parser.error(f"--{name} needs a multiple of {step}: torch's forms and the peers cut into chunks")
    return options


OPTIONS = parse()
# BLAS and OpenMP read these when they are loaded
os.environ.update({f"{library}_NUM_THREADS": str(OPTIONS.threads) for library in ("OPENBLAS", "MKL", "OMP")})

import numpy as np  # noqa: E402

import xfaccel  # noqa: E402
from xfaccel.engine.cpu.threads import limited  # noqa: E402

Array = np.ndarray
HOT = 10e-3              # seconds of calls before those that count
MISSING: dict[str, str] = {}


class Contender(NamedTuple):
    name: str
    call: Callable[[], object]
    result: Callable[[object], Array] = np.asarray   # what `call` gives, as an array (heads, n, width)


def rounds(default: int) -> int:
    return OPTIONS.rounds or (3 if OPTIONS.quick else default)


def load(module: str, hint: str = "the extra `peers` brings it"):
    """The module, or None and a line about it at the end."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        MISSING[module.partition(".")[0]] = f"{error}; {hint}"
        return None


def load_torch():
    if torch := load("torch"):
        torch.set_num_threads(OPTIONS.threads)
        torch.set_grad_enabled(False)
    return torch


def versioned(package: str) -> str:
    return f"{package} {importlib.metadata.version(package).partition('+')[0]}"


def ours(function: str, arrays: tuple, threads: int = OPTIONS.threads, **options) -> Contender:
    own = partial(getattr(xfaccel, function), *arrays, **options)

    def call():
        with limited(threads):
            return own()
    # the limit of the whole process stands in `main`
    return Contender("xfaccel", own) if threads == OPTIONS.threads else Contender(
        f"xfaccel, {threads} thread", call)


def measure(contenders: list[Contender], rounds: int, gap: float | None = None) -> Array:
    """Seconds (rounds, contenders): hot if gap is None, else each call after `gap` seconds of idleness."""
    seconds = np.empty((rounds, len(contenders)))
    for times in seconds:
        for place, contender in enumerate(contenders):
            calls = 1
            if gap is None:
                start, calls = time.perf_counter(), 0
                while calls == 0 or time.perf_counter() - start < HOT:
                    contender.call()
                    calls += 1
            else:
                time.sleep(gap)
            start = time.perf_counter()
            for _ in range(calls):
                contender.call()
            times[place] = (time.perf_counter() - start) / calls
    return seconds


def error_of(contender: Contender, exact: Array, rows: Array | slice = slice(None)) -> float:
    """Relative L2 error of these rows of the first head."""
    out = contender.result(contender.call())[0]
    return float(np.linalg.norm((out - exact)[rows]) / np.linalg.norm(exact[rows]))
