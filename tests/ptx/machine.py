"""Runs the steps of a kernel with teams of warps.

A team is all warps that run as one: a step is a few NumPy calls for all threads of the team that are at it.
Of threads that part ways those at the earliest instruction go on until they meet the others. Under the
schedule "lockstep" one team holds every warp, else team i holds warp i of each block.
"""

import numpy as np

from .control import Control
from .faults import Deadlock, Divergence, Incomplete
from .memory import Split, Who
from .operands import full
from .wgmma import GROUP, MatrixUnit

WARP = 32
READY, WAITING, EXITED, STALLED = 0, 1, 2, 3  # STALLED: at an instruction that needs more of the warp
BARRIERS = 16  # that a block has
LIMIT = 10**7  # instructions of a team; who needs more waits for what does not come


class Active:
    """The threads of a team that execute an instruction.

    `whole`: no other thread needs what registers held before; `alone`: none may join these before they wait.
    """

    def __init__(self, team, mask, whole=False, alone=False):
        self.team, self.mask, self.whole, self.alone = team, mask, whole, alone
        self._lanes = self._who = self._tick = None

    @property
    def lanes(self):
        if self._lanes is None:
            self._lanes = np.flatnonzero(self.mask)
        return self._lanes

    @property
    def who(self):
        if self._tick != self.team.machine.tick:
            self._who, self._tick = self.team.who(self.lanes), self.team.machine.tick
        return self._who

    def where(self, condition):
        """Those of these threads for which it holds; itself, if these are all."""
        mask = self.mask & condition
        return self if np.array_equal(mask, self.mask) else Active(self.team, mask)


