"""Registers of a team of warps: how operands are read and results are written.

A step, which is what an instruction becomes, is a function of the team and of the threads active in it.
Registers hold arrays with one entry per thread; they are replaced, never written into, and so may be shared.
"""

import numpy as np

from .arithmetic import recipe
from .faults import Unwritten
from .numbers import FORMATS, UNSIGNED
from .parse import Immediate, Register, Special, Symbol


def reinterpret(value, form):
    """Bits of a register in another format: the low ones, or with zeros above."""
    bits = 8 * value.dtype.itemsize
    if bits != form.bits:
        value = value.view(UNSIGNED[bits]).astype(UNSIGNED[form.bits])
    return value.view(form.dtype)


def full(value, size):
    """What was read as an array also if it was one number for all threads."""
    return value if value.ndim else np.full(size, value)


def reader(program, instruction, operand, form):
    """The function of a team that gives the operand: an array, or one number that all threads have."""
    if isinstance(operand, Register):
        read = register_reader(operand, form)
    elif isinstance(operand, Special):
        read = lambda team: reinterpret(team.special(operand.name, instruction), form)
    elif isinstance(operand, Immediate | Symbol):
        bits = operand.bits if isinstance(operand, Immediate) else program.address(operand, instruction)
        if form.bits == 1:
            constant = np.bool_(bits)
            return lambda team: constant
        whole = UNSIGNED[form.bits].type(bits % (1 << form.bits))
        if form.packed or form.decode:
            read = lambda team: np.full(team.size, whole).view(form.dtype)
        else:
            constant = whole.view(form.dtype)
            return lambda team: constant
    else:
        raise instruction.unknown()
    return (lambda team: form.decode(read(team))) if form.decode else read


def register_reader(register, form):
    index, dtype, same = register.index, form.dtype, not form.packed

    def read(team):
        value = team.registers[index]
        if value is None:
            raise Unwritten(f"{team.where()}: register {register.name}: nothing was computed for it")
        return value if same and value.dtype is dtype else reinterpret(value, form)

    def noted(team):
        team.unit.note_read(team, register)
        return read(team)

    return noted if register.fragment else read


def writer(operand, form, instruction):
    """The function of (team, value, active) that puts a result into a register, extended if that is wider."""
    if isinstance(operand, Symbol) and operand.name == "_":
        return lambda team, value, active: None
    if not isinstance(operand, Register):
        raise instruction.unknown()
    index, bits, packed = operand.index, operand.bits, form.packed

    def write(team, value, active):
        if form.encode:
            value = form.encode(value)
        if packed:
            value = value.view(UNSIGNED[form.bits])
        if value.ndim == 0:
            value = np.full(team.size, value)
        if bits > 8 * value.dtype.itemsize:
            value = value.astype(f"{'i' if value.dtype.kind == 'i' else 'u'}{bits // 8}")
        elif 1 < bits < 8 * value.dtype.itemsize:
            value = value.view(UNSIGNED[8 * value.dtype.itemsize]).astype(UNSIGNED[bits])
        if not active.whole:
            before = team.registers[index]
            if before is None:
                before = np.full(team.size, -1, np.int64).astype(UNSIGNED.get(bits, np.bool_))
            value = np.where(active.mask, value, before.view(value.dtype))
        team.registers[index] = value

    def noted(team, value, active):
        team.unit.note_write(team, operand, active.mask)
        write(team, value, active)

    return noted if operand.fragment else write


def computing(program, instruction):
    """The step of an instruction that only computes, or None."""
    found = recipe(instruction)
    if found is None:
        return None
    forms, result, function = found
    target, *sources = instruction.operands
    if instruction.op == "lop3":
        sources = sources[:3]  # the fourth is the truth table
    if len(sources) != len(forms):
        raise instruction.unknown()
    reads = [reader(program, instruction, *each) for each in zip(sources, forms, strict=True)]
    write = writer(target, result, instruction)
    if len(reads) == 1:
        a, = reads
        return lambda team, active: write(team, np.asarray(function(a(team))), active)
    if len(reads) == 2:
        a, b = reads
        return lambda team, active: write(team, np.asarray(function(a(team), b(team))), active)
    return lambda team, active: write(team, np.asarray(function(*[read(team) for read in reads])), active)


def moving(program, instruction):
    """mov between a register and its parts, low one first; cvta; or None."""
    if instruction.op == "cvta":
        return changing_space(program, instruction)
    if instruction.op != "mov" or not isinstance(instruction.operands[0], tuple) and not isinstance(
            instruction.operands[1], tuple):
        return None
    target, source = instruction.operands
    whole = FORMATS[instruction.modifiers[-1]]
    if isinstance(target, tuple):
        part = FORMATS[f"b{whole.bits // len(target)}"]
        read = reader(program, instruction, source, whole)
        writes = [writer(each, part, instruction) for each in target]

        def unpack(team, active):
            parts = np.ascontiguousarray(full(read(team), team.size)).view(part.dtype)
            for i, write in enumerate(writes):
                write(team, np.ascontiguousarray(parts[i::len(writes)]), active)

        return unpack
    part = FORMATS[f"b{whole.bits // len(source)}"]
    reads = [reader(program, instruction, each, part) for each in source]
    write = writer(target, whole, instruction)

    def pack(team, active):
        parts = np.stack([full(read(team), team.size) for read in reads], -1)
        write(team, parts.reshape(-1).view(whole.dtype), active)

    return pack


SHARED_WINDOW, LOCAL_WINDOW = 1 << 40, 1 << 41  # where these spaces begin among generic addresses
WINDOWS = {"global": 0, "const": 0, "shared": SHARED_WINDOW, "local": LOCAL_WINDOW}


def changing_space(program, instruction):
    space = instruction.modifiers[-2]
    if space not in WINDOWS:
        raise instruction.unknown()
    form = FORMATS[instruction.modifiers[-1]]
    shift = form.dtype.type(WINDOWS[space] % (1 << form.bits))
    read = reader(program, instruction, instruction.operands[1], form)
    write = writer(instruction.operands[0], form, instruction)
    if "to" in instruction.modifiers:
        return lambda team, active: write(team, np.asarray(read(team) - shift), active)
    return lambda team, active: write(team, np.asarray(read(team) + shift), active)
