"""Images as sequences of grey pixels, the input of the pixel-level image classification task.

"Long Range Arena: A Benchmark for Efficient Transformers", Tay et al., 2020, arXiv:2011.04006, section 2.2.4
and appendix A.1.4: a grey image of 32 x 32 pixels is read row by row, one pixel a token. The ids are those of
the released code: the grey level, 256 in all, so black is the id of padding too.

The benchmark's images are those of CIFAR-10, in the files for Python of its authors; those of MNIST and of
all sets that took over its files, such as Fashion-MNIST, are read too, and any array of images can be used.

Differs: the last tenth of the training images, which is for validation, is that of the files' order; the
released code takes it in the order of its copy of the data.
"""

import os
import struct
from math import prod

import numpy as np

from .files import read_bytes, read_unzipped, split

VOCABULARY = 256


def tokens(images: np.ndarray) -> np.ndarray:
    """Ids (count, height * width), int32: the grey levels of uint8 images (count, height, width), row by row.

    Images with a last axis of 3 colours are made `grey` first. Raises ValueError for anything else.

    >>> tokens(np.array([[[0, 7], [255, 1]]], np.uint8))
    array([[  0,   7, 255,   1]], dtype=int32)
    """
    if images.dtype != np.uint8 or not (images.ndim == 3 or images.ndim == 4 and images.shape[3] == 3):
        raise ValueError(
            "images must be uint8 (count, height, width) or (count, height, width, 3), "
            f"got {images.dtype} {images.shape}"
        )
    if images.ndim == 4:
        images = grey(images)
    return images.reshape(len(images), images.shape[1] * images.shape[2]).astype(np.int32)


