"""What only whole processes show: threads, forks, caches, memory and imports.

Most tests run a program of their own in a fresh process, with the cache folder of this run, so that one
test's threads and compiled code are not another's.
"""

import os
import stat
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from cases import STEPS, VARIANTS, Shape, draw_qkv, function_of

import xfaccel
import xfref
from xfaccel.engine.cpu import cache, threads

ROOT = Path(__file__).parents[1]
SETTINGS = ("NUMBA_NUM_THREADS", "NUMBA_DISABLE_JIT", "XFACCEL_CACHE_DIR", "PYTHONPATH")

# every engine in each of its forms, large enough for several tiles and both threads
PROGRAM = """
    import numpy as np
    import xfaccel

    def results(n=200, d=8):
        rng = np.random.default_rng(3)
        q, k, v = (rng.standard_normal((2, n, d)).astype(np.float32) for _ in range(3))
        e = rng.standard_normal((16, n)) / n
        w = rng.standard_normal((12, d))
        return [
            *xfaccel.attention_lse(q, k, v), xfaccel.attention(q, k, v, causal=True),
            xfaccel.sliding_window(q, k, v, left=20, right=3, dilation=np.array([1, 3])),
            xfaccel.block_local(q, k, v, block=30, before=1),
            xfaccel.longformer(q, k, v, window=16, global_tokens=[0, 90]),
            xfaccel.linformer(q, k, v, key_projection=e, value_projection=e),
            xfaccel.linear_transformer(q, k, v), xfaccel.linear_transformer(q, k, v, causal=True),
            xfaccel.performer(q, k, v, projection=w), xfaccel.performer(q, k, v, projection=w, causal=True),
            xfaccel.performer_step(None, q, k, v, projection=w)[1],
        ]

    def one():
        # the weight of the second of two keys, one score 2 below the other: compiles one kernel
        column = lambda *x: np.array(x, np.float32)[:, None]
        return float(xfaccel.attention(column(1), column(0, -2), column(0, 1), scale=1.0)[0, 0])

    def digest():
        import hashlib
        return hashlib.sha256(b"".join(x.tobytes() for x in results())).hexdigest()
"""


@pytest.fixture(scope="module")
def right_digest():
    """What PROGRAM gives in this process, checked against the reference."""
    space = {}
    exec(textwrap.dedent(PROGRAM), space)
    digest, fast = space["digest"](), space["results"]()
    space["xfaccel"] = xfref
    for a, b in zip(fast, space["results"](), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5, strict=True)
    return digest


def python(code, *, root=ROOT, **settings):
    """The output of a program that begins with PROGRAM, in a fresh process."""
    env = {name: x for name, x in os.environ.items() if name not in SETTINGS}
    env |= {"PYTHONPATH": str(root), "XFACCEL_CACHE_DIR": str(cache.folder().parent)}
    env |= {name: str(x) for name, x in settings.items()}
    env = {name: x for name, x in env.items() if x != ""}
    program = textwrap.dedent(PROGRAM) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-W", "error", "-B", "-c", program], capture_output=True,
                          text=True, env=env, cwd=root, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def arguments(label, n=200, lead=(2, 3)):
    variant, rng = VARIANTS[label], np.random.default_rng(11)
    return (draw_qkv(rng, np.float32, Shape(n, n, 8, 8, lead, lead), variant.size),
            variant.options(rng, n, n, 8, 8) | (dict(causal=True) if variant.causal else {}))


def bits(label, args, options):
    out = function_of(xfaccel, label)(*args, **options)
    return b"".join(x.tobytes() for x in out) if isinstance(out, tuple) else out.tobytes()


# threads


@pytest.mark.parametrize("label", VARIANTS)
def test_one_thread_and_two_give_the_same_bits(label):
    args, options = arguments(label)
    with threads.limited(1):
        alone = bits(label, args, options)
    with threads.limited(2):
        assert bits(label, args, options) == alone
    assert bits(label, args, options) == alone


@pytest.mark.parametrize("label", VARIANTS)
def test_a_hundred_repeats_give_the_same_bits(label):
    args, options = arguments(label)
    first = bits(label, args, options)
    for _ in range(100):
        assert bits(label, args, options) == first


