"""The front door: what comes in is checked, broadcast without copies, and handed on as addresses.

Kernels see three things per operand: a table with the address of each leading entry, the stride of a row, and
the element type. Any layout whose last axis is dense passes as it is; anything else is copied once, here.

Arrays are NumPy's or CuPy's, which are recognised without importing CuPy. A function of NumPy that is called
with an array of CuPy runs on the GPU (NEP 13 and 18); what makes a new array is looked up in `namespace`.
"""

import ctypes
import functools
import math
import sys
import threading
from collections.abc import Sequence
from numbers import Integral, Real
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray

_NATIVE = np.dtype(np.float32), np.dtype(np.float64)
_KEPT = 1 << 20  # bytes of scratch that a thread keeps at most
_SCRATCH = threading.local()


class Rows(NamedTuple):
    """An operand (lead..., rows, width) as kernels see it."""

    memory: Array   # keeps the addresses valid
    offsets: Array  # (entries) int64: bytes from the first leading entry to each
    base: int       # the address of the first leading entry
    table: int      # the address of the offsets
    stride: int     # bytes from one row to the next
    column: int     # bytes from one element to the next


def on_gpu(x: object) -> bool:
    """Whether `x` is an array of CuPy."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and type(x) is cupy.ndarray


def namespace(x: Array) -> ModuleType:
    """NumPy or CuPy, whichever `x` is an array of."""
    return np if type(x) is np.ndarray else sys.modules["cupy"]


def empty(shape: tuple[int, ...], dtype: np.dtype, like: Array) -> Array:
    """Every output of every kernel is allocated here, where `like` lies (tests fill it with NaN)."""
    if type(like) is np.ndarray:
        return np.empty(shape, dtype)
    return namespace(like).empty(shape, dtype)


def sum_dtype(x: Array) -> np.dtype:
    """The type of denominators and states for data like `x`: float32 for numbers of 16 bits, else its own."""
    return x.dtype if x.itemsize > 2 else np.dtype(np.float32)


def largest(x: Array, axis: int, least: float = -np.inf) -> Array:
    """The largest along an axis, which stays with length 1; `least` where there is none above it."""
    if type(x) is np.ndarray:
        return x.max(axis=axis, keepdims=True, initial=least)
    if x.shape[axis]:  # CuPy takes no initial value
        return np.maximum(x.max(axis=axis, keepdims=True), least)
    shape = list(x.shape)
    shape[axis] = 1
    return namespace(x).full(shape, least, x.dtype)


def scratch(size: int) -> Array:
    """`size` bytes for a kernel, starting at a multiple of 64.

    A thread gets the same memory at every call, so that it lies in its cache, unless it asks for a lot.
    """
    if size > _KEPT:
        return _aligned(np.empty(size + 63, np.uint8), size)
    kept = getattr(_SCRATCH, "memory", None)
    if kept is None or len(kept) < size:
        kept = _SCRATCH.memory = _aligned(np.empty(size + 63, np.uint8), size)
    return kept


def _aligned(memory: Array, size: int) -> Array:
    start = -address(memory) % 64
    return memory[start:start + size]


def rows(x: Array, lead: tuple[int, ...], *, dense: bool = True) -> Any:
    """`x` (..., rows, width) broadcast to `lead`; copied if misaligned, or not `dense` in its last axis.

    `Rows`, or what the GPU's kernels see.
    """
    if type(x) is not np.ndarray:
        from xfaccel.engine.gpu.launch import operand  # most processes do without
        spread = dense and x.shape[-1] > 1 and x.strides[-1] != x.itemsize
        return operand(distinct(x).copy() if spread else x, lead)
    if not x.flags.aligned or (dense and x.shape[-1] > 1 and x.strides[-1] != x.itemsize):
        x = np.ascontiguousarray(x) if x.flags.aligned else x.copy()
    strides = x.strides
    offsets, table = entry_offsets(lead, x.shape[:-2], strides[:-2])
    return Rows(x, offsets, address(x), table, strides[-2], strides[-1])


def rows_at(x: Array, places: Array) -> Array:
    """The rows of `x` (..., n, w) at `places` (..., k), leading axes broadcast: (..., k, w)."""
    lead = np.broadcast_shapes(x.shape[:-2], places.shape[:-1])
    if type(x) is not np.ndarray:
        x = np.broadcast_to(x, (*lead, *x.shape[-2:]))
        return np.take_along_axis(x, np.broadcast_to(places, (*lead, places.shape[-1]))[..., None], axis=-2)
    x, places = np.broadcast_to(x, (*lead, *x.shape[-2:])), np.broadcast_to(places, (*lead, places.shape[-1]))
    out = np.empty((*places.shape, x.shape[-1]), x.dtype)
    for entry in np.ndindex(lead):  # `take` copies rows in a third of the time that indexing needs
        x[entry].take(places[entry], axis=0, out=out[entry], mode="clip")
    return out


def address(x: Array) -> int:
    """Where the data of `x` begins."""
    # the common case takes a third of the time
    if x.flags.carray and x.nbytes:
        return ctypes.addressof(ctypes.c_char.from_buffer(x))
    return x.__array_interface__["data"][0]


@functools.lru_cache(128)
def entry_offsets(lead: tuple[int, ...], shape: tuple[int, ...],
                  strides: tuple[int, ...]) -> tuple[Array, int]:
    """From an array's start to each entry of its leading axes, broadcast to `lead`; the address of that.

    In the unit of the strides.
    """
    # an axis that the array lacks, or has with length 1, is the same for every entry: its stride is 0
    steps = [0] * (len(lead) - len(shape)) + [0 if length == 1 else step
                                              for length, step in zip(shape, strides, strict=True)]
    offsets = np.zeros(1, np.int64)
    for length, step in zip(lead, steps, strict=True):
        offsets = (offsets[:, None] + np.arange(length) * step).ravel()
    offsets.setflags(write=False)
    return offsets, address(offsets)


def distinct(x: Array) -> Array:
    """`x` (..., n, width) with length 1 on the leading axes that only repeat it, so that copies do not."""
    if 0 not in x.strides[:-2]:
        return x
    return x[tuple(slice(0, 1) if step == 0 else slice(None) for step in x.strides[:-2])]


def joined(*stretches: Array) -> Array:
    """Arrays (...,rows,width) one below the other, their leading axes broadcast; repeated ones stay one."""
    stretches = [distinct(x) for x in stretches]
    lead = leading(*stretches)
    return np.concatenate([np.broadcast_to(x, (*lead, *x.shape[-2:])) for x in stretches], axis=-2)


def shown(x: Array, seen: Array) -> Array:
    """The rows of `x` (..., n, w) where `seen` (..., n) is True, zeros elsewhere; leading axes broadcast."""
    # of bfloat16, CuPy makes float32 here
    return np.where(seen[..., None], x, 0).astype(x.dtype, copy=False)


def as_key_mask(seen: Array, k: Array) -> Array | None:
    """`seen` (..., m) as a key mask for `k`, of k.ndim - 1 axes; None if it is known to hide nothing."""
    return None if hides_nothing(seen) else seen.reshape((1,) * (k.ndim - 1 - seen.ndim) + seen.shape)


def hides_nothing(seen: Array) -> bool:
    """Whether all of `seen` is True. Of what lies on a GPU the host does not know: it would have to wait."""
    return type(seen) is np.ndarray and bool(seen.all())


def lengths(q: Array, k: Array, v: Array, *, equal: bool = False, more_keys: bool = False) -> tuple[int, int]:
    """The numbers of queries and keys, n and m, of three arrays that fit together.

    Raises: TypeError unless q, k and v are arrays of one float type; ValueError unless their shapes are
    (...,n,d), (...,m,d), (...,m,e) with leading axes that broadcast, n = m if `equal`, m >= n if `more_keys`.
    """
    # what is right is seen at a glance, what is wrong at leisure
    if not (type(q) is type(k) is type(v) is np.ndarray and q.dtype is k.dtype is v.dtype
            and q.dtype in _NATIVE and min(q.ndim, k.ndim, v.ndim) >= 2):
        for name, x in (("q", q), ("k", k), ("v", v)):
            check_array(name, x, least=2, dtype=getattr(q, "dtype", None))
    return shapes_fit(q, k, v, equal, more_keys)


def shapes_fit(q: Array, k: Array, v: Array, equal: bool = False, more_keys: bool = False) -> tuple[int, int]:
    """What `lengths` does for arrays of at least two axes, whatever their types."""
    (n, width), (m, key_width), values = q.shape[-2:], k.shape[-2:], v.shape[-2]
    if width != key_width:
        raise ValueError(f"q and k need the same width, got {width} and {key_width}")
    if width == 0:
        raise ValueError("q and k need a width of at least 1, got 0")
    if values != m:
        raise ValueError(f"k and v need the same length, got {m} and {values}")
    if equal and n != m:
        raise ValueError(f"this variant needs as many queries as keys, got n = {n} and m = {m}")
    if more_keys and m < n:
        raise ValueError(f"this variant needs at least as many keys as queries, got n = {n} and m = {m}")
    leading(q, k, v)
    return n, m


def leading(*arrays: Array, names: str = "q, k and v") -> tuple[int, ...]:
    """The common leading axes of arrays of shape (...,length,width). Raises ValueError if there are none."""
    leads = [x.shape[:-2] for x in arrays]
    if leads.count(leads[0]) == len(leads):
        return leads[0]
    try:
        return np.broadcast_shapes(*leads)
    except ValueError:
        raise ValueError(f"the leading axes of {names} do not broadcast: got the shapes "
                         + ", ".join(str(x.shape) for x in arrays)) from None


def codes_and_scales(name: str, pair: object, q: Array) -> tuple[Array, Array]:
    """A pair of `quantize_rows`, int8 (..., m, w) and the scale of each row (..., m), for the queries `q`.

    Raises: TypeError or ValueError, naming the pair or its entry, unless it is one.
    """
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise TypeError(f"{name} needs a pair (codes, scales), as the other of k and v is one, "
                        f"got {describe(pair)}")
    codes, scales = pair
    if not is_array(codes) or codes.dtype != np.int8:
        raise TypeError(f"{name}[0] needs a numpy.ndarray of int8, got {describe(codes)}")
    if codes.ndim < 2:
        raise ValueError(f"{name}[0] needs at least 2 axes, got the shape {codes.shape}")
    return codes, parameter(f"{name}[1]", scales, sum_dtype(q), own=codes.shape[:-1], lead=())


def check_key_mask(key_mask: object, k: Array, lead: tuple[int, ...], name: str = "key_mask") -> Array:
    """A key mask that fits the keys `k`, True = attend.

    Raises: TypeError or ValueError if it is not boolean with (m,) or k.ndim - 1 axes.
    """
    m = k.shape[-2]
    if not is_array(key_mask) or key_mask.dtype != bool:
        raise TypeError(f"{name} needs a boolean array (True = attend), got {describe(key_mask)}")
    if key_mask.ndim not in (1, k.ndim - 1) or key_mask.shape[-1] != m:
        wanted = "(m,)" if k.ndim == 2 else f"(m,) or k.ndim - 1 = {k.ndim - 1} axes ending in m"
        raise ValueError(f"{name} needs {wanted} = {m}, got {key_mask.shape}; for one mask per batch entry "
                         f"beside heads, reshape (B, m) to (B, 1, m): {name}[:, None, :]")
    check_shape(name, key_mask.shape, (m,), lead)
    return key_mask


def scale_or_default(scale: float | None, q: Array, *, positive: bool = False) -> float:
    """`scale`, or d**-0.5. Raises TypeError or ValueError if it is no finite (positive) number."""
    if scale is None:
        return q.shape[-1] ** -0.5
    return number("scale", scale, *[0] * positive, above=positive)


def is_array(x: object) -> bool:
    """Whether `x` is a plain array of NumPy or CuPy."""
    return type(x) is np.ndarray or on_gpu(x)


def is_half(x: object) -> bool:
    """Whether the numbers of `x` are float16 or bfloat16, which is no type of NumPy's own: its name tells."""
    return x.dtype.itemsize == 2 and _names_half(x.dtype)


