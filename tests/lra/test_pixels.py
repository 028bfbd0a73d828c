"""Pixels: grey by hand and as TensorFlow computes it, CIFAR-10's pickles and IDX files byte by byte."""

import gzip
import os
import pickle
import struct

import numpy as np
import pytest

from xfref.lra import pixels


def test_tokens_by_hand():
    ids = pixels.tokens(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))  # 3 columns, no colours
    assert ids.dtype == np.int32 and ids.tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    colours = np.array([[[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]]], np.uint8)
    # 255.5 times 0.2989, 0.587, 0.114 and 0.9999: 76.4, 149.98, 29.1, 255.5
    assert pixels.tokens(colours).tolist() == [[76, 149, 29, 255]]
    assert pixels.tokens(np.zeros((0, 4, 4), np.uint8)).shape == (0, 16)
    for wrong in (np.zeros((2, 2, 2)), np.zeros((2, 2), np.uint8), np.zeros((2, 2, 2, 4), np.uint8)):
        with pytest.raises(ValueError, match="images must be uint8 .count, height, width.* got"):
            pixels.tokens(wrong)


def test_grey_as_tensorflow_computes_it():
    """In float32 on the scale 0 to 1 and back, times 255.5 and cut: the same unless a sum is nearly whole."""
    colours = np.random.default_rng(0).integers(256, size=(100_000, 3), dtype=np.uint8)
    weights = np.array([0.2989, 0.5870, 0.1140], np.float32)
    scaled = (colours * np.float32(1 / 255)) @ weights * np.float32(255.5)
    near = np.abs(scaled - np.rint(scaled)) < 1e-4
    assert near.mean() < 0.001
    assert np.array_equal(pixels.grey(colours)[~near], scaled.astype(np.uint8)[~near])
    levels = np.arange(256, dtype=np.uint8)
    assert np.array_equal(pixels.grey(np.stack([levels] * 3, axis=1)), levels)


def test_shrink_by_hand():
    image = np.array([[[0, 1, 255, 255], [1, 0, 255, 255], [0, 0, 1, 2], [0, 1, 3, 4]]], np.uint8)
    assert pixels.shrink(image, 2).tolist() == [[[1, 255], [0, 3]]]  # 0.5, 255, 0.25, 2.5
    assert np.array_equal(pixels.shrink(image, 1), image)
    assert pixels.shrink(np.full((1, 3, 6), 7, np.uint8), 3).tolist() == [[[7, 7]]]
    for shape in [(1, 3, 2), (1, 2, 3)]:
        with pytest.raises(ValueError, match="2 does not divide both of"):
            pixels.shrink(np.zeros(shape, np.uint8), 2)


def string(data):
    return b"U" + bytes([len(data)]) + data if len(data) < 256 else b"T" + struct.pack("<I", len(data)) + data


RECONSTRUCT = b"numpy.core.multiarray\n_reconstruct"


def array(rows, *, shape=None, name=RECONSTRUCT, dtype=b"u1", order=b"\x89"):
    """A NumPy array as Python 2 pickled it, each operation by hand, or with something wrong."""
    count, width = shape or rows.shape
    numbers = b"cnumpy\ndtype\nq\x0a" + string(dtype) + b"K\x00K\x01\x87Rq\x0b"
    numbers += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    return (
        b"c" + name + b"\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09("
        + b"K\x01M" + struct.pack("<H", count) + b"M" + struct.pack("<H", width) + b"\x86"
        + numbers + order + string(rows.tobytes()) + b"tb"
    )


def batch(data, labels, *, start=b"\x80\x02", end=b"u."):
    numbers = b"".join(b"K" + bytes([label]) for label in labels)
    return (
        start + b"}q\x01(" + string(b"batch_label") + b"q\x02" + string(b"testing batch 1 of 1") + b"q\x03"
        + string(b"labels") + b"q\x04]q\x05(" + numbers + b"e" + string(b"data") + b"q\x06" + data
        + string(b"filenames") + b"r\x0c\x00\x00\x00]r\x0d\x00\x00\x00("
        + string(b"a.png") + b"q\x0eh\x0ee" + end
    )


