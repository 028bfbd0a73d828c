"""Byte-level text: ids by hand, windows that lose no byte, files that are no text."""

import hashlib
import io
import os
import subprocess
import sys

import numpy as np
import pytest

from xfref.lra import text


def test_ids_by_hand():
    assert text.encode(b"\x00A\xff", 5).tolist() == [1, 66, 256, 0, 0]
    assert text.encode(b"abc", 2).tolist() == [98, 99]
    assert text.encode(b"", 2).tolist() == [0, 0]
    assert text.encode("é".encode(), 2).tolist() == [0xC3 + 1, 0xA9 + 1]
    assert text.encode(b"abc", 2).dtype == np.int32
    assert text.encode(bytes(range(256)), 256).max() == text.VOCABULARY - 1


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 1000])
def test_windows_hold_every_byte_once(size):
    data = np.random.default_rng(0).integers(256, size=size, dtype=np.uint8).tobytes()
    windows = list(text.byte_windows(data, 256))
    assert len(windows) == -(-size // 256) and all(window.shape == (256,) for window in windows)
    flat = np.concatenate([np.empty(0, np.int32), *windows])
    assert (flat[:size] - 1).astype(np.uint8).tobytes() == data and not flat[size:].any()
    assert np.array_equal(list(text.byte_windows(io.BytesIO(data), 256)), windows)


def test_windows_read_no_further_than_asked(tmp_path):
    file = io.BytesIO(bytes(1000))
    windows = text.byte_windows(file, 100)
    next(windows)
    next(windows)
    assert file.tell() == 200


def test_windows_of_one_byte():
    assert np.concatenate(list(text.byte_windows(b"AB", 1))).tolist() == [66, 67]


def test_length_below_one_raises_at_the_call():
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        text.byte_windows(b"abc", 0)


def run_python(script, hash_seed):
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.check_output([sys.executable, "-c", script], env=environment, text=True).strip()


def test_standard_text_is_english_and_the_same_in_another_process():
    data = text.standard_text()
    words = data.decode().split()
    # "the" is the commonest English word, about one in twenty
    assert len(data) > 300_000 and 0.03 < words.count("the") / len(words) < 0.1
    script = "import hashlib; from xfref.lra.text import *; print(hashlib.sha1(standard_text()).hexdigest())"
    assert run_python(script, "77") == run_python(script, "1") == hashlib.sha1(data).hexdigest()


def test_standard_text_is_in_the_order_of_names(monkeypatch):
    monkeypatch.setattr("pydoc_data.topics.topics", {"b": "two", "a": "one"})
    assert text.standard_text() == b"one\ntwo"


def test_import_leaves_the_topics_alone():
    script = "import sys; from xfref.lra import text; print('pydoc_data.topics' in sys.modules)"
    assert run_python(script, "0") == "False"


def test_a_text_file_is_its_bytes(tmp_path):
    path = tmp_path / "naïve.txt"
    data = "\ufeffnaïve\r\ntext\n".encode()
    path.write_bytes(data)
    assert text.read_text(path) == text.read_text(str(path)) == data
    assert text.read_text(path, max_bytes=len(data)) == data


def nothing(path):
    pass


def loop(path):
    path.symlink_to(path)


HOSTILE = {
    "missing": (nothing, "No such file or directory"),
    "directory": (lambda path: path.mkdir(), "is a directory"),
    "pipe": (lambda path: os.mkfifo(path), "is not a regular file"),
    "link to itself": (loop, "Too many levels of symbolic links"),
    "empty": (lambda path: path.touch(), "is empty"),
    "nul": (lambda path: path.write_bytes(b"abc\0def"), "is binary, byte 3 is NUL"),
    "utf-16": (lambda path: path.write_text("text", "utf-16-le"), "is binary, byte 1 is NUL"),
    "latin-1": (lambda path: path.write_bytes(b"na\xefve"), "is not UTF-8, byte 2 "),
    "cut character": (lambda path: path.write_bytes("né".encode()[:2]), "is not UTF-8, byte 1 "),
    "large": (lambda path: path.write_bytes(b"a" * 1001), "holds 1001 bytes, more than max_bytes = 1000"),
}


@pytest.mark.parametrize("name", ["bad.txt", "two\nlines.txt"])
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_file(tmp_path, case, name):
    make, message = HOSTILE[case]
    path = tmp_path / name
    make(path)
    with pytest.raises(ValueError, match=message) as caught:
        text.read_text(path, max_bytes=1000)
    assert repr(str(path)) in str(caught.value) and "\n" not in str(caught.value)


def test_unreadable_file(tmp_path, monkeypatch):
    """The refusal is simulated: the superuser may read every file."""
    (tmp_path / "secret.txt").write_bytes(b"abc")

    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ValueError, match=r"secret.txt': Permission denied"):
        text.read_text(tmp_path / "secret.txt")


