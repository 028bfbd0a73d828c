"""Pathfinder, fast: the pictures of `xfref.lra.pathfinder`, the same for the same seed.

The random numbers come from the caller's generator in the order in which `xfref` draws them. Where a stroke
lies and has ink follows from sums, products, quotients and roots, in the same order too, which are rounded
alike everywhere. Only the weights of the heads that the next paddle may have do not: were a cosine of NumPy's
the neighbour of the one here, a random number would have to fall between the two to make a difference.
"""

from collections.abc import Iterator
from math import acos, ceil, cos, floor, pi, radians, sin, sqrt
from typing import NamedTuple, Protocol

import numpy as np
from numba import njit

from xfaccel.engine.cpu import cache

Array = np.ndarray

ATTEMPTS, SECOND_ATTEMPTS = 1000, 200  # to place the first path; and, each time, the second beside it
PIVOT, DIRECTION, TAIL, HEAD = range(0, 8, 2)  # a row of eight numbers is a paddle: pairs of row and column
FAR = 0.125 + 0.54  # a pixel whose middle is so far from a stroke has no ink: its points are within 0.54
OPTIONS = dict(nogil=True, cache=True, error_model="numpy")


class Parameters(Protocol):
    """What pictures are drawn with, such as `xfref.lra.pathfinder.parameters(128)`."""

    size: int
    padding: int
    paddle_length: float
    paddle_thickness: float
    margins: tuple[int, ...]
    seed_distance: int
    marker_radius: float
    continuity: float
    contrast: float
    distractor_contrast: float
    contour_length: int
    distractor_length: int
    distractors: int


class Example(NamedTuple):
    """A picture, its label, and what it was drawn from: the fields of `xfref.lra.pathfinder.Example`."""

    image: Array
    label: int
    paddles: Array
    markers: Array
    margin: int


def generate(rng: np.random.Generator | int, parameters: Parameters) -> Iterator[Example]:
    """Yield pictures without end, those of `xfref.lra.pathfinder.generate`. `rng` is a generator or a seed.

    Raises TypeError without a seed, and ValueError once 1000 attempts in a row found no room for the two
    paths. Cost per picture on one core: at 32 pixels 0.5 ms ("easy") to 1.6 ms ("hard"), at 64 0.8 to 20 ms,
    at 128 1 to 14 ms, at 256 2 to 8 ms. The GIL is free while paths are laid, so threads
    with generators of their own draw side by side.
    """
    if rng is None:
        raise TypeError("rng must be a numpy Generator or a seed: None would not be reproducible")
    return _pictures(np.random.default_rng(rng), parameters)


class _Sizes(NamedTuple):
    """The numbers that the kernels need, each of one type whatever type a parameter has."""

    size: int
    padding: int
    around: int
    margin: int
    length: float
    thickness: float
    seed_distance: int
    radius: float
    continuity: float
    contour: int
    distractor: int
    distractors: int


def _pictures(rng, p):
    while True:
        margin = p.margins[rng.integers(len(p.margins))]
        around = ceil(p.paddle_length + 3 * margin + p.paddle_thickness) + 2
        sizes = _Sizes(
            p.size, p.padding, around, margin, float(p.paddle_length), float(p.paddle_thickness),
            p.seed_distance, float(p.marker_radius), float(p.continuity), p.contour_length,
            p.distractor_length, p.distractors,
        )
        reach = np.arange(-margin, margin + 1)
        disc = np.argwhere(np.add.outer(reach**2, reach**2) <= margin**2) - margin
        near = disc @ [p.size + 2 * around, 1]  # from a pixel to those around it, in the map row by row
        rows = np.empty((2 * p.contour_length + p.distractors * p.distractor_length, 8))
        with rng.bit_generator.lock:
            count = _lay(rng, sizes, near, rows)
        if count == 0:
            raise ValueError(f"no room for two paths in {ATTEMPTS} attempts: {p}")
        paddles, n, label = rows[:count, TAIL:].copy(), p.contour_length, int(rng.integers(2))
        markers = np.stack([paddles[0, :2], paddles[(2 - label) * n - 1, 2:]])
        contrasts = np.full(count, float(p.distractor_contrast))
        contrasts[: 2 * n] = p.contrast
        image = np.zeros((p.size, p.size))
        _draw(sizes, paddles, contrasts, markers, image)
        image = (image * (255 / image.max()) + 0.5).astype(np.uint8)
        yield Example(image, label, paddles, markers, margin)


