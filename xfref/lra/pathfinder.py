"""Pathfinder: do the two dots lie on one dashed path, among others that distract? Two classes.

"Long Range Arena: A Benchmark for Efficient Transformers", Tay et al., 2020, arXiv:2011.04006, sections 2.2.5
and 2.2.6: a picture is read row by row, one pixel a token; 128 pixels a side is Path-X. The pictures are
after "Learning long-range spatial dependencies with horizontal gated recurrent units", Linsley et al., 2018,
arXiv:1805.08315. The numbers of `parameters` are those that the benchmark's authors used.

Two paths, the targets, have tails that lie `seed_distance` apart. A path is a row of paddles,
straight strokes, with a gap of two margins between one and the next: they share the point in the middle of
the gap, and each is on a line through it. The next paddle's head is drawn among the pixels on a circle around
that point, straight on being the likeliest: the weight is cos(continuity * turn)^2. A dot marks the tail of
the first path; the other dot its head (label 1), or that of the second path (label 0). Both heads are as far
from that tail, to less than a pixel, and the label is drawn when all strokes are: neither the ink nor how far
the dots are apart can tell it.

Points are (row, column), and whole numbers are the middles of pixels. The benchmark's table is of "hard", 14
paddles a path.

Differs: written anew from the description; with a seed, the same pictures again.
Differs: the released generator lets the two paths grow in turns, marks the tail of either, and leaves the
heads where they come to lie; by that rule the distance of the dots alone is a guess that is right for 59 %
of the pictures at 32 pixels, "easy".
Differs: a stroke is drawn as the share of each pixel that it covers, from distances at 4 x 4 points of the
pixel; the released generator draws on a finer grid and shrinks it by a Lanczos filter.
Differs: no two paddles have ink on the same pixel. The released generator bounds the sum of their
intensities, and does not see the newest paddle of either path.
Differs: the first paddle of a path is not rounded to whole pixels, and has its full length.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil, cos, dist, pi, radians, sin, sqrt
from typing import NamedTuple

import numpy as np

from . import png
from .files import generator, names_in, read_bytes, split

ATTEMPTS, SECOND_ATTEMPTS = 1000, 200  # to place the first path; and, each time, the second beside it
LEVELS = {"easy": 6, "intermediate": 9, "hard": 14}  # paddles of a path
FOLDERS = {  # of the released sets, one for each size and level
    "easy": "curv_baseline",
    "intermediate": "curv_contour_length_9",
    "hard": "curv_contour_length_14",
}


@dataclass(frozen=True)
class Parameters:
    """What pictures are drawn with; lengths in pixels."""

    size: int  # of a side of the picture
    padding: int  # of the border that stays empty
    paddle_length: float
    paddle_thickness: float
    margins: tuple[int, ...]  # of which one is drawn for each picture
    seed_distance: int  # between the tails of the two paths
    marker_radius: float
    continuity: float  # how straight a path is: the largest turn is pi / 2 / continuity
    contrast: float  # of the two paths; dots have 1
    distractor_contrast: float
    contour_length: int  # paddles of each of the two paths
    distractor_length: int  # paddles of a path that distracts
    distractors: int  # the number of these


_SHARED = {  # by size; the number in the last place is divided by the length of a distractor
    32: (1, 2, 0.5, (1,), 7, 1.5, 1.0, 1.5, 2.0, 20),
    64: (1, 5, 1, (1,), 12, 2.5, 1.8, 0.8, 0.8, 22),
    128: (1, 5, 1.5, (2, 3), 20, 3, 1.8, 0.9, 0.9, 35),
    256: (22, 5, 2, (3,), 27, 5, 1.8, 1.0, 1.0, 30),
}
_SMALL = {  # no sizes of the benchmark: 256 and 576 tokens, for a CPU
    16: Parameters(16, 1, 2, 0.5, (1,), 3, 1.5, 1.0, 1.5, 2.0, 4, 1, 4),
    24: Parameters(24, 1, 2, 0.5, (1,), 5, 1.5, 1.0, 1.5, 2.0, 6, 2, 5),
}


def parameters(size: int, level: str = "hard") -> Parameters:
    """The parameters of a size (32, 64, 128 or 256) and level, or of the small sizes 16 and 24 of one level.

    Raises ValueError for any other.

    >>> parameters(32, "easy").distractors, parameters(128).seed_distance
    (10, 20)
    """
    if size in _SMALL:
        return _SMALL[size]
    if size not in _SHARED or level not in LEVELS:
        sizes = ", ".join(map(str, sorted({*_SMALL, *_SHARED})))
        raise ValueError(f"size must be one of {sizes}, level one of {', '.join(LEVELS)}: {size}, {level!r}")
    *shared, paddles = _SHARED[size]
    length = LEVELS[level]
    return Parameters(size, *shared, length, length // 3, paddles // (length // 3))


class Example(NamedTuple):
    """A picture, its label, and what it was drawn from."""

    image: np.ndarray  # uint8 (size, size)
    label: int
    paddles: np.ndarray  # (count, 4): tail and head of every paddle, path by path, the two targets first
    markers: np.ndarray  # (2, 2): the two dots, of which the first is at the tail of the first path
    margin: int


def generate(rng: np.random.Generator | int, parameters: Parameters) -> Iterator[Example]:
    """Yield pictures without end; each label is as likely as the other. `rng` is a generator or a seed.

    Raises TypeError without a seed, and ValueError once 1000 attempts in a row found no room for the two
    paths. Cost per picture on one core: at 32 pixels 15 ms ("easy") to 100 ms ("hard"), at 64 30 ms to a
    second, at 128 50 ms to 0.6 s, at 256 0.1 to 0.3 s; `xfaccel.lra.pathfinder` draws the same 30 times as
    fast.

    >>> image, label, *_ = next(generate(0, parameters(16)))
    >>> image.shape, label in (0, 1)
    ((16, 16), True)
    """
    return _pictures(generator(rng), parameters)


def _pictures(rng, p):
    while True:
        margin = p.margins[rng.integers(len(p.margins))]
        for _ in range(ATTEMPTS):
            canvas = _Canvas(rng, p, margin)
            if targets := _two_paths(canvas):
                break
        else:
            raise ValueError(f"no room for two paths in {ATTEMPTS} attempts: {p}")
        distractors = _distractors(canvas)
        paths = [*targets, *distractors]
        label = int(rng.integers(2))  # drawn last, so that no stroke depends on it
        ends = [targets[0][0].tail, targets[1 - label][-1].head]
        yield Example(
            _byte_scaled(_drawn(p, targets, distractors, ends)),
            label,
            np.array([[*paddle.tail, *paddle.head] for path in paths for paddle in path]),
            np.array(ends),
            margin,
        )


class _Paddle(NamedTuple):
    pivot: tuple[float, float]  # the point that it shares with the paddle before it, `margin` before its tail
    direction: tuple[float, float]  # from tail to head, of length 1
    tail: tuple[float, float]
    head: tuple[float, float]
    box: tuple[slice, slice]  # of the picture, where it has ink
    ink: np.ndarray


class _Canvas:
    """Which pixels have ink of a paddle, or may have none; and what finds room for the next."""

    def __init__(self, rng, p, margin):
        self.rng, self.p, self.margin = rng, p, margin
        self.reach = p.paddle_length + margin
        self.window = np.arange(-ceil(self.reach), ceil(self.reach) + 1)
        # around the picture as many pixels, all taken, as `next` looks beyond it: nothing has to be cut there
        self.around = ceil(self.reach + 2 * margin)
        self.side = p.size + 2 * self.around
        self.taken = np.ones((self.side, self.side), bool)
        inside = slice(self.around + p.padding, self.around + p.size - p.padding)
        self.taken[inside, inside] = False
        step = np.arange(-margin, margin + 1)
        disc = np.argwhere(np.add.outer(step**2, step**2) <= margin**2) - margin
        self.near = disc @ [self.side, 1]  # from a pixel to those around it, as numbers in `taken` row by row

    def paddle(self, pivot, direction):
        """The paddle that begins a margin behind `pivot`, or None where it leaves the picture."""
        (row, column), (down, right) = pivot, direction
        tail = row + self.margin * down, column + self.margin * right
        head = row + self.reach * down, column + self.reach * right
        inked = _stroke(tail, head, self.p.paddle_thickness, self.p.size)
        return inked and _Paddle(pivot, direction, tail, head, *inked)

    def cells(self, paddle):
        (top, bottom), (left, right) = ((part.start, part.stop) for part in paddle.box)
        at = self.around
        return self.taken[top + at : bottom + at, left + at : right + at]

    def fits(self, paddle):
        return not (self.cells(paddle)[paddle.ink > 0]).any()

    def put(self, paddle, taken=True):
        self.cells(paddle)[paddle.ink > 0] = taken

    def first(self, tail, degrees):
        """A path's first paddle if it has room, its tail at a point."""
        (row, column), down, right = tail, cos(radians(degrees)), sin(radians(degrees))
        paddle = self.paddle((row - self.margin * down, column - self.margin * right), (down, right))
        return paddle if paddle and self.fits(paddle) else None

    def next(self, last):
        """A paddle that goes on from `last`, or None if three draws found no room."""
        p, step, (down, right) = self.p, self.reach + self.margin, last.direction
        row, column = last.pivot[0] + step * down, last.pivot[1] + step * right
        # the pixels less than half a pixel off the circle: the paddle is on the line from the pivot to one
        rows, columns = round(row) + self.window, round(column) + self.window
        square = np.add.outer((rows - row) ** 2, (columns - column) ** 2)
        on = np.nonzero(((self.reach - 0.5) ** 2 < square) & (square < (self.reach + 0.5) ** 2))
        rows, columns, away = rows[on[0]], columns[on[1]], np.sqrt(square[on])
        downs, rights = (rows - row) / away, (columns - column) / away
        at = (rows + self.around) * self.side + columns + self.around
        near = self.taken.ravel()[at[:, None] + self.near].any(axis=1)
        turns = np.arccos(np.clip(down * downs + right * rights, -1, 1))
        total = np.cumsum(np.cos(np.minimum(p.continuity * turns, pi / 2)) ** 2 * ~near)
        if not total[-1] > 1e-9:
            return None
        for _ in range(3):
            drawn = np.searchsorted(total, self.rng.random() * total[-1], side="right")
            paddle = self.paddle((row, column), (float(downs[drawn]), float(rights[drawn])))
            if paddle and self.fits(paddle):
                return paddle
        return None

    def path(self, paddle, length):
        """A path of so many paddles that begins with a given one, or None and nothing put without room."""
        path = []
        while paddle:
            self.put(paddle)
            path.append(paddle)
            if len(path) == length:
                return path
            paddle = self.next(paddle)
        self.remove(path)
        return None

    def remove(self, path):
        for paddle in path:
            self.put(paddle, False)