def test_a_file_that_tells_no_size_is_capped_too():
    with pytest.raises(ValueError, match="holds more than max_bytes = 10"):
        text.read_text("/proc/self/status", max_bytes=10)


def texts(folder, written):
    for name, data in written.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def test_imdb_folder(tmp_path):
    texts(tmp_path, {
        "train/pos/0_9.txt": b"Good.<br />", "train/pos/10_7.txt": b"Fine.", "train/neg/0_3.txt": b"Bad.",
        "train/unsup/0_0.txt": b"No label.", "train/urls_pos.txt": b"http://a", "test/pos/0_10.txt": b"Best.",
        "test/neg/0_1.txt": b"Worst.", "README": b"read me",
    })
    assert sorted(text.read_imdb(tmp_path, "train", 0)) == [(b"Bad.", 0), (b"Fine.", 1), (b"Good.<br />", 1)]
    assert sorted(text.read_imdb(str(tmp_path), "test", 0)) == [(b"Best.", 1), (b"Worst.", 0)]
    with pytest.raises(ValueError, match="part must be 'train' or 'test', got 'unsup'"):
        text.read_imdb(tmp_path, "unsup", 0)
    with pytest.raises(ValueError, match="train.neg': No such file or directory"):
        text.read_imdb(tmp_path / "none", "train", 0)


@pytest.fixture
def letters(tmp_path):
    """A folder each for the labels even and odd, with the numbers from 0 to 99 as texts."""
    texts(tmp_path, {f"{('even', 'odd')[i % 2]}/{i}": b"%d" % i for i in range(100)})
    return tmp_path


def test_a_folder_for_each_label_in_a_seeded_order(letters):
    examples = list(text.read_folder(letters, 3))
    assert sorted((int(data), label) for data, label in examples) == [(i, i % 2) for i in range(100)]
    assert examples == list(text.read_folder(letters, np.random.default_rng(3)))
    assert examples != list(text.read_folder(letters, 4))
    # mixed: of 50 odd texts the first half would hold 25 +- 2.5, here within 4 deviations
    assert 15 <= sum(label for _, label in examples[:50]) <= 35
    assert {label for _, label in text.read_folder(letters, 3, labels=["odd"])} == {0}
    with pytest.raises(TypeError, match="None would not be reproducible"):
        text.read_folder(letters, None)


def test_a_folder_is_read_one_text_at_a_time(letters):
    (letters / "odd" / "1").write_bytes(b"\0")
    stream = text.read_folder(letters, 3)
    with pytest.raises(ValueError, match="odd.1': is binary, byte 0 is NUL"):
        assert next(stream)
        list(stream)


def test_folders_that_are_none(letters):
    (letters / "empty").mkdir()
    with pytest.raises(ValueError, match="empty': has no file"):
        text.read_folder(letters, 0)
    with pytest.raises(ValueError, match="odd': has no folder, and one for each label is due"):
        text.read_folder(letters / "odd", 0)
    with pytest.raises(ValueError, match="odd': has more than 49 entries"):
        text.read_folder(letters, 0, labels=["odd"], max_files=49)
    with pytest.raises(ValueError, match=f"{letters.name}': has more than 2 entries"):
        text.read_folder(letters, 0, max_files=2)
    with pytest.raises(ValueError, match="more than max_bytes = 1$"):
        list(text.read_folder(letters, 0, labels=["odd"], max_bytes=1))


def test_a_folder_leads_nowhere_else(letters):
    """A link is left out, be it a folder or a text."""
    (letters / "secret").symlink_to("/etc")
    (letters / "odd" / "secret").symlink_to("/etc/passwd")
    assert len(list(text.read_folder(letters, 0))) == 100
