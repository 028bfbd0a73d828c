"""Steps that touch memory: ld, st, atom, red, cp.async."""

import numpy as np

from .numbers import FORMATS
from .operands import LOCAL_WINDOW, SHARED_WINDOW, full, reader, writer
from .parse import Address, Immediate, Register, Symbol

SPACES = ("global", "shared", "local", "param", "const")
# caching, ordering and scope: they change when memory is seen, which the clocks of memory.py decide here
IGNORED = {
    "nc", "volatile", "weak", "relaxed", "acquire", "release", "acq_rel", "gpu", "cta", "sys", "unified",
    "ca", "cg", "cs", "cv", "lu", "wb", "wt", "L1::evict_last", "L1::evict_first", "L1::evict_normal",
    "L1::no_allocate", "L2::64B", "L2::128B", "L2::256B"}
COUNTS = {"v2": 2, "v4": 4, "v8": 8}


def form_of(instruction, *more):
    """(space or None, format, numbers per thread)."""
    names = ["shared" if name == "shared::cta" else name for name in instruction.modifiers]
    space = next((name for name in names if name in SPACES), None)
    count = next((COUNTS[name] for name in names if name in COUNTS), 1)
    if set(names[:-1]) - IGNORED - set(SPACES) - set(COUNTS) - set(more) or names[-1] not in FORMATS:
        raise instruction.unknown()
    return space, FORMATS[names[-1]]._replace(decode=None, encode=None), count


def addresses(program, instruction, operand):
    """The function of (team, active) that gives the addresses of the active threads, as signed integers."""
    if not isinstance(operand, Address):
        raise instruction.unknown()
    if isinstance(operand.base, Register):
        base = reader(program, instruction, operand.base, FORMATS[f"s{operand.base.bits}"])
        mask = np.int64(0xFFFFFFFF) if operand.base.bits == 32 else np.int64(-1)
        return lambda team, active: (base(team)[active.lanes].astype(np.int64) + operand.offset) & mask
    place = (operand.base.bits if isinstance(operand.base, Immediate) else
             program.address(operand.base, instruction)) + operand.offset
    return lambda team, active: np.full(len(active.lanes), place, np.int64)


def resolve(team, active, space, at):
    """(memory, places in it) of addresses in a space, or of generic ones that all lie in one."""
    if space is None:
        window = SHARED_WINDOW if (at >= SHARED_WINDOW).any() else 0
        window = LOCAL_WINDOW if (at >= LOCAL_WINDOW).any() else window
        space = {0: "global", SHARED_WINDOW: "shared", LOCAL_WINDOW: "local"}[window]
        at = at - window
    if space == "shared":
        return team.machine.shared, team.machine.shared.place(active.who.local, at)
    if space == "local":
        return team.local, team.local.place(active.lanes, at)
    return team.machine.memory, at


def spread(team, active, values):
    """Numbers of the active threads as an array for all."""
    if len(active.lanes) == team.size:
        return values
    whole = np.zeros(team.size, values.dtype)
    whole[active.lanes] = values
    return whole


def loading(program, instruction):
    space, form, count = form_of(instruction)
    targets = instruction.operands[0] if count > 1 else instruction.operands[:1]
    writes = [writer(each, form, instruction) for each in targets]
    source = instruction.operands[1]
    if space == "param":
        if not isinstance(source, Address) or not isinstance(source.base, Symbol):
            raise instruction.unknown()
        offset, size = program.parameter(source.base, instruction) + source.offset, form.bits // 8

        def load_parameter(team, active):
            for i, write in enumerate(writes):
                value = np.frombuffer(team.machine.parameters, form.dtype, 1, offset + i * size)
                write(team, np.full(team.size, value), active)

        return load_parameter
    find = addresses(program, instruction, source)
    plain = form.dtype if not form.packed else FORMATS[f"b{form.bits}"].dtype

    def load(team, active):
        memory, at = resolve(team, active, space, find(team, active))
        for write, values in zip(writes, memory.load(active.who, at, plain, count), strict=True):
            write(team, spread(team, active, values).view(form.dtype), active)

    return load


def storing(program, instruction):
    space, form, count = form_of(instruction)
    sources = instruction.operands[1] if count > 1 else instruction.operands[1:]
    reads = [reader(program, instruction, each, FORMATS[f"b{form.bits}"]) for each in sources]
    find = addresses(program, instruction, instruction.operands[0])

    def store(team, active):
        memory, at = resolve(team, active, space, find(team, active))
        values = [full(read(team), team.size)[active.lanes] for read in reads]
        memory.store(active.who, at, np.stack(values))

    return store


