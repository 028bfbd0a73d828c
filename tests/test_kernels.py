"""The CPU kernels: vector forms beside plain loops, forbidden pages beside every array, helper threads.

What may end a process or needs settings of its own runs in processes that `guard.py` describes, two at a
time; the tests read their reports.
"""

import itertools
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import guard
import llvmlite.binding as llvm
import numpy as np
import pytest
from llvmlite import ir
from numba import njit, types
from numba.core import config

import xfaccel
from xfaccel.engine.cpu import cache, features_plain, threads, vector
from xfaccel.engine.cpu.memory import compare_swap, fetch_add, pause, peek, store_int
from xfaccel.engine.cpu.products_simd import emit_scores

ROOT = Path(__file__).parents[1]
DTYPES = ("float32", "float64")
# a CPU with the registers of AVX2 and no others; its name alone would leave the features of this one
HASWELL = dict(NUMBA_CPU_NAME="haswell", NUMBA_CPU_FEATURES=",".join(
    "+64bit +cx16 +sse +sse2 +sse3 +ssse3 +sse4.1 +sse4.2 +popcnt +movbe +bmi +bmi2 +lzcnt +f16c +avx +avx2 "
    "+fma -avx512f".split()))
# what a process must not take over from this one
SETTINGS = ("XFACCEL_KERNELS", "XFACCEL_VECTOR_BYTES", "NUMBA_BOUNDSCHECK", "NUMBA_CPU_NAME",
            "NUMBA_CPU_FEATURES")
OWN_BYTES = vector.vector_bytes()
RESTRICTED = OWN_BYTES == 64 and bool(llvm.get_host_cpu_features().get("avx2"))

CASES = [  # every engine in each of its forms, and what only one of its micro-kernels does
    "attention: several tiles, float32",
    "attention_lse: all together, float32",
    "attention_lse: pattern scattered, several tiles, float32",
    "sliding_window: across tiles, dilated, float32",
    "linear_transformer: causal, several tiles, float32",
    "performer: causal, several tiles, float32",
    "performer, trigonometric: causal, several tiles, float32",
    "performer, relu: causal, more keys, float32",
    "attention: several tiles, float64",
]
SMALL = [  # masks everywhere: fewer forms have to be compiled
    "attention_lse: all together, float32",
    "linear_transformer: key mask and causal, garbage under it, float32",
    "performer, hyperbolic: key mask and causal, garbage under it, float32",
    "performer, trigonometric: key mask and causal, garbage under it, float32",
    "performer, relu: key mask, several tiles, float32",
    "linformer: key mask, several tiles, float32",
]
PROCESSES = {  # name: (arguments of guard.py, settings)
    **{f"engines {dtype}": (("engines", dtype), {}) for dtype in DTYPES},
    **{f"kernels {dtype}": (("kernels", dtype), {}) for dtype in DTYPES},
    # without optimisation, which takes most of the time and is not what is tested
    "bounds": (("cases", *SMALL), dict(NUMBA_BOUNDSCHECK="1", NUMBA_OPT="0", XFACCEL_KERNELS="plain")),
    **{f"{size} bytes": (("cases", *CASES), dict(XFACCEL_VECTOR_BYTES=str(size))
                         | (HASWELL if size == 32 and RESTRICTED else {}))
       for size in guard.VECTOR_BYTES if size != OWN_BYTES},
    **{f"overrun at the {side}, {too_far or 'none'}": (("overrun", side, too_far), {})
       for side in guard.SIDES for too_far in ("", "too far")},
}

jitted = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="needs compiled kernels")