def grey(images: np.ndarray) -> np.ndarray:
    """uint8 (..., 3), red, green and blue, to uint8 (...): 0.2989 r + 0.5870 g + 0.1140 b.

    As in the released code the sum is multiplied by 255.5 / 255, so that its weights, which add up to 0.9999,
    leave grey as it is, and cut to a whole number; here without rounding on the way.

    >>> grey(np.array([[255, 0, 0], [9, 9, 9]], np.uint8))
    array([76,  9], dtype=uint8)
    """
    total = images.astype(np.int32) @ np.array([2989, 5870, 1140], np.int32)
    return (total * 511 // 5_100_000).astype(np.uint8)  # at most 1.4e9 on the way


def shrink(images: np.ndarray, factor: int) -> np.ndarray:
    """uint8 (count, height, width) to the means of squares of `factor` pixels a side, a half rounded up.

    Raises ValueError unless `factor` divides height and width.

    >>> shrink(np.array([[[0, 1], [0, 1]]], np.uint8), 2)
    array([[[1]]], dtype=uint8)
    """
    count, height, width = images.shape
    if height % factor or width % factor:
        raise ValueError(f"{factor} does not divide both of {height} x {width} pixels")
    squares = images.reshape(count, height // factor, factor, width // factor, factor)
    return ((2 * squares.sum(axis=(2, 4), dtype=int) + factor**2) // (2 * factor**2)).astype(np.uint8)


def read_cifar10(folder: str | os.PathLike, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Grey images, uint8 (count, 32, 32), and labels (count,) of a `part` of the folder cifar-10-batches-py.

    "train" and "validation" are the first 90 and the last 10 per cent of the files data_batch_1 to 5, 45 000
    and 5 000 images; "test" is test_batch, 10 000. Raises ValueError as `read_cifar_batch` does.
    """
    names = [f"data_batch_{number}" for number in range(1, 6)]
    return _part(part, lambda test: [_grey_batch(folder, x) for x in (["test_batch"] if test else names)])


def _grey_batch(folder, name):
    images, labels = read_cifar_batch(os.path.join(folder, name))
    return grey(images), labels


def _part(part, read):
    """Images and labels of a part; `read` gives a list of these, for training or for the test."""
    parts = ("train", "validation", "test")
    if part not in parts:
        raise ValueError(f"part must be one of {', '.join(parts)}, got {part!r}")
    images, labels = (np.concatenate(arrays) for arrays in zip(*read(part == "test"), strict=True))
    chosen = slice(None) if part == "test" else split(len(labels), (90, 10))[parts.index(part)]
    return images[chosen], labels[chosen]


def read_cifar_batch(path: str | os.PathLike, *, max_bytes: int = 2**27) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 (count, 32, 32, 3), and labels (count,), int32, of a file of CIFAR-10 for Python.

    The file is a pickle, which as such may run any code. Here nothing in it is run or looked up: a reader of
    its own knows the operations that stand in such files, and the two functions named there by their names.
    Raises ValueError that names the file, the byte and what is wrong, such as another operation, or what is
    due in a batch. Memory: a small multiple of the file's size, of at most `max_bytes`.
    """
    data = read_bytes(path, max_bytes)
    try:
        return _batch(_Pickle(data).read())
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)!r}: {error}") from error


class _Named(bytes):
    """The name of a function that a pickle asks for."""


class _Called:
    """A call that a pickle asks for, not done, and the state that its result would be given."""

    def __init__(self, name, arguments):
        self.name, self.arguments, self.state = name, arguments, None


class _Pickle:
    """A reader of those operations of protocol 2 in which Python 2 wrote these files."""

    CONSTANTS = {b"N": None, b"\x88": True, b"\x89": False}
    MOST = 2**20  # operations, against files of nothing but empty dicts; a batch of 10 000 images has 50 000

    def __init__(self, data):
        self.data, self.at, self.memo = data, 0, {}
        self.stacks = [[]]  # what lay on the stack before each mark, and what came after the last

    def read(self):
        """What the pickle holds: bytes, numbers, lists, tuples, dicts, and calls that were not done."""
        if self.take(2) != b"\x80\x02":
            raise ValueError("is no pickle of protocol 2")
        for _ in range(self.MOST):
            start, code = self.at, self.take(1)
            if code == b".":
                break
            try:
                self.step(code)
            except (IndexError, KeyError):
                raise ValueError(f"operation {code!r} at byte {start} finds nothing to work on") from None
            except TypeError as error:
                raise ValueError(f"operation {code!r} at byte {start} {error}") from None
        else:
            raise ValueError(f"has more than {self.MOST} operations")
        if self.at != len(self.data) or [len(stack) for stack in self.stacks] != [1]:
            raise ValueError(f"does not end with one value at byte {self.at} of {len(self.data)}")
        [[value]] = self.stacks
        return value

    def step(self, code):
        stack = self.stacks[-1]
        match code:
            case b"N" | b"\x88" | b"\x89":
                stack.append(self.CONSTANTS[code])
            case b"K" | b"M":  # numbers of one and of two bytes
                stack.append(self.number(1 if code == b"K" else 2))
            case b"J":
                stack.append(int.from_bytes(self.take(4), "little", signed=True))
            case b"U" | b"T":  # a string behind its length
                stack.append(self.take(self.number(1 if code == b"U" else 4)))
            case b"c":  # a module and a name in it
                stack.append(_Named(self.line() + b"." + self.line()))
            case b"]":
                stack.append([])
            case b"}":
                stack.append({})
            case b"(":
                self.stacks.append([])
            case b"t":
                items = self.stacks.pop()
                self.stacks[-1].append(tuple(items))
            case b"\x85" | b"\x86" | b"\x87":  # of the last one, two or three
                stack.append(tuple(reversed([stack.pop() for _ in range(code[0] - 0x84)])))
            case b"q" | b"r":
                self.memo[self.number(1 if code == b"q" else 4)] = stack[-1]
            case b"h" | b"j":
                stack.append(self.memo[self.number(1 if code == b"h" else 4)])
            case b"R":
                arguments = stack.pop()
                stack.append(_Called(_checked(stack.pop(), _Named), _checked(arguments, tuple)))
            case b"b":
                state = stack.pop()
                _checked(stack[-1], _Called).state = state
            case b"a" | b"e":
                items = [stack.pop()] if code == b"a" else self.stacks.pop()
                _checked(self.stacks[-1][-1], list).extend(items)
            case b"s" | b"u":
                items = [stack.pop() for _ in range(2)][::-1] if code == b"s" else self.stacks.pop()
                if len(items) % 2:
                    raise TypeError("finds a key without its value")
                keys = [_checked(key, bytes) for key in items[::2]]
                _checked(self.stacks[-1][-1], dict).update(zip(keys, items[1::2], strict=True))
            case _:
                raise TypeError("is none that such a file has")

    def take(self, count):
        if count > len(self.data) - self.at:
            raise ValueError(f"is cut off: {count} bytes are due at byte {self.at}")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, size):
        return int.from_bytes(self.take(size), "little")

    def line(self):
        stop = self.data.find(b"\n", self.at, self.at + 100)
        if stop < 0:
            raise ValueError(f"has no name at byte {self.at}")
        return self.take(stop + 1 - self.at)[:-1]


def _checked(value, kind):
    if type(value) is not kind:
        raise TypeError(f"finds {type(value).__name__.strip('_')}, where {kind.__name__.strip('_')} is due")
    return value


def _batch(held):
    """Images and labels of what a pickle holds."""
    if not isinstance(held, dict) or not {b"data", b"labels"} <= held.keys():
        raise ValueError("holds no dict with data and labels")
    array, labels = held[b"data"], held[b"labels"]
    state = array.state if isinstance(array, _Called) else None
    if type(state) is not tuple or len(state) != 5 or array.name != b"numpy.core.multiarray._reconstruct":
        raise ValueError("data is no array")
    _, shape, dtype, columns_first, pixels = state
    if not (isinstance(dtype, _Called) and dtype.name == b"numpy.dtype" and dtype.arguments[:1] == (b"u1",)):
        raise ValueError("data is no array of bytes")
    whole = type(pixels) is bytes and len(pixels) % 3072 == 0 and shape == (len(pixels) // 3072, 3072)
    if columns_first is not False or not whole:
        raise ValueError("data has not 3072 bytes a row, or not as many rows as it says")
    if type(labels) is not list or len(labels) != shape[0]:
        raise ValueError(f"labels are no list of {shape[0]}")
    for number, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < 10:
            raise ValueError(f"label {number} is none from 0 to 9")
    colours = np.frombuffer(pixels, np.uint8).reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(colours.transpose(0, 2, 3, 1)), np.array(labels, np.int32)


def read_mnist(folder: str | os.PathLike, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 (count, height, width), and labels (count,) of a `part` of MNIST or a set with its files.

    "train" and "validation" are the first 90 and the last 10 per cent of train-images-idx3-ubyte, "test" is
    t10k-images-idx3-ubyte; the labels are in train-labels-idx1-ubyte and t10k-labels-idx1-ubyte. Each may be
    packed, with .gz behind its name. Raises ValueError as `read_idx` does, and for what are no such arrays.
    """
    return _part(part, lambda test: [_idx_pair(folder, "t10k" if test else "train")])


def _idx_pair(folder, name):
    paths = [os.path.join(folder, f"{name}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")]
    paths = [path if os.path.exists(path) else f"{path}.gz" for path in paths]
    images, labels = map(read_idx, paths)
    if images.dtype != np.uint8 or images.ndim != 3:
        raise ValueError(f"{paths[0]!r}: holds {images.dtype} {images.shape}, where images of bytes are due")
    if labels.dtype != np.uint8 or labels.shape != images.shape[:1]:
        raise ValueError(f"{paths[1]!r}: holds {labels.dtype} {labels.shape}, where a byte for each of "
                         f"{len(images)} images is due")
    return images, labels.astype(np.int32)


IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | os.PathLike, *, max_bytes: int = 2**28) -> np.ndarray:
    """The array of an IDX file, packed by gzip or not, in the byte order of the machine.

    Raises ValueError that names the file and what is wrong: larger than `max_bytes`, before or after it is
    unpacked, an unknown type of numbers, or another number of bytes than its shape asks for.
    """
    name, data = repr(os.fspath(path)), read_unzipped(path, max_bytes)
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in IDX_TYPES or len(data) < 4 + 4 * data[3]:
        raise ValueError(f"{name}: is no IDX file, its first bytes are {data[:4]!r}")
    dtype, shape = np.dtype(IDX_TYPES[data[2]]), struct.unpack_from(f">{data[3]}I", data, 4)
    held, due = len(data) - 4 - 4 * data[3], prod(shape) * dtype.itemsize
    if held != due or len(shape) > 32:
        raise ValueError(f"{name}: holds {held} bytes of numbers, where {due} are due in {len(shape)} axes")
    return np.frombuffer(data, dtype, offset=4 + 4 * data[3]).reshape(shape).astype(dtype.newbyteorder("="))
