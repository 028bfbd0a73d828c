"""Products along the sequence, whichever device holds the arrays."""

import numpy as np

from xfaccel.arrays import empty, rows
from xfaccel.engine.cpu import product as cpu

Array = np.ndarray


def project(a: Array, x: Array, lead: tuple[int, ...], key_mask: Array | None = None) -> Array:
    """a @ x, with the rows of `x` that `key_mask` hides counted as zero, whatever they hold.

    (...,r,m),(...,m,w) -> (lead...,r,w), all checked by the caller. Cost: O(r m w) time, O(r w) memory.
    """
    (number, length), width = a.shape[-2:], x.shape[-1]
    out = empty((*lead, number, width), x.dtype)
    mask = None if key_mask is None else rows(key_mask[..., None, :], lead, dense=False)
    cpu.run(rows(a, lead), rows(x, lead), rows(out, lead), number=number, length=length, width=width,
            key_mask=mask)
    return out