class Report(NamedTuple):
    status: int             # negative: the signal that ended the process
    begun: list[str]        # the cases it came to
    failed: dict[str, str]  # case: message
    text: str               # all that it wrote

    def check(self, *names):
        """Fail unless the process came to its end and no case, or none of those named, failed."""
        wrong = {name: message for name, message in self.failed.items() if not names or name in names}
        lines = [f"{name}: {message}" for name, message in list(wrong.items())[:10]]
        assert not wrong, f"{len(wrong)} cases failed\n" + "\n".join(lines)
        last = self.begun[-1] if self.begun else "no case"
        if self.status:  # a process that died says nothing against the cases before
            assert names and set(names) <= set(self.begun[:-1]), (
                f"status {self.status} in: {last}\n{self.text[-2000:]}")
        assert set(names) <= set(self.begun), f"{names} never began; the last was {last}"


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """name -> Report. All processes that this session's tests read are started at once, two run at a time."""
    folder = tmp_path_factory.mktemp("cache")
    folder.chmod(0o700)
    with ThreadPoolExecutor(2) as pool:
        running = {}

        def report(name):
            if not running:
                running.update((each, pool.submit(run, each, folder)) for each in PROCESSES)
            return running[name].result()

        yield report
        for each in running.values():
            each.cancel()


def run(name, folder):
    arguments, settings = PROCESSES[name]
    # processes with settings of their own leave nothing in the cache of this run
    own = folder if settings else cache.folder().parent
    env = {name: x for name, x in os.environ.items() if name not in SETTINGS}
    env |= {"PYTHONPATH": str(ROOT), "XFACCEL_CACHE_DIR": str(own), **settings}
    done = subprocess.run([sys.executable, "-B", str(ROOT / "tests" / "guard.py"), *arguments], text=True,
                          capture_output=True, env=env, cwd=ROOT, timeout=240)
    lines = done.stdout.splitlines()
    begun = [line.removeprefix("BEGUN ") for line in lines if line.startswith("BEGUN ")]
    failed = dict(line.removeprefix("FAILED ").split("\t", 1) for line in lines if line.startswith("FAILED "))
    ended = lines[-1:] == ["ENDED"]
    status = done.returncode or (0 if ended else 1)
    return Report(status, begun, failed, done.stdout + done.stderr)


# vector kernels beside plain loops


@jitted
@pytest.mark.parametrize("size", guard.VECTOR_BYTES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", [*itertools.chain(*guard.TWINS.values()), "exp2"])
def test_vectors_do_what_the_plain_loop_says(kernel, dtype, size, reports):
    """At every tail, beside forbidden pages."""
    if kernel in guard.TWINS["pairs"] and dtype != "float32":
        pytest.skip("sums of products of bfloat16 are float32")
    reports(f"kernels {dtype}").check(f"{kernel} {size}")


def test_a_cpu_that_multiplies_pairs_of_bfloat16_is_told_to(monkeypatch):
    """Compiled for one that has the instruction, a step is that instruction, and all sums stay in registers.

    Elsewhere it is made of others, which the tests above run.
    """
    monkeypatch.setattr(vector, "multiplies_pairs", lambda: True)
    monkeypatch.setattr(vector, "vector_bytes", lambda: 64)
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [vector.I64] * 6), "score_pairs")
    e = vector.Emitter(ir.IRBuilder(function.append_basic_block()), types.float32)
    k, k_row, keys, pairs, queries, out = function.args
    emit_scores(e, k, k_row, e.index(4), keys, pairs, queries, out, pairs=True)
    e.builder.ret_void()
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple("x86_64-unknown-linux-gnu")
    machine = target.create_target_machine(cpu="cooperlake", opt=3)
    lines = machine.emit_assembly(llvm.parse_assembly(str(module))).splitlines()
    assert sum("vdpbf16ps" in line for line in lines) == 16 + 4  # 4 x 4 sums, and 4 for each key left over
    assert not any("vfmadd" in line or ("zmm" in line and "rsp" in line) for line in lines)


@pytest.mark.parametrize("group", guard.TWINS)
def test_every_kernel_has_its_twin_and_its_comparison(group):
    plain, vector = guard.FORMS[group]
    for name in vector.__all__:
        own = getattr(vector, name) is not getattr(plain, name)
        assert own == (name in guard.TWINS[group]), name
    assert set(guard.TWINS[group]) <= set(vector.__all__)