ATOMIC = {"add": lambda old, x: old + x, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and,
          "or": np.bitwise_or, "xor": np.bitwise_xor, "exch": lambda old, x: x,
          "inc": lambda old, x: old.dtype.type(0) if old >= x else old + old.dtype.type(1),
          "dec": lambda old, x: x if old == 0 or old > x else old - old.dtype.type(1),
          "cas": lambda old, x, new: new if old == x else old}


def atomically(program, instruction):
    """atom, and red, which is atom without a result."""
    function = next((name for name in instruction.modifiers if name in ATOMIC), None)
    space, form, count = form_of(instruction, function, "noftz")
    if function is None or count > 1 or form.packed or space in ("param", "const", "local"):
        raise instruction.unknown()
    if instruction.modifiers[-1].startswith("bf"):  # its numbers are not those of a NumPy type
        raise instruction.unknown()
    update = ATOMIC[function]
    write = writer(instruction.operands[0], form, instruction) if instruction.op == "atom" else None
    place, *sources = instruction.operands[1:] if write else instruction.operands
    find = addresses(program, instruction, place)
    reads = [reader(program, instruction, each, form) for each in sources]

    def atomic(team, active):
        memory, at = resolve(team, active, space, find(team, active))
        values = [full(read(team), team.size)[active.lanes] for read in reads]
        before = memory.update(
            active.who, at, lambda old, i: update(old, *(each[i] for each in values)), values[0])
        if write:
            write(team, spread(team, active, before), active)

    return atomic


class Flight:
    """An asynchronous copy that has begun: of each of its threads the group, where to and where from."""

    def __init__(self, team, active, at, source, width, sizes):
        self.lanes, self.groups = active.lanes, team.group[active.lanes]
        self.at, self.source, self.width, self.sizes = at, source, width, sizes
        self.under_way = np.ones(len(at), np.bool_)

    def arrive(self, team, chosen, stamps=None):
        """The bytes of these threads arrive; those beyond the size of the source are zeros.

        `stamps` of all threads say when they count as written, now if there are none.
        """
        chosen = chosen & self.under_way
        if not chosen.any():
            return
        self.under_way &= ~chosen
        byte = np.arange(self.width)
        there = byte < self.sizes[chosen][:, None]
        stamps = team.who(self.lanes[chosen]).stamp if stamps is None else stamps[chosen]
        data = team.machine.memory.data[np.where(there, self.source[chosen][:, None] + byte, 0)]
        team.machine.shared.land(stamps, self.at[chosen], np.where(there, data, 0))


def copying(program, instruction):
    """cp.async and its groups: the bytes are fetched when their group is waited for, as late as a GPU may."""
    kind = instruction.modifiers[1] if len(instruction.modifiers) == 2 else None
    if kind == "commit_group":
        return lambda team, active: team.commit(active)
    if kind == "wait_all":
        return lambda team, active: team.wait(active, -1)
    if kind == "wait_group":
        still = instruction.operands[0].bits
        return lambda team, active: team.wait(active, still)
    hints = {"async", "ca", "cg", "shared", "shared::cta", "global", "L2::64B", "L2::128B", "L2::256B"}
    if instruction.modifiers[0] != "async" or set(instruction.modifiers) - hints:
        raise instruction.unknown()
    to, source, width, *size = instruction.operands
    if size and isinstance(size[0], Register) and size[0].bits == 1:  # whether to ignore the source
        raise instruction.unknown()
    find_to, find_source = addresses(program, instruction, to), addresses(program, instruction, source)
    width = width.bits
    read_size = reader(program, instruction, size[0], FORMATS["u32"]) if size else None

    def copy(team, active):
        shared, at = resolve(team, active, "shared", find_to(team, active))
        origin = find_source(team, active)
        sizes = np.full(len(at), width)
        if read_size:
            sizes = full(read_size(team), team.size)[active.lanes].astype(np.int64)
        for some in np.unique(sizes[sizes > 0]):
            chosen = sizes == some
            team.machine.memory.check(active.who.select(chosen), origin[chosen], int(some), align=width)
        shared.check(active.who, at, width, write=True, async_copy=True)
        team.flights.append(Flight(team, active, at, origin, width, sizes))

    return copy
