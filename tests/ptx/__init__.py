"""Runs CUDA kernels on the CPU with every access checked: a test tool that needs no GPU.

>>> module = compile(source, sm=80)      # CUDA C++ to PTX, by NVRTC
>>> out = blank((n,), np.float32)        # what the kernel is to fill: NaN, and a fault if it is read before
>>> launch(module, "scale", grid=4, block=128, args=[x, out, np.int32(n), np.float32(2)], shared=512)

`launch` takes NumPy arrays where the GPU takes pointers, also parts of larger arrays, and runs the PTX that
NVRTC made of the kernel. It raises `OutOfBounds`, `Misaligned`, `Unwritten`, `InFlight`, `Race`,
`Divergence`, `Deadlock` or `Trap` with the line, the block and the thread, and `UnknownInstruction` for what
it cannot run. Scalars must have the type of the parameter, as for a driver. `ordering(ptx)` lists the
barriers, arrivals, waits and fences of a module and `drop(ptx, i)` leaves one out, or lets a wait at an
mbarrier succeed at once: so a test can show that each is needed.

Of Hopper it knows mbarriers, cp.async that arrives at them, and wgmma of float16 and bfloat16 whose matrices
are swizzled by 128 bytes. Not covered: clusters, TMA, textures, printf, thread blocks that wait for each
other. What a block writes and another one reads or writes, other than by atomics, is a race whatever the
fences.
"""

from .faults import Deadlock, Divergence, Fault, InFlight, Misaligned, OutOfBounds, Race, Trap, Unwritten
from .launch import Report, blank, launch
from .nvrtc import ARCHITECTURES, REMEDY, Compiled, CompileError, compile, library
from .parse import UnknownInstruction, drop, ordering

__all__ = [
    "ARCHITECTURES", "REMEDY", "CompileError", "Compiled", "Deadlock", "Divergence", "Fault", "InFlight",
    "Misaligned", "OutOfBounds", "Race", "Report", "Trap", "UnknownInstruction", "Unwritten",
    "blank", "compile", "drop", "launch", "library", "ordering",
]
