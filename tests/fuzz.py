"""Broken files for every reader of xfref.lra: `python tests/fuzz.py [seconds] [reader ...] [seed]`.

Each reader gets files of its own format that were changed at random, for so many seconds (default 600). What
it may do is give its examples, or raise one ValueError that names a file of the folder it was given. Anything
else is a fault, as are a reading of more than ten seconds and memory beyond the limit: the folder is kept and
its place printed, and the exit status is 1.
"""

import gzip
import itertools
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "lra"))
from test_pixels import array, batch, draw

from xfref.lra import (
    files,
    listops,
    pathfinder,
    pixels,
    png,
    retrieval,
    streams,
    text,
)

MEMORY = 1 << 30  # bytes beyond what the process has when it begins: above every default cap of one file
LONGEST = 10      # seconds of a reading
WORDS = [b"", b"\t", b"\n", b"\0", b"\xff", b"-1", b"0", b"999999999999999999999", b"../", b"/etc/passwd",
         b"nan", b"( ", b" )", b"[MAX", b"IHDR", b"IDAT", b"\x80\x02", b"\x1f\x8b\x08", b"\xff\xff\xff\x7f"]


def listops_file(folder: Path, rng) -> Callable[[], object]:
    listops.write_tsv(folder / "basic.tsv", itertools.islice(listops.generate(
        int(rng.integers(99)), max_depth=4, max_args=4, min_length=4, max_length=60), 5))
    return lambda: list(listops.read_tsv(folder / "basic.tsv"))


def pairs_file(folder: Path, rng):
    pairs = [(1, "a", "b", "one text", "another"), (0, "c", "d", "x y", "z")]
    retrieval.write_tsv(folder / "pairs.tsv", pairs)
    return lambda: list(retrieval.read_tsv(folder / "pairs.tsv"))


def manual(folder: Path, rng):
    page = b'.TH OPEN 2\n.SH NAME\nopen \\- open a file\n.SH "SEE ALSO"\n.BR close (2),\n.BR read (2)\n'
    for name in ("open.2", "close.2"):
        (folder / name).write_bytes(page.replace(b"open", name[:-2].encode()))
    (folder / "read.2.gz").write_bytes(gzip.compress(page))
    return lambda: retrieval.read_pages(folder)


def cifar(folder: Path, rng):
    rows, labels = draw(4, int(rng.integers(99)))
    (folder / "data_batch_1").write_bytes(batch(array(rows), labels))
    return lambda: pixels.read_cifar_batch(folder / "data_batch_1")


def idx(folder: Path, rng):
    data = b"\0\0\x08\x03" + np.array([3, 4, 5], ">i4").tobytes() + rng.bytes(60)
    (folder / "images-idx3-ubyte").write_bytes(gzip.compress(data) if rng.random() < 0.5 else data)
    return lambda: pixels.read_idx(folder / "images-idx3-ubyte")


def picture(folder: Path, rng):
    png.write(folder / "picture.png", rng.integers(0, 256, (7, 9), dtype=np.uint8))
    return lambda: png.read(folder / "picture.png")


def paths(folder: Path, rng):
    p = pathfinder.parameters(16)
    shutil.rmtree(folder)
    pathfinder.write_folder(folder, itertools.islice(pathfinder.generate(int(rng.integers(9)), p), 2), p)
    return lambda: list(pathfinder.read_folder(folder))


def texts(folder: Path, rng):
    for label in ("neg", "pos"):
        (folder / label).mkdir()
        (folder / label / "0_1.txt").write_bytes(b"a review of a film")
    return lambda: list(text.read_folder(folder, 0))


def stream(folder: Path, rng):
    (folder / "text8").write_bytes(b"some words " * 50)
    return lambda: list(streams.windows(folder / "text8", "train", 16))


def packed(folder: Path, rng):
    (folder / "file.gz").write_bytes(gzip.compress(b"text" * 100))
    return lambda: files.read_unzipped(folder / "file.gz", 10_000)


READERS = {"listops": listops_file, "pairs": pairs_file, "manual": manual, "cifar": cifar, "idx": idx,
           "png": picture, "pathfinder": paths, "text": texts, "stream": stream, "gzip": packed}


def changed(data: bytes, rng) -> bytes:
    """A few random changes: of bits, bytes and lengths, words that a format knows, pieces twice."""
    data = bytearray(data)
    for _ in range(rng.geometric(0.5)):
        at, to = sorted(rng.integers(0, len(data) + 1, 2).tolist())
        kind = rng.integers(7)
        if kind == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << int(rng.integers(8))
        elif kind == 1 and data:
            data[min(at, len(data) - 1)] = int(rng.integers(256))
        elif kind == 2:
            del data[at:to]
        elif kind == 3:
            data[at:at] = data[at:to]
        elif kind == 4:
            word = WORDS[int(rng.integers(len(WORDS)))]
            data[at:at + len(word) * int(rng.integers(2))] = word
        elif kind == 5:
            data[at:at] = rng.bytes(int(rng.integers(40)))
        else:
            data[at:at + 4] = int(rng.choice([0, 1, 2**16, 2**31 - 1, 2**32 - 1])).to_bytes(4, "big")
    return bytes(data)


def taken(read: Callable[[], object], folder: Path) -> str:
    """ "taken", "refused", or what is wrong with how the reader took the folder."""
    signal.alarm(LONGEST)
    try:
        read()
    except ValueError as error:
        words = str(error)
        if str(folder) not in words or len(words) > 1000 or "\n" in words:
            return f"a ValueError that names no file, or not in one line of at most 1000: {words}"
        return "refused"
    except Exception:
        return traceback.format_exc()
    finally:
        signal.alarm(0)
    return "taken"


def run(name: str, seconds: float, seed: int) -> int:
    """The number of faults of a reader."""
    rng, count, refused, slowest, faults = np.random.default_rng(seed), 0, 0, 0.0, 0
    home, end = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-")), time.monotonic() + seconds
    while time.monotonic() < end:
        folder = home / "folder"
        folder.mkdir()
        read = READERS[name](folder, rng)
        if count == 0:
            read()  # what is not changed is taken
        inside = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        for path in rng.permutation(inside)[:rng.geometric(0.7)]:
            path.write_bytes(changed(path.read_bytes(), rng))
        began = time.monotonic()
        found = taken(read, folder)
        slowest, count = max(slowest, time.monotonic() - began), count + 1
        refused += found == "refused"
        if found not in ("taken", "refused"):
            kept = folder.rename(home / f"fault-{faults}")
            faults += 1
            print(f"{name}: {kept}\n{found}", flush=True)
        else:
            shutil.rmtree(folder)
    print(f"{name}: {count} folders, {refused} refused, slowest {slowest:.2f} s, {faults} faults", flush=True)
    if not faults:
        shutil.rmtree(home)
    return faults


def main(seconds: float = 600, *names: str) -> int:
    """All readers, or those named, one after another; a number among the names is the seed."""
    seed = next((int(name) for name in names if name.isdigit()), 0)
    chosen = [name for name in names if not name.isdigit()] or list(READERS)
    if unknown := set(chosen) - set(READERS):
        there = ", ".join(READERS)
        print(f"no such reader: {', '.join(sorted(unknown))}; there are {there}", file=sys.stderr)
        return 2

    def too_long(*_):
        raise TimeoutError(f"a reading took more than {LONGEST} s")

    signal.signal(signal.SIGALRM, too_long)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
    return int(sum(run(name, float(seconds), seed) for name in chosen) > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
