"""What asv watches from commit to commit: one module per room, and `start` for what precedes a first result.

This file runs before NumPy is imported, and sets what is read when it is: BLAS gets as many threads as the
fast twin, because a BLAS that starts more than that is many times slower as soon as something else runs.
Compiled kernels are kept in the environment they were measured in, and go with it.
"""

import os
import sys

THREADS = 2

os.environ.update({f"{library}_NUM_THREADS": str(THREADS) for library in ("OPENBLAS", "MKL", "BLIS", "OMP")})
os.environ.setdefault("XFACCEL_CACHE_DIR", os.path.join(sys.prefix, "xfaccel-cache"))
