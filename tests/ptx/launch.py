"""The launch of a kernel on NumPy arrays, as a driver would do it on arrays of a GPU."""

import re
from dataclasses import dataclass

import numpy as np
from numpy.lib.array_utils import byte_bounds

from .machine import WARP, Machine
from .memory import Memory
from .numbers import FORMATS
from .nvrtc import Compiled
from .program import RED_ZONE, program

SCHEDULES = ("lockstep", "forward", "backward")
TOGETHER = 4096  # threads: more would not be faster, and their registers take memory
MAX_THREADS = 1024
SHARED_LIMIT = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}  # KiB that a block may take


class Blank(np.ndarray):
    """An array that nothing was written to, as `cupy.empty` gives; kernels must write before they read it."""


def blank(shape, dtype) -> Blank:
    """A `Blank`, filled with NaN. What kernels write to it is remembered; the host should not write to it."""
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


class Global(Memory):
    """Global memory, which says of a place at which argument it is; `extents` are (begin, size) of each."""

    def __init__(self, size, cell, warps, extents):
        super().__init__("global", size, cell, warps)
        self.extents = extents

    def describe(self, at):
        before = [i for i, (begin, _) in self.extents.items() if begin <= at]
        if not before:
            return super().describe(at)
        nearest = max(before, key=lambda i: self.extents[i])
        return f"argument {nearest}, byte {at - self.extents[nearest][0]} of {self.extents[nearest][1]}"


class Device:
    """The arrays among the arguments of a launch in one memory, each with nothing allowed around it."""

    def __init__(self, args, code, warps):
        self.arrays = {i: each for i, each in enumerate(args) if isinstance(each, np.ndarray)}
        homes = {id(home): home for home in map(owner, self.arrays.values())}
        self.owners = [home for home in homes.values() if home.size]
        self.begins, end = {}, code.sizes["global"]
        for each in self.owners:
            self.begins[id(each)] = end = -(-(end + RED_ZONE) // RED_ZONE) * RED_ZONE
            end += each.nbytes
        extents = {i: self.extent(each) for i, each in self.arrays.items()}
        self.memory = memory = Global(end + RED_ZONE, code.cells["global"], warps, extents)
        for place, variable in code.constants:
            memory.allow(place, variable.size, write=variable.space == "global")
            memory.put(place, np.frombuffer(variable.initial, np.uint8))
        for each in self.owners:
            memory.put(self.begins[id(each)], bytes_of(each))
            if hasattr(each, "written"):
                memory.unwrite(self.begins[id(each)], each.written)
        for i, each in self.arrays.items():
            memory.allow(*extents[i], each.flags.writeable)

    def extent(self, array):
        """(address of the first byte, bytes from there to the last)."""
        if not array.size:
            return RED_ZONE, 0  # where nothing may be accessed
        home, (low, high) = owner(array), byte_bounds(array)
        return self.begins[id(home)] + low - byte_bounds(home)[0], high - low

    def address(self, array):
        """Of the first number, which is not the lowest if an axis runs backwards."""
        if not array.size:
            return self.extent(array)[0]
        home = owner(array)
        return self.begins[id(home)] + array.__array_interface__["data"][0] - byte_bounds(home)[0]

    def unwritten(self):
        """Bytes of each blank argument, from its first to its last, that no kernel has written."""
        found = {}
        for i, each in self.arrays.items():
            if hasattr(home := owner(each), "written"):
                low, high = (end - byte_bounds(home)[0] for end in byte_bounds(each))
                found[i] = int(np.count_nonzero(~home.written[low:high]))
        return found

    def give_back(self):
        """What the kernel has written, into the arrays of the host."""
        for each in self.owners:
            place = self.begins[id(each)]
            if each.flags.writeable:
                bytes_of(each)[:] = self.memory.data[place:place + each.nbytes]
            if hasattr(each, "written"):
                each.written |= self.memory.written(place, each.nbytes)


def packed(parameter, argument, device):
    """The bytes of an argument, of the size and the kind of its parameter: a driver converts nothing."""
    form = FORMATS.get(parameter.kind)
    floats = form is not None and form.dtype.kind == "f"
    if parameter.size == 8 and not floats and (argument is None or isinstance(argument, np.ndarray)):
        return (0 if argument is None else device.address(argument)).to_bytes(8, "little")
    if isinstance(argument, int) and not floats:
        return int(argument).to_bytes(parameter.size, "little", signed=argument < 0)
    if isinstance(argument, float) and not isinstance(argument, np.generic) and floats:
        argument = np.float64(argument)
    if isinstance(argument, np.generic) and argument.nbytes == parameter.size and (
            argument.dtype.kind == "V" or (argument.dtype.kind == "f") == floats or parameter.size == 2):
        return argument.tobytes()
    raise TypeError(f"{parameter.name} is .{parameter.kind}, {parameter.size} bytes, and not {argument!r}")


def triple(extent):
    extent = (extent,) if isinstance(extent, int | np.integer) else tuple(extent)
    return tuple(int(each) for each in extent) + (1,) * (3 - len(extent))


def launch(module: str | Compiled, kernel: str, grid, block, args, shared: int = 0, *,
           schedule: str | int = "lockstep") -> Report:
    """Run `kernel` of a module of PTX; arrays among `args` are read and written where they are.

    `grid` and `block` are numbers or tuples, `shared` the bytes of dynamic shared memory. An array that is
    not writeable must not be written by the kernel either. `schedule`: "lockstep" is fastest; "forward" and
    "backward" let each warp of a block run as far as it can, in this order, a number in a random one. It
    decides what a faulty kernel computes; a race is found under each.
    Raises what faults.py lists, and `UnknownInstruction`.
    """
    ptx = module.ptx if isinstance(module, Compiled) else module
    code = program(ptx, kernel)
    grid, block = triple(grid), triple(block)
    threads, blocks = int(np.prod(block)), int(np.prod(grid))
    if not 0 < threads <= (code.kernel.max_threads or MAX_THREADS) or blocks < 1:
        raise ValueError(f"a grid of {grid} blocks of {block} threads cannot be launched")
    needed, sm = shared + sum(size for _, size in code.regions["shared"]), int(re.search(r"sm_(\d+)", ptx)[1])
    if schedule not in SCHEDULES and not isinstance(schedule, int):
        raise ValueError(f"schedule is {SCHEDULES} or a number, not {schedule!r}")
    if needed > SHARED_LIMIT.get(sm, min(SHARED_LIMIT.values())) * 1024:
        raise ValueError(f"{needed} bytes of shared memory are more than sm_{sm} has for a block")
    parameters = code.kernel.parameters
    if len(args) != len(parameters):
        raise TypeError(f"{kernel} takes {len(parameters)} arguments, not {len(args)}")
    device = Device(args, code, -(-threads // WARP))
    data = bytearray(code.sizes["param"])
    for parameter, argument in zip(parameters, args, strict=True):
        place = code.parameters[parameter.name]
        data[place:place + parameter.size] = packed(parameter, argument, device)
    executed, together = 0, max(1, TOGETHER // threads)
    with np.errstate(all="ignore"):
        for first in range(0, blocks, together):
            some = range(first, min(first + together, blocks))
            machine = Machine(code, device.memory, bytes(data), grid, block, some, shared, schedule)
            machine.run()
            executed += machine.executed
    device.give_back()
    return Report(executed, device.unwritten())