def _two_paths(canvas):
    """Two paths of full length, their heads as far from the tail of the first, or None."""
    p, rng = canvas.p, canvas.rng
    low = 2 * p.seed_distance
    tail = rng.integers(low, max(p.size - low, low + 1), size=2).tolist()
    one = canvas.path(canvas.first(tail, rng.integers(-180, 180)), p.contour_length)
    if not one:
        return None
    for _ in range(SECOND_ATTEMPTS):
        away, degrees = rng.integers(-180, 180, size=2).tolist()
        down, right = p.seed_distance * cos(radians(away)), p.seed_distance * sin(radians(away))
        two = canvas.path(canvas.first((tail[0] + down, tail[1] + right), degrees), p.contour_length)
        if two and abs(dist(tail, one[-1].head) - dist(tail, two[-1].head)) < 1:
            return one, two
        canvas.remove(two or [])
    return None


def _distractors(canvas):
    """Paths that distract, wherever there is room; one that four attempts do not finish is left out."""
    paths = []
    for _ in range(canvas.p.distractors):
        for _ in range(4):
            if path := _one_path(canvas):
                paths.append(path)
                break
    return paths


def _one_path(canvas):
    p, rng = canvas.p, canvas.rng
    degrees = rng.integers(-180, 180)
    for _ in range(100):  # until the first paddle has room, so that its tail is uniform where it has
        if paddle := canvas.first(rng.integers(p.padding, p.size - p.padding, size=2).tolist(), degrees):
            return canvas.path(paddle, p.distractor_length)
    return None


