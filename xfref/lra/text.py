"""Text as bytes, the input of the byte-level text classification task.

"Long Range Arena: A Benchmark for Efficient Transformers", Tay et al., 2020, arXiv:2011.04006, section 2.2.2
and appendix A.1.2: a text is the sequence of its bytes, cut to a length or padded. The ids are those of the
released code: byte + 1, and 0 for padding, 257 in all.

Differs: the reviews of IMDb are not here. `standard_text` is English prose that every Python carries, enough
to run a model on; `read_text` takes any other file.
"""

import io
import os
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from .files import reading

VOCABULARY = 257


def encode(data: bytes, length: int) -> np.ndarray:
    """Ids (length,) of the first `length` bytes, int32, id = byte + 1, padded with 0 at the end.

    >>> encode(b"AB", 4)
    array([66, 67,  0,  0], dtype=int32)
    """
    ids = np.zeros(length, np.int32)
    head = np.frombuffer(data, np.uint8, count=min(len(data), length))
    ids[: len(head)] = head
    ids[: len(head)] += 1
    return ids


def byte_windows(source: bytes | BinaryIO, length: int) -> Iterator[np.ndarray]:
    """Yield `encode` of each `length` bytes in turn, no overlap; the last window is padded.

    `source` is bytes or a buffered binary file, of which one window at a time is in memory. Raises ValueError
    for a length below 1.

    >>> [window.tolist() for window in byte_windows(b"abc", 2)]
    [[98, 99], [100, 0]]
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    return (encode(data, length) for data in iter(lambda: file.read(length), b""))


def standard_text() -> bytes:
    """The help topics of the Python that runs, in the order of their names: about half a MB of English prose.

    The same at every call; another version of Python has a slightly different text.

    >>> len(standard_text()) > 300_000
    True
    """
    from pydoc_data.topics import topics  # here, as it is a large module that few callers need

    return "\n".join(topics[name] for name in sorted(topics)).encode()


def read_text(path: str | os.PathLike, *, max_bytes: int = 2**28) -> bytes:
    """The bytes of a text file in UTF-8 of at most `max_bytes` bytes.

    Raises ValueError with one line that names the file and why: missing, unreadable, a directory, not a
    regular file, too large (seen before reading), empty, binary (a NUL byte), not UTF-8.

    >>> read_text("no-such-file")
    Traceback (most recent call last):
    ValueError: 'no-such-file': No such file or directory
    """
    name = repr(os.fspath(path))
    with reading(path, max_bytes) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"{name}: holds more than max_bytes = {max_bytes}")
    if not data:
        raise ValueError(f"{name}: is empty")
    if b"\0" in data:
        raise ValueError(f"{name}: is binary, byte {data.index(0)} is NUL")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: is not UTF-8, byte {error.start} ({error.reason})") from error
    return data
