"""One state space, with everything that can be wrong with an access to it.

The smallest piece that an instruction of the kernel touches is a cell: accesses are aligned, so that two of
them overlap exactly if they share a cell. Each cell knows whether it may be touched, whether it has been
written, and who wrote and read it last. When is told by clocks of warps (vector clocks, as in FastTrack):
that of a warp goes on at each barrier, where all that take part learn all the clocks that any of them knows.
What another thread did came before if one knows of its warp a later clock than that of the access, in
whatever order the interpreter happens to run the warps. Threads that meet at `bar.warp.sync` are taken for
their whole warp. Products of warp groups read by a path of their own, the async proxy: more clocks of each
warp say what these see, which is what it knew at its last fence.proxy.async, or was told by others who had
fenced.
"""

import numpy as np

from .faults import InFlight, Misaligned, OutOfBounds, Race, Unwritten

EMPTY, WRITTEN, FLYING = 0, 1, 2  # FLYING: the target of an asynchronous copy
WIDEST = 32  # bytes of an access
THREAD_BITS, CLOCK_BITS = 10, 24
CLOCK = (1 << CLOCK_BITS) - 1
LANE = 63
SEVERAL = LANE  # in the place of a lane: more than one lane has read at this clock
MANY = 1 << 60  # in the place of a whole stamp: more than one block has read


class Who:
    """The threads of an access, an array each: block, its place among those that run, thread and warp.

    `clocks` are what warps know of each other, see Machine; `where` says of one of the threads which it is.
    """

    def __init__(self, block, local, thread, warp, clocks, where):
        self.block, self.local, self.thread, self.warp = block, local, thread, warp
        self.clocks, self.where, self.proxy = clocks, where, False
        _, self.warps, width = clocks.shape
        self.known = (local * self.warps + warp) * width  # where in `clocks` that begins which these know
        clock = clocks.reshape(-1)[self.known + warp]
        self.identity = block << THREAD_BITS | thread
        self.stamp = (self.identity << CLOCK_BITS | clock) << 1
        self.read_stamp = ((block + 1) << CLOCK_BITS | clock) << 8 | thread & 31

    def select(self, chosen):
        """Some of them."""
        numbers = np.flatnonzero(chosen)
        arrays = (each[chosen] for each in (self.block, self.local, self.thread, self.warp))
        return Who(*arrays, self.clocks, lambda i: self.where(numbers[i]))

    def asynchronous(self):
        """These as the warps whose products read shared memory: no thread's own accesses are among theirs."""
        self.proxy, self.identity = True, np.full_like(self.identity, -1)
        return self

    def know(self, block, warp, clock):
        """Whether what happened there and then came before what these threads do now."""
        return (block == self.block) & (self.clocks.reshape(-1)[self.known + warp] > clock)

    def see(self, warp, clock):
        """Whether fences of proxies let the products of these warps see what was written then, too."""
        return self.clocks.reshape(-1)[self.known + self.warps + warp] > clock