_POINTS = (np.arange(4) - 1.5) / 4  # of a pixel, to each side of its middle


def _stroke(tail, head, thickness, size):
    """A strip from tail to head, as a box of the picture and the share of each pixel there that it covers.

    None if the box is not inside the picture.
    """
    half = thickness / 2
    box = []
    for ends in zip(tail, head, strict=True):
        start, stop = int(np.floor(min(ends) - half)), int(np.ceil(max(ends) + half)) + 1
        if start < 0 or stop > size:
            return None
        box.append(slice(start, stop))
    rows, columns = (np.add.outer(np.arange(part.start, part.stop), _POINTS).ravel() for part in box)
    down, right = head[0] - tail[0], head[1] - tail[1]
    length = sqrt(down * down + right * right)
    down, right = down / length, right / length
    rows, columns = rows[:, None] - (head[0] + tail[0]) / 2, columns - (head[1] + tail[1]) / 2
    along, across = rows * down + columns * right, columns * down - rows * right
    # the signed distance to the border of the strip, negative inside
    return tuple(box), _covered(np.maximum(np.abs(along) - length / 2, np.abs(across) - half))


def _covered(distance):
    """The share of each pixel inside, from signed distances (4 rows, 4 columns) at its points."""
    inside = np.clip(0.5 - 4 * distance, 0, 1)
    rows, columns = inside.shape
    return inside.reshape(rows // 4, 4, columns // 4, 4).mean(axis=(1, 3))


def _drawn(p, targets, distractors, markers):
    image = np.zeros((p.size, p.size))
    for paths, contrast in ((targets, p.contrast), (distractors, p.distractor_contrast)):
        for paddle in (paddle for path in paths for paddle in path):
            image[paddle.box] = np.maximum(image[paddle.box], contrast * paddle.ink)
    points = np.add.outer(np.arange(p.size), _POINTS).ravel()
    for row, column in markers:
        away = np.sqrt(np.add.outer((points - row) ** 2, (points - column) ** 2))
        image = np.maximum(image, _covered(away - p.marker_radius))
    return image


def _byte_scaled(image):
    return (image * (255 / image.max()) + 0.5).astype(np.uint8)  # the least is 0, that of an empty pixel


def connected(example: Example) -> int:
    """The label, by walking along the paddles from the first dot: does the walk end at the second?

    The next paddle is the one whose line goes through the point a margin behind the head of the last, at the
    same distance from its tail. Which path a paddle is of, and the label, are not looked at. Raises
    ValueError if no paddle begins at the first dot, or two go on from a point.
    """
    tails, heads = example.paddles[:, :2], example.paddles[:, 2:]
    steps = example.margin * (heads - tails) / np.linalg.norm(heads - tails, axis=1, keepdims=True)
    before, behind = tails - steps, heads + steps
    following = np.argwhere(np.linalg.norm(tails - example.markers[0], axis=1) < 1e-6)[:, 0]
    if len(following) != 1:
        raise ValueError(f"{len(following)} paddles begin at the first dot")
    while len(following):
        last = following[0]
        following = np.argwhere(np.linalg.norm(before - behind[last], axis=1) < 1e-6)[:, 0]
        if len(following) > 1:
            raise ValueError(f"{len(following)} paddles go on from {behind[last]}")
    return int(np.linalg.norm(heads[last] - example.markers[1]) < 1e-6)


def write_folder(
    folder: str | os.PathLike, examples: Iterable[Example], parameters: Parameters, *, each: int = 1000
) -> int:
    """Write pictures as the benchmark's own folder, such as curv_contour_length_14, and return how many.

    imgs/0/sample_0.png and so on, `each` in a folder, and their labels in metadata/0.npy: lines of text, with
    the place and the name of a picture, its number, its label and its parameters. Raises FileExistsError if
    the folder has pictures already.
    """
    p, count = parameters, 0
    os.makedirs(os.path.join(folder, "metadata"))
    for count, example in enumerate(examples, 1):
        part, number = divmod(count - 1, each)
        if number == 0:
            os.makedirs(os.path.join(folder, "imgs", str(part)))
        name = f"sample_{number}.png"
        png.write(os.path.join(folder, "imgs", str(part), name), example.image)
        with open(os.path.join(folder, "metadata", f"{part}.npy"), "a", encoding="ascii") as lines:
            lines.write(
                f"imgs/{part} {name} {number} {example.label} {p.continuity} {p.contour_length} "
                f"{p.distractor_length} {p.paddle_length} {p.paddle_thickness} {example.margin} 1\n"
            )
    return count


def read_folder(
    folder: str | os.PathLike, part: str | None = None, *, max_side: int = 1024, max_bytes: int = 2**26
) -> Iterator[tuple[np.ndarray, int]]:
    """Yield picture, uint8 (size, size), and label of a folder of the benchmark's own, in its lists' order.

    `part` is "train", "validation" or "test", 80, 10 and 10 per cent of the lists, or None for all. A list in
    metadata is lines of text, or an .npy file of strings. As in the benchmark, empty files are left out, of
    which a released set has one.

    Nothing in the folder is trusted. Raises ValueError that names the file, the line and what is wrong: a
    list over `max_bytes`, a line without place, name, number and label, a place outside of the folder, and
    what `png.read` raises. Cost: the lists in memory, and one picture at a time.
    """
    parts = ("train", "validation", "test")
    if part is not None and part not in parts:
        raise ValueError(f"part must be one of {', '.join(parts)}, got {part!r}")
    metadata, lines = os.path.join(folder, "metadata"), []
    names = [name for name in names_in(metadata) if re.fullmatch(r"[0-9]+\.(npy|txt)", name)]
    for name in sorted(names, key=lambda name: int(name.split(".")[0])):
        path = os.path.join(metadata, name)
        lines += [(path, number, *line) for number, line in enumerate(_listed(path, max_bytes), 1)]
    if not lines:
        raise ValueError(f"{metadata!r}: has no list of pictures, such as 0.npy")
    chosen = lines if part is None else lines[split(len(lines), (80, 10, 10))[parts.index(part)]]
    return _pictures_of(folder, chosen, max_side)


def _pictures_of(folder, lines, max_side):
    root = os.path.realpath(folder)
    for listed, number, place, label in lines:
        path = os.path.realpath(os.path.join(root, place))
        if os.path.commonpath([root, path]) != root:
            raise ValueError(f"{listed!r}, line {number}: {place[:80]!r} is outside of the folder")
        if not (os.path.isfile(path) and os.path.getsize(path) == 0):
            yield png.read(path, max_side=max_side), label


def _listed(path, max_bytes):
    """Place and label of each line of a list."""
    data = read_bytes(path, max_bytes)
    rows = _npy_rows(path, data) if data.startswith(b"\x93NUMPY") else [x.split() for x in data.splitlines()]
    for number, row in enumerate(rows, 1):
        try:
            if len(row) < 4:
                raise ValueError(f"4 columns are due, found {len(row)}")
            place, name = row[0].decode("ascii"), row[1].decode("ascii")
            if "\0" in place + name:
                raise ValueError("a name holds NUL")
            if row[3] not in (b"0", b"1"):
                raise ValueError(f"the label is {row[3][:20]!r}, where 0 or 1 is due")
        except ValueError as error:  # UnicodeDecodeError is one
            raise ValueError(f"{path!r}, line {number}: {error}") from error
        yield f"{place}/{name}", int(row[3])


def _npy_rows(path, data):
    """Rows of an .npy file of strings, by a reader of its own: NumPy's evaluates the header as Python."""
    found = re.match(
        rb"\x93NUMPY\x01\0..\{'descr': '(<U|\|S)([1-9]\d{0,3})', 'fortran_order': False, "
        rb"'shape': \((\d{1,9}), (\d{1,3})\), \} *\n",
        data,
        re.DOTALL,
    )
    if not found:
        raise ValueError(f"{path!r}: is an .npy file, but not of rows of strings in its first version")
    (width, rows, columns), unicode = map(int, found.groups()[1:]), found[1] == b"<U"
    held, due = len(data) - found.end(), rows * columns * width * (4 if unicode else 1)
    if held != due:
        raise ValueError(f"{path!r}: holds {held} bytes of strings, where {due} are due")
    if not unicode:
        return np.frombuffer(data, f"S{width}", offset=found.end()).reshape(rows, columns).tolist()
    points = np.frombuffer(data, "<u4", offset=found.end()).reshape(rows, columns, width)
    if (points > 127).any():
        raise ValueError(f"{path!r}: holds a string that is not ASCII")
    return points.astype(np.uint8).view(f"S{width}").reshape(rows, columns).tolist()