@pytest.mark.parametrize("function", STEPS)
def test_steps_give_the_same_bits_on_one_thread_and_two_and_again(function):
    args, options = arguments(STEPS[function][0])
    options.pop("causal", None)
    step = getattr(xfaccel, function)

    def run():
        state, first = step(None, *(x[..., :90, :] for x in args), **options)
        state, second = step(state, *(x[..., 90:, :] for x in args), **options)
        return b"".join(x.tobytes() for x in (first, second, *state))

    with threads.limited(1):
        alone = run()
    for _ in range(20):
        assert run() == alone


def test_sixteen_concurrent_callers_get_the_right_results():
    work = [(label, *arguments(label, n=130, lead=(2,))) for label in VARIANTS]
    right = {label: bits(label, args, options) for label, args, options in work}
    barrier, wrong = threading.Barrier(16), []

    def caller(number):
        barrier.wait()
        for turn in range(4):
            for place in range(len(work)):
                label, args, options = work[(place + number + turn) % len(work)]
                if bits(label, args, options) != right[label]:
                    wrong.append(label)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(caller, range(16)))
    assert not wrong


def test_an_error_in_one_caller_leaves_the_others_alone():
    args, options = arguments("attention", n=130)
    right = bits("attention", args, options)

    def caller(number):
        if number % 2:
            with pytest.raises(ValueError):
                xfaccel.attention(args[0], args[1][..., :3], args[2])
            return True
        return bits("attention", args, options) == right

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(caller, range(64)))


def test_numba_num_threads_is_respected(right_digest):
    code = """
        from xfaccel.engine.cpu import threads
        print(threads.available(), digest())
    """
    assert python(code, NUMBA_NUM_THREADS=1).split() == ["1", right_digest]


def test_affinity_is_respected(right_digest):
    code = """
        import os
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        from xfaccel.engine.cpu import threads
        print(threads.available(), digest())
    """
    assert python(code).split() == ["1", right_digest]


def test_affinity_that_shrinks_after_use_is_respected(right_digest):
    code = """
        import os
        from xfaccel.engine.cpu import threads
        first = digest()
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print(threads.available(), first == digest(), first)
    """
    assert python(code).split() == ["1", "True", right_digest]


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


def test_a_forked_child_gives_the_right_results(right_digest):
    code = """
        import os
        first = digest()
        read, write = os.pipe()
        child = os.fork()
        if not child:
            status = 1
            try:
                os.write(write, digest().encode())
                status = 0
            finally:
                os._exit(status)
        os.close(write)
        found = os.read(read, 64).decode()
        assert os.waitpid(child, 0)[1] == 0
        print(first, found, digest())
    """
    assert python(code).split() == [right_digest] * 3


