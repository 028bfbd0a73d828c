"""What asv watches from commit to commit: one module per room, and `start` for what precedes a first result.

BLAS gets as many threads as the fast twin: one that starts more than that is many times slower as soon as
something else runs. The environment says so to the processes that `start` starts. Here it comes too late,
asv has imported NumPy, so the library itself is told.
Compiled kernels are kept in the environment they were measured in, and go with it.
"""

import contextlib
import ctypes
import os
import sys
from pathlib import Path

import numpy  # noqa: F401  (loads its BLAS)

THREADS = 2
SETTERS = ("scipy_openblas_set_num_threads64_", "scipy_openblas_set_num_threads",
           "openblas_set_num_threads64_", "openblas_set_num_threads", "MKL_Set_Num_Threads",
           "bli_thread_set_num_threads")


def pin_blas(threads: int) -> int:
    """Tell every BLAS in this process to use so many threads; how many were told."""
    told = 0
    with contextlib.suppress(OSError):  # no such file: not Linux
        lines = Path("/proc/self/maps").read_text().splitlines()
        for file in {line[line.index("/"):] for line in lines if "/" in line and ".so" in line}:
            if any(name in Path(file).name for name in ("blas", "mkl_rt", "blis")):
                library = ctypes.CDLL(file)
                for setter in SETTERS:
                    if hasattr(library, setter):
                        getattr(library, setter)(threads)
                        told += 1
    return told


os.environ.update({f"{library}_NUM_THREADS": str(THREADS) for library in ("OPENBLAS", "MKL", "BLIS", "OMP")})
os.environ.setdefault("XFACCEL_CACHE_DIR", os.path.join(sys.prefix, "xfaccel-cache"))
if not pin_blas(THREADS):
    print("the threads of NumPy's BLAS could not be pinned: ratios may swing", file=sys.stderr)