@functools.cache  # NumPy puts the name together each time
def _names_half(dtype: np.dtype) -> bool:
    return dtype.name in ("float16", "bfloat16") and dtype.isnative


def check_array(name: str, x: object, *, least: int = 0, dtype: np.dtype | None = None,
                like: str = "q") -> None:
    """Raise TypeError unless `x` is a float array (of `dtype`), ValueError if it has under `least` axes.

    `like` names the array whose type `dtype` is.
    """
    if not is_array(x):
        raise TypeError(f"{name} needs a numpy.ndarray of floats, got {describe(x)}; {_remedy(x)}")
    if not (x.dtype.char in "fd" and x.dtype.isnative) and not is_half(x):
        raise TypeError(f"{name} needs float32 or float64 in native byte order, got {x.dtype}; "
                        f"convert with {name}.astype(numpy.float32)")
    if dtype is not None and x.dtype != dtype:
        raise TypeError(f"{name} needs the dtype of {like}, {dtype}, got {x.dtype}; "
                        f"convert with {name}.astype({like}.dtype)")
    if x.ndim < least:
        raise ValueError(f"{name} needs at least {least} axes, got the shape {x.shape}")


def companion(name: str, x: object, dtype: np.dtype, own: Sequence[int], lead: tuple[int, ...]) -> Array:
    """Data beside q, k and v: (lead..., own...) in their type. Raises TypeError or ValueError naming it."""
    check_array(name, x, least=2, dtype=dtype)
    check_shape(name, x.shape, own, lead)
    return x


