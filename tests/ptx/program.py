"""A kernel as steps: instructions decoded once, with the addresses of the kernel's variables."""

import functools

from . import access, collective, mbarrier, wgmma
from .control import CONTROL
from .numbers import FORMATS
from .operands import computing, moving, register_reader
from .parse import parse

PRED = FORMATS["pred"]
RED_ZONE = 256  # bytes between two arrays, so that a stray access of one does not hit the other


def nothing(team, active):
    """membar and most fences order what other blocks see; here no other block may look at all."""


class Program:
    """A kernel with the addresses of its variables, and its instructions as steps."""

    def __init__(self, kernel):
        self.kernel, self.places, self.parameters = kernel, {}, {}
        self.sizes = {"shared": 0, "local": 0, "global": RED_ZONE, "param": 0}
        self.regions = {"shared": [], "local": []}
        self.constants = []
        # the array whose size the launch gives comes last
        for each in sorted(kernel.variables.values(), key=lambda each: each.size == 0):
            space = "global" if each.space == "const" else each.space
            align = max(each.align, 16)
            self.places[each.name] = place = -(-self.sizes[space] // align) * align
            if each.size:
                self.sizes[space] = place + each.size + RED_ZONE
                if space == "global":
                    self.constants.append((place, each))
                else:
                    self.regions[space].append((place, each.size))
            else:
                self.sizes[space] = place
        for each in kernel.parameters:
            self.parameters[each.name] = place = -(-self.sizes["param"] // each.align) * each.align
            self.sizes["param"] = place + each.size
        self.fragments = wgmma.fragments(kernel)
        self.cells = {space: self.smallest_access(space) for space in ("global", "shared", "local")}
        self.steps = [self.decode(each) for each in kernel.code]
        self.guards = [each.predicate and register_reader(each.predicate, PRED) for each in kernel.code]
        self.leaders = set(kernel.labels.values())

    def address(self, symbol, instruction):
        if getattr(symbol, "name", None) not in self.places:
            raise instruction.unknown()
        return self.places[symbol.name]

    def parameter(self, symbol, instruction):
        if symbol.name not in self.parameters:
            raise instruction.unknown()
        return self.parameters[symbol.name]

    def smallest_access(self, space):
        """Of a kernel to a space, in bytes: the size of a cell of its memory."""
        sizes = [16]
        for each in self.kernel.code:
            if each.op in ("ld", "st", "atom", "red"):
                used, form, count = access.form_of(each, *access.ATOMIC, "noftz")
                if used in (space, None) or space == "global" and used == "const":
                    sizes.append(form.bits // 8 * count)
            elif each.op == "cp" and len(each.operands) > 2:
                # a source of a given size may end anywhere, but not within a number
                sizes.append(each.operands[2].bits if space == "shared" or len(each.operands) == 3 else 2)
            elif each.op == "mbarrier" and space == "shared":
                sizes.append(mbarrier.WIDTH)
        return min(sizes)

    def decode(self, instruction):
        op = instruction.op
        if op in ("bar", "barrier") and instruction.modifiers[0] == "warp":
            return collective.syncing(self, instruction)
        if op in CONTROL:
            return CONTROL[op](self, instruction)
        if op == "fence" and instruction.modifiers[:2] == ("proxy", "async"):
            return mbarrier.fencing(self, instruction)
        if op in ("membar", "fence"):
            return nothing
        if op == "mbarrier" and instruction.modifiers[0] in mbarrier.MBARRIER:
            return mbarrier.MBARRIER[instruction.modifiers[0]](self, instruction)
        if op == "wgmma" and instruction.modifiers[0] in wgmma.WGMMA:
            return wgmma.WGMMA[instruction.modifiers[0]](self, instruction)
        if op == "cp" and "mbarrier" in instruction.modifiers:
            return mbarrier.tracking(self, instruction)
        if op == "ld":
            return access.loading(self, instruction)
        if op == "st":
            return access.storing(self, instruction)
        if op in ("atom", "red"):
            return access.atomically(self, instruction)
        if op == "cp":
            return access.copying(self, instruction)
        if op in collective.COLLECTIVE:
            return collective.COLLECTIVE[op](self, instruction)
        step = moving(self, instruction) or computing(self, instruction)
        if step is None:
            raise instruction.unknown()
        return step


@functools.lru_cache(64)
def program(ptx, name):
    return Program(parse(ptx)[name])
