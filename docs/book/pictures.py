"""Matrices of attention weights as small SVG in the colours of the page: a query a row, a key a column."""

from collections.abc import Mapping
from html import escape

import numpy as np

LEVELS = 8       # of shade
FAINTEST = 0.1   # the least weight that is not zero is still seen
SIDES = {1: 340, 2: 300, 3: 250}  # of so many matrices, in pixels; one that is alone may be twice as wide
SIDE = 200       # of more than these


def svg(shown: object, caption: str, *, keys: str = "keys", queries: str = "queries",
        image: bool = False, borders: tuple[int, ...] = ()) -> str:
    """One matrix, or a mapping of titles to matrices, beside each other. Rows are shaded by their largest
    weight, an `image` by the largest of all; a weight below zero has a colour of its own. A line stands
    before each column of `borders`."""
    matrices = shown if isinstance(shown, Mapping) else {"": shown}
    side = SIDES.get(len(matrices), SIDE)
    widest = 2 * side if len(matrices) == 1 else side
    parts = [_matrix(title, np.asarray(x, float), caption, keys, queries, image, borders, side, widest)
             for title, x in matrices.items()]
    return f'<div class="matrices">{"".join(parts)}</div>'


def _matrix(title: str, weights: np.ndarray, caption: str, keys: str, queries: str, image: bool,
            borders: tuple[int, ...], side: float, widest: float) -> str:
    if weights.ndim != 2:
        raise ValueError(f"a picture needs a matrix, got the shape {weights.shape}")
    n, m = weights.shape
    cell = min(side / n, widest / m)
    width, height, left, top = m * cell, n * cell, 18, 34 if title else 18  # room for the words
    largest = np.abs(weights).max(axis=None if image else 1, keepdims=True, initial=0)
    share = np.divide(np.abs(weights), largest, out=np.zeros_like(weights), where=largest > 0)
    level = np.ceil(share * LEVELS).astype(int)
    cells = []
    for sign, name in ((1, "weight"), (-1, "negative")):
        for shade in range(1, LEVELS + 1):
            runs = _runs((level == shade) & (np.sign(weights) == sign))
            if runs:
                opacity = FAINTEST + (1 - FAINTEST) * shade / LEVELS
                path = "".join(f"M{j} {i}h{length}v1h-{length}z" for i, j, length in runs)
                cells.append(f'<path class="{name}" fill-opacity="{opacity:.2f}" d="{path}"/>')
    lines = "".join(f'<path class="border" d="M{j} 0v{n}"/>' for j in borders)
    middle = left + width / 2
    wide, high = max(left + width + 2, middle + 4 * len(title)), top + height + 2
    aside = min(middle - 4 * len(title), 0)  # how far the title reaches beyond the left
    label = escape(f"{title}: {caption}" if title else caption, quote=True)
    heading = f'<text class="title" x="{middle:.0f}" y="13">{escape(title)}</text>' if title else ""
    return (
        f'<svg role="img" aria-label="{label}" width="{wide - aside:.0f}" height="{high:.0f}" '
        f'viewBox="{aside:.0f} 0 {wide - aside:.0f} {high:.0f}">{heading}'
        f'<text x="{middle:.0f}" y="{top - 6}">{escape(keys)} &#8594;</text>'
        f'<text transform="translate(12 {top + height / 2:.0f}) rotate(-90)">&#8592; {escape(queries)}</text>'
        f'<g transform="translate({left} {top}) scale({cell:.4f})">'
        f'<rect class="frame" width="{m}" height="{n}"/>{"".join(cells)}{lines}</g></svg>')


def _runs(cells: np.ndarray) -> list[tuple[int, int, int]]:
    """The row, the first column and the length of each run of true cells."""
    edges = np.diff(np.pad(cells.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    starts, stops = np.argwhere(edges == 1), np.argwhere(edges == -1)
    return [(int(i), int(j), int(stop - j)) for (i, j), (_, stop) in zip(starts, stops, strict=True)]