def parameter(name: str, x: object, dtype: np.dtype, *, own: Sequence[int | None],
              lead: tuple[int, ...], broadcast: bool = False) -> Array:
    """A parameter of shape (lead..., own...) cast to `dtype`; None in `own` accepts any length.

    With `broadcast`, own axes of length 1 fit too. Raises TypeError or ValueError naming the parameter.
    """
    if not is_array(x) or not (np.issubdtype(x.dtype, np.floating) or (on_gpu(x) and is_half(x))):
        raise TypeError(f"{name} needs a numpy.ndarray of floats, got {describe(x)}; {_remedy(x)}")
    check_shape(name, x.shape, own, lead, broadcast)
    return x.astype(dtype, copy=False)


def keys_and_values(name: str, pair: object, q: Array, v: Array,
                    lead: tuple[int, ...]) -> tuple[Array, Array]:
    """A pair of parameters (lead..., length, d) and (lead..., length, e), as further keys and values.

    Raises: TypeError or ValueError, naming the pair or its entry, unless they fit q and v.
    """
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError(f"{name} needs a pair of arrays (keys, values), got {describe(pair)}")
    keys = parameter(f"{name}[0]", pair[0], q.dtype, own=(None, q.shape[-1]), lead=lead)
    return keys, parameter(f"{name}[1]", pair[1], q.dtype, own=(keys.shape[-2], v.shape[-1]), lead=lead)