def test_a_fork_while_others_compute_gives_the_right_results(right_digest):
    code = """
        import os, threading, time
        digest()
        stop = threading.Event()

        def busy():
            while not stop.is_set():
                results()

        others = [threading.Thread(target=busy) for _ in range(4)]
        for other in others:
            other.start()
        found = []
        for _ in range(4):
            time.sleep(0.02)
            read, write = os.pipe()
            child = os.fork()
            if not child:
                status = 1
                try:
                    os.write(write, digest().encode())
                    status = 0
                finally:
                    os._exit(status)
            os.close(write)
            found.append(os.read(read, 64).decode())
            assert os.waitpid(child, 0)[1] == 0
        stop.set()
        for other in others:
            other.join()
        print(*found)
    """
    assert python(code).split() == [right_digest] * 4


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_worker_processes_give_the_right_results(method, right_digest, tmp_path):
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
    code = f"""
        import multiprocessing, sys
        sys.path.insert(0, {str(tmp_path)!r})
        import program
        if __name__ == "__main__":
            first = program.digest()
            with multiprocessing.get_context({method!r}).Pool(2) as pool:
                found = [pool.apply_async(program.digest) for _ in range(4)]
                print(first, *(x.get(100) for x in found))
    """
    main = tmp_path / "main.py"
    main.write_text(textwrap.dedent(code))
    env = os.environ | {"PYTHONPATH": str(ROOT), "XFACCEL_CACHE_DIR": str(cache.folder().parent)}
    done = subprocess.run([sys.executable, str(main)], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == [right_digest] * 5


# the cache

FOLDER = """
    from xfaccel.engine.cpu import cache
    print(cache.folder(), one())
"""
ONE = 1 / (1 + np.exp(2))


def is_root():
    return hasattr(os, "geteuid") and os.geteuid() == 0


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def folder_of(**settings):
    """The cache folder of a process that also gives the right result."""
    found, result = python(FOLDER, **settings).split()
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


def test_the_cache_lies_in_xdg_cache_home_or_in_the_home_folder(tmp_path):
    code = """
        from xfaccel.engine.cpu import cache
        print(cache.folder())
    """
    home = tmp_path / "home"
    home.mkdir()
    found = python(code, XFACCEL_CACHE_DIR="", XDG_CACHE_HOME=tmp_path / "xdg", HOME=home)
    assert Path(found).parent == tmp_path / "xdg" / "xfaccel"
    found = python(code, XFACCEL_CACHE_DIR="", XDG_CACHE_HOME="", HOME=home)
    assert Path(found).parent == home / ".cache" / "xfaccel"


def test_a_parent_that_others_can_write_is_refused(tmp_path):
    """Numba's cache is pickle: whoever can put a file there runs code here."""
    parent = tmp_path / "open"
    parent.mkdir()
    parent.chmod(0o777)
    folder = folder_of(XFACCEL_CACHE_DIR=parent, TMPDIR=tmp_path)
    assert folder.parent != parent and not any(parent.rglob("*.nb[ic]"))
    assert not folder.exists(), "the private temporary folder outlives its process"


@pytest.mark.parametrize("bits", [0o770, 0o722, 0o702])
def test_a_parent_that_some_others_can_write_is_refused(tmp_path, bits):
    parent = tmp_path / "open"
    parent.mkdir()
    parent.chmod(bits)
    code = """
        from xfaccel.engine.cpu import cache
        print(cache.folder().parent)
    """
    assert python(code, XFACCEL_CACHE_DIR=parent, TMPDIR=tmp_path) == str(tmp_path)


def test_a_cache_folder_that_others_can_write_is_refused(tmp_path):
    code = """
        import stat
        from xfaccel.engine.cpu import cache
        print(cache.folder(), oct(stat.S_IMODE(cache.folder().stat().st_mode)))
    """
    first, _ = python(code, XFACCEL_CACHE_DIR=tmp_path / "here").split()
    Path(first).chmod(0o777)
    second, second_mode = python(code, XFACCEL_CACHE_DIR=tmp_path / "here", TMPDIR=tmp_path).split()
    assert second != first and second_mode == "0o700"


def test_a_cache_folder_that_is_a_link_is_not_trusted_blindly(tmp_path):
    """A link planted in place of the folder must not lead to a folder that others can write."""
    code = """
        from xfaccel.engine.cpu import cache
        print(cache.folder())
    """
    name = Path(python(code, XFACCEL_CACHE_DIR=tmp_path / "one")).name
    target, parent = tmp_path / "target", tmp_path / "two"
    target.mkdir()
    target.chmod(0o777)
    parent.mkdir(mode=0o700)
    (parent / name).symlink_to(target)
    found = Path(python(code, XFACCEL_CACHE_DIR=parent, TMPDIR=tmp_path))
    assert found.resolve() != target.resolve()


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


def test_a_home_that_cannot_exist_gives_a_private_folder(tmp_path):
    (tmp_path / "file").write_text("")
    code = """
        from xfaccel.engine.cpu import cache
        print(cache.folder().parent)
    """
    settings = dict(XFACCEL_CACHE_DIR="", XDG_CACHE_HOME="", HOME=tmp_path / "file" / "home", TMPDIR=tmp_path)
    assert python(code, **settings) == str(tmp_path)


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
    settings = dict(root=copy, XFACCEL_CACHE_DIR=tmp_path / "cache")
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


def test_importing_compiles_nothing():
    code = """
        import sys
        from numba.core.dispatcher import Dispatcher
        found = [(name, x) for name, module in sys.modules.items() if name.split(".")[0] == "xfaccel"
                 for x in vars(module).values() if isinstance(x, Dispatcher)]
        compiled = lambda: [name for name, x in found if x.overloads]
        assert not compiled(), compiled()
        results()
        print(len(compiled()))
    """
    # after use some are compiled: the test looks at the right place
    assert int(python(code)) > 0


def test_importing_makes_no_thread_and_no_output():
    code = """
        import threading
        print(threading.active_count())
    """
    assert python(code) == "1"
