"""Steps of the barriers that lie in shared memory: mbarrier, cp.async.mbarrier; and fence.proxy.async.

What an arrival releases, and a wait that succeeds acquires, are the clocks of memory.py. A thread whose wait
has failed twice at one line sleeps until the phase is over: the second time, so that a kernel which does not
ask again is found. Part of a warp speaks for all of it up to where the warp has met last, as lane 0 does
after bar.warp.sync; for what it has done itself since then only if all come.
"""

import numpy as np

from .access import addresses, resolve
from .control import Control
from .faults import Unwritten
from .machine import EXITED, WARP
from .numbers import FORMATS
from .operands import full, reader, writer
from .parse import Symbol

WIDTH = 8  # bytes of an mbarrier
U32, PRED = FORMATS["u32"], FORMATS["pred"]
IMPLIED = {"shared", "shared::cta", "b64", "cta", "release", "acquire"}


class Barrier:
    """An mbarrier: the arrivals that a phase takes and still lacks, and what those who came have known.

    `due` are arrivals that come when copies are there, each (team, lanes, flights with stamps, clocks).
    """

    def __init__(self, machine, place, count):
        self.machine, self.place, self.count, self.lacking = machine, place, count, count
        self.phase, self.due = 0, []
        self.known = np.zeros(machine.clocks.shape[2], np.int64)
        self.gathered = self.known

    def arrive(self, times, clocks):
        """Some threads of a warp which knows this."""
        self.gathered = np.maximum(self.gathered, clocks)
        self.lacking -= times
        while self.lacking <= 0:
            self.known = np.maximum(self.known, self.gathered)
            self.gathered = clocks if self.lacking else np.zeros_like(clocks)
            self.lacking += self.count
            self.phase += 1
            self.machine.wake(self.place)

    def settle(self):
        """Let copies land until the phase is over."""
        phase = self.phase
        while self.due and self.phase == phase:
            team, lanes, flights, clocks = self.due.pop(0)
            for flight, stamps in flights:
                flight.arrive(team, np.isin(flight.lanes, lanes), stamps)
            self.arrive(len(lanes), clocks)


def allow(instruction, *more):
    if set(instruction.modifiers) - IMPLIED - set(more) or instruction.modifiers[-1] != "b64":
        raise instruction.unknown()


def initializing(program, instruction):
    """mbarrier.init"""
    allow(instruction, "init")
    find = addresses(program, instruction, instruction.operands[0])
    read = reader(program, instruction, instruction.operands[1], U32)

    def initialize(team, active):
        shared, at = resolve(team, active, "shared", find(team, active))
        shared.check(active.who, at, WIDTH, write=True)
        for place, count in zip(at, full(read(team), team.size)[active.lanes], strict=True):
            team.machine.barriers[int(place)] = Barrier(team.machine, int(place), int(count))

    return initialize


def barriers_of(team, active, find):
    """(places, the barrier of each place) of the active threads."""
    shared, at = resolve(team, active, "shared", find(team, active))
    shared.check(active.who, at, WIDTH, write=True, atomic=True)
    for i, place in enumerate(at):
        if int(place) not in team.machine.barriers:
            raise Unwritten(f"{active.who.where(i)}: {shared.describe(int(place))}: no mbarrier")
    return at, team.machine.barriers


def by_warp(team, lanes, at):
    """(lanes, place) for the lanes of each warp, and for each barrier of theirs."""
    first = team.first_lane[lanes]
    for warp, place in np.unique(np.stack([first, at]), axis=1).T:
        yield lanes[(first == warp) & (at == place)], int(place)


def spoken(team, lanes):
    """What these lanes of a warp, which has just advanced, may tell others."""
    first = team.first_lane[lanes[0]]
    clocks = team.knowledge(first).copy()
    if len(lanes) < (team.status[first:first + WARP] != EXITED).sum():
        clocks[team.warp[first]] -= 1
    return clocks


def arriving(program, instruction):
    """mbarrier.arrive, whose result, the phase, nobody asks for."""
    allow(instruction, "arrive")
    state, place, *times = instruction.operands
    if not isinstance(state, Symbol) or state.name != "_":
        raise instruction.unknown()
    find = addresses(program, instruction, place)
    read = reader(program, instruction, times[0], U32) if times else None

    def arrive(team, active):
        at, barriers = barriers_of(team, active, find)
        times = full(read(team), team.size) if read else np.ones(team.size, np.int64)
        team.machine.advance(team, active)
        for lanes, place in by_warp(team, active.lanes, at):
            barriers[place].arrive(int(times[lanes].sum()), spoken(team, lanes))

    return arrive


def tracking(program, instruction):
    """cp.async.mbarrier.arrive.noinc: each thread arrives when all its copies have."""
    if instruction.modifiers[:4] != ("async", "mbarrier", "arrive", "noinc"):
        raise instruction.unknown()
    allow(instruction, "async", "mbarrier", "arrive", "noinc")
    find = addresses(program, instruction, instruction.operands[0])

    def track(team, active):
        at, barriers = barriers_of(team, active, find)
        team.flights = [flight for flight in team.flights if flight.under_way.any()]
        # what lands was written before the arrival, however late that is
        flights = [(flight, team.who(flight.lanes).stamp) for flight in team.flights]
        team.machine.advance(team, active)
        for lanes, place in by_warp(team, active.lanes, at):
            barriers[place].due.append((team, lanes, flights, team.knowledge(lanes[0]).copy()))

    return track


def trying(program, instruction):
    """mbarrier.try_wait.parity: whether the phase of this parity is over; a hint on the time is allowed."""
    if instruction.modifiers[:2] != ("try_wait", "parity"):
        raise instruction.unknown()
    allow(instruction, "try_wait", "parity")
    result, place, parity, *_ = instruction.operands
    write = writer(result, PRED, instruction)
    find, read = addresses(program, instruction, place), reader(program, instruction, parity, U32)

    def attempt(team, taking, there, here):
        machine, lanes = team.machine, taking.lanes
        at, barriers = barriers_of(team, taking, find)
        phase = np.array([barriers[int(place)].phase for place in at])
        over = phase % 2 != full(read(team), team.size)[lanes]
        for some, place in by_warp(team, lanes[over], at[over]):
            known = team.knowledge(some[0])
            np.maximum(known, barriers[place].known, out=known)
        machine.tick += 1
        asleep = ~over & (team.tried[lanes] == here)
        team.tried[lanes] = np.where(over, -1, here)
        found, stays = np.zeros(team.size, np.bool_), np.zeros(team.size, np.bool_)
        found[lanes[over]], stays[lanes[asleep]] = True, True
        write(team, found, taking.where(~stays))
        if not asleep.any():
            return here + 1
        team.pc[there.mask] = here + 1
        team.pc[stays] = here
        team.sleep(lanes[asleep], at[asleep])
        return None

    return Control(attempt)


def fencing(program, instruction):
    """fence.proxy.async: what a warp knows to be written, wgmma sees from now on."""

    def fence(team, active):
        team.machine.advance(team, active)
        first = team.first_lane[active.lanes]
        for each in np.unique(first):
            known, warps = team.knowledge(each), team.machine.warps
            known[warps:] = np.maximum(known[warps:], spoken(team, active.lanes[first == each])[:warps])

    return fence


MBARRIER = {"init": initializing, "arrive": arriving, "try_wait": trying}