def check_mask(name: str, mask: object, own: Sequence[int | None], lead: tuple[int, ...]) -> Array:
    """A boolean array broadcastable to (lead..., own...). Raises TypeError or ValueError naming it."""
    if not is_array(mask) or mask.dtype != bool:
        raise TypeError(f"{name} needs a boolean array (True = attend), got {describe(mask)}")
    check_shape(name, mask.shape, own, lead, broadcast=True)
    return mask


def integers(name: str, x: object, own: Sequence[int | None], lead: tuple[int, ...]) -> Array:
    """An array of integers >= 0, of shape (lead..., own...). Raises TypeError or ValueError naming it.

    Of integers on a GPU, the values are not looked at: the host would have to wait for them.
    """
    if not is_array(x) or not np.issubdtype(x.dtype, np.integer):
        raise TypeError(f"{name} needs a numpy.ndarray of integers, got {describe(x)}")
    check_shape(name, x.shape, own, lead)
    if type(x) is np.ndarray and x.size and x.min() < 0:
        raise ValueError(f"{name} needs integers of at least 0, got {x.min()}")
    return x


def check_shape(name: str, shape: tuple[int, ...], own: Sequence[int | None], lead: tuple[int, ...],
                broadcast: bool = False) -> None:
    """Raise ValueError, naming the array, unless `shape` is (lead..., own...), `lead` up to broadcasting."""
    cut = max(len(shape) - len(own), 0)
    tail = shape[cut:]
    accepted = (len(tail) == len(own) or broadcast) and all(
        want is None or got == want or (broadcast and got == 1)
        for got, want in zip(reversed(tail), reversed(own), strict=False))
    try:
        accepted = accepted and np.broadcast_shapes(shape[:cut], lead) == lead
    except ValueError:
        accepted = False
    if not accepted:
        axes = ", ".join(["lead...", *("any" if want is None else str(want) for want in own)])
        raise ValueError(f"{name} needs the shape ({axes}) with lead broadcastable to {lead}, got {shape}")



