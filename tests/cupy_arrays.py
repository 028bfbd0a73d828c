"""Arrays as CuPy's, without a GPU: numbers that NumPy cannot reach, and what CuPy 14 does to them.

`ndarray` holds an array of NumPy, which only this module and those who stand for a GPU read. As with CuPy,
NumPy's functions and operators act on it (NEP 13 and 18) if CuPy has one of the same name. What mixes in an
array of NumPy, or turns one of these into it, raises TypeError. UFUNCS, FUNCTIONS and METHODS list what CuPy
has and which arguments it takes; what is not listed raises. So does what would make the host wait for the
GPU, which CuPy would grant: the value of a number, or a shape that depends on values.
"""

import functools
import types

import ml_dtypes
import numpy as np

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
HALF = {np.dtype(np.float16), BFLOAT16}


class HostMustWait(AssertionError):
    """CuPy would do this, after it has waited for the GPU."""


class Device:
    """A GPU, as CuPy names it; one at a time is current."""

    current = 0

    def __init__(self, number=None, sm=80, processors=1):
        self.id = Device.current if number is None else number
        self.compute_capability = str(sm)
        self.attributes = {"MultiProcessorCount": processors}

    def __eq__(self, other):
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self):
        return self.id

    def __repr__(self):
        return f"<CUDA Device {self.id}>"

    def __enter__(self):
        self.before, Device.current = Device.current, self.id
        return self

    def __exit__(self, *_):
        Device.current = self.before


def wait(*_, **__):
    raise HostMustWait("the host would wait for the GPU")


class ndarray:
    """An array of the current device; `held` is for those who stand for the GPU."""

    __slots__ = ("device", "held", "__weakref__")
    __array_priority__ = 100

    def __init__(self, held, device=None):
        assert type(held) is np.ndarray, type(held)
        self.held, self.device = held, Device() if device is None else device

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. "
                        "Please use `.get()` to construct a NumPy array explicitly.")

    shape = property(lambda self: self.held.shape)
    dtype = property(lambda self: self.held.dtype)
    strides = property(lambda self: self.held.strides)
    ndim = property(lambda self: self.held.ndim)
    size = property(lambda self: self.held.size)
    itemsize = property(lambda self: self.held.itemsize)
    nbytes = property(lambda self: self.held.nbytes)
    mT = property(lambda self: ndarray(self.held.mT))
    data = property(lambda self: types.SimpleNamespace(ptr=self.held.ctypes.data))
    flags = property(lambda self: types.SimpleNamespace(
        c_contiguous=self.held.flags.c_contiguous, f_contiguous=self.held.flags.f_contiguous,
        owndata=self.held.flags.owndata))

    get = tolist = item = __int__ = __float__ = __bool__ = __index__ = nonzero = wait

    def __len__(self):
        return len(self.held)

    def __iter__(self):
        return (ndarray(np.asarray(x)) for x in self.held)

    def __repr__(self):
        return f"<stand-in for a cupy.ndarray, {self.dtype} {self.shape}>"

    def fill(self, value):
        self.held.fill(value)

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        if method != "__call__" or ufunc.__name__ not in UFUNCS:
            return NotImplemented
        if "out" in kwargs:
            kwargs["out"], = kwargs["out"]
        return call(ufunc, inputs, kwargs, {"out", "dtype"})

    def __array_function__(self, func, kinds, args, kwargs):
        home = MODULE
        for part in func.__module__.split(".")[1:]:
            home = getattr(home, part, None)
        own = getattr(home, func.__name__, None)
        return NotImplemented if own is None else own(*args, **kwargs)

    def __getitem__(self, key):
        return ndarray(np.asarray(self.held[index(key)]))

    def __setitem__(self, key, value):
        self.held[index(key)] = bare(value)


def index(key):
    """A key for NumPy: CuPy moves arrays of integers that lie on the host, and counts what a mask shows."""
    def one(part):
        if isinstance(part, ndarray) and part.dtype == bool:
            wait()
        return bare(part) if isinstance(part, ndarray) else part

    return tuple(map(one, key)) if isinstance(key, tuple) else one(key)


def bare(x):
    """What an operation of CuPy is given, for NumPy. Raises TypeError for what CuPy does not take."""
    if isinstance(x, ndarray):
        if x.device.id != Device.current:
            raise ValueError(f"an array lies on {x.device}, and {Device()} is current")
        return x.held
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)}")
    if isinstance(x, tuple | list):
        return type(x)(map(bare, x))
    return x


def call(function, args, kwargs, allowed):
    """`function` of NumPy, as CuPy would: with these named arguments alone, arrays in and an array out."""
    assert set(kwargs) <= allowed, f"CuPy's {function.__name__} takes no {', '.join(set(kwargs) - allowed)}"
    out = kwargs.get("out")
    if function is np.matmul and (kinds := {x.dtype for x in args if isinstance(x, ndarray)}) & HALF:
        if BFLOAT16 in kinds:
            raise TypeError("data type 'E' not understood")
        # a product of numbers of 16 bits is summed up in float32
        wide = [ndarray(x.held.astype(np.float32)) for x in args]
        return call(function, wide, kwargs, allowed).astype(np.result_type(*kinds))
    if function is np.tril and args[0].dtype == BFLOAT16:
        args = args[0].astype(np.float32), *args[1:]  # what it gives of these
    with np.errstate(all="ignore"):  # a GPU is silent
        found = function(*map(bare, args), **{name: bare(x) for name, x in kwargs.items()})
    if out is not None:
        return out
    if isinstance(found, tuple | list):
        return type(found)(map(ndarray, found))
    return ndarray(np.asarray(found))


