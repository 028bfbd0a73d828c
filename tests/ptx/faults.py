"""What the interpreter finds wrong with a kernel; each names the kernel's line, the block and the thread."""


class Fault(Exception):
    """A kernel did what a GPU would not, or not reliably, forgive."""


class OutOfBounds(Fault):
    """An access beside every array of its state space, or in one that must not be written."""


class Misaligned(Fault):
    """An address that is no multiple of the width of its access."""


class Unwritten(Fault):
    """A read of memory that nothing was written to, or of a register that nothing was computed for."""


class InFlight(Fault):
    """An access to the target of a copy, or a register of a product, that has not been waited for."""


class Race(Fault):
    """Two accesses to one place, at least one of them writing, with no barrier or no fence between."""


class Divergence(Fault):
    """A barrier or an instruction of whole warps, or of a group, that some of their threads did not reach."""


class Deadlock(Fault):
    """Threads wait for what will never happen, or run without an end."""


class Trap(Fault):
    """The kernel executed `trap`, as a failed assertion does."""


class Incomplete(Exception):
    """Not all threads that an instruction needs are at it yet; they may come."""
