"""What only whole processes show: threads, forks, caches, memory and imports.

Most tests run a program of their own in a fresh process, with the cache folder of this run, so that one
test's threads and compiled code are not another's.
"""

import itertools
import os
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import paths
import pytest
from cases import UNJITTED_VARIANTS, VARIANTS, Shape, draw_qkv, function_of, options_of
from compare import assert_matches, expected

import xfaccel
from xfaccel.engine.cpu import cache, threads

ROOT = Path(__file__).parents[1]
SETTINGS = ("NUMBA_NUM_THREADS", "NUMBA_DISABLE_JIT", "XFACCEL_CACHE_DIR", "PYTHONPATH")

PROGRAM = """
    import numpy as np
    import xfaccel

    def one():
        # the weight of the second of two keys, one score 2 below the other: compiles one kernel
        column = lambda *x: np.array(x, np.float32)[:, None]
        return float(xfaccel.attention(column(1), column(0, -2), column(0, 1), scale=1.0)[0, 0])
"""
ONE = 1 / (1 + np.exp(2))

each_path = pytest.mark.parametrize("name", paths.PATHS)


@pytest.fixture(scope="module")
def right_digest():
    """What `paths.digest` gives on one thread."""
    with paths.on(1):
        return paths.digest()


def own_place(root=ROOT):
    """Settings of a process that runs this code with the kernels that this process keeps."""
    return {"PYTHONPATH": os.pathsep.join([str(root), str(ROOT / "tests")]),
            "XFACCEL_CACHE_DIR": str(cache.folder().parent)}


def python(code, *, root=ROOT, **settings):
    """The output of a program that begins with PROGRAM, in a fresh process."""
    env = {name: x for name, x in os.environ.items() if name not in SETTINGS}
    env |= own_place(root)
    env |= {name: str(x) for name, x in settings.items()}
    env = {name: x for name, x in env.items() if x != ""}
    program = textwrap.dedent(PROGRAM) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-W", "error", "-B", "-c", program], capture_output=True,
                          text=True, env=env, cwd=root, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


# the paths


@each_path
def test_a_path_is_taken_by_its_call_and_right(name):
    call = paths.call(name)
    assert name in paths.ways(call.bits)
    assert_matches(call.own(xfaccel, call.args, call.kwargs), *expected(call.own, call.args, call.kwargs))


def test_no_variant_takes_another_path_and_those_without_compilation_take_all(rng):
    hidden, causal = dict(key_mask=rng.random(19) < 0.7), dict(causal=True)

    def calls_of(labels):
        for label, shape in itertools.product(labels, (Shape(19, 19), Shape(4, 19))):
            if not VARIANTS[label].fitting(shape.n, shape.m):
                continue
            args, options = draw_qkv(rng, np.float32, shape), options_of(label, rng, shape)
            for own in ({}, hidden, *([causal, causal | hidden] if VARIANTS[label].causal else [])):
                function_of(xfaccel, label)(*args, **options | own)

    known = paths.ways(lambda: [paths.call(name).bits() for name in paths.PATHS])
    every = paths.ways(lambda: calls_of(VARIANTS))
    assert every <= known
    assert paths.ways(lambda: calls_of(UNJITTED_VARIANTS)) == every


# threads


@each_path
def test_one_thread_and_two_give_the_same_bits_fifty_times(name):
    call = paths.call(name)
    with paths.on(1):
        right = call.bits()
    assert paths.repeated(call, 50) == {right}


def test_sixteen_concurrent_callers_get_the_right_results():
    names = list(paths.PATHS)
    work = [[paths.call(name, seed) for name in names] for seed in range(4)]
    with paths.on(1):
        right = [[call.bits() for call in calls] for calls in work]
    barrier, wrong = threading.Barrier(16), []

    def caller(number):
        seed, first = number % 4, number * len(names) // 16
        barrier.wait(60)
        for place in (*range(first, len(names)), *range(first)):
            if work[seed][place].bits() != right[seed][place]:
                wrong.append(names[place])

    with paths.on(3), ThreadPoolExecutor(16) as pool:
        list(pool.map(caller, range(16)))
    assert not wrong


