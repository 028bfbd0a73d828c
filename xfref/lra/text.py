"""Text as bytes, the input of the byte-level text classification task.

"Long Range Arena: A Benchmark for Efficient Transformers", Tay et al., 2020, arXiv:2011.04006, section 2.2.2
and appendix A.1.2: a text is the sequence of its bytes, cut to a length or padded. The ids are those of the
released code: byte + 1, and 0 for padding, 257 in all.

The reviews of IMDb are read from their authors' folder (`read_imdb`), any other texts from a folder for
each label (`read_folder`). Without either, `standard_text` is English prose that every Python carries, enough
to run a model on.

Differs: the benchmark takes its test texts for validation too; here they are read once, as "test".
"""

import io
import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np

from .files import generator, names_in, read_bytes

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
    name, data = repr(os.fspath(path)), read_bytes(path, max_bytes)
    if not data:
        raise ValueError(f"{name}: is empty")
    if b"\0" in data:
        raise ValueError(f"{name}: is binary, byte {data.index(0)} is NUL")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: is not UTF-8, byte {error.start} ({error.reason})") from error
    return data


def read_folder(
    folder: str | os.PathLike,
    rng: np.random.Generator | int,
    *,
    labels: Sequence[str] | None = None,
    max_bytes: int = 2**22,
    max_files: int = 10**6,
) -> Iterator[tuple[bytes, int]]:
    """Yield text and label of every file, in a random order; `folder` has a folder of texts for each label.

    A label is the index of its folder's name in `labels`, or without them among all names, sorted. `rng` is a
    generator or a seed; the same seed gives the same order. Links and names that begin with a dot are left
    out.

    Raises TypeError without a seed; ValueError that names the folder if it is none, has none for a label or
    has no file in it; and, once that file's turn comes, what `read_text` raises. Cost: the names of all files
    in memory, and one text at a time.
    """
    rng = generator(rng)
    names = names_in(folder, folders=True, max_names=max_files) if labels is None else labels
    if not names:
        raise ValueError(f"{os.fspath(folder)!r}: has no folder, and one for each label is due")
    files = []
    for label, name in enumerate(names):
        inside = os.path.join(folder, name)
        found = [(os.path.join(inside, file), label) for file in names_in(inside, max_names=max_files)]
        if not found:
            raise ValueError(f"{inside!r}: has no file")
        files += found
    order = rng.permutation(len(files))
    return ((read_text(files[i][0], max_bytes=max_bytes), files[i][1]) for i in order)


def read_imdb(
    folder: str | os.PathLike, part: str, rng: np.random.Generator | int
) -> Iterator[tuple[bytes, int]]:
    """Yield review and label, 0 for neg and 1 for pos, of a `part` of the folder aclImdb: "train" or "test".

    25 000 reviews each, in a random order as in `read_folder`, which raises what is wrong. The reviews
    without a label, in unsup, are left out.
    """
    if part not in ("train", "test"):
        raise ValueError(f"part must be 'train' or 'test', got {part!r}")
    return read_folder(os.path.join(folder, part), rng, labels=("neg", "pos"))