class Team:
    """Some warps of each of some blocks, 32 threads each, also where the block has fewer."""

    def __init__(self, machine, warps):
        blocks = len(machine.blocks)
        self.machine, self.size = machine, blocks * len(warps) * WARP
        self.local_block = np.repeat(np.arange(blocks), len(warps) * WARP)
        self.warp = np.tile(np.repeat(warps, WARP), blocks)
        self.lane = np.arange(self.size) % WARP
        self.first_lane = np.arange(self.size) // WARP * WARP
        self.thread = self.warp * WARP + self.lane
        self.block = machine.blocks[self.local_block]
        self.exists = self.thread < machine.threads
        self.pc = np.zeros(self.size, np.int64)
        self.status = np.where(self.exists, READY, EXITED).astype(np.int8)
        self.barrier = np.full(self.size, -1)
        self.registers = [None] * len(machine.program.kernel.register_bits)
        self.unit, self.now = MatrixUnit(machine.program.fragments, self.size), None
        self.group, self.flights = np.zeros(self.size, np.int64), []
        self.tried = np.full(self.size, -1)  # the line at which the last wait at an mbarrier failed
        code = machine.program
        self.local = Split("local", code.sizes["local"], code.cells["local"], machine.warps, self.size,
                           code.regions["local"])
        self.here, self.last_call = 0, False
        specials = {"laneid": self.lane, "warpid": self.warp}
        for name, sizes, place in (("tid", machine.block, self.thread), ("ctaid", machine.grid, self.block)):
            for axis, extent in zip("xyz", sizes, strict=True):
                specials[f"{name}.{axis}"] = place % extent
                specials[f"n{name}.{axis}"] = np.full_like(place, extent)
                place = place // extent
        self.specials = {name: value.astype(np.uint32) for name, value in specials.items()}

    def special(self, name, instruction):
        if name not in self.specials:
            raise instruction.unknown()
        return self.specials[name]

    def who(self, lanes):
        return Who(self.block[lanes], self.local_block[lanes], self.thread[lanes], self.warp[lanes],
                   self.machine.clocks, lambda i: self.where(lanes[i]))

    def where(self, lane=None):
        """The line at which the team is, and a thread."""
        instruction = self.machine.program.kernel.code[self.here]
        place = f"{self.machine.program.kernel.name}, PTX line {instruction.line}, {instruction.text}"
        return place if lane is None else f"{place}: {self.thread_name(lane)}"

    def thread_name(self, lane):
        block, thread = (tuple(int(self.specials[f"{name}.{axis}"][lane]) for axis in "xyz")
                         for name in ("ctaid", "tid"))
        return f"block {block}, thread {thread}"

    def demand_all(self, active, members=None):
        """All threads of each warp have to be here, or those in the mask `members`; they may yet come."""
        here, due = active.mask.reshape(-1, WARP), self.exists.reshape(-1, WARP)
        if members is not None:
            each = np.where(here, full(members, self.size).reshape(-1, WARP), 0).max(1, keepdims=True)
            due = due & (each >> np.arange(WARP, dtype=np.uint32) & np.uint32(1)).astype(np.bool_)
        wrong = here.any(1) & (here != due).any(1)
        if wrong.any():
            if not self.last_call:
                raise Incomplete
            self.diverged(np.argmax(wrong) * WARP)
        self.last_call = False

    def diverged(self, lane):
        raise Divergence(f"{self.where(lane)}: not all threads of the warp that are due come here")

    def demand_active(self, active, lanes):
        """The threads that the active ones read from have to be active too."""
        missing = active.mask & ~active.mask[lanes]
        if missing.any():
            self.diverged(np.argmax(missing))

    def knowledge(self, lane):
        """The clocks that the warp of a lane knows, to be read and written."""
        return self.machine.clocks[self.local_block[lane], self.warp[lane]]

    def sleep(self, lanes, at):
        """Until the phases of the mbarriers at these places are over."""
        self.status[lanes] = WAITING
        self.barrier[lanes] = BARRIERS + at

    def leave(self, active):
        self.status[active.mask] = EXITED

    def commit(self, active):
        self.group[active.mask] += 1

    def wait(self, active, still):
        """Let the copies of these threads arrive but for the last `still` groups; -1: those in none, too."""
        for flight in self.flights:
            old = flight.groups < self.group[flight.lanes] - still
            flight.arrive(self, active.mask[flight.lanes] & old)
        self.flights = [flight for flight in self.flights if flight.under_way.any()]

    def sleepers(self):
        """Those of whose warp a thread waits at an mbarrier, and may come yet."""
        asleep = (self.status == WAITING) & (self.barrier >= BARRIERS)
        return np.repeat(asleep.reshape(-1, WARP).any(1), WARP)

    def run(self):
        """As far as it can get; whether it got anywhere."""
        moved = False
        while True:
            ready = self.status == READY
            self.last_call = not ready.any()
            if self.last_call:
                # whoever else could come to where these are has ended, or waits elsewhere
                ready = (self.status == STALLED) & ~self.sleepers()
                if not ready.any():
                    return moved
            moved = True
            place = int(self.pc[ready].min())
            mask = ready & (self.pc == place)
            self.status[mask] = READY
            whole = bool((mask | (self.status == EXITED)).all())
            self.follow(place, Active(self, mask, whole, np.array_equal(mask, ready)))

    def follow(self, place, there):
        """Step on until the threads part, wait or end, or may meet others."""
        program, machine = self.machine.program, self.machine
        steps, guards, leaders = program.steps, program.guards, program.leaders
        while True:
            self.here, step, taking = place, steps[place], there
            machine.executed += 1
            self.now = there
            if guard := guards[place]:
                condition = guard(self)
                taking = there.where(~condition if program.kernel.code[place].negated else condition)
                if taking is not there and not taking.mask.any():
                    place += 1
                    if place in leaders and not there.alone:
                        break
                    continue
            self.now = taking
            try:
                if isinstance(step, Control):
                    place = step.go(self, taking, there, place)
                    if place is None:
                        return
                    if machine.executed > LIMIT:
                        raise Deadlock(f"{self.where()}: still running after {LIMIT} instructions")
                else:
                    step(self, taking)
                    place += 1
            except Incomplete:
                self.pc[there.mask] = place + 1
                self.pc[taking.mask] = place
                self.status[taking.mask] = STALLED
                return
            if place in leaders and not there.alone:
                break
        self.pc[there.mask] = place


