"""Kernels for the GPU that is there: compiled once, by CuPy, and launched on its current stream.

A kernel is compiled when it is first launched, by NVRTC, for the GPU at hand; CuPy keeps the machine code on
disk (CUPY_CACHE_DIR). What it goes by there is the text of the source, so the headers are written into it.
"""

import functools
import hashlib
import os
import re
import tempfile
import weakref
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from xfaccel.engine.gpu.launch import HALF, STORED, Launch

_FOLDER = Path(__file__).parent
_INCLUDE = re.compile(r'^#include "(\w+\.cuh)"\n', re.M)
_STATIC = 48 << 10  # bytes of shared memory that a kernel may have without asking
_RESIDENT: dict[tuple[int, int], Any] = {}
REMEDY = ("from a clone of xfaccel, `pip install '.[gpu13]'` brings CuPy and NVRTC for a driver of CUDA 13, "
          "`pip install '.[gpu12]'` for one of CUDA 12; `nvidia-smi` names the version")


class GPUError(RuntimeError):
    """No GPU can be used as things are; the message says what to do."""


@functools.cache
def source(file: str) -> str:
    """The text of a kernel file, in which every header stands where it is first included."""
    seen = set()

    def text(name: str) -> str:
        if name in seen:
            return ""
        seen.add(name)
        own = (_FOLDER / name).read_text().replace("#pragma once\n", "")
        return _INCLUDE.sub(lambda found: text(found[1]), own)

    return text(file)


@functools.cache
def digest(file: str) -> str:
    """What a kernel file and its headers say, in 16 hexadecimal digits."""
    return hashlib.sha256(source(file).encode()).hexdigest()[:16]


def options(launch: Launch) -> tuple[str, ...]:
    """For NVRTC, beside those that CuPy adds."""
    return "-std=c++17", *(f"-D{name}={value}" for name, value in launch.macros)


def run(launch: Launch) -> None:
    """Launch on the current stream of CuPy's current device.

    Raises: GPUError if there is no GPU to be had, or it lacks what the kernel needs.
    """
    if 0 in launch.grid:
        return
    device = _cupy().cuda.Device().id
    kernel = _kernel(digest(launch.file), launch._replace(grid=(), arguments=()), device)
    kernel(launch.grid, (launch.block,), launch.arguments, shared_mem=launch.shared)


def resident(host: np.ndarray) -> Any:
    """An array of the host on the current device; one that cannot change is copied once while it lives."""
    cupy = _cupy()
    if host.flags.writeable:
        return cupy.asarray(host)
    place = cupy.cuda.Device().id, id(host)
    if place not in _RESIDENT:
        copy = cupy.asarray(host)
        cupy.cuda.get_current_stream().synchronize()  # another stream may be the next to read it
        _RESIDENT[place] = copy
        weakref.finalize(host, _RESIDENT.pop, place, None)
    return _RESIDENT[place]


@functools.cache
def _kernel(digest: str, launch: Launch, device: int) -> Any:
    """The compiled kernel of a launch, whatever its grid and arguments; kept for each device."""
    cupy = _cupy()
    capability = cupy.cuda.Device(device).compute_capability
    if dict(launch.macros)["XF_STORED"] in [STORED[dtype] for dtype in HALF] and int(capability) < 80:
        raise GPUError(f"float16 and bfloat16 need a GPU of compute capability 8.0, this one has "
                       f"{capability[:-1]}.{capability[-1]}: use float32")
    kernel = _module(launch).get_function(launch.kernel)
    if launch.shared > _STATIC:
        kernel.max_dynamic_shared_size_bytes = launch.shared
    return kernel


def hopper() -> int:
    """How many multiprocessors the current device has, if it is of compute capability 9.0, else 0."""
    return _hopper(_cupy().cuda.Device().id)


@functools.cache
def _hopper(device: int) -> int:
    found = _cupy().cuda.Device(device)
    return found.attributes["MultiProcessorCount"] if found.compute_capability == "90" else 0


def _module(launch: Launch) -> Any:
    cupy, code, flags = _cupy(), source(launch.file), options(launch)
    if launch.file != "softmax_wgmma.cu":
        return cupy.RawModule(code=code, options=flags)
    # CuPy does not know of sm_90a, which has to be asked for by this name
    nvrtc, flags = cupy.cuda.nvrtc, (*flags, "-ftz=true", "-arch=sm_90a")
    key = hashlib.sha256(repr((code, flags, nvrtc.getVersion())).encode()).hexdigest()
    folder = os.environ.get("CUPY_CACHE_DIR") or "~/.cupy/kernel_cache"  # CuPy's own
    path = Path(folder).expanduser() / f"xfaccel_{key}.cubin"
    if not path.exists():
        program = nvrtc.createProgram(code, launch.file, (), ())
        try:
            nvrtc.compileProgram(program, flags)
            cubin = nvrtc.getCUBIN(program)
        finally:
            nvrtc.destroyProgram(program)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(cubin)
        os.replace(file.name, path)  # whole, whoever else writes it
    return cupy.RawModule(path=str(path))


@functools.cache
def _cupy() -> ModuleType:
    """CuPy, with a driver and a compiler. Raises GPUError naming the remedy if something is missing."""
    try:
        import cupy
    except ImportError as error:
        raise GPUError(f"GPU arrays need CuPy, which cannot be imported ({error}): {REMEDY}") from error
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise GPUError(f"CuPy finds no GPU ({error}): NVIDIA's driver has to be there, and as new as CuPy; "
                       f"{REMEDY}") from error
    try:
        cupy.cuda.nvrtc.getVersion()
    except (RuntimeError, OSError) as error:
        raise GPUError(f"CuPy finds no NVRTC, which compiles the kernels ({error}): {REMEDY}") from error
    return cupy
