"""What the tasks of lra share: reading files that somebody else wrote and nobody trusts, parts, seeds."""

import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np


@contextmanager
def reading(path: str | os.PathLike, max_bytes: int) -> Iterator[BinaryIO]:
    """Open a regular file of at most `max_bytes` bytes for reading.

    Raises ValueError with one line that names the file: missing, unreadable, a directory, not a regular file,
    too large. An OSError inside the `with` body is reported in the same way. The size is checked before
    anything is read.

    >>> with reading("/", max_bytes=10) as file:
    ...     pass
    Traceback (most recent call last):
    ValueError: '/': is a directory
    """
    name = repr(os.fspath(path))  # repr keeps a name that holds a line break on one line
    try:
        info = os.stat(path)  # before open, which would wait for a writer on a named pipe
        if stat.S_ISDIR(info.st_mode):
            raise ValueError(f"{name}: is a directory")
        if not stat.S_ISREG(info.st_mode):
            raise ValueError(f"{name}: is not a regular file")
        if info.st_size > max_bytes:
            raise ValueError(f"{name}: holds {info.st_size} bytes, more than max_bytes = {max_bytes}")
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise ValueError(f"{name}: {error.strerror or error}") from error


def read_bytes(path: str | os.PathLike, max_bytes: int) -> bytes:
    """All of a file, of at most `max_bytes` bytes even if it grows while it is read or tells no size.

    Raises ValueError as `reading` does.
    """
    with reading(path, max_bytes) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"{os.fspath(path)!r}: holds more than max_bytes = {max_bytes}")
    return data


def read_unzipped(path: str | os.PathLike, max_bytes: int) -> bytes:
    """`read_bytes`, unpacked if its first two bytes are those of a gzip file: `max_bytes` bounds both sizes.

    Raises ValueError, with the name of the file, also for a gzip file that is broken, cut off or followed by
    anything else.
    """
    data = read_bytes(path, max_bytes)
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        return inflate(data, max_bytes, gzip=True)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)!r}: {error}") from error


def inflate(data: bytes, max_bytes: int, *, gzip: bool = False) -> bytes:
    """The bytes that a whole zlib stream, or gzip file of one member, holds: at most `max_bytes`.

    Raises ValueError for a stream that is broken, cut off, holds more, or is followed by anything else. A
    stream that would unpack to any size costs no more memory than `max_bytes`.

    >>> inflate(zlib.compress(bytes(1000)), 999)
    Traceback (most recent call last):
    ValueError: unpacks to more than 999 bytes
    """
    stream = zlib.decompressobj(31 if gzip else 15)
    try:
        plain = stream.decompress(data, max_bytes + 1)
    except zlib.error as error:
        raise ValueError(f"does not unpack: {error}") from error
    if len(plain) > max_bytes:
        raise ValueError(f"unpacks to more than {max_bytes} bytes")
    if not stream.eof:
        raise ValueError("is cut off")
    if stream.unused_data:
        raise ValueError(f"has {len(stream.unused_data)} bytes behind its end")
    return plain


def names_in(folder: str | os.PathLike, *, folders: bool = False, max_names: int = 10**6) -> list[str]:
    """The names of the regular files in a folder, or of its folders, sorted.

    Symbolic links, which may lead anywhere, and names that begin with a dot are left out. Raises ValueError
    with one line that names the folder: missing, unreadable, no folder, more than `max_names` entries.
    """
    name, found = repr(os.fspath(folder)), []
    try:
        with os.scandir(folder) as entries:
            for count, entry in enumerate(entries):
                if count == max_names:
                    raise ValueError(f"{name}: has more than {max_names} entries")
                kind = entry.is_dir if folders else entry.is_file
                if kind(follow_symlinks=False) and not entry.name.startswith("."):
                    found.append(entry.name)
    except OSError as error:
        raise ValueError(f"{name}: {error.strerror or error}") from error
    return sorted(found)


def split(count: int, shares: Sequence[int]) -> list[slice]:
    """Cut `count` examples in order into parts of so many per cent: slices, each border rounded down.

    >>> split(50_000, (90, 10))
    [slice(0, 45000, None), slice(45000, 50000, None)]
    """
    if sum(shares) != 100 or min(shares) < 0:
        raise ValueError(f"shares must be per cents that add up to 100, got {tuple(shares)}")
    borders = [count * sum(shares[:part]) // 100 for part in range(len(shares) + 1)]
    return [slice(*ends) for ends in zip(borders, borders[1:], strict=False)]


def generator(rng: np.random.Generator | int) -> np.random.Generator:
    """The generator of a seed, or the generator itself; None raises TypeError."""
    if rng is None:
        raise TypeError("rng must be a numpy Generator or a seed: None would not be reproducible")
    return np.random.default_rng(rng)
