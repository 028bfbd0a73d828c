"""What the readers of lra share: caps on what is read and unpacked, names in a folder, parts, seeds."""

import gzip
import os
import zlib
from contextlib import nullcontext
from itertools import repeat
from types import SimpleNamespace

import pytest

from xfref.lra import files, listops, pathfinder, pixels, png, retrieval, streams, text


def test_a_gzip_file_is_unpacked_and_any_other_left(tmp_path):
    data = os.urandom(1000)
    (tmp_path / "packed").write_bytes(gzip.compress(data))
    (tmp_path / "plain").write_bytes(data[:2].replace(b"\x1f", b"a") + data[2:])
    assert files.read_unzipped(tmp_path / "packed", 2000) == data
    assert files.read_unzipped(tmp_path / "plain", 1000) == (tmp_path / "plain").read_bytes()
    (tmp_path / "packed").write_bytes(gzip.compress(bytes(1000)))
    assert files.read_unzipped(tmp_path / "packed", 1000) == bytes(1000)


PACKED = gzip.compress(b"text" * 100)
BROKEN = {
    "bomb": (gzip.compress(bytes(10**6)), "unpacks to more than 10000 bytes"),
    "cut off": (PACKED[:-1], "is cut off"),
    "checksum": (PACKED[:-8] + bytes(8), "does not unpack: .*incorrect data check"),
    "two members": (PACKED + PACKED, f"has {len(PACKED)} bytes behind its end"),
    "magic alone": (PACKED[:2], "is cut off"),
    "no deflate": (PACKED[:2] + b"\x07" + bytes(20), "does not unpack"),
    "large": (bytes(10_001), "holds 10001 bytes, more than max_bytes = 10000"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_gzip(tmp_path, case):
    data, message = BROKEN[case]
    (tmp_path / "bad.gz").write_bytes(data)
    with pytest.raises(ValueError, match=rf"bad.gz': {message}"):
        files.read_unzipped(tmp_path / "bad.gz", 10_000)


def test_inflate_gives_as_much_as_it_may():
    assert files.inflate(zlib.compress(bytes(1000)), 1000) == bytes(1000)
    assert files.inflate(zlib.compress(b""), 0) == b""


def test_names_are_sorted_and_links_left_out(tmp_path):
    for name in ("b", "a", ".hidden"):
        (tmp_path / name).touch()
        (tmp_path / f"{name}.d").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "link.d").symlink_to("/")
    os.mkfifo(tmp_path / "pipe")
    assert files.names_in(tmp_path) == ["a", "b"]
    assert files.names_in(tmp_path, folders=True) == ["a.d", "b.d"]
    assert files.names_in(tmp_path, max_names=9) == ["a", "b"]
    with pytest.raises(ValueError, match=f"'{tmp_path}': has more than 8 entries"):
        files.names_in(tmp_path, max_names=8)
    with pytest.raises(ValueError, match="none': No such file or directory"):
        files.names_in(tmp_path / "none")


def test_split_by_hand():
    def parts(count, *shares):
        return [range(count)[part] for part in files.split(count, shares)]

    assert parts(200_000, 80, 10, 10) == [range(160_000), range(160_000, 180_000), range(180_000, 200_000)]
    assert parts(15, 90, 10) == [range(13), range(13, 15)]
    assert parts(7, 100) == [range(7)] and parts(0, 50, 50) == [range(0), range(0)]
    for shares in [(90, 9), (110, -10)]:
        with pytest.raises(ValueError, match="per cents that add up to 100"):
            files.split(10, shares)


LIMITS = {
    "text.read_text": (text.read_text, 2**28),
    "text.read_folder": (lambda path: list(text.read_folder(path.parent.parent, 0)), 2**22),
    "listops.read_tsv": (lambda path: list(listops.read_tsv(path)), 2**30),
    "retrieval.read_tsv": (lambda path: list(retrieval.read_tsv(path)), 2**35),
    "retrieval.read_pages": (lambda path: retrieval.read_pages(path.parent), 2**22),
    "pixels.read_cifar_batch": (pixels.read_cifar_batch, 2**27),
    "pixels.read_idx": (pixels.read_idx, 2**28),
    "pathfinder.read_folder": (lambda path: pathfinder.read_folder(path.parent.parent), 2**26),
    "png.read": (png.read, 2 * 4096**2 + 2**16),
    "streams.windows": (lambda path: streams.windows(path, "test", 1), 2**31),
}


@pytest.mark.parametrize("reader", LIMITS)
def test_a_huge_file_is_refused_unread(tmp_path, reader):
    """By default too; the file takes no room on the disk."""
    read, limit = LIMITS[reader]
    path = tmp_path / "metadata" / {"pathfinder.read_folder": "0.npy"}.get(reader, "page.1")
    path.parent.mkdir()
    with open(path, "wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match=f"holds 1099511627776 bytes, more than max_bytes = {limit}$"):
        read(path)


ENTRIES = {
    "files.names_in": (files.names_in, 10**6),
    "text.read_folder": (lambda folder: text.read_folder(folder, 0), 10**6),
    "retrieval.read_pages": (retrieval.read_pages, 10**5),
}


@pytest.mark.parametrize("reader", ENTRIES)
def test_a_folder_without_end_is_left(tmp_path, monkeypatch, reader):
    """By default too; what is in it is neither a file nor a folder."""
    read, limit = ENTRIES[reader]
    entry = SimpleNamespace(is_file=lambda **links: False, is_dir=lambda **links: False)
    with monkeypatch.context() as patched:
        patched.setattr("os.scandir", lambda folder: nullcontext(repeat(entry)))
        with pytest.raises(ValueError, match=f"has more than {limit} entries$"):
            read(tmp_path)
