"""What precedes a first result: import, and the first call with and without compiled kernels in the cache.

Every figure is that of a whole new process, from its start to its end.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
import time

FIRST_CALL = """
import numpy, xfaccel
x = numpy.ones((8, 64, 64), numpy.float32)
xfaccel.attention(x, x, x)
"""
# statement, whether the kernels are compiled before it is timed, how many times it is run
WHAT = {
    "import numpy": ("import numpy", False, 3),  # a floor under the others
    "import xfref": ("import xfref", False, 3),
    "import xfaccel": ("import xfaccel", False, 3),
    "first call, compiling": (FIRST_CALL, False, 1),
    "first call, from the cache": (FIRST_CALL, True, 3),
}


def track_start(what):
    statement, cached, runs = WHAT[what]
    with tempfile.TemporaryDirectory() as folder:
        _seconds("import numpy, numba, scipy", folder)  # these come from the disk once, whatever is measured
        if cached:
            _seconds(statement, folder)
        return min(_seconds(statement, folder) for _ in range(runs))


def _setup(what):
    for package in ("xfref", "xfaccel"):
        if package in WHAT[what][0] and not getattr(importlib.util.find_spec(package), "origin", None):
            raise NotImplementedError(f"this commit has no {package}")


def _seconds(statement, cache):
    # the packages that this process would import; asv keeps PYTHONPATH from its children
    path = os.pathsep.join(folder for folder in sys.path if os.path.isdir(os.path.join(folder, "xfref")))
    environment = os.environ | {"XFACCEL_CACHE_DIR": cache, "PYTHONPATH": path}
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, env=environment)
    return time.perf_counter() - start


track_start.setup = _setup
track_start.pretty_name = "start: seconds of a new process"
track_start.unit = "seconds"
track_start.params = [list(WHAT)]
track_start.param_names = ["what"]
track_start.version = "1"