def draw(count, seed=0):
    rows = np.random.default_rng(seed).integers(256, size=(count, 3072), dtype=np.uint8)
    return rows, [i % 10 for i in range(count)]


def test_a_batch_is_what_pickle_reads(tmp_path):
    rows, labels = draw(7)
    path = tmp_path / "data_batch_1"
    path.write_bytes(batch(array(rows), labels))
    expected = pickle.loads(path.read_bytes(), encoding="bytes")
    assert np.array_equal(expected[b"data"], rows) and expected[b"labels"] == labels
    assert expected[b"filenames"] == [b"a.png", b"a.png"]
    images, found = pixels.read_cifar_batch(path)
    assert images.shape == (7, 32, 32, 3) and images.dtype == np.uint8 and found.tolist() == labels
    # red, green and blue lie one behind the other in a row of the file, each row by row
    for i, row, column, colour in [(0, 0, 0, 0), (3, 0, 1, 0), (3, 1, 0, 2), (6, 31, 30, 1)]:
        assert images[i, row, column, colour] == rows[i, 1024 * colour + 32 * row + column]


def test_cifar10_by_parts(tmp_path):
    files = {f"data_batch_{i}": draw(4, i) for i in range(1, 6)} | {"test_batch": draw(3, 6)}
    for name, (rows, labels) in files.items():
        (tmp_path / name).write_bytes(batch(array(rows), labels))
    parts = {part: pixels.read_cifar10(tmp_path, part) for part in ("train", "validation", "test")}
    assert {part: (images.shape, len(labels)) for part, (images, labels) in parts.items()} == {
        "train": ((18, 32, 32), 18), "validation": ((2, 32, 32), 2), "test": ((3, 32, 32), 3)}
    rows, labels = files["data_batch_5"]
    assert parts["validation"][1].tolist() == labels[2:]
    colours = rows[3].reshape(3, 1024).T
    assert np.array_equal(parts["validation"][0][1].ravel(), pixels.grey(colours))
    with pytest.raises(ValueError, match="part must be one of train, validation, test, got 'dev'"):
        pixels.read_cifar10(tmp_path, "dev")


PICKLES = {
    "numbers": pickle.dumps((0, 255, 256, 65535, 65536, -1, 2**31 - 1, -(2**31)), 2),
    "constants and tuples": pickle.dumps([None, True, False, (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)], 2),
    "lists in lists": pickle.dumps([1, [2, [3, 4]], [[5]]], 2),
    "dicts in dicts": b"\x80\x02}(U\x01a}(U\x01bNU\x01cNuU\x01d}U\x01eNsu.",
    "memory of many": b"\x80\x02NK\x01r\x00\x01\x00\x00j\x00\x01\x00\x00\x87.",
}


@pytest.mark.parametrize("case", PICKLES)
def test_what_an_operation_does_is_what_pickle_does(case):
    assert pixels._Pickle(PICKLES[case]).read() == pickle.loads(PICKLES[case], encoding="bytes")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("made",)


