"""Steps in which the threads of a warp work together: shfl, vote, redux, bar.warp, ldmatrix, mma, ..."""

import numpy as np

from .access import addresses, resolve
from .numbers import FORMATS
from .operands import full, reader, writer
from .parse import Pair

WARP = 32
LANES = np.arange(WARP, dtype=np.uint32)
U32, PRED = FORMATS["u32"], FORMATS["pred"]


def syncing(program, instruction):
    """bar.warp.sync: what the lanes of the warp did before comes before what they do after."""
    members = reader(program, instruction, instruction.operands[0], U32)

    def sync(team, active):
        team.demand_all(active, members(team))
        team.machine.advance(team, active)

    return sync


def shuffling(program, instruction):
    mode = instruction.modifiers[1]
    if instruction.modifiers[0] != "sync" or mode not in ("up", "down", "bfly", "idx"):
        raise instruction.unknown()
    target, source, by, clamp, members = instruction.operands
    first, second = (target.first, target.second) if isinstance(target, Pair) else (target, None)
    write = writer(first, U32, instruction)
    write_found = writer(second, PRED, instruction) if second else None
    read, read_by, read_clamp, read_members = (
        reader(program, instruction, each, U32) for each in (source, by, clamp, members))

    def shuffle(team, active):
        team.demand_all(active, read_members(team))
        lane = np.tile(LANES, team.size // WARP).astype(np.int64)
        by, clamp = read_by(team).astype(np.int64) & 31, read_clamp(team).astype(np.int64)
        segment, limit = clamp >> 8 & 31, clamp & 31
        first, last = lane & segment, lane & segment | limit & ~segment
        origin = {"up": lane - by, "down": lane + by, "bfly": lane ^ by, "idx": first | by & ~segment}[mode]
        found = origin >= last if mode == "up" else origin <= last
        origin = np.where(found, origin, lane) + team.first_lane
        team.demand_active(active, origin)
        write(team, full(read(team), team.size)[origin], active)
        if write_found:
            write_found(team, found, active)

    return shuffle


def voting(program, instruction):
    mode = instruction.modifiers[1]
    if instruction.modifiers[0] != "sync" or mode not in ("any", "all", "uni", "ballot"):
        raise instruction.unknown()
    target, source, members = instruction.operands
    write = writer(target, U32 if mode == "ballot" else PRED, instruction)
    read = reader(program, instruction, source, PRED)
    read_members = reader(program, instruction, members, U32)

    def vote(team, active):
        team.demand_all(active, read_members(team))
        there = active.mask.reshape(-1, WARP)
        said = full(read(team), team.size).reshape(-1, WARP) & there
        result = {"any": said.any(1), "all": (said | ~there).all(1),
                  "uni": (said == there).all(1) | ~said.any(1),
                  "ballot": (said.astype(np.uint32) << LANES).sum(1, dtype=np.uint32)}[mode]
        write(team, np.repeat(result, WARP), active)

    return vote


REDUCE = {"add": (np.add, 0), "min": (np.minimum, None), "max": (np.maximum, None),
          "and": (np.bitwise_and, -1), "or": (np.bitwise_or, 0), "xor": (np.bitwise_xor, 0)}


def reducing(program, instruction):
    """redux.sync: one result for the warp."""
    name, form = instruction.modifiers[1], FORMATS.get(instruction.modifiers[-1])
    if name not in REDUCE or len(instruction.modifiers) != 3 or form.dtype.kind == "f":
        raise instruction.unknown()
    function, neutral = REDUCE[name]
    if neutral is None:
        limits = np.iinfo(form.dtype)
        neutral = limits.max if name == "min" else limits.min
    target, source, members = instruction.operands
    write, read = writer(target, form, instruction), reader(program, instruction, source, form)
    read_members = reader(program, instruction, members, U32)
    filling = np.array(neutral, np.int64).astype(form.dtype)

    def reduce(team, active):
        team.demand_all(active, read_members(team))
        values = np.where(active.mask, read(team), filling).reshape(-1, WARP)
        write(team, np.repeat(function.reduce(values, 1, dtype=form.dtype), WARP), active)

    return reduce


def active_lanes(program, instruction):
    """activemask"""
    write = writer(instruction.operands[0], U32, instruction)

    def mask(team, active):
        there = active.mask.reshape(-1, WARP).astype(np.uint32)
        write(team, np.repeat((there << LANES).sum(1, dtype=np.uint32), WARP), active)

    return mask


def loading_matrices(program, instruction):
    """ldmatrix: 8 x 8 matrices of 16 bits; a lane gives the address of a row, gets two numbers of each."""
    names = instruction.modifiers
    count = {"x1": 1, "x2": 2, "x4": 4}.get(names[3])
    if names[:3] != ("sync", "aligned", "m8n8") or count is None or set(names[4:]) - {
            "trans", "shared", "shared::cta", "b16"}:
        raise instruction.unknown()
    writes = [writer(each, U32, instruction) for each in instruction.operands[0]]
    find = addresses(program, instruction, instruction.operands[1])
    transposed = "trans" in names

    def load(team, active):
        team.demand_all(active)
        giving = active.where(team.lane < 8 * count)
        memory, at = resolve(team, giving, "shared", find(team, giving))
        rows = np.zeros((team.size, 4), np.uint32)
        rows[giving.lanes] = memory.load(giving.who, at, U32.dtype, 4).T
        matrices = rows.reshape(-1, WARP, 4)[:, :8 * count].reshape(-1, count, 8, 4)
        if transposed:
            halves = matrices.view(np.uint16).reshape(-1, count, 8, 8)
            matrices = np.ascontiguousarray(halves.swapaxes(2, 3)).view(np.uint32)
        for i, write in enumerate(writes):
            write(team, matrices[:, i].reshape(-1), active)

    return load


SHAPES = {("m16n8k16", 2): 2, ("m16n8k8", 2): 1, ("m16n8k8", 1): 2, ("m16n8k4", 1): 1}  # halves of the depth


def to_numbers(kind, registers):
    """(registers, warps, 8, 4) registers as float32, with an axis for the numbers that share a register."""
    if kind == "tf32":  # the tensor cores see the upper 19 bits
        return (registers & np.uint32(0xFFFFE000)).view(np.float32)[..., None]
    form = FORMATS[kind]
    numbers = registers.view(form.dtype).reshape(*registers.shape, 2)
    return form.decode(numbers) if form.decode else numbers.astype(np.float32)


def left_matrix(kind, registers, halves):
    """The left matrices of warps, (warps, 16, depth), in registers of (4 or 2, warps, 8, 4)."""
    numbers = to_numbers(kind, registers).reshape(halves, 2, -1, 8, 4, 1 if kind == "tf32" else 2)
    return numbers.transpose(2, 1, 3, 0, 4, 5).reshape(numbers.shape[2], 16, -1)


def multiplying(program, instruction):
    """mma.sync: (16, k) times (k, 8) for each warp, added to float32.

    The lanes are 8 groups of 4. A register holds 8 rows of the left matrix, those of the groups, by 4 or 8
    columns, each lane one or two of them; and so, with rows and columns exchanged, of the right one.
    """
    names = instruction.modifiers
    kind = names[-2]
    halves = SHAPES.get((names[2], 1 if kind == "tf32" else 2))
    if (names[:2] != ("sync", "aligned") or names[3:5] != ("row", "col") or halves is None
            or names[5:] not in [("f32", each, each, "f32") for each in ("f16", "bf16", "tf32")]):
        raise instruction.unknown()
    f32 = FORMATS["f32"]
    result, *sources = instruction.operands
    writes = [writer(each, f32, instruction) for each in result]
    left, right = ([reader(program, instruction, each, U32) for each in source] for source in sources[:2])
    addend = [reader(program, instruction, each, f32) for each in sources[2]]

    def gather(team, reads):
        return np.stack([full(read(team), team.size) for read in reads]).reshape(len(reads), -1, 8, 4)

    def multiply(team, active):
        team.demand_all(active)
        warps = team.size // WARP
        a = left_matrix(kind, gather(team, left), halves)
        b = to_numbers(kind, gather(team, right)).reshape(halves, warps, 8, 4, -1)
        b = b.transpose(1, 0, 3, 4, 2).reshape(warps, -1, 8)
        product = (a @ b).reshape(warps, 2, 8, 4, 2).transpose(1, 4, 0, 2, 3).reshape(4, team.size)
        for write, read, values in zip(writes, addend, product, strict=True):
            write(team, read(team) + values, active)

    return multiply


def sizing_registers(program, instruction):
    """setmaxnreg, which changes nothing here."""
    count = instruction.operands[0].bits
    if (instruction.modifiers not in [(way, "sync", "aligned", "u32") for way in ("inc", "dec")]
            or count % 8 or not 24 <= count <= 256):
        raise instruction.unknown()
    return lambda team, active: team.demand_all(active)


COLLECTIVE = {"shfl": shuffling, "vote": voting, "redux": reducing, "activemask": active_lanes,
              "ldmatrix": loading_matrices, "mma": multiplying, "setmaxnreg": sizing_registers}
