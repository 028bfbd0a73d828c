"""Helper threads that share one job's tiles with the thread that called.

A job is a list of tiles behind an atomic counter. The caller works on it too, and returns when every tile is
done, not when every thread has come: a helper that the system wakes late finds the counter at its end and
goes back to sleep. So a sleeping thread costs nothing but its help, any number of callers share the helpers,
and a job's memory is kept alive by whoever still holds it. Kernels release the GIL.
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
from numba import njit
from numba.core import config

from xfaccel.arrays import address
from xfaccel.engine.cpu import cache
from xfaccel.engine.cpu.memory import pause, peek

# byte offsets with which every job record begins: the next tile, tiles that are done, tiles in all
NEXT, DONE, TOTAL = 0, 8, 16

_PATIENCE = 10_000  # looks at a counter before a thread goes to sleep: some tenths of a millisecond
_POSTED = np.zeros(1, np.int64)  # grows with every job; a hint to wake up, so a lost count does no harm
_SMALL = 1 << 23  # multiplications, about 0.1 ms of one core: sharing fewer of them costs more than it brings
_LIMIT = contextvars.ContextVar("xfaccel thread limit", default=None)
_LOCK = threading.Lock()
_TASKS: queue.SimpleQueue = queue.SimpleQueue()
_STARTED: list[threading.Thread] = []


with cache.enabled():
    @njit(nogil=True, cache=True)
    def reaches(place, value, looks):
        """Look at the counter at `place` until it is at least `value`: True, or False after so many looks."""
        for _ in range(looks):
            if peek(place) >= value:
                return True
            pause()
        return False


def available() -> int:
    """Threads that a call may use: the smallest of affinity, cgroup quota, NUMBA_NUM_THREADS, `limited`."""
    return min(count for count, _ in _bounds())


def reason() -> str:
    """What bounds `available()`, in a few words."""
    return min(_bounds())[1]


def worth(multiplications: int, items: int) -> int:
    """Threads for a job of this size: one where waking a helper costs more than it brings."""
    return 1 if multiplications < _SMALL else min(available(), items)


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


def run(work: Callable[[], bool], helpers: int, job: np.ndarray) -> None:
    """Call `work` here and in up to `helpers` other threads; return when the job is done.

    `job` is the record that `work` takes its tiles from. `work` returns True in the one thread that finished
    the last tile. An interrupted wait empties the counter: what was begun is finished, the rest is not.
    """
    if helpers < 1:
        work()
        return
    done = threading.Lock()
    done.acquire()
    errors: list[BaseException] = []
    _start(helpers)
    for _ in range(helpers):
        _TASKS.put((work, job, done, errors))
    _POSTED[0] += helpers
    try:
        # the helper that has the last tile is usually almost through: look before sleeping
        if not work() and not reaches(address(job) + DONE, job[TOTAL // 8], _PATIENCE):
            done.acquire()
        if errors:
            raise errors[0]
    except BaseException:
        job[NEXT // 8] = job[TOTAL // 8]
        raise


def _bounds() -> list[tuple[int, str]]:
    bounds = [(_affinity(), "cores this process may run on")]
    if quota := _quota():
        bounds.append((quota, "cgroup quota"))
    if "NUMBA_NUM_THREADS" in os.environ:
        bounds.append((config.NUMBA_NUM_THREADS, "NUMBA_NUM_THREADS"))
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
            thread = threading.Thread(target=_help, args=(_TASKS,), name=name, daemon=True)
            thread.start()
            _STARTED.append(thread)


def _help(tasks: queue.SimpleQueue) -> None:
    while True:
        work, job, done, errors = tasks.get()
        posted = _POSTED[0]
        try:
            if work():
                done.release()
        except BaseException as error:  # the caller waits for this job: it has to hear of it
            errors.append(error)
            job[NEXT // 8] = job[TOTAL // 8]
            done.release()
        del work, job, done, errors  # the job's memory may go while this thread waits for the next one
        # calls often follow each other: a thread that is still awake is there at once, one that sleeps is not
        reaches(address(_POSTED), posted + 1, _PATIENCE)


def _forget() -> None:
    """A forked child has none of its parent's threads: start afresh."""
    global _TASKS, _LOCK
    _TASKS, _LOCK = queue.SimpleQueue(), threading.Lock()
    _STARTED.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
