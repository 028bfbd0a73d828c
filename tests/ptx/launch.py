"""The launch of a kernel on NumPy arrays, as a driver would do it on arrays of a GPU."""

from dataclasses import dataclass

import numpy as np
from numpy.lib.array_utils import byte_bounds

from .machine import Machine
from .memory import WRITTEN, Memory
from .numbers import FORMATS
from .nvrtc import Compiled
from .program import RED_ZONE, program

CONCURRENT = 64  # blocks that run together
MAX_THREADS = 1024


class Blank(np.ndarray):
    """An array that nothing was written to, as `cupy.empty` gives: a kernel must not read it before it writes it."""


def blank(shape, dtype) -> Blank:
    """A `Blank`, filled with NaN. What kernels write is remembered from launch to launch; the host must not write."""
    array = np.ndarray.__new__(Blank, shape, dtype)
    bytes_of(array)[:] = 0xFF
    array.written = np.zeros(array.nbytes, np.bool_)
    return array


def owner(array):
    """The array whose memory this is a part of."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def bytes_of(array):
    """The memory of an array that is one piece, in whatever order its axes lie."""
    flat = array.view(np.ndarray).ravel(order="K").view(np.uint8)
    if not np.shares_memory(flat, array) and array.size:
        raise ValueError("an argument is part of memory that is not one array")
    return flat


@dataclass(frozen=True)
class Report:
    """`executed` instructions of teams; `unwritten` bytes of each argument that is blank, by its position."""

    executed: int
    unwritten: dict[int, int]


class Device:
    """The arrays of a launch in one memory, each with nothing allowed around it."""

    def __init__(self, arrays, code, warps):
        owners = {id(each): each for each in map(owner, arrays)}
        self.owners = [each for each in owners.values() if each.size]
        self.begins, end = {}, code.sizes["global"]
        for each in self.owners:
            self.begins[id(each)] = end = -(-(end + RED_ZONE) // RED_ZONE) * RED_ZONE
            end += each.nbytes
        self.memory = Memory("global", end + RED_ZONE, code.cells["global"], warps)
        for place, variable in code.constants:
            self.memory.allow(place, variable.size, write=variable.space == "global")
            self.memory.put(place, np.frombuffer(variable.initial, np.uint8))
        for each in self.owners:
            self.memory.put(self.begins[id(each)], bytes_of(each))
            if isinstance(each, Blank):
                self.memory.unwrite(self.begins[id(each)], each.written)
        for each in arrays:
            if each.size:
                low, high = byte_bounds(each)
                self.memory.allow(self.address(each) + low - byte_bounds(each)[0], high - low, each.flags.writeable)

    def address(self, array):
        """Of the first byte; of an array without any, a place where nothing may be accessed."""
        home = owner(array)
        return self.begins[id(home)] + byte_bounds(array)[0] - byte_bounds(home)[0] if array.size else RED_ZONE

    def give_back(self):
        """What the kernel has written, into the arrays of the host."""
        for each in self.owners:
            place = self.begins[id(each)]
            if each.flags.writeable:
                bytes_of(each)[:] = self.memory.data[place:place + each.nbytes]
            if isinstance(each, Blank):
                each.written[:] = self.memory.written(place, each.nbytes)


def packed(parameter, argument, device):
    """The bytes of an argument, of exactly the size and the kind of its parameter, as a driver would copy them."""
    kind = "pointer" if isinstance(argument, np.ndarray | None) else type(argument)
    form = FORMATS.get(parameter.kind)
    if isinstance(argument, np.ndarray) and argument.ndim + argument.size > 0 and parameter.size == 8:
        return device.address(argument).to_bytes(8, "little")
    if argument is None and parameter.size == 8:
        return bytes(8)
    if isinstance(argument, bytes | np.void) and len(bytes(argument)) == parameter.size:
        return bytes(argument)
    if isinstance(argument, bool | int) and form.dtype.kind != "f":
        return int(argument).to_bytes(parameter.size, "little", signed=argument < 0)
    if isinstance(argument, float) and form.dtype == np.float64:
        return np.float64(argument).tobytes()
    if isinstance(argument, np.generic) and argument.nbytes == parameter.size and (
            (argument.dtype.kind == "f") == (form.dtype.kind == "f") or parameter.size == 2):
        return argument.tobytes()
    raise TypeError(f"{parameter.name} is .{parameter.kind} of {parameter.size} bytes, not {kind}")


def triple(extent):
    extent = (extent,) if isinstance(extent, int | np.integer) else tuple(extent)
    return tuple(int(each) for each in extent) + (1,) * (3 - len(extent))


def launch(module: str | Compiled, kernel: str, grid, block, args, shared: int = 0, *,
           schedule: str | int = "lockstep") -> Report:
    """Run `kernel` of a module of PTX; arrays among `args` are read and written as pointers to the GPU would be.

    `grid` and `block` are numbers or tuples, `shared` the bytes of dynamic shared memory. An array that is not
    writeable must not be written by the kernel either. `schedule`: "lockstep" is fastest; "forward" and "backward" let
    each warp of a block run as far as it can, in this order, and a number in a random one.
    Raises what faults.py lists, and `UnknownInstruction`.
    """
    code = program(module.ptx if isinstance(module, Compiled) else module, kernel)
    grid, block = triple(grid), triple(block)
    threads, blocks = int(np.prod(block)), int(np.prod(grid))
    if not 0 < threads <= MAX_THREADS or blocks < 1:
        raise ValueError(f"a grid of {grid} blocks of {block} threads cannot be launched")
    parameters = code.kernel.parameters
    if len(args) != len(parameters):
        raise TypeError(f"{kernel} takes {len(parameters)} arguments, not {len(args)}")
    device = Device([each for each in args if isinstance(each, np.ndarray)], code, -(-threads // 32))
    data = bytearray(code.sizes["param"])
    for parameter, argument in zip(parameters, args, strict=True):
        place = code.parameters[parameter.name]
        data[place:place + parameter.size] = packed(parameter, argument, device)
    executed = 0
    with np.errstate(all="ignore"):
        for first in range(0, blocks, CONCURRENT):
            machine = Machine(code, device.memory, bytes(data), grid, block,
                              range(first, min(first + CONCURRENT, blocks)), shared, schedule)
            machine.run()
            executed += machine.executed
    device.give_back()
    return Report(executed, {i: int((~device.memory.written(device.address(each), each.nbytes)).sum())
                             for i, each in enumerate(args) if isinstance(each, np.ndarray) and each.size
                             and isinstance(owner(each), Blank)})
