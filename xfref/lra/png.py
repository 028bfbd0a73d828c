"""Grey PNG files of 8 bits a pixel, not interlaced: the pictures of Pathfinder's folders, and no other kind.

"Portable Network Graphics (PNG) Specification (Second Edition)", W3C, 2003.
"""

import os
import struct
import zlib

import numpy as np

from .files import inflate, read_bytes

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def write(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write an image, uint8 (height, width)."""
    if image.dtype != np.uint8 or image.ndim != 2 or not image.size:
        raise ValueError(f"image must be uint8 (height, width), got {image.dtype} {image.shape}")
    height, width = image.shape
    rows = np.zeros((height, width + 1), np.uint8)  # each row begins with its filter, of which 0 is none
    rows[:, 1:] = image
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    with open(path, "wb") as file:
        file.write(SIGNATURE)
        for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b"")):
            file.write(struct.pack(">I", len(body)) + kind + body)
            file.write(struct.pack(">I", zlib.crc32(kind + body)))


def read(path: str | os.PathLike, *, max_side: int = 4096) -> np.ndarray:
    """The image of a file, uint8 (height, width), neither above `max_side`.

    Raises ValueError that names the file, the offset of a chunk and what is wrong: whatever is not a whole
    grey PNG file of 8 bits, checksums included. What a file claims to hold is compared with `max_side` before
    it is unpacked. Cost: linear in the pixels, in slow Python for rows with an Average or Paeth filter.
    """
    data = read_bytes(path, 2 * max_side**2 + 2**16)
    try:
        return _decode(data, max_side)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)!r}: {error}") from error


def _decode(data, max_side):
    if not data.startswith(SIGNATURE):
        raise ValueError("is no PNG file")
    header, packed = None, []
    for at, kind, body in _chunks(data):
        if header is None:
            if kind != b"IHDR" or len(body) != 13:
                raise ValueError(f"the chunk at byte {at} is not the header")
            header = width, height, *kinds = struct.unpack(">IIBBBBB", body)
            if kinds != [8, 0, 0, 0, 0]:
                raise ValueError(f"is not grey of 8 bits, not interlaced: bytes {kinds} in its header")
            if not (0 < width <= max_side and 0 < height <= max_side):
                raise ValueError(f"has {width} x {height} pixels, where 1 to {max_side} a side are allowed")
        elif kind == b"IDAT":
            packed.append(body)
        elif kind != b"IEND" and not kind[0] & 32:  # a small first letter: a chunk that may be left out
            raise ValueError(f"the chunk at byte {at} is of unknown kind {kind!r}")
    if not packed:
        raise ValueError("has no pixels")
    plain = inflate(b"".join(packed), height * (width + 1))
    if len(plain) != height * (width + 1):
        raise ValueError(f"unpacks to {len(plain)} bytes, where {height * (width + 1)} are due")
    return _unfilter(np.frombuffer(plain, np.uint8).reshape(height, width + 1))


def _chunks(data):
    at, kind = len(SIGNATURE), None
    while kind != b"IEND":
        if len(data) < at + 12:
            raise ValueError(f"is cut off in the chunk at byte {at}")
        size, kind = struct.unpack_from(">I4s", data, at)
        if size > len(data) - at - 12:
            raise ValueError(f"is cut off in the chunk at byte {at}")
        body = data[at + 8 : at + 8 + size]
        if zlib.crc32(kind + body) != int.from_bytes(data[at + 8 + size : at + 12 + size], "big"):
            raise ValueError(f"the chunk at byte {at} has a wrong checksum")
        yield at, kind, body
        at += 12 + size
    if at != len(data):
        raise ValueError(f"has {len(data) - at} bytes behind its end")


def _unfilter(rows):
    """Pixels from what each row holds: differences from the pixels to the left of, above or around them."""
    image = np.zeros((len(rows), rows.shape[1] - 1), np.uint8)
    above = np.zeros_like(image[0])
    for number, (row, pixels) in enumerate(zip(rows, image, strict=True)):
        kind, differences = row[0], row[1:]
        if kind == 0:
            pixels[:] = differences
        elif kind == 1:
            pixels[:] = np.cumsum(differences, dtype=np.uint8)
        elif kind == 2:
            pixels[:] = differences + above
        elif kind in (3, 4):
            predict = _average if kind == 3 else _paeth
            left = corner = 0
            for i, (difference, up) in enumerate(zip(differences.tolist(), above.tolist(), strict=True)):
                left = (difference + predict(left, up, corner)) % 256
                corner = up
                pixels[i] = left
        else:
            raise ValueError(f"row {number} has filter {kind}, which is none")
        above = pixels
    return image


def _average(left, up, _):
    return (left + up) // 2


def _paeth(left, up, corner):
    """Whichever of the three is nearest to left + up - corner; of several, the first in this order."""
    return min((left, up, corner), key=lambda pixel: abs(left + up - corner - pixel))
