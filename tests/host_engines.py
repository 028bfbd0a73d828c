"""The CPU in the place of the GPU's kernels, for arrays of `cupy_arrays`: the same operands, at the CPU's speed.

What lies between a public function and its launches is thus tested on every case of the table, and the kernels
themselves on fewer.
"""

import numpy as np

from xfaccel.arrays import Rows, address
from xfaccel.engine.cpu import gather as cpu_gather
from xfaccel.engine.cpu import softmax as cpu_softmax
from xfaccel.engine.gpu import run


def of(x):
    """An operand of the GPU as one of the CPU; a tuple of them and numbers likewise."""
    if isinstance(x, tuple) and not hasattr(x, "offsets"):
        return tuple(map(of, x))
    if not hasattr(x, "offsets"):
        return x
    held, size = x.array.held, x.array.itemsize
    offsets = x.offsets * size
    return Rows(held, offsets, address(held), address(offsets), x.row * size, x.column * size)


def softmax(*operands, **options):
    cpu_softmax.run(*map(of, operands), **{name: of(x) if isinstance(x, tuple) and name != "tile_list" else x
                                           for name, x in options.items()})


def gather(*operands, n, m, **options):
    cpu_gather.run(*map(of, operands), n=n, m=m, **{name: of(x) for name, x in options.items()})


def scan(mode, ranges, lead, *, d, e, dtype, q=None, k=None, v=None, out=None, key_mask=None, begin=None, end=None,
         shift=0):
    """Token by token, as the definition has it."""
    def entry(x, index):
        if x is None:
            return None
        held = x.array.held
        return held[np.unravel_index(index, lead)] if held.shape[:-2] == lead else np.broadcast_to(
            held, (*lead, *held.shape[-2:]))[np.unravel_index(index, lead)]

    feature = lambda x: np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))
    for index in range(int(np.prod(lead))):
        at = {name: entry(x, index) for name, x in dict(q=q, k=k, v=v, out=out, mask=key_mask, begin=begin,
                                                        end=end).items()}
        for part, (first, stop) in enumerate(ranges):
            state = np.zeros(d * e + d)
            if begin is not None:
                state = at["begin"][part if begin.row else 0].astype(float)
            s, z = state[:d * e].reshape(d, e).copy(), state[d * e:].copy()
            for t in range(first, stop):
                if mode != "read" and (at["mask"] is None or at["mask"][0, t]):
                    f = feature(at["k"][t].astype(float))
                    s += f[:, None] * at["v"][t]
                    z += f
                if mode != "sum":
                    f = feature(at["q"][t + shift].astype(float))
                    whole = f @ z
                    at["out"][t + shift] = f @ s / whole if whole else 0
            if end is not None:
                at["end"][part] = np.concatenate([s.ravel(), z])


def install(monkeypatch=None):
    for function in (softmax, gather, scan):
        if monkeypatch is None:
            setattr(run, function.__name__, function)
        else:
            monkeypatch.setattr(run, function.__name__, function)