class Memory:
    """`size` bytes, read and written at places `at`, which are bytes from the beginning."""

    split = False  # whether each block has its own

    def __init__(self, name, size, cell, warps):
        self.name, self.cell, self.warps = name, cell, warps
        size = -(-size // WIDEST) * WIDEST
        cells = size // cell
        self.data = np.full(size, 0xFF, np.uint8)  # 0xFF: NaN in every float format
        self.may_read = np.zeros(cells, np.bool_)
        self.may_write = np.zeros(cells, np.bool_)
        self.state = np.zeros(cells, np.uint8)
        self.writes = np.zeros(cells, np.int64)
        self.reads = np.zeros((cells, warps), np.int64)

    def allow(self, begin, size, write=True):
        """Let these bytes be accessed; a cell that lies in them in part would be overrun by any access."""
        cells = slice(-(-begin // self.cell), (begin + size) // self.cell)
        self.may_read[cells] = True
        self.may_write[cells] |= write

    def put(self, begin, data):
        self.data[begin:begin + len(data)] = data
        self.state[begin // self.cell:-(-(begin + len(data)) // self.cell)] = WRITTEN

    def unwrite(self, begin, written):
        """Nothing was written to these bytes but where `written` says so."""
        whole = np.pad(written, (0, -len(written) % self.cell), constant_values=True)
        cells = whole.reshape(-1, self.cell).all(1)
        self.state[begin // self.cell:][:len(cells)] = np.where(cells, WRITTEN, EMPTY)

    def written(self, begin, size):
        """Whether each of these bytes was."""
        places = np.arange(begin, begin + size) // self.cell
        return self.state[places] == WRITTEN

    def load(self, who, at, dtype, count=1):
        """`count` numbers from each place: (count, threads)."""
        self.check(who, at, dtype.itemsize * count)
        return self.data.view(dtype)[at // dtype.itemsize + np.arange(count)[:, None]]

    def store(self, who, at, values):
        """Rows of numbers, (count, threads)."""
        size = values.dtype.itemsize
        self.check(who, at, size * len(values), write=True)
        self.data.view(values.dtype)[at // size + np.arange(len(values))[:, None]] = values

    def update(self, who, at, function, values):
        """Atomic updates, one thread after another; what was there before each."""
        self.check(who, at, values.dtype.itemsize, write=True, atomic=True)
        data, before = self.data.view(values.dtype), np.empty_like(values)
        for i, place in enumerate(at // values.dtype.itemsize):
            before[i] = data[place]
            data[place] = function(before[i], i)
        return before

    def check(self, who, at, width, write=False, atomic=False, async_copy=False, align=None):
        """Raise what is wrong with this access; keep it in mind for those that follow."""
        self.demand(at % (align or width) == 0, Misaligned, who, at, f"not a multiple of {align or width}")
        cells = self.cells(who, at, width, write)
        state = self.state[cells]
        self.demand(state != FLYING, InFlight, who, at, "a copy into it was not waited for")
        if not write or atomic:
            self.demand(state == WRITTEN, Unwritten, who, at, "nothing was written there")
        self.after_writes(who, at, cells, atomic)
        if write:
            self.after_reads(who, at, cells)
            stamp = who.stamp | atomic
            self.writes[cells] = stamp
            if not atomic:
                self.demand(self.writes[cells] == stamp, Race, who, at, "two threads write at once")
            self.state[cells] = FLYING if async_copy else WRITTEN
        else:
            self.keep_reads(who, cells)

    def last_writes(self, at, width):
        """Which these were, for `read_again`: (cells, places)."""
        return self.writes[at // self.cell + np.arange(width // self.cell)[:, None]]

    def read_again(self, who, at, width, seen):
        """What was checked when the reading began is read only now: nobody may have written since."""
        cells = at // self.cell + np.arange(width // self.cell)[:, None]
        self.demand(self.writes[cells] == seen, Race, who, at, "written while a product reads it")
        self.keep_reads(who, cells)

    def land(self, stamps, at, values):
        """An asynchronous copy that was waited for: its bytes (threads, width) are there from now on."""
        width = values.shape[1]
        cells = at // self.cell + np.arange(width // self.cell)[:, None]
        self.data[at[:, None] + np.arange(width)] = values
        self.writes[cells] = stamps
        self.state[cells] = WRITTEN

    def cells(self, who, at, width, write):
        """The cells of an access, (cells, threads), if it is one at all."""
        inside = (at >= 0) & (at <= len(self.data) - width)
        cells = np.where(inside, at, 0) // self.cell + np.arange(-(-width // self.cell))[:, None]
        allowed = (self.may_write if write else self.may_read)[cells] & inside
        self.demand(allowed, OutOfBounds, who, at, f"{'write' if write else 'read'} of {width} bytes")
        return cells

    def after_writes(self, who, at, cells, atomic):
        stamps = self.writes[cells]
        identity = stamps >> CLOCK_BITS + 1
        other = (stamps != 0) & (identity != who.identity)
        if other.any():
            warp = (identity & (1 << THREAD_BITS) - 1) >> 5
            fine = ~other | who.know(identity >> THREAD_BITS, warp, stamps >> 1 & CLOCK)
            if atomic:
                fine |= stamps & 1 == 1
            self.demand(fine, Race, who, at, "another thread wrote it")
            if who.proxy:
                seen = ~other | who.see(warp, stamps >> 1 & CLOCK)
                self.demand(seen, Race, who, at, "no fence.proxy.async between the writing and this product")

    def after_reads(self, who, at, cells):
        for warp, stamps in enumerate(np.moveaxis(self.reads[cells], -1, 0)):
            present = stamps != 0
            if present.any():
                own = (stamps >> CLOCK_BITS + 8 == who.block + 1) & (who.warp == warp) & (
                    stamps & LANE == who.thread & 31)
                came_before = who.know((stamps >> CLOCK_BITS + 8) - 1, warp, stamps >> 8 & CLOCK)
                self.demand(~present | own | came_before, Race, who, at, "another thread read it")

    def keep_reads(self, who, cells):
        """For each warp the clock of its last read, and by which lane, or that there were several."""
        reads, slots, mine = self.reads.reshape(-1), cells * self.warps + who.warp, who.read_stamp
        before = reads[slots]
        now = np.where((before >> 8 == mine >> 8) & (before != mine), mine | SEVERAL, mine)
        if not self.split:
            elsewhere = (before != 0) & (before >> CLOCK_BITS + 8 != mine >> CLOCK_BITS + 8)
            now = np.where(elsewhere, MANY, now)
        reads[slots] = now
        # lanes of one instruction at the same cell: the last has won
        winner = reads[slots]
        lost = winner != now
        if lost.any():
            same_block = winner >> CLOCK_BITS + 8 == now >> CLOCK_BITS + 8
            reads[slots[lost & same_block]] |= SEVERAL
            reads[slots[lost & ~same_block]] = MANY

    def demand(self, fine, kind, who, at, why):
        """Raise the fault of the first thread for which not all is fine."""
        if fine.all():
            return
        thread = int(np.argmin(fine.reshape(-1, fine.shape[-1]).all(0)))
        raise kind(f"{who.where(thread)}: {self.describe(int(at[thread]))}: {why}")

    def describe(self, at):
        return f"{self.name} memory, byte {at}"


class Split(Memory):
    """Memories of all blocks or of all threads, `stride` bytes each; `regions` of them may be accessed."""

    split = True

    def __init__(self, name, stride, cell, warps, count, regions):
        self.stride = -(-stride // WIDEST) * WIDEST
        super().__init__(name, self.stride * count, cell, warps)
        for allowed in (self.may_read, self.may_write):
            for begin, size in regions:
                allowed.reshape(count, -1)[:, -(-begin // cell):(begin + size) // cell] = True

    def place(self, owner, at):
        """Where the address `at` of the memory of `owner` is; negative, which is nowhere, for one outside."""
        return np.where((at >= 0) & (at < self.stride), at + owner * self.stride, at % WIDEST - WIDEST)

    def describe(self, at):
        return super().describe(at % self.stride) if at >= 0 else f"{self.name} memory, outside of it"
