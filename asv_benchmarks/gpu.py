"""xfaccel on the GPU of this machine: `make gpu`, or `python3 asv_benchmarks/gpu.py --report FILE`.

Conformance of every case, bit-equality, large arrays, leaks, NVIDIA's checker, and speed beside torch and the
ceilings of the machine. What is found goes into one file, by `gpu_report`; the stages are in `gpu_stages`.
"""

import argparse
import hashlib
import json
import platform
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # nothing has to be installed

import gpu_report  # noqa: E402
from gpu_report import Stage  # noqa: E402

from xfaccel.engine.gpu import loader  # noqa: E402

SOURCES = {".py", ".cu", ".cuh"}
SECONDS = {  # each stage may take, in the order in which they run
    "machine": 40, "ceilings": 40, "conformance": 150, "repeats": 50, "large": 50, "leaks": 40,
    "sanitizer": 90, "benchmark": 150}
TITLES = {
    "machine": "Machine", "ceilings": "Ceilings that were measured", "conformance": "Every case beside xfref",
    "repeats": "The same bits every time", "large": "More than 2^31 numbers",
    "leaks": "Memory after many calls", "sanitizer": "compute-sanitizer",
    "benchmark": "Speed, in turns with torch"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--report", type=Path, default=Path(__file__).parent / "gpu-report.md")
    parser.add_argument("--only", nargs="+", default=list(SECONDS), choices=SECONDS, help="stages")
    parser.add_argument("--seconds", type=float, default=480, help="for all stages together")
    parser.add_argument("--fresh", action="store_true", help="run again what the report has")
    parser.add_argument("--stage", choices=[*SECONDS, "tiny"], help="one alone, its rows as JSON")
    options = parser.parse_args()
    try:
        cupy = loader._cupy()
    except loader.GPUError as error:
        print(f"make gpu: {error}", file=sys.stderr)
        return 2
    if options.stage:
        import gpu_stages
        for row in getattr(gpu_stages, options.stage)(cupy, gpu_report.read(options.report)):
            print(json.dumps(row), flush=True)
        return 0
    if options.fresh:
        options.report.unlink(missing_ok=True)
    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    sources = hashlib.sha256(b"".join(
        path.read_bytes() for path in sorted(ROOT.joinpath("xfaccel").rglob("*")) if path.suffix in SOURCES))
    key = dict(gpu=name, host=platform.node(), xfaccel=sources.hexdigest()[:16])
    command = [sys.executable, __file__, "--report", str(options.report), "--stage"]
    stages = [Stage(each, TITLES[each], [*command, each], SECONDS[each]) for each in SECONDS
              if each in options.only]
    report = gpu_report.run(stages, options.report, key, options.seconds)
    print(f"\n{gpu_report.text(report).partition('## Data')[0]}\nWritten to {options.report}")
    return gpu_report.exit_code(report)


if __name__ == "__main__":
    sys.exit(main())
