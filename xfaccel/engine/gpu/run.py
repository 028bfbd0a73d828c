"""The engines on the GPU, called as those on the CPU are: operands in, launches on the current stream out."""

import math
from typing import Any

import numpy as np

from xfaccel.engine.gpu import launch, loader
from xfaccel.engine.gpu.launch import Operand
from xfaccel.engine.tiles import TileList

Array = Any  # of CuPy


def softmax(q: Operand, k: Operand, v: Operand, out: Operand, lse: Operand | None, *, d: int, e: int,
            tile_list: TileList, plane_of: np.ndarray, scale: float, key_mask: Operand | None = None,
            mask: Operand | None = None, bias: Operand | None = None,
            distance: tuple[Operand, int, int] | None = None, relative: None = None,
            labels: tuple[Operand, Operand, np.ndarray] | None = None,
            order: tuple[Operand, Operand] | None = None, so_far: bool = False) -> None:
    """What `xfaccel.engine.cpu.softmax.run` does; `relative` has become a bias, by `by_products`."""
    if labels is not None:
        labels = *labels[:2], loader.resident(labels[2])
    loader.run(launch.softmax(
        q, k, v, out, lse, dtype=_dtype(q, k, v, out), d=d, e=e, tile_list=tile_list, plane_of=plane_of,
        scale=scale, put=loader.resident, key_mask=key_mask, mask=mask, bias=bias, distance=distance,
        labels=labels, order=order, so_far=lse if so_far else None))


def gather(q: Operand, k: Operand, v: Operand, out: Operand, lse: Operand | None, indices: Operand, *, n: int,
           m: int, d: int, e: int, count: int, last: int, scale: float,
           key_mask: Operand | None = None) -> None:
    """What `xfaccel.engine.cpu.gather.run` does, for lists of keys in ascending order."""
    loader.run(launch.gather(q, k, v, out, lse, indices, dtype=_dtype(q, k, v, out), n=n, d=d, e=e,
                             count=count, last=last, scale=scale, put=loader.resident, key_mask=key_mask))


def by_products(distance_bias: tuple[Array, int] | None, relative: tuple[Array, Array, int],
                scale: float) -> tuple[Array, int]:
    """`relative` of `xfaccel.engine.softmax.attend` as a `distance_bias`, joined with the one there is.

    Each query gets a row of products with the keys of all T distances: O(n T) memory.
    """
    queries, keys, first = relative
    table = scale * (queries @ keys.swapaxes(-1, -2))
    if distance_bias is None:
        return table, first
    other, begin = distance_bias
    # every distance that either of the two tells apart
    low = min(first, begin)
    columns = np.arange(low, max(first + table.shape[-1], begin + other.shape[-1]))
    table, other = (x.take(np.clip(columns - start, 0, x.shape[-1] - 1), axis=-1)
                    for x, start in ((table, first), (other, begin)))
    return table + other, low


def _dtype(*operands: Operand) -> str:
    """The name of the type of all operands: a kernel would read any other as this."""
    name, = {x.array.dtype.name for x in operands}
    return name


def scan(mode: str, ranges: np.ndarray, lead: tuple[int, ...], *, d: int, e: int, dtype: np.dtype,
         **operands) -> None:
    """A pass over the tokens of the `ranges` of every leading entry, as `launch.scan` says."""
    loader.run(launch.scan(mode, ranges, dtype=dtype.name, entries=math.prod(lead), d=d, e=e,
                           put=loader.resident, **operands))
