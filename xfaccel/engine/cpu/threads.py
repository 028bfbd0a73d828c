"""Helper threads that share one job's tiles with the thread that called.

A job is a list of tiles behind an atomic counter. The caller posts it on a board, works on it too, takes it
down when no tile is left, and waits only for helpers that are inside: they are awake and have a tile each. A
helper that sleeps, or that the system wakes late, finds nothing on the board: a sleeping thread costs nothing
but its help. Between jobs a helper watches the board for a while without holding the GIL, so that calls that
follow each other find it awake; then it sleeps. Any number of callers share the helpers.
"""

import contextlib
import contextvars
import functools
import os
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numba import njit, types
from numba.core import config

from xfaccel.arrays import address
from xfaccel.engine.cpu import cache
from xfaccel.engine.cpu.memory import (
    compare_swap,
    fetch_add,
    invoke,
    load_int,
    pause,
    peek,
    size_of,
    store_int,
)

Array = np.ndarray

# The board: how many helpers are wanted in all, how many sleep, then a few slots, each of cache lines of its
# own. A slot: taken by a caller, helpers that may still come, helpers inside, and the call: the kernel's
# address, the job, three switches, bytes of an element
_SLOTS, _SLOT = 8, 128
WANTED, ASLEEP, FIRST = 0, 64, 128
TAKEN, FREE, INSIDE, KERNEL, JOB, A, B, C, SIZE = range(0, 8 * 9, 8)

_PATIENCE = 10_000  # looks at the board before a helper goes to sleep: some tenths of a millisecond
_SMALL = 1 << 21    # multiplications, about 30 us of one core: fewer are not worth sharing
_LIMIT = contextvars.ContextVar("xfaccel thread limit", default=None)
_SET: list[int | None] = [None]  # the limit of the whole process
_ASKED = config.NUMBA_NUM_THREADS if "NUMBA_NUM_THREADS" in os.environ else None
_LOCK = threading.Lock()
_WAKE: queue.SimpleQueue = queue.SimpleQueue()
_STARTED: list[threading.Thread] = []


def _new_board() -> Array:
    memory = np.zeros(FIRST + _SLOTS * _SLOT + 64, np.uint8)
    start = -address(memory) % 64
    return memory[start:start + FIRST + _SLOTS * _SLOT].view(np.int64)


_BOARD = _new_board()


with cache.enabled():
    @njit(nogil=True, cache=True)
    def _lead(board, kernel, job, a, b, c, helpers, zero):
        """Run the job here and, if there is a free slot on the board, in up to `helpers` other threads."""
        slot = 0
        if helpers > 0:
            for number in range(_SLOTS):
                place = board + FIRST + number * _SLOT
                if compare_swap(place + TAKEN, 0, 1):
                    slot = place
                    break
        if slot == 0:
            invoke(kernel, job, a, b, c, zero)
            return
        store_int(slot + KERNEL, kernel)
        store_int(slot + JOB, job)
        store_int(slot + A, a)
        store_int(slot + B, b)
        store_int(slot + C, c)
        store_int(slot + SIZE, size_of(zero))
        fetch_add(slot + FREE, helpers)
        fetch_add(board + WANTED, helpers)
        invoke(kernel, job, a, b, c, zero)
        fetch_add(board + WANTED, -helpers)
        left = peek(slot + FREE)
        while left > 0 and not compare_swap(slot + FREE, left, 0):
            left = peek(slot + FREE)
        while peek(slot + INSIDE) > 0:
            pause()
        compare_swap(slot + TAKEN, 1, 0)

    @njit(nogil=True, cache=True)
    def _serve(board, woken, looks):
        """Help with what is on the board until it has been empty for so many looks."""
        fetch_add(board + ASLEEP, -woken)
        left = looks
        while left > 0:
            left -= 1
            if peek(board + WANTED) == 0:
                pause()
                continue
            for number in range(_SLOTS):
                slot = board + FIRST + number * _SLOT
                if peek(slot + FREE) == 0:
                    continue
                # inside before the place is taken: a caller that finds no place left to take back, and
                # nobody inside, may go
                fetch_add(slot + INSIDE, 1)
                free = peek(slot + FREE)
                if free > 0 and compare_swap(slot + FREE, free, free - 1):
                    kernel, job = load_int(slot + KERNEL), load_int(slot + JOB)
                    a, b, c = load_int(slot + A), load_int(slot + B), load_int(slot + C)
                    if load_int(slot + SIZE) == 4:
                        invoke(kernel, job, a, b, c, np.float32(0))
                    else:
                        invoke(kernel, job, a, b, c, np.float64(0))
                    left = looks
                fetch_add(slot + INSIDE, -1)
        fetch_add(board + ASLEEP, 1)


