"""Streams: parts counted in bytes, windows that lose none, an order that is a seed's."""

import numpy as np
import pytest

from xfref.lra import streams


@pytest.fixture
def file(tmp_path):
    """1000 bytes, of which 0 to 899 are for training, 900 to 949 for validation and the rest for the test."""
    (tmp_path / "stream").write_bytes(b"".join(i.to_bytes(2, "big") for i in range(500)))
    return tmp_path / "stream"


def held(windows):
    flat = np.concatenate(list(windows))
    return (flat[flat > 0] - 1).astype(np.uint8).tobytes()


@pytest.mark.parametrize(
    ("part", "start", "stop"), [("train", 0, 900), ("validation", 900, 950), ("test", 950, 1000)]
)
@pytest.mark.parametrize("length", [1, 7, 50, 51, 2000])
def test_parts_hold_their_bytes_once(file, part, start, stop, length):
    windows = list(streams.windows(file, part, length))
    assert len(windows) == -(-(stop - start) // length)
    assert all(window.shape == (length,) and window.dtype == np.int32 for window in windows)
    assert held(windows) == file.read_bytes()[start:stop]
    mixed = list(streams.windows(str(file), part, length, 0))
    assert sorted(window.tobytes() for window in mixed) == sorted(window.tobytes() for window in windows)


def test_the_padding_is_in_the_last_window(file):
    first, last = list(streams.windows(file, "test", 30))
    assert (first > 0).all() and (last > 0).tolist() == [True] * 20 + [False] * 10


def test_the_papers_sizes(tmp_path):
    """Of 10^8 bytes 90, 5 and 5 million; the file takes no room on the disk."""
    with open(tmp_path / "text8", "wb") as file:
        file.truncate(10**8)
    counts = {x: sum(1 for _ in streams.windows(tmp_path / "text8", x, 10**6)) for x in streams.PARTS}
    assert counts == {"train": 90, "validation": 5, "test": 5}


def test_the_order_of_a_seed(file):
    def order(rng):
        return [tuple(window) for window in streams.windows(file, "train", 10, rng)]

    assert order(3) == order(np.random.default_rng(3))
    assert order(3) != order(4)
    # of a random order about one window follows the one before it in the file, and hardly eight
    plain = order(None)
    places = [plain.index(window) for window in order(3)]
    assert sum(b == a + 1 for a, b in zip(places, places[1:], strict=False)) < 8


def test_what_is_wrong_is_said_at_the_call(file, tmp_path):
    for part, length, message in [
        ("dev", 5, "part must be one of train, validation, test, got 'dev'"),
        ("test", 0, "length must be at least 1, got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            streams.windows(file, part, length)
    with pytest.raises(ValueError, match="none': No such file"):
        streams.windows(tmp_path / "none", "test", 5)
    with pytest.raises(ValueError, match="holds 1000 bytes, more than max_bytes = 999"):
        streams.windows(file, "test", 5, max_bytes=999)
    (tmp_path / "small").write_bytes(b"0123456789")
    assert held(streams.windows(tmp_path / "small", "test", 5)) == b"9"
    with pytest.raises(ValueError, match="small': is too small to have a part for validation"):
        streams.windows(tmp_path / "small", "validation", 5)


def test_a_file_that_gets_shorter_is_said(file):
    windows = streams.windows(file, "test", 30)
    file.write_bytes(bytes(960))
    with pytest.raises(ValueError, match="stream': has been cut off at byte 960"):
        next(windows)
