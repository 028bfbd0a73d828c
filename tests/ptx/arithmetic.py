"""What each PTX instruction computes from registers alone, as functions of NumPy arrays with one entry per lane.

`recipe` gives (formats of the operands, format of the result, function). float32 `fma` is computed in float64 and
rounded; only where the sum of product and addend lies within 2^-53 of a tie does it differ from the hardware's.
float64 `fma` rounds twice, and the approximate functions (ex2, rcp, ...) are the exact ones, rounded.
"""

import numpy as np

from .numbers import FORMATS, UNSIGNED, convert, flush, toward

ROUNDING = {"rn", "rz", "rm", "rp"}
FLOAT = ROUNDING | {"ftz", "sat"}
F64 = np.float64


def floored(x, y, quotient):
    """Division of integers that rounds to zero, as C does; by zero it is 0 here, undefined there."""
    if x.dtype.kind == "u":
        return x // y if quotient else x % y
    whole = np.abs(x) // np.abs(y)
    whole = np.where((x < 0) != (y < 0), -whole, whole)
    return whole if quotient else x - whole * y


def high_product(x, y):
    """The upper half of the product of integers."""
    bits = 8 * x.dtype.itemsize
    if bits < 64:
        wide = np.dtype(f"{x.dtype.kind}{2 * x.dtype.itemsize}")
        return (x.astype(wide) * y.astype(wide) >> wide.type(bits)).astype(x.dtype)
    half, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    a, b = np.asarray(x).view(np.uint64), np.asarray(y).view(np.uint64)
    middle = (a >> half) * (b & low) + ((a & low) * (b & low) >> half)
    other = (a & low) * (b >> half) + (middle & low)
    high = (a >> half) * (b >> half) + (middle >> half) + (other >> half)
    if x.dtype.kind == "i":
        high = high - np.where(x < 0, b, np.uint64(0)) - np.where(y < 0, a, np.uint64(0))
    return high.view(x.dtype)


def shifted(x, count, left):
    bits = 8 * x.dtype.itemsize
    by = np.minimum(count, np.uint32(bits - 1)).astype(x.dtype)
    moved = x << by if left else x >> by
    return moved if x.dtype.kind == "i" and not left else np.where(count < bits, moved, x.dtype.type(0))


def funnel(low, high, count, left, wrap):
    by = (count & np.uint32(31) if wrap else np.minimum(count, np.uint32(32))).astype(np.uint64)
    both = high.astype(np.uint64) << np.uint64(32) | low
    return (both << by >> np.uint64(32) if left else both >> by).astype(np.uint32)


def reversed_bits(x):
    size = x.dtype.itemsize
    bits = np.unpackbits(np.ascontiguousarray(x).view(np.uint8).reshape(-1, size), axis=1, bitorder="little")
    return np.packbits(bits[:, ::-1], axis=1, bitorder="little").view(x.dtype).ravel()


def highest_bit(x):
    """The place of the highest set bit, -1 where there is none."""
    halves = [np.frexp((x >> x.dtype.type(shift) & x.dtype.type(0xFFFFFFFF)).astype(F64))[1].astype(np.int32)
              for shift in range(0, 8 * x.dtype.itemsize, 32)]
    return np.where(halves[-1] > 0, halves[-1] + 32 * (len(halves) - 1), halves[0]) - 1


def permuted(a, b, selector):
    """prmt: four bytes chosen from eight, or the sign of one spread over a byte."""
    source = np.stack(np.broadcast_arrays(a, b), -1).view(np.uint8).reshape(-1, 8)
    shifts = np.arange(0, 16, 4, dtype=np.uint32)
    choice = np.broadcast_to(np.asarray(selector)[..., None] >> shifts & np.uint32(15), (len(source), 4))
    chosen = np.take_along_axis(source, (choice & 7).astype(np.intp), 1)
    spread = np.where(chosen >= 128, np.uint8(255), np.uint8(0))
    return np.where(choice & 8, spread, chosen).astype(np.uint8).view(np.uint32).ravel()


def inserted(a, b, start, length):
    one = a.dtype.type(1)
    mask = (shifted(np.broadcast_to(one, length.shape), length, True) - one)
    mask = shifted(mask, start, True)
    return b & ~mask | shifted(a, start, True) & mask


def extracted(a, start, length):
    bits = 8 * a.dtype.itemsize
    left = np.maximum(bits - start.astype(np.int64) - length, 0).astype(np.uint32)
    up = shifted(a, left, True)
    return shifted(up, np.maximum(bits - length.astype(np.int64), 0).astype(np.uint32), False)


