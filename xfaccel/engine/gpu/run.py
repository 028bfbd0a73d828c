"""The engines on the GPU, called as those on the CPU are: operands in, launches on the current stream out."""

import math

import numpy as np

from xfaccel.engine.gpu import launch, loader
from xfaccel.engine.gpu.launch import Array, Operand
from xfaccel.engine.tiles import TileList


def softmax(q: Operand, k: Operand, v: Operand, out: Operand, lse: Operand | None, *, d: int, e: int,
            tile_list: TileList, plane_of: np.ndarray, scale: float, key_mask: Operand | None = None,
            mask: Operand | None = None, bias: Operand | None = None,
            distance: tuple[Operand, int, int] | None = None,
            relative: tuple[Operand, Operand, int, int] | None = None,
            labels: tuple[Operand, Operand, np.ndarray] | None = None,
            order: tuple[Operand, Operand] | None = None, so_far: bool = False) -> None:
    """What `xfaccel.engine.cpu.softmax.run` does."""
    if labels is not None:
        labels = *labels[:2], loader.resident(labels[2])
    loader.run(launch.softmax(
        q, k, v, out, lse, dtype=_dtype(q, k, v, out), d=d, e=e, tile_list=tile_list, plane_of=plane_of,
        scale=scale, put=loader.resident, key_mask=key_mask, mask=mask, bias=bias, distance=distance,
        relative=relative, labels=labels, order=order, so_far=lse if so_far else None,
        hopper=loader.hopper()))


def gather(q: Operand, k: Operand, v: Operand, out: Operand, lse: Operand | None, indices: Operand, *, n: int,
           m: int, d: int, e: int, count: int, last: int, scale: float,
           key_mask: Operand | None = None) -> None:
    """What `xfaccel.engine.cpu.gather.run` does, for lists of keys in ascending order."""
    loader.run(launch.gather(q, k, v, out, lse, indices, dtype=_dtype(q, k, v, out), n=n, d=d, e=e,
                             count=count, last=last, scale=scale, put=loader.resident, key_mask=key_mask))


def _dtype(*operands: Operand) -> str:
    """The name of the type of all operands: a kernel would read any other as this."""
    dtype, = {x.array.dtype for x in operands}
    return launch.name(dtype)


def scan(mode: str, ranges: np.ndarray, lead: tuple[int, ...], *, d: int, e: int, dtype: np.dtype,
         **operands) -> None:
    """A pass over the tokens of the `ranges` of every leading entry, as `launch.scan` says."""
    loader.run(launch.scan(mode, ranges, dtype=launch.name(dtype), entries=math.prod(lead), d=d, e=e,
                           put=loader.resident, **operands))


def running(states: Array, begin: Array, skip: int, *, given: bool) -> None:
    """The running sums of the states of `scan`, as `launch.running` says."""
    loader.run(launch.running(states, begin, skip, given=given))