UFUNCS = {
    "absolute", "add", "bitwise_and", "bitwise_or", "cos", "divide", "equal", "exp", "exp2", "floor_divide",
    "greater", "greater_equal", "invert", "isfinite", "isnan", "less", "less_equal", "log", "matmul",
    "maximum", "minimum", "multiply", "negative", "not_equal", "remainder", "rint", "sin", "sqrt", "subtract"}

# functions of arrays, and what they take by name
FUNCTIONS = {name: set(words.split()) for name, words in {
    "argsort": "axis kind", "broadcast_to": "", "clip": "out", "concatenate": "axis out dtype casting",
    "cumsum": "axis dtype out", "einsum": "", "empty_like": "dtype order subok shape", "isneginf": "out",
    "moveaxis": "", "ones_like": "dtype order subok shape", "sort": "axis kind",
    "take_along_axis": "axis", "tril": "k", "zeros_like": "dtype order subok shape",
}.items()}

METHODS = {name: set(words.split()) for name, words in {
    "any": "axis out keepdims", "argmax": "axis out dtype keepdims",
    "astype": "dtype order casting subok copy", "copy": "order", "max": "axis out keepdims",
    "mean": "axis dtype out keepdims", "ravel": "order",
    "reshape": "order copy", "sum": "axis dtype out keepdims", "swapaxes": "", "take": "axis out",
}.items()}


def _method(name, allowed):
    def method(self, *args, **kwargs):
        if name == "take":  # CuPy moves indices that lie on the host
            args = tuple(asarray(x) if isinstance(x, np.ndarray | list) else x for x in args)
        return call(getattr(np.ndarray, name), (self, *args), kwargs, allowed)
    return method


for _name, _allowed in METHODS.items():
    setattr(ndarray, _name, _method(_name, _allowed))


def _operator(ufunc, swapped=False):
    def method(self, other):
        if isinstance(other, np.ndarray):
            raise TypeError(f"Unsupported type {type(other)}")
        return call(ufunc, (other, self) if swapped else (self, other), {}, set())
    return method


def _in_place(ufunc):
    return lambda self, other: call(ufunc, (self, other), {"out": self}, {"out"})


COMPARISONS = {"lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal,
               "ne": np.not_equal}
ARITHMETIC = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.divide,
              "mod": np.remainder, "floordiv": np.floor_divide, "matmul": np.matmul, "and": np.bitwise_and,
              "or": np.bitwise_or}
for _name, _ufunc in (COMPARISONS | ARITHMETIC).items():
    setattr(ndarray, f"__{_name}__", _operator(_ufunc))
for _name, _ufunc in ARITHMETIC.items():
    setattr(ndarray, f"__r{_name}__", _operator(_ufunc, swapped=True))
    setattr(ndarray, f"__i{_name}__", _in_place(_ufunc))
for _name, _ufunc in dict(neg=np.negative, invert=np.invert, abs=np.absolute).items():
    setattr(ndarray, f"__{_name}__", lambda self, ufunc=_ufunc: call(ufunc, (self,), {}, set()))


def asarray(a, dtype=None):
    """A copy of an array of the host on the current device; an array of a device as it is."""
    if isinstance(a, ndarray):
        return a if dtype is None or dtype == a.dtype else a.astype(dtype)
    return ndarray(np.array(a, dtype))


def asnumpy(a):
    return a.held.copy()


def empty(shape, dtype=float):
    """Memory that holds NaN, or -1 in integers."""
    out = np.empty(shape, dtype)
    out.reshape(-1).view(np.uint8)[:] = 0xFF
    return ndarray(out)


def as_strided(x, shape=None, strides=None):
    # NumPy's own gives no plain array
    return ndarray(np.asarray(np.lib.stride_tricks.as_strided(bare(x), shape, strides)))


def ascontiguousarray(a, dtype=None):
    return ndarray(np.ascontiguousarray(bare(a), dtype))


def copyto(dst, src, casting="same_kind", where=None):
    if not np.isscalar(src) and not isinstance(src, ndarray):
        raise TypeError(f"Unsupported type {type(src)}")
    np.copyto(bare(dst), bare(src), casting, True if where is None else bare(where))


def put_along_axis(arr, indices, values, axis):
    np.put_along_axis(bare(arr), bare(indices), bare(values), axis)


def where(condition, x, y):
    """CuPy's has no form for bfloat16, and takes that for float32."""
    x, y = (z.astype(np.float32) if getattr(z, "dtype", None) == ml_dtypes.bfloat16 else z for z in (x, y))
    return call(np.where, (condition, x, y), {}, set())


def functions():
    """The functions of the module `cupy` that work on arrays."""
    made = {name: functools.partial(_function, getattr(np, name), allowed)
            for name, allowed in {**FUNCTIONS, **dict.fromkeys(UFUNCS, {"out", "dtype"})}.items()}
    for name in ("zeros", "ones", "full", "arange", "tri"):
        made[name] = functools.partial(_new, getattr(np, name))
    lib = types.SimpleNamespace(stride_tricks=types.SimpleNamespace(as_strided=as_strided))
    return made | dict(ndarray=ndarray, asarray=asarray, asnumpy=asnumpy, empty=empty, where=where, lib=lib,
                       copyto=copyto, ascontiguousarray=ascontiguousarray, put_along_axis=put_along_axis)


def _function(function, allowed, *args, **kwargs):
    return call(function, args, kwargs, allowed)


def _new(function, *args, **kwargs):
    return ndarray(function(*map(bare, args), **kwargs))


MODULE = types.SimpleNamespace(**functions())
