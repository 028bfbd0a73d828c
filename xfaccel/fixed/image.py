"""Image Transformer, fast: one range of keys per row of the image that a block sees."""

import functools

import numpy as np

from xfaccel.arrays import count, extents, grid, lengths
from xfaccel.engine import tiles
from xfaccel.engine.softmax import attend

Array = np.ndarray


def image_1d(q: Array, k: Array, v: Array, *, block: int, memory: int, causal: bool = True,
             key_mask: Array | None = None, scale: float | None = None) -> Array:
    """Attention of each block of pixels, in raster order, to itself and to the pixels just before it.

    (...,n,d),(...,n,d),(...,n,e) -> (...,n,e). Follows `xfref.image_1d`: one range of keys per query; tiles
    of queries are cut at the borders of blocks.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n (block + memory) (d + e)) time.
    Memory: max(threads * tile(d, e), made(n) if causal else 50 * n) + 12 * n.
    """
    n, _ = lengths(q, k, v, equal=True)
    tile_list = _along_the_raster(n, count("block", block), count("memory", memory, 0), bool(causal))
    return attend(q, k, v, tile_list, key_mask=key_mask, scale=scale, with_lse=False)[0]


def image_2d(q: Array, k: Array, v: Array, *, shape: tuple[int, int], block: tuple[int, int],
             flange: tuple[int, int], causal: bool = True, key_mask: Array | None = None,
             scale: float | None = None) -> Array:
    """Attention of each rectangle of pixels to itself and to the pixels around it that came before.

    (...,n,d),(...,n,d),(...,n,e) -> (...,n,e). Follows `xfref.image_2d`: queries are taken rectangle by
    rectangle, so that those of a tile see the same keys (with squares of 16 or 8, this saves a third to two
    thirds of the scores), and put back at the end; keys stay where they are, one range per row of the image.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n (b + f) (c + 2 g) (d + e)) time for (b, c) = block and (f, g) = flange.
    Memory: threads * tile(d, e) + max(heads * n * max(d, e) * size,
        2**20 + n * (54 * (b + (1 if causal else 2) * f) - heads * e * size)).
    """
    n, _ = lengths(q, k, v, equal=True)
    shape = grid(shape, n, axes=2)
    block, flange = extents("block", block, axes=2), extents("flange", flange, axes=2, least=0)
    order, tile_list = _in_the_plane(shape, block, flange, bool(causal))
    out, _ = attend(q.take(order, axis=-2), k, v, tile_list, key_mask=key_mask, scale=scale,
                    with_lse=False)
    return out.take(np.argsort(order), axis=-2)


@functools.lru_cache(64)
def _along_the_raster(n: int, block: int, memory: int, causal: bool) -> tiles.TileList:
    query = np.arange(n)[:, None]
    start = query // block * block
    stop = query + 1 if causal else np.minimum(start + block + memory, n)
    return tiles.from_ranges(np.maximum(start - memory, 0), stop)


@functools.lru_cache(64)
def _in_the_plane(shape: tuple[int, int], block: tuple[int, int], flange: tuple[int, int],
                  causal: bool) -> tuple[Array, tiles.TileList]:
    """The pixels in the order of their rectangles, and what each sees, in that order."""
    (height, width), (b, c), (f, g) = shape, block, flange
    row, column = np.indices(shape).reshape(2, -1)
    order = np.lexsort((column, row, column // c, row // b))
    row, column = row[order, None], column[order, None]
    top, left = row // b * b, column // c * c
    seen = top + np.arange(-f, b if causal else b + f)  # rows of the image
    first, last = np.maximum(left - g, 0), np.minimum(left + c + g, width)
    if causal:
        # rows above, rows of the rectangle above the pixel's own, its own, and those below
        kinds = [seen < top, seen < row, seen == row]
        last = np.select(kinds, [last, np.minimum(left + c, width), column + 1], left)
    inside = (0 <= seen) & (seen < height)
    starts, stops = (np.where(inside, seen * width + edge, 0) for edge in (first, last))
    return order, tiles.from_ranges(starts, stops)