def available() -> int:
    """Threads that a call may use: the smallest of affinity, cgroup quota, NUMBA_NUM_THREADS, the limits."""
    return min(count for count, _ in _bounds())


def reason() -> str:
    """What bounds `available()`, in a few words."""
    return min(_bounds())[1]


def worth(multiplications: int, items: int) -> int:
    """Threads for a job of this size: one where waking a helper costs more than it brings."""
    return 1 if multiplications < _SMALL else min(available(), items)


def set_limit(count: int | None) -> int | None:
    """Let all calls of this process use at most `count` threads, or any number; returns the limit before."""
    before, _SET[0] = _SET[0], count
    return before


@contextlib.contextmanager
def limited(count: int) -> Iterator[None]:
    """Inside this block, calls of this thread use at most `count` threads. Raises ValueError below 1."""
    if count < 1:
        raise ValueError(f"count needs to be at least 1, got {count}")
    token = _LIMIT.set(count)
    try:
        yield
    finally:
        _LIMIT.reset(token)


def run(kernel: Callable, job: Array, switches: tuple[int | None, int | None, int | None], zero,
        helpers: int) -> None:
    """Call `kernel(job's address, *switches, zero)` here and in up to `helpers` other threads.

    Returns when no thread is in it any more: what the job points to has to live until then, and no longer.
    """
    if config.DISABLE_JIT:
        kernel(address(job), *switches, zero)
        return
    entry = _entry(kernel, tuple(x is None for x in switches), zero.dtype)
    if helpers > 0:
        _start(helpers)
        # a helper that falls asleep in the very moment is missed: this job then goes without it
        for _ in range(min(_BOARD[ASLEEP // 8], helpers) - _WAKE.qsize()):
            _WAKE.put(None)
    _lead(_address(), entry, address(job), *(x or 0 for x in switches), helpers, zero)


def prepare(kernel: Callable, absent: tuple[bool, ...], dtype: np.dtype) -> None:
    """Compile a kernel, or load it from the cache, for calls that lack these switches."""
    if not config.DISABLE_JIT:
        _entry(kernel, absent, dtype)


@functools.lru_cache(256)
def _entry(kernel: Callable, absent: tuple[bool, ...], dtype: np.dtype) -> int:
    """The address of a kernel, compiled for this type and with the code of absent switches left out."""
    kinds = [types.none if none else types.int64 for none in absent]
    signature = (types.int64, *kinds, types.float32 if dtype == np.float32 else types.float64)
    kernel.compile(signature)
    compiled = kernel.overloads[signature]
    return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name)


def _bounds() -> list[tuple[int, str]]:
    bounds = [(_affinity(), "cores this process may run on")]
    if quota := _quota():
        bounds.append((quota, "cgroup quota"))
    if _ASKED:
        bounds.append((_ASKED, "NUMBA_NUM_THREADS"))
    if limit := _SET[0]:
        bounds.append((limit, "set_threads"))
    if limit := _LIMIT.get():
        bounds.append((limit, "limited by the caller"))
    if config.DISABLE_JIT:
        bounds.append((1, "NUMBA_DISABLE_JIT"))  # Python kernels hold the GIL
    return bounds


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _quota() -> int | None:
    """Whole cores of the cgroup's CPU quota (version 2, then 1); None without one."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            base = Path("/sys/fs/cgroup/cpu")
            quota, period = ((base / f"cpu.cfs_{name}_us").read_text().strip()
                             for name in ("quota", "period"))
        except OSError:
            return None
    if quota in ("max", "-1"):
        return None
    return max(1, int(quota) // int(period))


def _start(helpers: int) -> None:
    if len(_STARTED) >= helpers:
        return
    with _LOCK:
        while len(_STARTED) < helpers:
            name = f"xfaccel-{len(_STARTED)}"
            thread = threading.Thread(target=_help, args=(_address(), _WAKE), name=name, daemon=True)
            thread.start()
            _STARTED.append(thread)


def _help(board: int, wake: queue.SimpleQueue) -> None:
    woken = 0
    while True:
        _serve(board, woken, _PATIENCE)
        wake.get()
        woken = 1


@functools.cache
def _address() -> int:
    return address(_BOARD)


def _forget() -> None:
    """A forked child has none of its parent's threads, nor their jobs: start afresh."""
    global _WAKE, _LOCK, _BOARD
    _WAKE, _LOCK, _BOARD = queue.SimpleQueue(), threading.Lock(), _new_board()
    _address.cache_clear()
    _STARTED.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