@jitted
@pytest.mark.parametrize("size", guard.VECTOR_BYTES)
@pytest.mark.parametrize("name", CASES)
def test_engines_in_vectors_of_every_length(name, size, reports):
    """Those of 32 bytes, where it can be had, as on a CPU without AVX-512."""
    if size == OWN_BYTES:
        guard.check_case(name)
        return
    report = reports(f"{size} bytes")
    assert f"KERNELS vectors of {size} bytes" in report.text
    report.check(name)


@jitted
@pytest.mark.skipif(not RESTRICTED, reason="needs AVX-512, to leave it out")
def test_a_restricted_cpu_is_asked_for_its_own_registers(reports):
    reports("32 bytes").check("registers of 32 bytes")


def test_vector_bytes_are_checked(monkeypatch):
    monkeypatch.setenv("XFACCEL_VECTOR_BYTES", "48")
    with pytest.raises(ValueError, match="16, 32 or 64, got '48'"):
        vector.vector_bytes()


# 2**x


@pytest.mark.unjitted
@pytest.mark.parametrize("dtype", DTYPES)
def test_exp2_is_within_two_units_of_the_last_place(dtype):
    """The plain form; the vectors' is among the comparisons above."""
    guard.check_exp2(features_plain.weigh, np.dtype(dtype).type, 200 if config.DISABLE_JIT else 1 << 16)


# forbidden pages and bounds


@jitted
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_engine_reads_or_writes_beside_its_arrays(dtype, reports):
    report = reports(f"engines {dtype}")
    report.check()
    assert len(report.begun) > 300


@jitted
@pytest.mark.parametrize("side", guard.SIDES)
def test_one_element_too_far_ends_the_process(side, reports):
    reports(f"overrun at the {side}, none").check("inside")
    report = reports(f"overrun at the {side}, too far")
    assert report.status < 0, "the overrun went unnoticed"
    with pytest.raises(AssertionError, match="in: outside"):
        report.check()


@jitted
@pytest.mark.parametrize("name", [*SMALL, "an index out of bounds is noticed"])
def test_plain_loops_stay_within_bounds(name, reports):
    report = reports("bounds")
    assert "KERNELS plain loops" in report.text
    report.check(name)


# helper threads


def large(rng, n=300):
    """q, k, v of several tiles, enough work for a helper."""
    return tuple(rng.standard_normal((2, n, 16)).astype(np.float32) for _ in range(3))


CALLS = {  # a call of each engine that is worth a helper
    "softmax": lambda q, k, v: xfaccel.attention(q, k, v),
    "scan": lambda q, k, v: xfaccel.linear_transformer(*(np.tile(x, (4, 1)) for x in (q, k, v))),
    "product": lambda q, k, v: xfaccel.linformer(
        q, k, v, key_projection=q[0, :, :1].T * k[0, :60, :1], value_projection=v[0, :60, :1] * q[0, :, 0]),
}

# of the records of the jobs below: threads that came, threads that may go
CAME, GO = 0, 8
LONG = 1 << 31  # looks, about half a minute: what is waited for does come


@njit(nogil=True)
def reaches(place, value, looks=LONG):
    for _ in range(looks):
        if peek(place) >= value:
            return
        pause()


@njit(nogil=True)
def hold(job, _, __, ___, zero):
    """Come, and stay until told to go."""
    fetch_add(job + CAME, 1)
    reaches(job + GO, 1)
    return 0


@njit(nogil=True)
def meet(job, _, __, ___, zero):
    """The first to come waits for a second, who lets it go and stays some milliseconds."""
    if fetch_add(job + CAME, 1) == 0:
        reaches(job + CAME, 2)
    else:
        for _ in range(200_000):
            pause()
        fetch_add(job + GO, 1)
    return 0


