"""What each PTX instruction computes from registers alone: functions of NumPy arrays, one entry per thread.

`recipe` gives (formats of the operands, format of the result, function). float32 `fma` is computed in float64
and rounded; only where the sum lies within 2^-53 of a tie does it differ from the hardware's. float64 `fma`
rounds twice, and the approximate functions (ex2, rcp, ...) are the exact ones, rounded.
"""

import numpy as np

from .bits import (
    extracted,
    floored,
    funnel,
    high_product,
    highest_bit,
    inserted,
    lookup,
    permuted,
    place_of_highest,
    reversed_bits,
    shifted,
)
from .numbers import FORMATS, convert, flush, saturated, toward

ROUNDING = {"rn", "rz", "rm", "rp"}
FLOAT = ROUNDING | {"ftz", "sat"}
F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
U32, PRED = FORMATS["u32"], FORMATS["pred"]
RECIPES = {}


class Case:
    """One instruction: `kind` is its last type, `extra` the other modifiers."""

    def __init__(self, instruction):
        self.instruction, self.op = instruction, instruction.op
        *extra, self.kind = instruction.modifiers
        self.extra, self.form = set(extra), FORMATS[self.kind]
        self.floats = self.kind[0] == "f" or self.kind[:2] == "bf"

    def allow(self, *names):
        """Raise for a modifier that is not among these."""
        if not self.extra <= set(names):
            raise self.instruction.unknown()

    def uniform(self, count, function, exact=False):
        """A recipe whose operands and result have one format; floats are rounded as asked for."""
        if self.floats:
            function = self.rounded(function, exact)
        return [self.form] * count, self.form, function

    def rounded(self, function, exact):
        """With rounding, flushing and clamping; `exact`: one rounding of a result that has more digits."""
        dtype = F32 if self.form.encode else self.form.dtype
        rounding = next((name for name in ("rz", "rm", "rp") if name in self.extra), None)
        ftz, sat = "ftz" in self.extra and dtype == F32, "sat" in self.extra
        wide = (exact or rounding) and dtype != F64
        if not (ftz or sat or wide):
            return function

        def compute(*operands):
            if ftz:
                operands = [flush(x) for x in operands]
            if wide:
                operands = [x.astype(F64) for x in operands]
            result = function(*operands)
            if wide:
                result = toward(rounding, result, dtype)
            if sat:
                result = saturated(result)
            return flush(result) if ftz else result

        return compute


def recipe(instruction):
    """(formats of the operands, format of the result, function), or None for what does more than compute."""
    if instruction.op not in RECIPES or not instruction.modifiers or instruction.modifiers[-1] not in FORMATS:
        return None
    return RECIPES[instruction.op](Case(instruction))


def computes(*ops):
    def keep(function):
        RECIPES.update(dict.fromkeys(ops, function))
        return function
    return keep


@computes("mov")
def moved(case):
    case.allow()
    return [case.form], case.form, lambda x: x