with cache.enabled():
    @njit(**OPTIONS)
    def _lay(rng, sizes, near, paddles):
        """Lay all paths, the two targets first: the number of paddles, 0 if there was no room for two."""
        n, side = sizes.contour, sizes.size + 2 * sizes.around
        window = 2 * ceil(sizes.length + sizes.margin) + 3
        heads = np.empty((window * window, 3))
        taken = np.empty((side, side), np.bool_)
        border = sizes.around + sizes.padding
        for _ in range(ATTEMPTS):
            taken[:] = True
            taken[border:side - border, border:side - border] = False
            if _two_paths(rng, sizes, near, heads, taken, paddles):
                break
        else:
            return 0
        count = 2 * n
        for _ in range(sizes.distractors):
            for _ in range(4):
                if _one_path(rng, sizes, near, heads, taken, paddles[count:count + sizes.distractor]):
                    count += sizes.distractor
                    break
        return count

    @njit(**OPTIONS)
    def _two_paths(rng, sizes, near, heads, taken, paddles):
        n, low = sizes.contour, 2 * sizes.seed_distance
        high = max(sizes.size - low, low + 1)
        row, column = float(rng.integers(low, high)), float(rng.integers(low, high))
        degrees = rng.integers(-180, 180)
        if not (_first(sizes, row, column, degrees, taken, paddles[0])
                and _path(rng, sizes, near, heads, taken, paddles[:n])):
            return False
        for _ in range(SECOND_ATTEMPTS):
            away, degrees = radians(rng.integers(-180, 180)), rng.integers(-180, 180)
            down, right = sizes.seed_distance * cos(away), sizes.seed_distance * sin(away)
            if (_first(sizes, row + down, column + right, degrees, taken, paddles[n])
                    and _path(rng, sizes, near, heads, taken, paddles[n:2 * n])):
                one, two = _away(row, column, paddles[n - 1]), _away(row, column, paddles[2 * n - 1])
                if abs(one - two) < 1:
                    return True
                _remove(sizes, paddles[n:2 * n], taken)
        return False

    @njit(**OPTIONS)
    def _away(row, column, paddle):
        """How far it is to the paddle's head."""
        return sqrt((paddle[HEAD] - row) ** 2 + (paddle[HEAD + 1] - column) ** 2)

    @njit(**OPTIONS)
    def _remove(sizes, paddles, taken):
        for number in range(len(paddles)):
            _put(sizes, paddles[number], taken, False)

    @njit(**OPTIONS)
    def _one_path(rng, sizes, near, heads, taken, paddles):
        low, high = sizes.padding, sizes.size - sizes.padding
        degrees = rng.integers(-180, 180)
        for _ in range(100):
            row, column = float(rng.integers(low, high)), float(rng.integers(low, high))
            if _first(sizes, row, column, degrees, taken, paddles[0]):
                return _path(rng, sizes, near, heads, taken, paddles)
        return False

    @njit(**OPTIONS)
    def _path(rng, sizes, near, heads, taken, paddles):
        """Put all paddles of a path of which the first is given; where there is no room, none."""
        _put(sizes, paddles[0], taken, True)
        for number in range(1, len(paddles)):
            if not _next(rng, sizes, near, heads, taken, paddles[number - 1], paddles[number]):
                _remove(sizes, paddles[:number], taken)
                return False
            _put(sizes, paddles[number], taken, True)
        return True

    @njit(**OPTIONS)
    def _first(sizes, row, column, degrees, taken, paddle):
        down, right = cos(radians(degrees)), sin(radians(degrees))
        row, column = row - sizes.margin * down, column - sizes.margin * right
        return _fits(sizes, row, column, down, right, taken, paddle)

    @njit(**OPTIONS)
    def _next(rng, sizes, near, heads, taken, last, paddle):
        reach = sizes.length + sizes.margin
        step, window = reach + sizes.margin, ceil(reach) + 1
        row, column = last[PIVOT] + step * last[DIRECTION], last[PIVOT + 1] + step * last[DIRECTION + 1]
        above, left = int(np.rint(row)) - window, int(np.rint(column)) - window
        nearest, furthest = (reach - 0.5) ** 2, (reach + 0.5) ** 2
        least = cos(min(pi / 2 / sizes.continuity, pi))  # of the cosine of a turn: others weigh nothing
        count, total = 0, 0.0
        for x in range(above, above + 2 * window + 1):
            for y in range(left, left + 2 * window + 1):
                square = (x - row) ** 2 + (y - column) ** 2
                if not nearest < square < furthest:
                    continue
                away = sqrt(square)
                down, right = (x - row) / away, (y - column) / away
                straight = last[DIRECTION] * down + last[DIRECTION + 1] * right
                if straight >= least and not _any_near(taken, near, x + sizes.around, y + sizes.around):
                    total += cos(min(sizes.continuity * acos(min(max(straight, -1.0), 1.0)), pi / 2)) ** 2
                    heads[count, 0], heads[count, 1], heads[count, 2] = total, down, right
                    count += 1
        if not total > 1e-9:
            return False
        for _ in range(3):
            drawn = np.searchsorted(heads[:count, 0], rng.random() * total, side="right")
            if _fits(sizes, row, column, heads[drawn, 1], heads[drawn, 2], taken, paddle):
                return True
        return False

    @njit(**OPTIONS)
    def _any_near(taken, near, row, column):
        cells, middle = taken.ravel(), row * taken.shape[1] + column
        for step in near:
            if cells[middle + step]:
                return True
        return False

    @njit(**OPTIONS)
    def _fits(sizes, row, column, down, right, taken, paddle):
        """Write the paddle of a pivot and direction; whether it lies in the picture and has room."""
        reach = sizes.length + sizes.margin
        paddle[PIVOT], paddle[PIVOT + 1], paddle[DIRECTION], paddle[DIRECTION + 1] = row, column, down, right
        paddle[TAIL], paddle[TAIL + 1] = row + sizes.margin * down, column + sizes.margin * right
        paddle[HEAD], paddle[HEAD + 1] = row + reach * down, column + reach * right
        (top, bottom), (left, right) = _box(paddle[TAIL:], sizes.thickness / 2)
        if min(top, left) < 0 or max(bottom, right) > sizes.size:
            return False
        strip = _strip(paddle[TAIL:], sizes.thickness / 2)
        for x in range(top, bottom):
            for y in range(left, right):
                if taken[x + sizes.around, y + sizes.around] and _inked(x, y, strip):
                    return False
        return True

    @njit(**OPTIONS)
    def _put(sizes, paddle, taken, value):
        (top, bottom), (left, right) = _box(paddle[TAIL:], sizes.thickness / 2)
        strip = _strip(paddle[TAIL:], sizes.thickness / 2)
        for x in range(top, bottom):
            for y in range(left, right):
                if _inked(x, y, strip):
                    taken[x + sizes.around, y + sizes.around] = value

    @njit(**OPTIONS)
    def _box(ends, half):
        """The first row and column, and those after the last, of a stroke's picture."""
        top, bottom = min(ends[0], ends[2]) - half, max(ends[0], ends[2]) + half
        left, right = min(ends[1], ends[3]) - half, max(ends[1], ends[3]) + half
        return (floor(top), ceil(bottom) + 1), (floor(left), ceil(right) + 1)

    @njit(**OPTIONS)
    def _strip(ends, half):
        """Middle, direction, half the length and half the thickness of a stroke from tail to head."""
        down, right = ends[2] - ends[0], ends[3] - ends[1]
        length = sqrt(down * down + right * right)
        middle = (ends[2] + ends[0]) / 2, (ends[3] + ends[1]) / 2
        return middle, (down / length, right / length), length / 2, half

    @njit(**OPTIONS)
    def _off(x, y, strip):
        """The signed distance of a point to the border of a strip, negative inside."""
        (row, column), (down, right), length, half = strip
        x, y = x - row, y - column
        along, across = x * down + y * right, y * down - x * right
        return max(abs(along) - length, abs(across) - half)

    @njit(**OPTIONS)
    def _inked(x, y, strip):
        """Whether any of a pixel is covered."""
        if _off(x, y, strip) < FAR:
            for i in range(4):
                for j in range(4):
                    if _off(x + (i - 1.5) / 4, y + (j - 1.5) / 4, strip) < 0.125:
                        return True
        return False

    @njit(**OPTIONS)
    def _covered(x, y, strip):
        """The share of a pixel that is covered, from the distances at 4 x 4 points."""
        share = 0.0
        for i in range(4):
            line = 0.0
            for j in range(4):
                distance = _off(x + (i - 1.5) / 4, y + (j - 1.5) / 4, strip)
                line += min(max(0.5 - 4 * distance, 0.0), 1.0)
            share += line
        return share / 16

    @njit(**OPTIONS)
    def _draw(sizes, paddles, contrasts, markers, image):
        for number in range(len(paddles)):
            (top, bottom), (left, right) = _box(paddles[number], sizes.thickness / 2)
            strip = _strip(paddles[number], sizes.thickness / 2)
            for x in range(top, bottom):
                for y in range(left, right):
                    image[x, y] = max(image[x, y], contrasts[number] * _covered(x, y, strip))
        reach = ceil(sizes.radius) + 1
        for row, column in markers:
            top, left = max(floor(row) - reach, 0), max(floor(column) - reach, 0)
            for x in range(top, min(top + 2 * reach + 2, sizes.size)):
                for y in range(left, min(left + 2 * reach + 2, sizes.size)):
                    image[x, y] = max(image[x, y], _in_disc(x - row, y - column, sizes.radius))

    @njit(**OPTIONS)
    def _in_disc(x, y, radius):
        share = 0.0
        for i in range(4):
            line = 0.0
            for j in range(4):
                away = sqrt((x + (i - 1.5) / 4) ** 2 + (y + (j - 1.5) / 4) ** 2)
                line += min(max(0.5 - 4 * (away - radius), 0.0), 1.0)
            share += line
        return share / 16
