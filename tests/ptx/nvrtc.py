"""CUDA C++ to PTX and machine code by the wheel `nvidia-cuda-nvrtc` alone: no GPU, driver or CuPy."""

import ctypes
import functools
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ARCHITECTURES = (80, 86, 89, 90, 100, 120)  # Ampere, its small ones, Ada, Hopper, Blackwell, its small ones
REMEDY = "no NVRTC: pip install 'nvidia-cuda-nvrtc==13.0.*', or make proof"
PLACES = ("nvidia/cu*/lib", "nvidia/cuda_nvrtc/lib")  # where the wheels of CUDA 13 and 12 put it


class CompileError(Exception):
    """What NVRTC says of source that it does not take."""


@functools.lru_cache(1)
def library():
    """NVRTC, or None where the wheel is not installed."""
    for place in filter(None, sys.path):
        for pattern in PLACES:
            for path in sorted(Path(place).glob(f"{pattern}/libnvrtc.so.*")):
                # NVRTC opens its builtins by their bare name, which finds them once they are loaded
                for builtins in sorted(path.parent.glob("libnvrtc-builtins.so.*")):
                    ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
                return ctypes.CDLL(str(path))
    return None


@dataclass(frozen=True)
class Resources:
    """What one kernel takes of a multiprocessor, as ptxas reports it."""

    registers: int
    stack: int
    spill_stores: int
    spill_loads: int


@dataclass(frozen=True)
class Compiled:
    """One translation unit for one architecture; `names` gives the mangled name of each asked expression."""

    ptx: str
    cubin: bytes
    log: str
    names: dict[str, str]

    @property
    def resources(self) -> dict[str, Resources]:
        """By kernel."""
        found = re.finditer(
            r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
            r"(\d+) bytes spill loads.*?Used (\d+) registers", self.log, re.S)
        return {name: Resources(int(registers), *map(int, memory)) for name, *memory, registers in
                (match.groups() for match in found)}


@functools.lru_cache(256)
def compile(source: str, sm: int | str = 80, options: tuple[str, ...] = (),
            names: tuple[str, ...] = ()) -> Compiled:
    """Compile for compute capability `sm`, as 80 or "90a"; `names` are templates, as kernel<float, 64>."""
    nvrtc = library()
    if nvrtc is None:
        raise CompileError(REMEDY)

    def call(function, *arguments):
        result = getattr(nvrtc, function)(*arguments)
        if result:
            raise CompileError(f"{function} returned {result}")

    def text(what):
        size = ctypes.c_size_t()
        call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        call(f"nvrtcGet{what}", program, buffer)
        return buffer.raw

    program = ctypes.c_void_p()
    call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None)
    try:
        for name in names:
            call("nvrtcAddNameExpression", program, name.encode())
        flags = [f"-arch=sm_{sm}", "-std=c++17", "--ptxas-options=-v", *options]
        failed = nvrtc.nvrtcCompileProgram(
            program, len(flags), (ctypes.c_char_p * len(flags))(*[flag.encode() for flag in flags]))
        log = text("ProgramLog").rstrip(b"\0").decode()
        if failed:
            raise CompileError(log)
        lowered = {}
        for name in names:
            mangled = ctypes.c_char_p()
            call("nvrtcGetLoweredName", program, name.encode(), ctypes.byref(mangled))
            lowered[name] = mangled.value.decode()
        return Compiled(text("PTX").rstrip(b"\0").decode(), text("CUBIN"), log, lowered)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
