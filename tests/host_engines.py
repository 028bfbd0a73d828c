"""The engines of the CPU in the place of the GPU's kernels, on the same operands, arrays of `cupy_arrays`.

What lies between a public function and its launches can thus be tested on every case of the table, and the
kernels themselves on fewer.
"""

import ctypes
import functools

import numpy as np
from compare import HALF
from numpy.lib.array_utils import byte_bounds

from xfaccel.arrays import Rows, address
from xfaccel.engine.cpu import gather as cpu_gather
from xfaccel.engine.cpu import softmax as cpu_softmax
from xfaccel.engine.gpu import run


def on_the_cpu(engine, *operands, tile_list=(), **options):
    """Call `engine` of the CPU, which knows float32 instead of 16 bits; results are rounded."""
    def of(x):
        if isinstance(x, tuple) and not hasattr(x, "offsets"):
            return tuple(map(of, x))
        if not hasattr(x, "offsets"):
            return x
        held = x.array.held
        place, size = held.__array_interface__["data"][0], held.itemsize
        if held.dtype in HALF:
            low, numbers = spanned(held)
            wide = numbers.astype(np.float32)
            place, size = address(wide) + (place - low) * 2, 4
            rounded[x.array] = numbers, wide
            held = wide
        offsets = x.offsets * size
        return Rows(held, offsets, place, address(offsets), x.row * size, x.column * size)

    rounded = {}
    lists = dict(tile_list=tile_list) if tile_list else {}
    engine(*map(of, operands), **lists, **{name: of(x) for name, x in options.items()})
    numbers, wide = rounded.get(operands[3].array, (None, None))
    if wide is not None:
        numbers[:] = wide.astype(numbers.dtype)


def spanned(array):
    """The lowest address of an array, and all numbers from there to its end, whatever lies between them."""
    low, high = byte_bounds(array)
    memory = (ctypes.c_uint16 * ((high - low) // 2)).from_address(low)
    return low, np.frombuffer(memory, np.uint16).view(array.dtype)


def scan(mode, ranges, lead, *, d, e, dtype, shift=0, given=False, **operands):
    """Token by token, as the definition has it."""
    def feature(x):
        return x if given else np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))

    if not len(ranges) or 0 in lead:
        return
    operands = {name: x for name, x in operands.items() if x is not None}
    for name, x in operands.items():
        assert x.column == 1 or x.array.shape[-1] < 2 or name == "key_mask", f"{name} is not dense"
    assert operands["v" if mode == "sum" else "out"].array.dtype == dtype
    whole = {name: np.broadcast_to(x.array.held, (*lead, *x.array.shape[-2:])) if name not in ("out", "end")
             else x.array.held for name, x in operands.items()}
    for entry in np.ndindex(lead):
        at = {name: x[entry] for name, x in whole.items()}
        for part, (first, stop) in enumerate(ranges):
            state = np.zeros(d * e + d + given)
            state[d * e + d:] = -np.inf
            if "begin" in at:
                state = at["begin"][part if operands["begin"].row else 0].astype(float)
            s, z, top = state[:d * e].reshape(d, e), state[d * e:d * e + d], state[-1] if given else 0.0
            for t in range(first, stop):
                if mode != "read" and ("key_mask" not in at or at["key_mask"][0, t]):
                    exponent = float(at["exponent"][0, t]) if "exponent" in at else 0.0
                    before, top = top, max(top, exponent)
                    shrink, f = 2.0**(before - top), feature(at["k"][t].astype(float)) * 2.0**(exponent - top)
                    s = s * shrink + f[:, None] * at["v"][t]
                    z = z * shrink + f
                if mode != "sum":
                    f = feature(at["q"][t + shift].astype(float))
                    at["out"][t + shift] = f @ s / (f @ z) if f @ z else 0
            if "end" in at:
                at["end"][part] = np.concatenate([s.ravel(), z, [top][:given]])


def running(states, begin, skip, *, given):
    """Part after part, in double."""
    before = np.zeros((*states.shape[:-2], states.shape[-1]))
    before[..., states.shape[-1] - given:] = -np.inf
    for part in range(states.shape[-2] + 1):
        if part >= skip:
            begin.held[..., part - skip, :] = before
        if part == states.shape[-2]:
            break
        own = states.held[..., part, :].astype(float)
        if given:
            tops = before[..., -1:], own[..., -1:]
            most = np.maximum(*tops)
            shrunk = [x[..., :-1] * np.exp2(top - np.maximum(most, np.finfo(float).min))
                      for x, top in zip((before, own), tops, strict=True)]
            before = np.concatenate([sum(shrunk), most], axis=-1)
        else:
            before = before + own


def install(monkeypatch):
    monkeypatch.setattr(run, "softmax", functools.partial(on_the_cpu, cpu_softmax.run))
    monkeypatch.setattr(run, "gather", functools.partial(on_the_cpu, cpu_gather.run))
    monkeypatch.setattr(run, "scan", scan)
    monkeypatch.setattr(run, "running", running)