def lookup(table):
    """lop3: any function of three bits, by its truth table."""
    def function(a, b, c):
        terms = [(a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
                 for i in range(8) if table >> i & 1]
        return np.bitwise_or.reduce(terms) if terms else a & np.uint32(0)
    return function


def smallest(x, y):
    return np.fmin(x, y)


BINARY = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "and": np.bitwise_and, "or": np.bitwise_or,
          "xor": np.bitwise_xor}
UNARY = {"neg": np.negative, "abs": np.abs}
APPROXIMATE = {
    "ex2": np.exp2, "lg2": np.log2, "sqrt": np.sqrt, "sin": np.sin, "cos": np.cos, "tanh": np.tanh,
    "rcp": lambda x: 1 / x, "rsqrt": lambda x: 1 / np.sqrt(x)}
COMPARE = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
           "ge": np.greater_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal}
NOT_OPPOSITE = {"equ": np.not_equal, "ltu": np.greater_equal, "leu": np.greater, "gtu": np.less_equal,
                "geu": np.less}


def compare(name, floats):
    """Comparisons of floats are false where a number is missing, except `ne` with u, and those that end in u."""
    if name in NOT_OPPOSITE:
        opposite = NOT_OPPOSITE[name]
        return (lambda x, y: ~opposite(x, y) | np.isnan(x) | np.isnan(y)) if name == "equ" else (
            lambda x, y: ~opposite(x, y))
    if name == "nan":
        return lambda x, y: np.isnan(x) | np.isnan(y)
    if name == "num":
        return lambda x, y: ~(np.isnan(x) | np.isnan(y))
    if name == "neu":
        return np.not_equal
    if name == "ne" and floats:
        return lambda x, y: (x < y) | (x > y)
    return COMPARE.get(name)


def floating(function, kind, modifiers, double):
    """A function of floats with the rounding, the flushing and the clamping that its modifiers ask for."""
    dtype = FORMATS[kind].dtype if not FORMATS[kind].encode else np.dtype(np.float32)
    rounding = next((name for name in ("rz", "rm", "rp") if name in modifiers), None)
    ftz, sat = "ftz" in modifiers and dtype == np.float32, "sat" in modifiers
    wide = (double or rounding) and dtype != F64
    if not (ftz or sat or wide):
        return function

    def rounded(*operands):
        if ftz:
            operands = [flush(x) for x in operands]
        if wide:
            operands = [x.astype(F64) for x in operands]
        result = function(*operands)
        if wide:
            result = toward(rounding, result, dtype)
        if sat:
            result = np.where(np.isnan(result), dtype.type(0), np.clip(result, dtype.type(0), dtype.type(1)))
        return flush(result) if ftz else result

    return rounded


def multiplied_and_added(x, y, z):
    return x * y + z