def test_an_error_in_one_caller_leaves_the_others_alone():
    call = paths.call("softmax: full")
    q, k, v = call.args

    def caller(number):
        if number % 2:
            with pytest.raises(ValueError):
                xfaccel.attention(q, k[..., :3], v)
            return True
        return call.bits() == right

    with paths.on(2), ThreadPoolExecutor(8) as pool:
        right = call.bits()
        assert all(pool.map(caller, range(64)))


def test_numba_num_threads_is_respected():
    code = """
        from xfaccel.engine.cpu import threads
        print(threads.available(), one())
    """
    available, result = python(code, NUMBA_NUM_THREADS=1).split()
    assert available == "1" and abs(float(result) - ONE) < 1e-6


def test_affinity_is_respected_also_when_it_shrinks_after_use():
    code = """
        import os
        import paths
        from xfaccel.engine.cpu import threads
        call = paths.call("softmax: full")
        with paths.on(2):
            first = call.bits()
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print(threads.available(), call.bits() == first)
    """
    assert python(code).split() == ["1", "True"]


def test_limited_bounds_the_threads_of_its_block_alone():
    before = threads.available()
    assert 1 <= before <= len(os.sched_getaffinity(0))
    with threads.limited(1):
        assert threads.available() == 1
        with threads.limited(64):
            assert threads.available() <= before
    assert threads.available() == before
    with pytest.raises(ValueError, match="0"), threads.limited(0):
        pass


# forks


def test_forked_children_give_the_right_results(right_digest):
    """Of a parent at rest, then of one whose threads compute."""
    code = """
        import os, threading, time
        import paths

        def digest_of_a_child():
            read, write = os.pipe()
            child = os.fork()
            if not child:
                status = 1
                try:
                    os.write(write, paths.digest().encode())
                    paths.repeated(paths.call("softmax: full"), 1)  # with helpers of its own
                    status = 0
                finally:
                    os._exit(status)
            os.close(write)
            found = os.read(read, 64).decode()
            os.close(read)
            assert os.waitpid(child, 0)[1] == 0
            return found

        def busy():
            while not stop.is_set():
                paths.digest()

        with paths.on(2):
            print(paths.digest(), digest_of_a_child(), paths.digest())
            stop = threading.Event()
            others = [threading.Thread(target=busy) for _ in range(4)]
            for other in others:
                other.start()
            for _ in range(4):
                time.sleep(0.02)
                print(digest_of_a_child())
            stop.set()
            for other in others:
                other.join()
    """
    assert python(code).split() == [right_digest] * 7


def test_worker_processes_give_the_right_results(right_digest, tmp_path):
    main = tmp_path / "main.py"
    main.write_text(textwrap.dedent("""
        import multiprocessing
        import paths

        def work(_):
            with paths.on(2):
                return paths.digest()

        if __name__ == "__main__":
            print(work(0))
            for method in ("fork", "spawn", "forkserver"):
                with multiprocessing.get_context(method).Pool(2) as pool:
                    print(*pool.map(work, range(4), 1))
    """))
    done = subprocess.run([sys.executable, str(main)], capture_output=True, text=True, timeout=120,
                          env=os.environ | own_place())
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == [right_digest] * 13


# the cache

UNOPTIMISED = dict(NUMBA_OPT=0)  # where code is compiled anew, that takes most of the time
FOLDER = """
    from xfaccel.engine.cpu import cache
    print(cache.folder(), one())
"""


def is_root():
    return hasattr(os, "geteuid") and os.geteuid() == 0


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def folder_of(**settings):
    """The cache folder of a process that also gives the right result."""
    found, result = python(FOLDER, **UNOPTIMISED, **settings).split()
    assert abs(float(result) - ONE) < 1e-6
    return Path(found)


