"""Grey PNG files against Pillow, which matplotlib brings, and files written byte by byte."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from xfref.lra import png


def picture(height, width):
    """Noise beside a slope, so that Pillow chooses among its filters."""
    image = np.random.default_rng(0).integers(256, size=(height, width), dtype=np.uint8)
    image[:, : width // 2] = np.add.outer(np.arange(height), 3 * np.arange(width // 2))
    return image


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (32, 32), (37, 61)])
def test_pillow_reads_what_we_write_and_the_reverse(tmp_path, shape):
    image = picture(*shape)
    png.write(tmp_path / "ours.png", image)
    with Image.open(tmp_path / "ours.png") as opened:
        assert opened.mode == "L" and np.array_equal(np.asarray(opened), image)
    Image.fromarray(image).save(tmp_path / "pillow.png")
    for name in ("ours.png", "pillow.png"):
        found = png.read(tmp_path / name)
        assert found.dtype == np.uint8 and np.array_equal(found, image)


def chunk(kind, data, checksum=None):
    checksum = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def whole(rows, width, height, kinds=(8, 0, 0, 0, 0)):
    header = chunk(b"IHDR", struct.pack(">II", width, height) + bytes(kinds))
    return png.SIGNATURE + header + chunk(b"IDAT", zlib.compress(bytes(rows))) + chunk(b"IEND", b"")


def test_filters_by_hand(tmp_path):
    """The row 10 20 40 under 5 9 7, as each filter holds it, and as Pillow reads it."""
    above, row = [0, 5, 9, 7], [10, 20, 40]
    held = {0: [10, 20, 40], 1: [10, 10, 20], 2: [5, 11, 33], 3: [8, 11, 27], 4: [5, 10, 20]}
    for kind, differences in held.items():
        path = tmp_path / f"{kind}.png"
        path.write_bytes(whole([*above, kind, *differences], 3, 2))
        with Image.open(path) as opened:
            assert np.asarray(opened).tolist() == [above[1:], row]
        assert png.read(path).tolist() == [above[1:], row]


@pytest.mark.parametrize("kind", [1, 2, 3, 4])
def test_filters_of_noise_as_pillow_reads_them(tmp_path, kind):
    rows = np.random.default_rng(kind).integers(256, size=(20, 31), dtype=np.uint8)
    rows[:, 0] = kind
    (tmp_path / "noise.png").write_bytes(whole(rows.tobytes(), 30, 20))
    with Image.open(tmp_path / "noise.png") as opened:
        assert np.array_equal(png.read(tmp_path / "noise.png"), np.asarray(opened))


def test_pixels_in_pieces_among_chunks_that_may_be_left_out(tmp_path):
    data = zlib.compress(bytes([0, 1, 2, 0, 3, 4]))
    header = chunk(b"IHDR", struct.pack(">II", 2, 2) + bytes([8, 0, 0, 0, 0]))
    (tmp_path / "parts.png").write_bytes(
        png.SIGNATURE + header + chunk(b"gAMA", bytes(4)) + chunk(b"IDAT", data[:3])
        + chunk(b"IDAT", data[3:]) + chunk(b"tEXt", b"Title\0x") + chunk(b"IEND", b""))
    assert png.read(tmp_path / "parts.png").tolist() == [[1, 2], [3, 4]]


GOOD = whole([0, 1, 2, 0, 3, 4], 2, 2)
BROKEN = {
    "empty": (b"", "is no PNG file"),
    "text": (b"not a picture", "is no PNG file"),
    "signature alone": (png.SIGNATURE, "is cut off in the chunk at byte 8"),
    "cut in the pixels": (GOOD[:50], "is cut off in the chunk at byte 33"),
    "cut before the end": (GOOD[:-12], f"is cut off in the chunk at byte {len(GOOD) - 12}"),
    "cut in the checksum": (GOOD[:-1], f"is cut off in the chunk at byte {len(GOOD) - 12}"),
    "endless chunk": (png.SIGNATURE + b"\xff" * 4 + b"IHDR" + bytes(20), "is cut off in the chunk at byte 8"),
    "bytes behind": (GOOD + b"x", "has 1 bytes behind its end"),
    "no header": (png.SIGNATURE + GOOD[33:], "the chunk at byte 8 is not the header"),
    "short header": (png.SIGNATURE + chunk(b"IHDR", bytes(12)), "the chunk at byte 8 is not the header"),
    "two headers": (png.SIGNATURE + GOOD[8:33] + GOOD[8:], "the chunk at byte 33 is of unknown kind b'IHDR'"),
    "checksum": (GOOD[:-1] + b"x", "has a wrong checksum"),
    "colours": (whole([0, 1, 2], 1, 1, (8, 2, 0, 0, 0)), "is not grey of 8 bits"),
    "16 bits": (whole([0, 1, 2], 1, 1, (16, 0, 0, 0, 0)), "is not grey of 8 bits"),
    "interlaced": (whole([0, 1, 2], 1, 1, (8, 0, 0, 0, 1)), "is not grey of 8 bits"),
    "unknown filters": (whole([0, 1, 2], 1, 1, (8, 0, 0, 1, 0)), "is not grey of 8 bits"),
    "huge": (whole([0], 2**31, 2**31), "has 2147483648 x 2147483648 pixels, where 1 to 100 a side"),
    "wide": (whole([0], 101, 1), "has 101 x 1 pixels"),
    "high": (whole([0], 1, 101), "has 1 x 101 pixels"),
    "no width": (whole([0], 0, 1), "has 0 x 1 pixels"),
    "no height": (whole([0], 1, 0), "has 1 x 0 pixels"),
    "bomb": (whole(bytes(10**6), 2, 2), "unpacks to more than 6 bytes"),
    "few pixels": (whole([0, 1, 2], 2, 2), "unpacks to 3 bytes, where 6 are due"),
    "no pixels": (png.SIGNATURE + GOOD[8:33] + GOOD[-12:], "has no pixels"),
    "palette": (png.SIGNATURE + GOOD[8:33] + chunk(b"PLTE", bytes(3)) + GOOD[33:], "of unknown kind b'PLTE'"),
    "filter 5": (whole([0, 1, 2, 5, 3, 4], 2, 2), "row 1 has filter 5"),
    "no stream": (GOOD[:33] + chunk(b"IDAT", b"xxxxxxxx") + GOOD[-12:], "does not unpack"),
    "cut by a byte": (GOOD[:-13], "is cut off in the chunk at byte 33"),
    "large": (bytes(2 * 100**2 + 2**16 + 1), "more than max_bytes"),
    "as large as may be": (bytes(2 * 100**2 + 2**16), "is no PNG file"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_file(tmp_path, case):
    data, message = BROKEN[case]
    (tmp_path / "bad.png").write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        png.read(tmp_path / "bad.png", max_side=100)
    assert f"{str(tmp_path / 'bad.png')!r}: " in str(caught.value) and "\n" not in str(caught.value)


def test_sides_of_the_limit_are_read(tmp_path):
    png.write(tmp_path / "wide.png", np.ones((100, 100), np.uint8))
    assert png.read(tmp_path / "wide.png", max_side=100).all()


@pytest.mark.parametrize("image", [np.ones((2, 2)), np.ones(2, np.uint8), np.ones((0, 2), np.uint8)])
def test_arrays_that_are_no_grey_image(tmp_path, image):
    with pytest.raises(ValueError, match="image must be uint8 "):
        png.write(tmp_path / "no.png", image)
