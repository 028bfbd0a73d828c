"""The command line: `xfaccel arena` (also `xfaccel` alone) compares the variants, `xfaccel lra` whole
encoders with them in it, and `xfaccel doctor` shows what xfaccel found on this machine."""

import argparse
import contextlib
import ctypes
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import llvmlite
import llvmlite.binding
import numba
import numpy as np
import scipy

from xfaccel.engine.cpu import cache, kernels, threads

FEATURES = {"avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX", "fma": "FMA", "f16c": "F16C",
            "avx512bf16": "AVX-512 BF16", "amx-tile": "AMX", "sve": "SVE", "neon": "NEON"}
SAVING = threading.Lock()  # held while a file is replaced


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    0: done; 1: a variant disagrees with xfref, or the output cannot be written; 2: bad options or input;
    130: interrupted; 141: nobody reads the output.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    named = bool(arguments) and not arguments[0].startswith("-")
    command = arguments.pop(0) if named else "arena"
    try:
        if command not in COMMANDS:
            return _fail("xfaccel", f"no command {command[:40]!r}, there are {', '.join(COMMANDS)}", 2)
        return COMMANDS[command](arguments)
    except KeyboardInterrupt:
        _interrupted(f"xfaccel {command}", "interrupted")


def arena(arguments: Sequence[str]) -> int:
    """Check and time every variant; see `xfaccel.arena`."""
    from xfaccel.arena import chart, measure, table, variants  # here, as they import xfref

    parser = _parser("arena", "Compare what every attention costs beside exact attention, on the same "
                              "tokens. The other commands: xfaccel lra compares whole encoders with them, "
                              "xfaccel doctor shows what was found here.")
    _arena_options(parser, [variant.name for variant in variants.VARIANTS])
    options = parser.parse_args(arguments)
    with _reporting(parser):
        limit = _check(options)
        setup = measure.prepare(task=options.task, file=options.file, names=options.variants,
                                lengths=options.lengths, heads=options.heads, width=options.width,
                                machine=_machine() | {"threads": limit})
        save = _saving(options.json, setup.report, "rows")
        save()
    status = _measure(parser.prog, options, partial(measure.run, setup, limit=limit, save=save,
                                                    repeats=options.repeats),
                      partial(chart.svg, setup.report), partial(table.text, setup.report))
    wrong = [row["variant"] for row in setup.report["rows"] if row["agrees"] is False]
    return _fail(parser.prog, f"disagrees with xfref: {', '.join(wrong)}", 1) if wrong else status


def lra(arguments: Sequence[str]) -> int:
    """Time whole encoders with every variant in them; see `xfaccel.arena.lra`."""
    from xfaccel.arena import lra, lra_chart, lra_table, variants  # here, as they import xfref

    parser = _parser("lra", "What a whole encoder of the Long Range Arena costs with each attention in it, "
                            "beside what the benchmark's paper printed.")
    _lra_options(parser, [variant.name for variant in variants.VARIANTS], lra)
    options = parser.parse_args(arguments)
    with _reporting(parser):
        limit = _check(options)
        held = None if options.json is None else lra.read(options.json)
        setup = lra.prepare(tasks=options.tasks, names=options.variants, lengths=options.lengths,
                            full=options.full, profile=options.profile, held=held,
                            machine=_machine() | {"threads": limit})
        if options.svg is not None and not any(task == lra_chart.TASK for task, *_ in setup.cells):
            raise ValueError(f"--svg draws the task {lra_chart.TASK}, which --tasks leaves out")
        save = _saving(options.json, setup.report, "cells")
        save()
    repeats = options.repeats or (None if options.full else lra.SAMPLE_CALLS)
    return _measure(parser.prog, options, partial(lra.run, setup, limit=limit, save=save, repeats=repeats),
                    partial(lra_chart.svg, setup.report), partial(lra_table.text, setup.report, setup.cells))


def doctor(arguments: Sequence[str]) -> int:
    """Show what xfaccel found on this machine, and why."""
    parser = _parser("doctor", "Show what xfaccel found on this machine, and why.")
    parser.parse_args(arguments)
    facts = {
        "xfaccel": f"{_version()}, {Path(__file__).parent}",
        "python": f"{platform.python_version()}, {platform.platform()}",
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "numba": f"{numba.__version__}, llvmlite {llvmlite.__version__}",
        "cpu": f"{_cpu_name()}, {llvmlite.binding.get_host_cpu_name()} to the compiler",
        "features": ", ".join(_cpu_features()) or "none of " + ", ".join(FEATURES.values()),
        "kernels": kernels.describe(),
        "threads": f"{threads.available()} ({threads.reason()})",
        "cache": f"{cache.folder()}, {'' if os.access(cache.folder(), os.W_OK) else 'not '}writable "
                 f"({cache.reason()})",
        "gpu": _gpu(),
    }
    return _show(parser.prog, "\n".join(f"{name:10}{fact}" for name, fact in facts.items()))