def test_the_cache_folder_is_private_and_filled(tmp_path):
    folder = folder_of(XFACCEL_CACHE_DIR=tmp_path / "here")
    assert folder.parent == tmp_path / "here"
    assert mode(folder) == 0o700 and folder.stat().st_uid == os.getuid()
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("*.nb[ic]")}
    assert kept, "nothing was kept"
    # a second process finds everything there: it writes nothing
    assert folder_of(XFACCEL_CACHE_DIR=tmp_path / "here") == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.nb[ic]")} == kept


@pytest.fixture
def choose(tmp_path, monkeypatch):
    """The folder that a process with these settings would choose; temporary ones lie in `tmp_path`."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def chosen(**settings):
        for name, x in settings.items():
            monkeypatch.setenv(name, str(x))
        return cache._choose.__wrapped__()[0]

    return chosen


def test_the_cache_lies_in_xdg_cache_home_or_in_the_home_folder(tmp_path, choose):
    home = tmp_path / "home"
    home.mkdir()
    assert choose(XFACCEL_CACHE_DIR="", XDG_CACHE_HOME=tmp_path / "xdg",
                  HOME=home).parent == tmp_path / "xdg" / "xfaccel"
    assert choose(XDG_CACHE_HOME="").parent == home / ".cache" / "xfaccel"


def test_a_parent_that_others_can_write_is_refused(tmp_path):
    """Numba's cache is pickle: whoever can put a file there runs code here."""
    parent = tmp_path / "open"
    parent.mkdir()
    parent.chmod(0o777)
    folder = folder_of(XFACCEL_CACHE_DIR=parent, TMPDIR=tmp_path)
    assert folder.parent != parent and not any(parent.rglob("*.nb[ic]"))
    assert not folder.exists(), "the private temporary folder outlives its process"


@pytest.mark.parametrize("bits", [0o770, 0o722, 0o702])
def test_a_parent_that_some_others_can_write_is_refused(tmp_path, choose, bits):
    parent = tmp_path / "open"
    parent.mkdir()
    parent.chmod(bits)
    assert choose(XFACCEL_CACHE_DIR=parent).parent == tmp_path


def test_a_cache_folder_that_others_can_write_is_refused(tmp_path, choose):
    first = choose(XFACCEL_CACHE_DIR=tmp_path / "here")
    assert first.parent == tmp_path / "here"
    first.chmod(0o777)
    second = choose()
    assert second.parent == tmp_path and mode(second) == 0o700


def test_a_cache_folder_that_is_a_link_is_not_trusted_blindly(tmp_path, choose):
    """A link planted in place of the folder must not lead to a folder that others can write."""
    name = choose(XFACCEL_CACHE_DIR=tmp_path / "one").name
    target, parent = tmp_path / "target", tmp_path / "two"
    target.mkdir()
    target.chmod(0o777)
    parent.mkdir(mode=0o700)
    (parent / name).symlink_to(target)
    assert choose(XFACCEL_CACHE_DIR=parent).resolve() != target.resolve()


def test_a_read_only_home_gives_the_right_results(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o500)
    if is_root():  # root writes everywhere: a file in the way of the folder is as final
        home.chmod(0o700)
        (home / ".cache").write_text("")
    try:
        folder = folder_of(XFACCEL_CACHE_DIR="", XDG_CACHE_HOME="", HOME=home, TMPDIR=tmp_path)
    finally:
        home.chmod(0o700)
    assert not folder.is_relative_to(home)


def test_a_home_that_cannot_exist_gives_a_private_folder(tmp_path, choose):
    (tmp_path / "file").write_text("")
    found = choose(XFACCEL_CACHE_DIR="", XDG_CACHE_HOME="", HOME=tmp_path / "file" / "home")
    assert found.parent == tmp_path


