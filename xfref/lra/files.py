"""Opening a data file that somebody else wrote: what listops and text share."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO


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
