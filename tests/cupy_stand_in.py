"""What `xfaccel` uses of CuPy, on a machine without a GPU.

Arrays are those of `cupy_arrays`; a kernel is compiled by NVRTC with the options that CuPy would give it, and
launched in the PTX interpreter. What is tested is thus what a GPU gets: source, options, grid and every
argument.
"""

import contextlib
import sys
import types

import cupy_arrays
from ptx import launch, nvrtc

from xfaccel.engine.gpu import loader

ADDED = ("-ftz=true",)  # by CuPy, to the options of every kernel
STATIC = 48 << 10       # bytes of dynamic shared memory that a kernel may have without asking


class Kernel:
    def __init__(self, ptx, name, schedule):
        self.ptx, self.name, self.schedule = ptx, name, schedule
        self.max_dynamic_shared_size_bytes = STATIC

    def __call__(self, grid, block, args, *, shared_mem=0):
        assert shared_mem <= self.max_dynamic_shared_size_bytes, "more shared memory than was asked for"
        # the tests of the kernels alone launch them on arrays of NumPy, whose bytes remember who wrote them
        args = [x.held if isinstance(x, cupy_arrays.ndarray) else x for x in args]
        launch(self.ptx, self.name, grid, block, args, shared_mem, schedule=self.schedule)


def stand_in(sm=80, schedule="lockstep", edit=lambda options, ptx: ptx):
    """A module in the place of CuPy, with one GPU of compute capability `sm`; `edit` may change a module."""

    class RawModule:
        def __init__(self, *, code, options):
            self.ptx = edit(options, nvrtc.compile(code, sm, (*options, *ADDED)).ptx)

        def get_function(self, name):
            return Kernel(self.ptx, name, schedule)

    stream = types.SimpleNamespace(synchronize=lambda: None)
    cuda = types.SimpleNamespace(
        Device=lambda number=None: cupy_arrays.Device(number, sm),
        runtime=types.SimpleNamespace(getDeviceCount=lambda: 1, CUDARuntimeError=RuntimeError),
        nvrtc=types.SimpleNamespace(getVersion=lambda: (13, 0)), get_current_stream=lambda: stream)
    return types.SimpleNamespace(RawModule=RawModule, cuda=cuda, **cupy_arrays.functions())


@contextlib.contextmanager
def installed():
    """A stand-in in the place of CuPy; the function that this gives changes it, to one of other options."""
    before = sys.modules.get("cupy")

    def install(**options):
        loader._cupy.cache_clear()
        loader._kernel.cache_clear()
        loader._RESIDENT.clear()
        sys.modules["cupy"] = stand_in(**options)

    try:
        install()
        yield install
    finally:
        install()
        del sys.modules["cupy"]
        if before is not None:
            sys.modules["cupy"] = before
