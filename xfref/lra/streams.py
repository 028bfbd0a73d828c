"""Long streams of bytes, text8 and enwik8, of which a language model predicts the next byte.

No task of Long Range Arena, but the one that most papers on long sequences are measured by, such as "Adaptive
Attention Span in Transformers", Sukhbaatar et al., 2019, arXiv:1905.07799. Both files are of Matt Mahoney's
Large Text Compression Benchmark: the first 10^8 bytes of a copy of Wikipedia (enwik8), and 10^8 bytes of its
articles in lower case letters and spaces (text8). The parts are those of all these papers: the first 90, the
next 5 and the last 5 million bytes.
"""

import os
from collections.abc import Iterator

import numpy as np

from .files import generator, reading, split
from .text import encode

PARTS = {"train": 90, "validation": 5, "test": 5}  # per cent of the file, in its order


def windows(
    path: str | os.PathLike,
    part: str,
    length: int,
    rng: np.random.Generator | int | None = None,
    *,
    max_bytes: int = 2**31,
) -> Iterator[np.ndarray]:
    """Yield the ids (length,) of each window of a `part` of a file, int32, as `text.encode` makes them.

    "train", "validation" and "test" are the first 90, the next 5 and the last 5 per cent of the file, of any
    size. Windows do not overlap; the last of a part is padded. Without `rng` they come in the order of the
    file, with a generator or a seed in a random order, once each.

    Raises ValueError for another part and a length below 1, and with the name of the file if it cannot be
    read, is larger than `max_bytes` or too small for the part. Cost: one window in memory, with `rng` also 8
    bytes for each.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
    with reading(path, max_bytes) as file:
        chosen = split(os.fstat(file.fileno()).st_size, tuple(PARTS.values()))[list(PARTS).index(part)]
    starts = range(chosen.start, chosen.stop, length)
    if not starts:
        raise ValueError(f"{os.fspath(path)!r}: is too small to have a part for {part}")
    order = starts if rng is None else (starts[i] for i in generator(rng).permutation(len(starts)))
    return _windows(path, order, chosen.stop, length, max_bytes)


def _windows(path, order, stop, length, max_bytes):
    with reading(path, max_bytes) as file:
        for start in order:
            file.seek(start)
            due = min(length, stop - start)
            data = file.read(due)
            if len(data) != due:
                raise ValueError(f"{os.fspath(path)!r}: has been cut off at byte {start + len(data)}")
            yield encode(data, length)