BINARY = {"add": np.add, "sub": np.subtract,
          "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}


@computes(*BINARY)
def combined(case):
    case.allow(*(FLOAT if case.floats else ()))
    return case.uniform(2, BINARY[case.op])


@computes("mul", "mad", "fma")
def multiplied(case):
    """Of integers the lower half, the upper half or all of the product; of floats, with one rounding."""
    form = wide = case.form
    product = np.multiply
    if case.floats:
        case.allow(*FLOAT)
        if case.op == "mul":
            return case.uniform(2, product)
        return case.uniform(3, lambda x, y, z: x * y + z, exact=True)
    case.allow("lo", "hi", "wide")
    if "hi" in case.extra:
        product = high_product
    elif "wide" in case.extra:
        wide = FORMATS[f"{case.kind[0]}{2 * form.bits}"]
        product = lambda x, y: x.astype(wide.dtype) * y.astype(wide.dtype)
    if case.op == "mul":
        return [form, form], wide, product
    return [form, form, wide], wide, lambda x, y, z: product(x, y) + z


@computes("div", "rem")
def divided(case):
    if case.floats:
        case.allow(*FLOAT, "approx", "full")
        return case.uniform(2, np.divide)
    case.allow()
    return case.uniform(2, lambda x, y: floored(x, y, case.op == "div"))


@computes("min", "max")
def extreme(case):
    case.allow("ftz", "NaN")
    least = case.op == "min"
    choose = np.minimum if least else np.maximum
    if case.floats and "NaN" not in case.extra:
        choose = np.fmin if least else np.fmax  # a missing number is passed over
    if len(case.instruction.operands) == 3:
        return case.uniform(2, choose)
    return case.uniform(3, lambda x, y, z: choose(choose(x, y), z))


UNARY = {"neg": np.negative, "abs": np.abs}
APPROXIMATE = {
    "ex2": np.exp2, "lg2": np.log2, "sqrt": np.sqrt, "sin": np.sin, "cos": np.cos, "tanh": np.tanh,
    "rcp": lambda x: 1 / x, "rsqrt": lambda x: 1 / np.sqrt(x)}


@computes(*UNARY, *APPROXIMATE)
def function_of_one(case):
    if case.op in UNARY:
        case.allow("ftz")
        return case.uniform(1, UNARY[case.op])
    case.allow(*FLOAT, "approx")
    return case.uniform(1, APPROXIMATE[case.op], exact=True)


@computes("copysign")
def with_sign(case):
    case.allow()
    return case.uniform(2, lambda sign, x: np.copysign(x, sign))


@computes("not")
def inverted(case):
    case.allow()
    return case.uniform(1, np.logical_not if case.kind == "pred" else np.invert)


@computes("selp")
def selected(case):
    case.allow()
    form = FORMATS[f"b{case.form.bits}"]
    return [form, form, PRED], form, lambda x, y, chosen: np.where(chosen, x, y)


ORDERED = {"eq": np.equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
           "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal}
INTEGER = {**ORDERED, "ne": np.not_equal}
# of floats: false where a number is missing, or, with a u at the end, true
FLOATING = {**ORDERED, "ne": lambda x, y: (x < y) | (x > y), "neu": np.not_equal,
            "equ": lambda x, y: ~((x < y) | (x > y)),
            "ltu": lambda x, y: ~(x >= y), "leu": lambda x, y: ~(x > y),
            "gtu": lambda x, y: ~(x <= y), "geu": lambda x, y: ~(x < y),
            "nan": lambda x, y: np.isnan(x) | np.isnan(y), "num": lambda x, y: ~(np.isnan(x) | np.isnan(y))}


@computes("setp")
def compared(case):
    name = case.instruction.modifiers[0]
    joining = len(case.instruction.operands) == 4
    case.allow(name, "ftz", *(("and", "or", "xor") if joining else ()))
    function = (FLOATING if case.floats else INTEGER).get(name)
    if function is None or case.form.packed:
        raise case.instruction.unknown()
    if not joining:
        return [case.form, case.form], PRED, function
    join = BINARY[case.instruction.modifiers[1]]
    return [case.form, case.form, PRED], PRED, lambda x, y, other: join(function(x, y), other)


TESTS = {"finite": np.isfinite, "infinite": np.isinf, "notanumber": np.isnan,
         "number": lambda x: ~np.isnan(x)}


@computes("testp")
def tested(case):
    case.allow(*TESTS)
    return [case.form], PRED, TESTS[case.instruction.modifiers[0]]


@computes("cvt")
def converted(case):
    target = case.instruction.modifiers[-2]
    if target == "tf32" and case.extra == {"rna", "tf32"}:
        return [U32], U32, lambda bits: bits + np.uint32(0x1000) & np.uint32(0xFFFFE000)
    case.allow(target, *FLOAT, "rni", "rzi", "rmi", "rpi", "relu")
    if target not in FORMATS:
        raise case.instruction.unknown()
    form = FORMATS[target]
    if not form.packed:
        return [case.form], form, convert(target, case.kind, case.extra - {target})
    one = convert(target.removesuffix("x2"), case.kind, case.extra - {target})
    # two numbers into one register, the first above
    return [case.form] * 2, form, lambda high, low: np.stack(
        np.broadcast_arrays(one(low), one(high)), -1).reshape(-1)


@computes("shl", "shr")
def moved_bits(case):
    case.allow()
    return [case.form, U32], case.form, lambda x, count: shifted(x, count, case.op == "shl")


@computes("shf")
def moved_through(case):
    case.allow("l", "r", "wrap", "clamp")
    left, wrap = "l" in case.extra, "wrap" in case.extra
    return case.uniform(3, lambda low, high, count: funnel(low, high, count, left, wrap))


@computes("popc", "clz", "bfind")
def counted(case):
    case.allow("shiftamt")
    function = {
        "popc": lambda x: np.bitwise_count(x).astype(np.uint32),
        "clz": lambda x: (case.form.bits - 1 - highest_bit(x)).astype(np.uint32),
        "bfind": lambda x: place_of_highest(x, "shiftamt" in case.extra)}[case.op]
    return [case.form], U32, function


@computes("brev", "prmt")
def rearranged(case):
    case.allow()
    return case.uniform(1, reversed_bits) if case.op == "brev" else case.uniform(3, permuted)


@computes("bfi", "bfe")
def bit_field(case):
    case.allow()
    if case.op == "bfi":
        return [case.form, case.form, U32, U32], case.form, inserted
    return [case.form, U32, U32], case.form, extracted


@computes("lop3")
def any_of_three(case):
    case.allow()
    return case.uniform(3, lookup(case.instruction.operands[4].bits))