COMMANDS = {"arena": arena, "lra": lra, "doctor": doctor}


def _machine() -> dict:
    """What a reader of the numbers must know of where they were measured."""
    return {"cpu": _cpu_name(), "kernels": kernels.describe(), "system": platform.platform(),
            "python": platform.python_version(), "numpy": np.__version__, "numba": numba.__version__,
            "xfaccel": _version()}


def _fail(program: str, message: str, status: int) -> int:
    """Say what is wrong in one line on stderr, whatever the message holds, and return the status."""
    print(f"{program}: {' '.join(message.split())}", file=sys.stderr)
    return status


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(f"xfaccel {command}", description=description, allow_abbrev=False)

    def error(message: str) -> NoReturn:  # argparse's own prints the usage too
        sys.exit(_fail(parser.prog, message, 2))

    parser.error = error
    return parser


@contextlib.contextmanager
def _reporting(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Bad options and input end the command with one line."""
    try:
        yield
    except (OSError, ValueError, MemoryError) as error:
        parser.error(str(error) or "not enough memory")


def _check(options: argparse.Namespace) -> int:
    """The number of threads; raises ValueError if that or an output cannot be had."""
    limit = _thread_limit(options.threads)
    _check_outputs([path for path in (options.json, options.svg) if path is not None])
    if options.svg is not None and importlib.util.find_spec("matplotlib") is None:
        raise ValueError("--svg needs matplotlib, which comes with the extra `arena` of xfaccel")
    return limit


def _measure(program: str, options: argparse.Namespace, run: Callable[[], None], svg: Callable[[], bytes],
             text: Callable[[], str]) -> int:
    """Run, draw and print, and return the exit status."""
    try:
        _interruptible(run)
        if options.svg is not None:
            _write(options.svg, svg())
    except (OSError, MemoryError) as error:
        return _fail(program, str(error) or "not enough memory", 1)
    except KeyboardInterrupt:
        kept = "" if options.json is None else f", {options.json!r} keeps what was measured"
        _interrupted(program, f"interrupted{kept}")
    return _show(program, text())


def _one_of(word: str, names: Iterable[str]) -> Callable[[str], list[str]]:
    """The type of an option that lists some of these names."""
    names = list(names)

    def chosen(words: str) -> list[str]:
        for name in words.split(","):
            if name not in names:
                raise argparse.ArgumentTypeError(f"no {word} {name[:40]!r}, there are {', '.join(names)}")
        return words.split(",")

    return chosen


def _arena_options(parser: argparse.ArgumentParser, names: list[str]) -> None:
    parser.add_argument("--task", choices=("text", "listops"), default="text",
                        help="tokens: bytes of English text, or Long ListOps expressions (default text)")
    parser.add_argument("--file", metavar="PATH",
                        help="a text file (UTF-8), or for listops a TSV file of the benchmark; default: the "
                             "help topics of Python, or generated expressions")
    parser.add_argument("--lengths", type=_lengths, metavar="N,N", default=[1024, 2048, 3072, 4096],
                        help="sequence lengths (default 1024,2048,3072,4096)")
    parser.add_argument("--heads", type=_positive, metavar="N", default=8, help="heads (default 8)")
    parser.add_argument("--width", type=_positive, metavar="N",
                        help="width of all heads together (default 64 for each head)")
    _shared_options(parser, names, "draw speed against distance there (needs matplotlib)",
                    "write the results there, again after each of them")


def _lra_options(parser: argparse.ArgumentParser, names: list[str], lra: ModuleType) -> None:
    parser.add_argument("--tasks", type=_one_of("task", lra.LENGTHS), metavar="A,B",
                        help=f"of {', '.join(lra.LENGTHS)} (default text; with --full all)")
    parser.add_argument("--full", action="store_true",
                        help="all tasks and lengths, up to Path-X at 16384: tens of minutes, unless --tasks "
                             "or --variants say less; with --json it can be interrupted and run again")
    parser.add_argument("--lengths", type=_lengths, metavar="N,N",
                        help="of text, retrieval and listops, where pictures have their own (default "
                             "1024,2048)")
    parser.add_argument("--profile", choices=list(lra.PROFILES), default="paper",
                        help="sizes of the encoder: the paper's, those of its released code (official), or "
                             "the small ones of the Nystromformer's authors (default paper)")
    _shared_options(parser, names, "draw speed, score and memory there, as Figure 3 (needs matplotlib)",
                    "write the results there, again after each; what the file holds is not measured again",
                    f"{lra.SAMPLE_CALLS}; with --full enough for a steady time")


def _shared_options(parser: argparse.ArgumentParser, names: list[str], svg: str, json: str,
                    repeats: str = "enough for a steady time, at least 3") -> None:
    parser.add_argument("--variants", type=_one_of("variant", names), metavar="A,B", default=names,
                        help="rows, beside the exact attention they are compared with (default all: "
                             f"{', '.join(names)})")
    parser.add_argument("--threads", type=_positive, metavar="N",
                        help="threads of xfaccel (default all available; NumPy's own are not limited)")
    parser.add_argument("--repeats", type=_positive, metavar="N",
                        help=f"calls for each time (default: {repeats})")
    parser.add_argument("--json", metavar="PATH", help=json)
    parser.add_argument("--svg", metavar="PATH", help=svg)


def _positive(word: str) -> int:
    try:
        if (number := int(word)) > 0:
            return number
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"needs a whole number of at least 1, got {word[:40]!r}")


def _lengths(words: str) -> list[int]:
    return sorted({_positive(word) for word in words.split(",")})


def _write(path: str, data: bytes) -> None:
    """Replace the file at once, so that a reader or an interruption never meets half of it."""
    with SAVING:
        part = f"{path}.{os.getpid()}.part"
        try:
            with open(part, "wb") as file:
                file.write(data)
            os.replace(part, path)
        except BaseException:  # an interruption too leaves nothing behind
            if os.path.exists(part):
                os.remove(part)
            raise


def _saving(path: str | None, report: dict, rows: str) -> Callable[[], None]:
    """What writes the report as JSON; an error that is no number (a NaN in a result) becomes null."""
    def save() -> None:
        if path is not None:
            finite = [{key: value if not isinstance(value, float) or math.isfinite(value) else None
                       for key, value in row.items()} for row in report[rows]]
            _write(path, (json.dumps(report | {rows: finite}, indent=1, allow_nan=False) + "\n").encode())
    return save


def _thread_limit(asked: int | None) -> int:
    limit = threads.available()
    if asked and asked > limit:
        raise ValueError(f"--threads {asked}: {limit} available ({threads.reason()})")
    return asked or limit


def _check_outputs(paths: Iterable[str]) -> None:
    """Raise ValueError now rather than at the end of the run if a result could not be written."""
    for path in paths:
        folder = os.path.dirname(path) or "."
        if not os.path.isdir(folder):
            raise ValueError(f"cannot write {path!r}: there is no folder {folder!r}")
        if not os.path.basename(path) or os.path.lexists(path) and not os.path.isfile(path):
            raise ValueError(f"cannot write {path!r}: it is no regular file")
        if not os.access(folder, os.W_OK):
            raise ValueError(f"cannot write {path!r}: the folder {folder!r} is not writable")


def _interruptible(work: Callable[[], None]) -> None:
    """Run `work` in a second thread: Python answers Ctrl-C between two calls, and a call can take long."""
    future = ThreadPoolExecutor(1).submit(work)
    while not wait([future], timeout=0.2).done:
        pass
    future.result()


def _interrupted(program: str, message: str) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C
    if sys.stderr.isatty():
        print(file=sys.stderr)  # leave the line of the progress bar
    _fail(program, message, 130)
    SAVING.acquire()  # a file that is being replaced is finished first
    os._exit(130)  # without waiting for the thread of `_interruptible`


def _show(program: str, text: str) -> int:
    try:
        print(text, flush=True)
        return 0
    except OSError as error:
        # what is left in the buffer has nowhere to go, and must not be reported again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 141  # as for any program that SIGPIPE ends
        return _fail(program, f"cannot write the output: {error.strerror}", 1)


def _version() -> str:
    try:
        return importlib.metadata.version("xfaccel")
    except importlib.metadata.PackageNotFoundError:
        return "not installed, run from its sources"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cpu_features() -> list[str]:
    found = llvmlite.binding.get_host_cpu_features()
    return [name for key, name in FEATURES.items() if found.get(key)]


def _gpu() -> str:
    """Name of the GPU, or why there is none; nothing here needs CuPy to be installed."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "none: no NVIDIA driver (libcuda.so.1)"
    version, count = ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "none: the NVIDIA driver finds no device"
    name = ctypes.create_string_buffer(100)
    driver.cuDeviceGetName(name, len(name), 0)
    driver.cuDriverGetVersion(ctypes.byref(version))
    cuda = version.value // 1000
    found = f"{name.value.decode(errors='replace')} ({count.value} in all), driver for CUDA {cuda}"
    if importlib.util.find_spec("xfaccel.engine.gpu") is None:
        return f"not used: this version of xfaccel has no GPU kernels; found {found}"
    if importlib.util.find_spec("cupy") is None:
        return f"not used: CuPy is not installed (extra gpu{min(cuda, 13)} of xfaccel); found {found}"
    return found


if __name__ == "__main__":
    sys.exit(main())