def recipe(instruction):
    """(formats of the operands, format of the result, function), or None for what does more than compute."""
    op, modifiers = instruction.op, instruction.modifiers
    kind = modifiers[-1] if modifiers else None
    if kind not in FORMATS:
        return None
    extra, form = set(modifiers[:-1]), FORMATS[kind]
    floats = kind[0] == "f" or kind[:2] == "bf"
    unsigned = FORMATS[f"b{form.bits}"] if form.bits > 1 else form

    def allowed(*names):
        if not extra <= set(names):
            raise instruction.unknown()

    def made(count, function, double=False):
        if floats:
            function = floating(function, kind, extra, double)
        return [form] * count, form, function

    if op == "mov" or op == "cvta":
        allowed("to", "global", "shared", "local")
        return None if op == "cvta" or isinstance(instruction.operands[0], tuple) or isinstance(
            instruction.operands[1], tuple) else ([form], form, lambda x: x)
    if op in ("mul", "mad") and not floats:
        allowed("lo", "hi", "wide")
        wide = FORMATS[f"{kind[0]}{2 * form.bits}"] if "wide" in extra else form
        product = (high_product if "hi" in extra else np.multiply if "lo" in extra else
                   lambda x, y: x.astype(wide.dtype) * y.astype(wide.dtype))
        if op == "mul":
            return [form, form], wide, product
        return [form, form, wide], wide, lambda x, y, z: product(x, y) + z
    if op in BINARY:
        allowed(*(FLOAT if floats else ()))
        return made(2, BINARY[op])
    if op in ("fma", "mad"):
        allowed(*FLOAT)
        return made(3, multiplied_and_added, True)
    if op in ("min", "max"):
        allowed("ftz", "NaN")
        choose = {"min": (np.fmin, np.minimum), "max": (np.fmax, np.maximum)}[op]["NaN" in extra] if floats else (
            np.minimum if op == "min" else np.maximum)
        count = len(instruction.operands) - 1
        return made(count, choose if count == 2 else lambda x, y, z: choose(choose(x, y), z))
    if op in UNARY:
        allowed("ftz")
        return made(1, UNARY[op])
    if op in APPROXIMATE:
        allowed(*FLOAT, "approx")
        return made(1, APPROXIMATE[op], True)
    if op == "div" and floats:
        allowed(*FLOAT, "approx", "full")
        return made(2, np.divide)
    if op in ("div", "rem"):
        allowed()
        return made(2, lambda x, y: floored(x, y, op == "div"))
    if op == "not":
        allowed()
        return made(1, np.logical_not if kind == "pred" else np.invert)
    if op in ("shl", "shr"):
        allowed()
        return [form, FORMATS["u32"]], form, lambda x, count: shifted(x, count, op == "shl")
    if op == "shf":
        allowed("l", "r", "wrap", "clamp")
        return [form, form, form], form, lambda a, b, c: funnel(a, b, c, "l" in extra, "wrap" in extra)
    if op == "selp":
        allowed()
        return [unsigned, unsigned, FORMATS["pred"]], unsigned, lambda x, y, p: np.where(p, x, y)
    if op == "setp":
        function = compare(modifiers[0], floats)
        allowed(modifiers[0], "ftz", *(("and", "or", "xor") if len(instruction.operands) == 4 else ()))
        if function is None or form.packed:
            raise instruction.unknown()
        join = next((BINARY[name] for name in ("and", "or", "xor") if name in extra), None)
        if join is None:
            return [form, form], FORMATS["pred"], function
        return [form, form, FORMATS["pred"]], FORMATS["pred"], lambda x, y, p: join(function(x, y), p)
    if op == "cvt" and modifiers[-2] not in ("f16x2", "bf16x2"):
        target = modifiers[-2]
        allowed(target, *FLOAT, "rni", "rzi", "rmi", "rpi", "relu")
        if target not in FORMATS:
            raise instruction.unknown()
        return [form], FORMATS[target], convert(target, kind, extra - {target})
    if op == "cvt":  # two numbers into one register, the first above
        target, half = modifiers[-2], FORMATS[modifiers[-2][:-2]]
        allowed(target, "rn", "rz", "relu")
        one = convert(target[:-2], kind, extra - {target})
        return [form, form], FORMATS[target], lambda high, low: np.stack(
            np.broadcast_arrays(one(low), one(high)), -1).reshape(-1)
    if op == "copysign":
        return made(2, lambda sign, x: np.copysign(x, sign))
    if op == "testp":
        tests = {"finite": np.isfinite, "infinite": np.isinf, "notanumber": np.isnan,
                 "number": lambda x: ~np.isnan(x)}
        allowed(*tests)
        return [form], FORMATS["pred"], tests[modifiers[0]]
    if op in ("popc", "clz", "bfind"):
        allowed("shiftamt")
        last = 8 * form.dtype.itemsize - 1
        function = {
            "popc": lambda x: np.bitwise_count(x).astype(np.uint32),
            "clz": lambda x: (last - highest_bit(x)).astype(np.uint32),
            "bfind": lambda x: _found(x, last if "shiftamt" in extra else None)}[op]
        return [form], FORMATS["u32"], function
    if op == "brev":
        return made(1, reversed_bits)
    if op == "prmt":
        allowed()
        return made(3, permuted)
    if op == "bfi":
        allowed()
        return [form, form, FORMATS["u32"], FORMATS["u32"]], form, inserted
    if op == "bfe":
        allowed()
        return [form, FORMATS["u32"], FORMATS["u32"]], form, extracted
    if op == "lop3":
        allowed()
        return made(3, lookup(instruction.operands[4].bits))
    return None


def _found(x, last):
    if x.dtype.kind == "i":
        x = np.where(x < 0, ~x, x).view(UNSIGNED[8 * x.dtype.itemsize])
    place = highest_bit(x)
    if last is not None:
        place = np.where(place < 0, -1, last - place)
    return place.astype(np.int32).view(np.uint32)