def test_an_upgraded_package_does_not_run_the_old_kernels(tmp_path):
    """A helper in another file than the cached function changes: Numba's own cache would not notice."""
    copy = tmp_path / "copy"
    copy.mkdir()
    source = ROOT / "xfaccel"
    for path in sorted(source.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            target = copy / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    code = "print(one())"
    settings = dict(root=copy, XFACCEL_CACHE_DIR=tmp_path / "cache", **UNOPTIMISED)
    assert abs(float(python(code, **settings)) - ONE) < 1e-6
    helper = copy / "xfaccel" / "engine" / "cpu" / "exponential.py"
    text, status = helper.read_text(), helper.stat()
    # below this power of two a weight is zero: the second key is to vanish
    changed = text.replace("LOWEST = -126.0", "LOWEST = -1.0")
    assert changed != text
    helper.write_text(changed)
    os.utime(helper, ns=(status.st_atime_ns, status.st_mtime_ns))  # an unpacked archive may keep old dates
    assert float(python(code, **settings)) == 0, "the old kernel ran"
    assert len(list((tmp_path / "cache").iterdir())) == 2
    helper.write_text(text)
    assert abs(float(python(code, **settings)) - ONE) < 1e-6


# memory and imports

N = 16_384
GROWTH = """
    import gc

    def memory(name):
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))

    def growth(call, n):
        q, k, v = (np.random.default_rng(i).standard_normal((n, 16)).astype(np.float32) for i in range(3))
        call(q[:256], k[:256], v[:256], 256)  # compile
        gc.collect()
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak starts again from here
        before = memory("VmRSS")
        call(q, k, v, n)
        return memory("VmHWM") - before
"""
SUBQUADRATIC = {
    "attention": ("attention", ""),  # its time is quadratic, its memory is not
    "attention, causal": ("attention", "causal=True"),
    "attention, window pattern": ("attention", "mask=xfaccel.patterns.window(n, left=64, right=64)"),
    "attention, window and stride": (
        "attention", "mask=xfaccel.patterns.window(n, left=64, right=0) | xfaccel.patterns.strided(n, 128)"),
    "block_local": ("block_local", "block=128, before=1"),
    "sliding_window": ("sliding_window", "left=128, right=128"),
    "sliding_window, dilated": ("sliding_window", "left=64, right=64, dilation=4"),
    "longformer": ("longformer", "window=256, global_tokens=[0, n // 2]"),
    "longformer, causal": ("longformer", "window=256, global_tokens=[0, n // 2], causal=True"),
    "linformer": ("linformer", "key_projection=np.ones((64, n), np.float32), "
                               "value_projection=np.ones((64, n), np.float32)"),
    "linear_transformer": ("linear_transformer", ""),
    "linear_transformer, causal": ("linear_transformer", "causal=True"),
    "performer": ("performer", "projection=np.ones((32, 16), np.float32)"),
    "performer, causal": ("performer", "projection=np.ones((32, 16), np.float32), causal=True"),
}


@pytest.fixture(scope="module")
def grown():
    """Bytes by which each variant raises the peak of its process at n = N."""
    calls = "\n".join(f"    print(growth(lambda q, k, v, n: xfaccel.{function}(q, k, v, {options}), {N}))"
                      for function, options in SUBQUADRATIC.values())
    return dict(zip(SUBQUADRATIC, map(int, python(GROWTH + calls).split()), strict=True))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("name", SUBQUADRATIC)
def test_extra_memory_is_linear_in_the_length(name, grown):
    # n x n booleans alone would be 256 MiB; linear means some rows of 16 or 64 numbers per position
    assert grown[name] < 1024 * N, f"{grown[name] / N:.0f} bytes per position"


def test_importing_compiles_nothing_and_makes_no_thread_and_no_output():
    code = """
        import sys, threading
        from numba.core.dispatcher import Dispatcher
        assert threading.active_count() == 1
        found = [(name, x) for name, module in sys.modules.items() if name.split(".")[0] == "xfaccel"
                 for x in vars(module).values() if isinstance(x, Dispatcher)]
        compiled = lambda: [name for name, x in found if x.overloads]
        assert not compiled(), compiled()
        one()
        print(len(compiled()))
    """
    # after use some are compiled: the test looks at the right place
    assert int(python(code)) > 0
