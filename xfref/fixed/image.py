"""Image Transformer: pixels attend to a block of pixels around their own, along the raster or in the plane.

Image Transformer. Parmar, Vaswani, Uszkoreit, Kaiser, Shazeer, Ku, Tran. 2018. arXiv:1802.05751, Section 3.3
(local self-attention).

Differs: where the blocks do not divide the image, the last ones are short; the paper pads them with zeros. A
pixel sees itself: the paper's decoder shifts its inputs by one before the first layer. Nothing is hidden with
causal=False, and the memory then extends to both sides (all sides): the form that the authors' released code
gives to encoders.
"""

import numpy as np

from xfref.core import attention, count, extents, grid, lengths

Array = np.ndarray


def image_1d(q: Array, k: Array, v: Array, *, block: int, memory: int, causal: bool = True,
             key_mask: Array | None = None, scale: float | None = None) -> Array:
    """Attention of each block of pixels, in raster order, to itself and to the pixels just before it.

    out_i = attention over { j : s - memory <= j <= i },  s = block * floor(i / block)

    (...,n,d),(...,n,d),(...,n,e) -> (...,n,e). `block` is the paper's l_q, `memory` its l_m, both in pixels
    (or in pixels times channels, if those are flattened too); the released code has 256 for both. With
    causal=False, a block sees all of itself and `memory` pixels to either side.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n (block + memory) (d + e)) when the pattern is used; here O(n^2 (d + e)).

    >>> v = np.array([[0.0], [2.0], [4.0], [8.0]])
    >>> image_1d(np.zeros((4, 1)), np.zeros((4, 1)), v, block=2, memory=1)
    array([[0.        ],
           [1.        ],
           [3.        ],
           [4.66666667]])
    """
    n, _ = lengths(q, k, v, equal=True)
    block, memory = count("block", block), count("memory", memory, 0)
    key = np.arange(n)
    start = key[:, None] // block * block
    after = 0 if causal else memory
    seen = (start - memory <= key) & (key < start + block + after)
    return attention(q, k, v, mask=seen, causal=causal, key_mask=key_mask, scale=scale)


def image_2d(q: Array, k: Array, v: Array, *, shape: tuple[int, int], block: tuple[int, int],
             flange: tuple[int, int], causal: bool = True, key_mask: Array | None = None,
             scale: float | None = None) -> Array:
    """Attention of each rectangle of pixels to itself and to the pixels around it that came before.

    Pixel (y, x), in the rectangle with the corner (Y, X), (b, c) = block, (f, g) = flange, sees the pixels
        above:  Y - f <= y' < Y      and  X - g <= x' < X + c + g
        left:   Y     <= y' < Y + b  and  X - g <= x' < X
        own:    those of its rectangle up to itself, row by row

    (...,n,d),(...,n,d),(...,n,e) -> (...,n,e). The n = height * width pixels of `shape` lie row by row.
    Rectangles are generated one after another, row by row, and so are the pixels in each: that is the order
    in which nothing sees what is still to come. With causal=False, a rectangle sees all of itself and the
    flange on all four sides. The released code has blocks of (16, 16) and a flange of (16, 32).

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n (b + f) (c + 2 g) (d + e)) when the pattern is used; here O(n^2 (d + e)).

    >>> v = np.array([[0.0], [2.0], [4.0], [8.0]])
    >>> image_2d(np.zeros((4, 1)), np.zeros((4, 1)), v, shape=(2, 2), block=(2, 1), flange=(0, 1))
    array([[0. ],
           [2. ],
           [2. ],
           [3.5]])
    """
    n, _ = lengths(q, k, v, equal=True)
    _, width = grid(shape, n, axes=2)
    (b, c), (f, g) = extents("block", block, axes=2), extents("flange", flange, axes=2, least=0)
    key = np.arange(n)
    row, column = np.divmod(key, width)
    top, left = row[:, None] // b * b, column[:, None] // c * c
    own_rows, own_columns = (top <= row) & (row < top + b), (left <= column) & (column < left + c)
    near_columns = (left - g <= column) & (column < left + c + g)
    if causal:
        above = (top - f <= row) & (row < top) & near_columns
        before = own_rows & (left - g <= column) & (column < left)
        own = own_rows & own_columns & (key <= key[:, None])
        seen = above | before | own
    else:
        seen = (top - f <= row) & (row < top + b + f) & near_columns
    return attention(q, k, v, mask=seen, key_mask=key_mask, scale=scale)
