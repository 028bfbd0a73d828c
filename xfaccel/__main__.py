"""The command line: `xfaccel arena` (also `xfaccel` alone) compares the variants, `xfaccel doctor` shows
what xfaccel found on this machine."""

import argparse
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
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
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
                              "tokens. The other command, xfaccel doctor, shows what was found here.")
    _arena_options(parser, [variant.name for variant in variants.VARIANTS])
    options = parser.parse_args(arguments)
    try:
        limit = _thread_limit(options.threads)
        _check_outputs([path for path in (options.json, options.svg) if path is not None])
        if options.svg is not None and importlib.util.find_spec("matplotlib") is None:
            raise ValueError("--svg needs matplotlib, which comes with the extra `arena` of xfaccel")
        setup = measure.prepare(task=options.task, file=options.file, names=options.variants,
                              lengths=options.lengths, heads=options.heads, width=options.width,
                              machine=_machine() | {"threads": limit})
        save = partial(_write_json, options.json, setup.report) if options.json is not None else _nothing
        save()
    except (OSError, ValueError, MemoryError) as error:
        parser.error(str(error) or "not enough memory")
    try:
        _interruptible(partial(measure.run, setup, limit=limit, repeats=options.repeats, save=save))
        if options.svg is not None:
            _write(options.svg, chart.svg(setup.report))
    except (OSError, MemoryError) as error:
        return _fail(parser.prog, str(error) or "not enough memory", 1)
    except KeyboardInterrupt:
        kept = "" if options.json is None else f", {options.json!r} keeps what was measured"
        _interrupted(parser.prog, f"interrupted{kept}")
    status = _show(parser.prog, table.text(setup.report))
    wrong = [row["variant"] for row in setup.report["rows"] if not row["agrees"]]
    return _fail(parser.prog, f"disagrees with xfref: {', '.join(wrong)}", 1) if wrong else status


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


COMMANDS = {"arena": arena, "doctor": doctor}


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


def _arena_options(parser: argparse.ArgumentParser, names: list[str]) -> None:
    def chosen(words: str) -> list[str]:
        for name in words.split(","):
            if name not in names:
                raise argparse.ArgumentTypeError(f"no variant {name[:40]!r}, there are {', '.join(names)}")
        return words.split(",")

    parser.add_argument("--task", choices=("text", "listops"), default="text",
                        help="tokens: bytes of English text, or Long ListOps expressions (default text)")
    parser.add_argument("--file", metavar="PATH",
                        help="a text file (UTF-8), or for listops a TSV file of the benchmark; default: the "
                             "help topics of Python, or generated expressions")
    parser.add_argument("--variants", type=chosen, metavar="A,B", default=names,
                        help="rows, beside the exact attention they are compared with (default all: "
                             f"{', '.join(names)})")
    parser.add_argument("--lengths", type=_lengths, metavar="N,N", default=[1024, 2048, 3072, 4096],
                        help="sequence lengths (default 1024,2048,3072,4096)")
    parser.add_argument("--heads", type=_positive, metavar="N", default=8, help="heads (default 8)")
    parser.add_argument("--width", type=_positive, metavar="N",
                        help="width of all heads together (default 64 for each head)")
    parser.add_argument("--threads", type=_positive, metavar="N",
                        help="threads of xfaccel (default all available; NumPy's own are not limited)")
    parser.add_argument("--repeats", type=_positive, metavar="N",
                        help="calls for each time (default: enough for a steady time, at least 3)")
    parser.add_argument("--json", metavar="PATH", help="write the results there, again after each of them")
    parser.add_argument("--svg", metavar="PATH", help="draw speed against distance there (needs matplotlib)")


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


def _write_json(path: str, report: dict) -> None:
    """The report as JSON; an error that is no number (a NaN in a result) becomes null."""
    rows = [{key: value if not isinstance(value, float) or math.isfinite(value) else None
             for key, value in row.items()} for row in report["rows"]]
    _write(path, (json.dumps(report | {"rows": rows}, indent=1, allow_nan=False) + "\n").encode())


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


def _nothing() -> None:
    pass


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
