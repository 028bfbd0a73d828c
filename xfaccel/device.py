"""The door for arrays of CuPy: a call computes where its data lies, on that GPU's current stream.

Data stays where it is; parameters of NumPy are moved to it. Nothing comes back: the host reads no value
that lies on a GPU, for which it would have to wait. Integers out of range, which are refused on the host,
thus count as the nearest in range. What decides which keys there are to visit (`HOST`) lies on the host,
which writes the lists of tiles.
"""

import sys
from collections.abc import Callable, Iterable

import numpy as np

from xfaccel.arrays import describe, is_half, on_gpu

Array = np.ndarray

# what comes with q, k and v instead of being a parameter of theirs
DATA = {"q", "k", "v", "qk", "x", "scores", "logits", "global_q", "global_k", "global_v", "out_a", "lse_a",
        "out_b", "lse_b", "state"}
HOST = {"dilation", "global_tokens", "sub_block", "random_blocks", "span"}
# functions that do in operations of CuPy what 16 bits would not do for, as logarithms, sorts or sums of keys,
# some only if they are given the argument named here. All others hand numbers of 16 bits on as they are
IN_FLOAT32 = {"softmax": None, "layer_norm": None, "merge": None, "quantize_rows": None,
              "adaptive_span": None, "linformer": None, "lsh_buckets": None, "routing_clusters": None,
              "sinkhorn_sort": None, "shaw": "value_table"}


def call(function: Callable, given: dict[str, object], like: str, wide: tuple[int, ...]) -> object:
    """`function` of the arguments `given` by name, on the GPU where its argument `like` lies.

    Of numbers of 16 bits, the results named by their place in `wide` stay float32.
    """
    first = given[like]
    with first.device:
        given = {name: _placed(name, x, first, like) for name, x in given.items()}
        if not is_half(first) or not in_float32(function.__name__, given):
            return function(**given)
        for name in DATA - {"state"}:  # sums are float32
            if (x := given.get(name)) is not None and not name.startswith("lse") and x.dtype != first.dtype:
                raise TypeError(f"{name} needs the dtype of {like}, {first.dtype}, got {x.dtype}; convert "
                                f"with {name}.astype({like}.dtype)")
        result = function(**{name: _widened(x) for name, x in given.items()})
        if isinstance(result, tuple):
            return tuple(x if place in wide else _narrowed(x, first) for place, x in enumerate(result))
        return _narrowed(result, first)


def in_float32(name: str, given: dict[str, object]) -> bool:
    """Whether a call of the function `name` computes in float32 what it is given in 16 bits."""
    return name in IN_FLOAT32 and (IN_FLOAT32[name] is None or given.get(IN_FLOAT32[name]) is not None)


def refuse(given: Iterable[tuple[str, object]], like: str) -> None:
    """Raise TypeError if any argument of a call with data on the host lies on a GPU."""
    for name, x in given:
        for part in x if isinstance(x, tuple | list) else (x,):
            if on_gpu(part):
                raise TypeError(f"{name} needs a numpy.ndarray, as {like} is one, got {describe(part)}; move "
                                f"{like} with cupy.asarray({like}), or {name} with cupy.asnumpy({name})")


def _placed(name: str, x: object, first: Array, like: str) -> object:
    """An argument where it is needed; tuples and lists of arrays too."""
    if isinstance(x, tuple | list):
        if any(type(part) is np.ndarray or on_gpu(part) for part in x):
            return tuple(_placed(name, part, first, like) for part in x)
        return x
    if on_gpu(x):
        if name in HOST:
            raise TypeError(f"{name} decides which keys are visited, which the host has to know: it needs "
                            f"numbers or a numpy.ndarray, got {describe(x)}; convert with "
                            f"cupy.asnumpy({name})")
        if x.device != first.device:
            raise ValueError(f"{name} needs to lie on the GPU of {like}, {first.device}, got {x.device}; "
                             f"copy it with cupy.asarray({name}) while that one is current")
        return x
    if type(x) is not np.ndarray or name in HOST:
        return x
    if name in DATA:
        raise TypeError(f"{name} needs a cupy.ndarray, as {like} is one, got {describe(x)}; move it with "
                        f"cupy.asarray({name})")
    return sys.modules["cupy"].asarray(x)


def _widened(x: object) -> object:
    """Arrays of 16 bits as float32, also within tuples; all else as it is."""
    if isinstance(x, tuple):
        return tuple(map(_widened, x))
    return x.astype(np.float32) if on_gpu(x) and is_half(x) else x


def _narrowed(x: Array, first: Array) -> Array:
    return x.astype(first.dtype) if x.dtype == np.float32 else x