ROWS, LABELS = draw(2)
ARRAY = array(ROWS)
GOOD = batch(ARRAY, LABELS)
BROKEN = {
    "empty": (b"", "is cut off: 2 bytes are due at byte 0"),
    "text": (b"not a pickle", "is no pickle of protocol 2"),
    "protocol 4": (pickle.dumps({b"labels": [1]}, 4), "is no pickle of protocol 2"),
    "code": (pickle.dumps(Evil(), 2), "operation b'X' at byte .* is none that such a file has"),
    "code in its words": (b"\x80\x02cos\nmkdir\nU\x04made\x85R.", "holds no dict with data and labels"),
    "code as an array": (batch(array(ROWS, name=b"os\nmkdir"), LABELS), "data is no array$"),
    "persistent": (b"\x80\x02U\x01aQ.", "operation b'Q' at byte 5 is none"),
    "cut off": (GOOD[:-1], f"is cut off: 1 bytes are due at byte {len(GOOD) - 1}"),
    "cut in the pixels": (GOOD[:2000], "is cut off: 6144 bytes are due"),
    "bytes behind": (GOOD + b"x", f"one value at byte {len(GOOD)} of {len(GOOD) + 1}"),
    "open mark": (b"\x80\x02(.", "does not end with one value"),
    "no value": (b"\x80\x02.", "does not end with one value"),
    "two values": (b"\x80\x02NN.", "does not end with one value"),
    "huge string": (b"\x80\x02T\xff\xff\xff\xff", "is cut off: 4294967295 bytes are due at byte 7"),
    "endless name": (b"\x80\x02c" + b"a" * 200, "has no name at byte 3"),
    "no mark": (b"\x80\x02e", "operation b'e' at byte 2 finds nothing to work on"),
    "tuple of nothing": (b"\x80\x02N\x87", "operation b'.x87' at byte 3 finds nothing"),
    "unknown memory": (b"\x80\x02h\x07", "operation b'h' at byte 2 finds nothing"),
    "memory of nothing": (b"\x80\x02q\x07", "operation b'q' at byte 2 finds nothing"),
    "append to none": (b"\x80\x02NNa", "operation b'a' at byte 4 finds NoneType, where list is due"),
    "a list as a key": (b"\x80\x02}(]Nu", "operation b'u' at byte 6 finds list, where bytes is due"),
    "a name as a key": (b"\x80\x02}cos\nmkdir\nNs", "finds Named, where bytes is due"),
    "key alone": (b"\x80\x02}(U\x01au", "operation b'u' at byte 7 finds a key without its value"),
    "call of a string": (b"\x80\x02U\x01a)R", r"operation b'\)' at byte 5 is none"),
    "call of none": (b"\x80\x02NK\x00\x85R", "operation b'R' at byte 6 finds NoneType, where Named is due"),
    "call with none": (b"\x80\x02cos\nmkdir\nNR", "finds NoneType, where tuple is due"),
    "state of none": (b"\x80\x02NNb", "finds NoneType, where Called is due"),
    "dicts alone": (b"\x80\x02" + b"}" * 2**20, "has more than 1048576 operations"),
    "no dict": (b"\x80\x02N.", "holds no dict with data and labels"),
    "no labels": (b"\x80\x02}U\x04dataNs.", "holds no dict with data and labels"),
    "no array": (batch(b"N", LABELS), "data is no array$"),
    "no state": (batch(b"cnumpy.core.multiarray\n_reconstruct\nN\x85R", LABELS), "data is no array$"),
    "floats": (batch(array(ROWS, dtype=b"f8"), LABELS), "data is no array of bytes"),
    "by columns": (batch(array(ROWS, order=b"\x88"), LABELS), "data has not 3072 bytes a row"),
    "narrow": (batch(array(ROWS[:, 1:]), LABELS), "data has not 3072 bytes a row"),
    "more rows": (batch(array(ROWS, shape=(65535, 3072)), LABELS), "or not as many rows as it says"),
    "a byte more": (batch(array(np.append(ROWS, np.uint8(0)), shape=(2, 3072)), LABELS), "data has not 3072"),
    "few labels": (batch(ARRAY, [1]), "labels are no list of 2"),
    "labels in a string": (batch(ARRAY, []).replace(b"]q\x05(e", b"U\x0201"), "labels are no list of 2"),
    "label": (batch(ARRAY, [9, 10]), "label 1 is none from 0 to 9"),
    "true as a label": (batch(ARRAY, []).replace(b"(e", b"(K\x01\x88e"), "label 1 is none from 0 to 9"),
    "large": (bytes(2**20 + 2**10), "holds 1049600 bytes, more than max_bytes = 1049088"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_batch(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    data, message = BROKEN[case]
    path = tmp_path / "bad"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        pixels.read_cifar_batch(path, max_bytes=2**20 + 2**9)
    assert f"{str(path)!r}: " in str(caught.value) and "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["bad"]  # nothing that it asks for was done


def idx(kind, shape, data):
    return bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + data


def test_idx_by_hand(tmp_path):
    for kind, dtype, size in [(8, np.uint8, 1), (9, np.int8, 1), (11, np.int16, 2), (12, np.int32, 4)]:
        numbers = b"".join(int(x).to_bytes(size, "big", signed=kind != 8) for x in (1, 2, 3, 100, 5, 6))
        for pack in (bytes, gzip.compress):
            (tmp_path / "x").write_bytes(pack(idx(kind, (2, 3), numbers)))
            found = pixels.read_idx(tmp_path / "x")
            assert found.dtype == dtype and found.tolist() == [[1, 2, 3], [100, 5, 6]]
    for kind, dtype, form in [(13, np.float32, ">f"), (14, np.float64, ">d")]:
        (tmp_path / "x").write_bytes(idx(kind, (1,), struct.pack(form, 0.5)))
        found = pixels.read_idx(tmp_path / "x")
        assert found.dtype == dtype and found.tolist() == [0.5]
    (tmp_path / "x").write_bytes(idx(8, (1,) * 32, b"0"))
    assert pixels.read_idx(tmp_path / "x").ndim == 32
    (tmp_path / "x").write_bytes(idx(8, (0, 28, 28), b""))
    assert pixels.read_idx(tmp_path / "x").shape == (0, 28, 28)


BAD_IDX = {
    "empty": (b"", "is no IDX file, its first bytes are b''"),
    "text": (b"text", "is no IDX file, its first bytes are b'text'"),
    "type": (idx(10, (1,), b"0"), "is no IDX file"),
    "no shape": (b"\0\0\x08\x03" + bytes(11), "is no IDX file"),
    "few": (idx(8, (2, 3), bytes(5)), "holds 5 bytes of numbers, where 6 are due"),
    "many": (idx(8, (2, 3), bytes(7)), "holds 7 bytes of numbers, where 6 are due"),
    "few of four bytes": (idx(12, (2,), bytes(7)), "holds 7 bytes of numbers, where 8 are due"),
    "huge": (idx(8, (2**32 - 1,) * 3, b""), "holds 0 bytes of numbers, where 7922816245892410538530019737"),
    "axes": (idx(8, (1,) * 33, b"0"), "holds 1 bytes of numbers, where 1 are due in 33 axes"),
    "bomb": (gzip.compress(bytes(10**6)), "unpacks to more than 10000 bytes"),
    "cut off": (gzip.compress(idx(8, (1,), b"0"))[:-4], "is cut off"),
}


@pytest.mark.parametrize("case", BAD_IDX)
def test_broken_idx(tmp_path, case):
    data, message = BAD_IDX[case]
    (tmp_path / "bad").write_bytes(data)
    with pytest.raises(ValueError, match=f"bad': {message}"):
        pixels.read_idx(tmp_path / "bad", max_bytes=10_000)


def test_mnist_by_parts(tmp_path):
    images = np.arange(20 * 6, dtype=np.uint8).reshape(20, 2, 3)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(8, (20, 2, 3), images.tobytes())))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(8, (20,), bytes(range(20))))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(8, (3, 2, 3), bytes(18)))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(8, (3,), bytes([7, 8, 9]))))
    train, validation, test = (pixels.read_mnist(tmp_path, part) for part in ("train", "validation", "test"))
    assert np.array_equal(train[0], images[:18]) and train[1].tolist() == list(range(18))
    assert np.array_equal(validation[0], images[18:]) and validation[1].tolist() == [18, 19]
    assert not test[0].any() and test[1].tolist() == [7, 8, 9]
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(8, (18,), bytes(18)))
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte': holds uint8 \(18,\), where images"):
        pixels.read_mnist(tmp_path, "test")
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(8, (19,), bytes(19)))
    with pytest.raises(ValueError, match=r"labels-idx1-ubyte': holds uint8 \(19,\), where a byte for each"):
        pixels.read_mnist(tmp_path, "train")
    with pytest.raises(ValueError, match="t10k-labels-idx1-ubyte.gz': No such file"):
        os.remove(tmp_path / "t10k-labels-idx1-ubyte.gz")
        pixels.read_mnist(tmp_path, "test")