@njit(nogil=True)
def linger(job, _, __, ___, zero):
    """Wait some milliseconds for a second to come."""
    fetch_add(job + CAME, 1)
    reaches(job + CAME, 2, 1 << 17)
    return 0


def share(kernel, job, helpers):
    """A job that cannot do without its helpers: one that falls asleep as it is posted is woken too."""
    done = threading.Event()

    def wake():
        while not done.wait(0.001):
            threads._WAKE.put(None)

    waker = threading.Thread(target=wake)
    if helpers:
        waker.start()
    try:
        threads.run(kernel, job, (None, None, None), np.float32(0), helpers)
    finally:
        done.set()
        if helpers:
            waker.join()


def cleared():
    """Whether the board comes to hold nothing beside the number of sleeping helpers.

    A helper that looked at a job just before its caller took it down may still be on its way out.
    """
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        board = threads._BOARD.copy()
        slots = board[threads.FIRST // 8:].reshape(-1, threads._SLOT // 8)
        if board[threads.WANTED // 8] == 0 and not slots[:, :threads.KERNEL // 8].any():
            return True
        time.sleep(0.001)
    return False


@pytest.fixture
def two_threads(monkeypatch):
    """Every job of two tiles is worth one helper, whatever its size and this machine's cores."""
    monkeypatch.setattr(threads, "worth", lambda multiplications, items: min(2, items))


@jitted
@pytest.mark.parametrize("engine", CALLS)
def test_a_call_leaves_nothing_for_helpers_that_come_late(engine, rng, two_threads):
    args, asked = large(rng), []
    with mock.patch.object(threads, "run", wraps=threads.run) as ran:
        right = CALLS[engine](*args).tobytes()
        asked = [call.args[-1] for call in ran.call_args_list]
    assert any(asked), "no job was worth a helper"
    for _ in range(20):
        assert CALLS[engine](*args).tobytes() == right
        assert cleared()


@jitted
def test_a_caller_waits_for_the_helper_that_is_inside():
    for _ in range(5):
        job = np.zeros(2, np.int64)
        share(meet, job, 1)
        assert job.tolist() == [2, 1], "the caller was gone before its helper"
        assert cleared()


@jitted
def test_a_helper_that_sleeps_is_woken():
    share(meet, np.zeros(2, np.int64), 1)
    deadline, job = time.monotonic() + 60, np.zeros(1, np.int64)
    # on a busy machine a helper may run, and sleep again, between the call that wakes it and the job
    while job[CAME // 8] < 2:
        while threads._WAKE.qsize() or threads._BOARD[threads.ASLEEP // 8] < len(threads._STARTED):
            assert time.monotonic() < deadline, "helpers stay awake with nothing to do"
            time.sleep(0.001)
        assert time.monotonic() < deadline, "no helper came"
        job[:] = 0
        threads.run(linger, job, (None, None, None), np.float32(0), 1)


@jitted
def test_busy_helpers_keep_no_caller_waiting(rng, two_threads):
    """Helpers that another job holds up, as a thread does that the system has not woken yet."""
    helpers = max(len(threads._STARTED), 1)
    q, k, v = large(rng)
    right = xfaccel.attention(q, k, v).tobytes()
    job = np.zeros(2, np.int64)
    caller = threading.Thread(target=share, args=(hold, job, helpers))
    caller.start()
    try:
        deadline = time.monotonic() + 60
        while job[CAME // 8] < 1 + helpers:
            assert time.monotonic() < deadline, f"{job[0]} threads came"
            time.sleep(0.001)
        for _ in range(20):
            assert xfaccel.attention(q, k, v).tobytes() == right
        assert caller.is_alive()
    finally:
        job[GO // 8] = 1
        caller.join(60)
    assert not caller.is_alive() and cleared()
    assert xfaccel.attention(q, k, v).tobytes() == right


@jitted
def test_callers_share_one_helper(rng, two_threads):
    """Twice as many callers as the board has slots."""
    q, k, v = large(rng)
    right = xfaccel.attention(q, k, v).tobytes()
    callers = 2 * threads._SLOTS
    barrier = threading.Barrier(callers)

    def caller(_):
        barrier.wait(60)
        return all(xfaccel.attention(q, k, v).tobytes() == right for _ in range(20))

    with ThreadPoolExecutor(callers) as pool:
        assert all(pool.map(caller, range(callers)))
    assert cleared()


@jitted
def test_a_caller_that_finds_no_free_slot_does_its_job_alone():
    slots = threads._BOARD[threads.FIRST // 8:].reshape(-1, threads._SLOT // 8)
    job = np.array([1, 1], np.int64)  # who comes next does not wait
    assert cleared()
    slots[:, threads.TAKEN // 8] = 1
    try:
        threads.run(meet, job, (None, None, None), np.float32(0), 1)
        assert job.tolist() == [2, 2] and not slots[:, threads.FREE // 8].any()
        assert threads._BOARD[threads.WANTED // 8] == 0
    finally:
        slots[:, threads.TAKEN // 8] = 0


@jitted
def test_without_helpers_nothing_is_posted():
    job = np.array([1, 1], np.int64)  # who comes next does not wait
    started = len(threads._STARTED)
    share(meet, job, 0)
    assert job.tolist() == [2, 2] and len(threads._STARTED) == started and cleared()


@pytest.mark.unjitted
def test_steps_that_no_thread_divides():
    cell = np.array([5, 7], np.int64)
    place = cell.ctypes.data
    assert memory_steps(place) == (True, False, 3, 4)
    assert cell.tolist() == [4, 9]


def memory_steps(place):
    steps = _steps if config.DISABLE_JIT else njit(_steps)
    return steps(place)


def _steps(place):
    first, second = compare_swap(place, 5, 3), compare_swap(place, 5, 8)
    before = fetch_add(place, 1)
    store_int(place + 8, 9)
    return first, second, before, peek(place)


@pytest.mark.unjitted
def test_the_tightest_bound_counts_and_is_named(monkeypatch):
    monkeypatch.setattr(config, "DISABLE_JIT", 0)
    monkeypatch.setattr(threads, "_affinity", lambda: 8)
    monkeypatch.setattr(threads, "_quota", lambda: None)
    monkeypatch.setattr(threads, "_ASKED", None)
    found = lambda: (threads.available(), threads.reason())
    assert found() == (8, "cores this process may run on")
    monkeypatch.setattr(threads, "_quota", lambda: 6)
    assert found() == (6, "cgroup quota")
    monkeypatch.setattr(threads, "_ASKED", 4)
    assert found() == (4, "NUMBA_NUM_THREADS")
    with threads.limited(3):
        assert found() == (3, "limited by the caller")
        with threads.limited(5):
            assert found() == (4, "NUMBA_NUM_THREADS")
    with pytest.raises(RuntimeError), threads.limited(2):
        raise RuntimeError
    assert found() == (4, "NUMBA_NUM_THREADS")
    monkeypatch.setattr(config, "DISABLE_JIT", 1)
    assert found() == (1, "NUMBA_DISABLE_JIT")


@pytest.mark.unjitted
def test_a_limit_is_that_of_its_thread_alone():
    before, found = threads.available(), []
    with threads.limited(1):
        other = threading.Thread(target=lambda: found.append(threads.available()))
        other.start()
        other.join(60)
    assert found == [before]


@pytest.mark.unjitted
@pytest.mark.parametrize("files, cores", [
    ({"cpu.max": "max 100000\n"}, None),
    ({"cpu.max": "250000 100000\n"}, 2),
    ({"cpu.max": "50000 100000\n"}, 1),
    ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
    ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
    ({}, None),
])
def test_the_quota_of_either_cgroup_version_is_read(files, cores, tmp_path, monkeypatch):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(threads, "Path", lambda path: tmp_path / Path(path).relative_to("/sys/fs/cgroup"))
    assert threads._quota.__wrapped__() == cores
