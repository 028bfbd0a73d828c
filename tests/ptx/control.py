"""Steps that decide where threads go on: bra, ret, bar, trap.

Such a step returns the place where all its threads go on together, or None if they part, wait or end.
"""

import numpy as np

from .faults import Trap
from .numbers import FORMATS
from .operands import full, reader

U32 = FORMATS["u32"]


class Control:
    """Such a step: `go` gets the team, the threads that take it, those that are there, and the place."""

    def __init__(self, go):
        self.go = go


def branching(program, instruction):
    if set(instruction.modifiers) - {"uni"}:
        raise instruction.unknown()
    target = program.kernel.target(instruction.operands[0])

    def branch(team, taking, there, here):
        if taking is there:
            return target
        team.pc[there.mask] = here + 1
        team.pc[taking.mask] = target
        return None

    return Control(branch)


def ending(program, instruction):
    def end(team, taking, there, here):
        team.pc[there.mask] = here + 1
        team.leave(taking)

    return Control(end)


def waiting(program, instruction):
    """bar.sync and bar.arrive, for all threads of the block or for a number of them."""
    names = [name for name in instruction.modifiers if name not in ("cta", "aligned")]
    if names not in (["sync"], ["arrive"]):
        raise instruction.unknown()
    number, *count = [reader(program, instruction, each, U32) for each in instruction.operands]

    def arrive(team, taking, there, here):
        numbers = full(number(team), team.size)
        threads = full(count[0](team), team.size) if count else None
        team.pc[there.mask] = here + 1
        for each in np.unique(numbers[taking.lanes]):
            some = taking.where(numbers == each)
            expected = None if threads is None else threads[some.lanes[0]]
            team.machine.arrive(team, some, int(each), expected, names == ["sync"], instruction)

    return Control(arrive)


def trapping(program, instruction):
    def trap(team, taking, there, here):
        raise Trap(f"{taking.who.where(0)}: the kernel gave up")

    return Control(trap)


CONTROL = {"bra": branching, "ret": ending, "exit": ending, "bar": waiting, "barrier": waiting,
           "trap": trapping}
