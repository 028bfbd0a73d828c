"""What `xfaccel` uses of CuPy, on a machine without a GPU.

Arrays are those of `cupy_arrays`; a kernel is compiled by NVRTC with the options that CuPy would give it, and
launched in the PTX interpreter. What is tested is thus what a GPU gets: source, options, grid and every
argument.
"""

import contextlib
import os
import pathlib
import sys
import tempfile
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


def stand_in(sm=80, schedule="lockstep", edit=lambda options, ptx: ptx, processors=3):
    """A module in the place of CuPy, with one GPU of compute capability `sm`; `edit` may change a module."""

    class RawModule:
        def __init__(self, *, code=None, options=None, path=None):
            self.ptx = pathlib.Path(path).read_text() if path else edit(
                options, nvrtc.compile(code, sm, (*options, *ADDED)).ptx)

        def get_function(self, name):
            return Kernel(self.ptx, name, schedule)

    class Program:  # of NVRTC, whose machine code is PTX here
        def __init__(self, code, name, headers, names):
            self.code = code

        def compile(self, options):
            flags = tuple(flag for flag in options if not flag.startswith("-arch="))
            architecture, = set(options) - set(flags)
            assert set(ADDED) <= set(flags), "CuPy's own options are missing"
            module = nvrtc.compile(self.code, architecture.removeprefix("-arch=sm_"), flags)
            self.ptx = edit(flags, module.ptx)

    compiler = types.SimpleNamespace(
        getVersion=lambda: (13, 0), createProgram=Program, compileProgram=Program.compile,
        getCUBIN=lambda program: program.ptx.encode(), destroyProgram=lambda program: None)
    stream = types.SimpleNamespace(synchronize=lambda: None)
    cuda = types.SimpleNamespace(
        Device=lambda number=None: cupy_arrays.Device(number, sm, processors),
        runtime=types.SimpleNamespace(getDeviceCount=lambda: 1, CUDARuntimeError=RuntimeError),
        nvrtc=compiler, get_current_stream=lambda: stream)
    return types.SimpleNamespace(RawModule=RawModule, cuda=cuda, **cupy_arrays.functions())


@contextlib.contextmanager
def installed():
    """A stand-in in the place of CuPy; the function that this gives changes it, to one of other options."""
    before, folder = sys.modules.get("cupy"), os.environ.get("CUPY_CACHE_DIR")
    caches = tempfile.TemporaryDirectory()

    def install(**options):
        os.environ["CUPY_CACHE_DIR"] = tempfile.mkdtemp(dir=caches.name)
        for kept in (loader._cupy, loader._kernel, loader._hopper):
            kept.cache_clear()
        loader._RESIDENT.clear()
        sys.modules["cupy"] = stand_in(**options)

    try:
        install()
        yield install
    finally:
        install()
        caches.cleanup()
        del sys.modules["cupy"], os.environ["CUPY_CACHE_DIR"]
        if folder is not None:
            os.environ["CUPY_CACHE_DIR"] = folder
        if before is not None:
            sys.modules["cupy"] = before