def count(name: str, x: object, least: int = 1) -> int:
    """`x` as an int. Raises TypeError if it is no integer, ValueError if it is under `least`."""
    if isinstance(x, bool | np.bool_) or not isinstance(x, Integral):
        raise TypeError(f"{name} needs an integer, got {describe(x)}")
    if x < least:
        raise ValueError(f"{name} needs to be at least {least}, got {x}")
    return int(x)


def counts(name: str, x: object, lead: tuple[int, ...], least: int = 1) -> int | Array:
    """An int, or one int per entry of the last leading axis (per head). Raises as `count` does."""
    if np.ndim(x) == 0:
        return count(name, x[()] if isinstance(x, np.ndarray) else x, least)
    values = np.asarray(x)
    if not np.issubdtype(values.dtype, np.integer):
        raise TypeError(f"{name} needs an integer or one integer per head, got {describe(x)}")
    if lead[-1:] != values.shape:
        raise ValueError(f"{name} needs one integer, or one per entry of the last leading axis "
                         f"{lead[-1:]}, got the shape {values.shape}")
    if values.size and values.min() < least:
        raise ValueError(f"{name} needs to be at least {least}, got {values.min()}")
    return values


def extents(name: str, x: object, axes: int | None = None, least: int = 1) -> tuple[int, ...]:
    """`x` as a tuple of ints, one per axis of a grid. Raises TypeError or ValueError naming it."""
    if not isinstance(x, Sequence):
        raise TypeError(f"{name} needs a tuple of integers, one per axis, got {describe(x)}")
    if axes is not None and len(x) != axes:
        raise ValueError(f"{name} needs {axes} integers, one per axis, got {len(x)}")
    return tuple(count(name, length, least) for length in x)


def grid(shape: object, n: int, axes: int | None = None) -> tuple[int, ...]:
    """The shape of a grid of n positions. Raises TypeError or ValueError if it is none."""
    sides = extents("shape", shape, axes, least=0)
    if math.prod(sides) != n:
        raise ValueError(f"shape needs a product of n = {n}, got {sides} with {math.prod(sides)}")
    return sides


def number(name: str, x: object, low: float = -np.inf, high: float = np.inf, *, above: bool = False) -> float:
    """`x` as a float, low <= x <= high, or low < x if `above`. Raises TypeError or ValueError naming it."""
    if isinstance(x, bool | np.bool_) or not isinstance(x, Real):
        raise TypeError(f"{name} needs a number, got {describe(x)}")
    if not np.isfinite(x) or not low <= x <= high or (above and x == low):
        kind = "finite and positive" if above and low == 0 else "finite"
        bounds = [f"at least {low}"] * (low > -np.inf and not above) + [f"at most {high}"] * (high < np.inf)
        raise ValueError(f"{name} needs to be {', '.join([kind, *bounds])}, got {x}")
    return float(x)


def describe(x: object) -> str:
    """What `x` is, in a few words, for an error message."""
    kind = f"{type(x).__module__}.{type(x).__qualname__}".removeprefix("builtins.")
    if hasattr(x, "dtype"):
        return f"{kind} of {x.dtype}"
    return f"{kind} of length {len(x)}" if isinstance(x, list | tuple) else f"{kind} {x!r:.40}"


def _remedy(x: object) -> str:
    if isinstance(x, np.ma.MaskedArray):
        return "fill it with .filled(0) and pass its mask as key_mask"
    if isinstance(x, np.ndarray | list | tuple):
        return "convert with numpy.asarray(x, dtype=numpy.float32)"
    return "convert to NumPy first, for example with numpy.asarray or .numpy()"
