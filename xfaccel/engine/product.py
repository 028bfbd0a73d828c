"""Products along the sequence, whichever device holds the arrays."""

import math

import numpy as np

from xfaccel.arrays import empty, rows, shown
from xfaccel.engine.cpu import hashing
from xfaccel.engine.cpu import product as cpu

Array = np.ndarray


def project(a: Array, x: Array, lead: tuple[int, ...], key_mask: Array | None = None) -> Array:
    """a @ x, with the rows of `x` that `key_mask` hides counted as zero, whatever they hold.

    (...,r,m),(...,m,w) -> (lead...,r,w), all checked by the caller. Cost: O(r m w) time, O(r w) memory.
    """
    (number, length), width = a.shape[-2:], x.shape[-1]
    if type(x) is not np.ndarray:
        if key_mask is not None:
            x = shown(x, key_mask)
        dtype = x.dtype
        if dtype.name == "bfloat16":  # CuPy has no products of these
            a, x = a.astype(np.float32), x.astype(np.float32)
        return np.broadcast_to((a @ x).astype(dtype, copy=False), (*lead, number, width))
    out = empty((*lead, number, width), x.dtype, x)
    mask = None if key_mask is None else rows(key_mask[..., None, :], lead, dense=False)
    cpu.run(rows(a, lead), rows(x, lead), rows(out, lead), number=number, length=length, width=width,
            key_mask=mask)
    return out


def closest(x: Array, directions: Array, lead: tuple[int, ...]) -> Array:
    """In each round, to which of the directions each row is closest, the opposites counting on behind them.

    (...,n,d),(...,R,h,d) -> (lead...,R,n) ints in 0..2h-1, all checked by the caller. Cost: O(n R h d) time,
    O(n R) memory.
    """
    rounds, number, d = directions.shape[-3:]
    if type(x) is not np.ndarray:
        products = x[..., None, :, :] @ directions.swapaxes(-1, -2)
        found = np.concatenate([products, -products], axis=-1).argmax(axis=-1)
        return np.broadcast_to(found, (*lead, rounds, x.shape[-2]))
    out = np.empty((*lead, rounds, x.shape[-2]), np.int64)
    flat = directions.reshape(*directions.shape[:-3], rounds * number, d)
    hashing.run(rows(x, lead), rows(flat, lead), out.reshape(math.prod(lead), rounds, x.shape[-2]), d=d,
                rounds=rounds, number=number)
    return out