class Machine:
    """Some blocks of a grid, run together; `schedule` as for `launch`."""

    def __init__(self, program, memory, parameters, grid, block, blocks, dynamic, schedule):
        self.program, self.memory, self.parameters = program, memory, parameters
        self.grid, self.block, self.blocks = grid, block, np.asarray(blocks)
        self.threads = int(np.prod(block))
        self.warps = -(-self.threads // WARP)
        self.executed = self.tick = 0
        begin = program.sizes["shared"]
        self.shared = Split("shared", begin + dynamic, program.cells["shared"], self.warps, len(blocks),
                            [*program.regions["shared"], (begin, dynamic)])
        # clocks[b, w, v]: what warp w of block b knows of the clock of warp v; and behind these, of how much
        # of that the fences of proxies let wgmma know
        self.clocks = np.zeros((len(blocks), self.warps, 2 * self.warps), np.int64)
        self.clocks[:, range(self.warps), range(self.warps)] = 1
        self.arrived = np.zeros((len(blocks), BARRIERS), np.int64)
        self.known = np.zeros((len(blocks), BARRIERS, 2 * self.warps), np.int64)
        self.barriers = {}  # mbarriers, by their places in shared memory
        # of each group of warps the products that any of them has issued; and of each warp how many
        self.products, self.issued = {}, np.zeros((len(blocks), self.warps), np.int64)
        self.random = np.random.default_rng(schedule if isinstance(schedule, int) else None)
        self.schedule = schedule
        groups = [range(self.warps)] if schedule == "lockstep" else [[warp] for warp in range(self.warps)]
        self.teams = [Team(self, np.array(warps)) for warps in groups]

    def run(self):
        while any((team.status != EXITED).any() for team in self.teams):
            order = self.teams
            if self.schedule == "backward":
                order = order[::-1]
            elif isinstance(self.schedule, int):
                order = [order[i] for i in self.random.permutation(len(order))]
            if not any([team.run() for team in order]) and not self.settle():
                self.stuck()
        self.demand_groups()

    def join(self, team, first, words):
        """Warps, given by their first lanes, issue a product as the others of their groups did or will do."""
        for lane, *descriptors in zip(first, *words, strict=True):
            block, warp = int(team.local_block[lane]), int(team.warp[lane])
            issued = self.products.setdefault((block, warp // GROUP), [])
            count = self.issued[block, warp]
            if count == len(issued):
                issued.append((team.here, descriptors, team.where(lane)))
            if issued[count][:2] != (team.here, descriptors):
                raise Divergence(f"{team.where(lane)}: another warp of the group comes to another product or "
                                 f"has its matrices elsewhere: {issued[count][2]}")
            self.issued[block, warp] += 1

    def demand_groups(self):
        """All warps of a group have issued the same products."""
        for (block, group), issued in self.products.items():
            counts = self.issued[block, GROUP * group:GROUP * (group + 1)]
            if counts.min() < len(issued):
                raise Divergence(f"{issued[counts.min()][2]}: not all warps of the group come here")

    def settle(self):
        """Let copies that an mbarrier waits for land, as late as a GPU may; whether there were any."""
        asked = {int(number) - BARRIERS
                 for team in self.teams for number in team.barrier[team.status == WAITING]}
        due = [barrier for place, barrier in self.barriers.items() if place in asked and barrier.due]
        for barrier in due:
            barrier.settle()
        return bool(due)

    def wake(self, place):
        """Those who wait at the mbarrier at this place look again."""
        for team in self.teams:
            team.status[(team.status == WAITING) & (team.barrier == BARRIERS + place)] = READY

    def stuck(self):
        self.demand_groups()
        waiting = [(team, lane) for team in self.teams for lane in np.flatnonzero(team.status == WAITING)[:1]]
        team, lane = waiting[0]
        team.here = int(team.pc[lane]) - (team.barrier[lane] < BARRIERS)
        raise Deadlock(f"{team.where(lane)} waits for threads that do not come")

    def advance(self, team, active):
        """The clocks of the warps of these threads go on; which these are: (blocks, warps)."""
        first = np.unique(team.first_lane[active.lanes])
        block, warp = team.local_block[first], team.warp[first]
        self.clocks[block, warp, warp] += 1
        self.tick += 1
        return block, warp

    def arrive(self, team, active, number, threads, wait, instruction):
        """At a barrier: all threads of each warp at once, and as many warps as it takes."""
        team.demand_all(active)
        if number >= BARRIERS:
            raise instruction.unknown()
        expected = self.warps if threads is None else -(-int(threads) // WARP)
        # one after the other: there may be more than it takes, for it to be used again
        for each in np.unique(team.warp[active.lanes]):
            coming = active.where(team.warp == each)
            block, warp = self.advance(team, coming)
            self.arrived[block, number] += 1
            self.known[block, number] = np.maximum(self.known[block, number], self.clocks[block, warp])
            if wait:
                team.status[coming.mask] = WAITING
                team.barrier[coming.mask] = number
            self.release(self.arrived[:, number] == expected, number)

    def release(self, blocks, number):
        """Those who wait at a barrier where all have arrived know what these knew, and go on."""
        if not blocks.any():
            return
        for team in self.teams:
            done = (team.status == WAITING) & (team.barrier == number) & blocks[team.local_block]
            first = np.unique(team.first_lane[done])
            block, warp = team.local_block[first], team.warp[first]
            self.clocks[block, warp] = np.maximum(self.clocks[block, warp], self.known[block, number])
            team.status[done] = READY
        self.arrived[blocks, number] = 0
        self.known[blocks, number] = 0
        self.tick += 1
