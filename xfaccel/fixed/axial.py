"""Axial attention, fast: the lines of a grid are strided tiles, so that nothing is moved."""

import math

import numpy as np

from xfaccel.arrays import check_key_mask, count, grid, leading, lengths
from xfaccel.engine import tiles
from xfaccel.engine.softmax import attend

Array = np.ndarray


def axial(q: Array, k: Array, v: Array, *, shape: tuple[int, ...], axis: int, causal: bool = False,
          key_mask: Array | None = None, scale: float | None = None) -> Array:
    """Attention along one axis of a grid: to the positions that differ in that coordinate alone.

    (...,n,d),(...,n,d),(...,n,e) -> (...,n,e). Follows `xfref.axial`: the axes before `axis` become a leading
    axis; those after it make lines that lie interleaved, which the engine walks through with that stride.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n shape[axis] (d + e)) time; no array is copied.
    Memory: threads * tile(d, e) + 4 * n.
    """
    n, _ = lengths(q, k, v, equal=True)
    shape = grid(shape, n)
    axis = count("axis", axis, -len(shape))
    if axis >= len(shape):
        raise ValueError(f"axis needs to be below {len(shape)}, the number of axes of shape, got {axis}")
    axis %= len(shape)
    before, stride = math.prod(shape[:axis]), math.prod(shape[axis + 1:])
    inner = shape[axis] * stride
    if key_mask is not None:
        lead = check_key_mask(key_mask, k, leading(q, k, v)).shape[:-1]
        key_mask = key_mask.reshape(*(lead or (1,) * (k.ndim - 2)), before, inner)
    lines = tiles.band(inner, inner, -tiles.WIDE, 0 if causal else tiles.WIDE, max(stride, 1))
    out, _ = attend(*(x.reshape(*x.shape[:-2], before, inner, x.shape[-1]) for x in (q, k, v)), lines,
                    key_mask=key_mask, scale=scale, with_lse=False)
    return out.reshape(*out.shape[:-3], n, out.shape[-1])
