"""The text of PTX as data: kernels of instructions with resolved operands; and texts with one left out."""

import functools
import math
import re
from dataclasses import dataclass, field, replace

TYPE_BITS = {"pred": 1, "f16x2": 32, "bf16x2": 32, "f32x2": 64, "bf16": 16, "tf32": 32,
             **{f"{kind}{bits}": bits for kind in "busf" for bits in (8, 16, 32, 64)}}
# what orders the work of threads: the candidates of `drop`. fence.mbarrier_init is none of them: it is for
# the other blocks of a cluster
ORDERING = re.compile(
    r"(?<![\w.%$])(?:@!?%\w+\s+)?(?:bar\.|barrier\.|membar\b|fence\b(?!\.mbarrier_init)"
    r"|cp\.async\.(?:wait|commit|mbarrier)|mbarrier\.(?:arrive|try_wait)"
    r"|wgmma\.(?:fence|commit_group|wait_group))[^;]*;")
TRIAL = re.compile(r"mbarrier\.try_wait\S*\s+(\w+|%\w+)\s*,[^;]*;")  # answers whether to wait on


class UnknownInstruction(Exception):
    """The interpreter has no such instruction, or not with these modifiers."""


@dataclass(frozen=True)
class Register:
    """`fragment`: a product of a group of warps reads or writes it."""

    index: int
    bits: int
    name: str
    fragment: bool = False


@dataclass(frozen=True)
class Special:
    """A register that the hardware fills, such as %tid.x."""

    name: str


@dataclass(frozen=True)
class Immediate:
    """A constant: an int, or the bits of a float."""

    bits: int


@dataclass(frozen=True)
class Symbol:
    """The address of a variable or a parameter, or a label."""

    name: str
    scopes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Address:
    base: object
    offset: int


@dataclass(frozen=True)
class Pair:
    """A result with a second one: `%r1|%p1`."""

    first: object
    second: object


@dataclass(frozen=True)
class Instruction:
    op: str
    modifiers: tuple[str, ...]
    operands: tuple
    predicate: Register | None
    negated: bool
    line: int
    text: str

    def unknown(self):
        return UnknownInstruction(f"PTX line {self.line}: {self.text}")


@dataclass(frozen=True)
class Variable:
    """A piece of one state space; `initial` are its bytes where the text gives them."""

    name: str
    space: str
    kind: str
    align: int
    size: int
    initial: bytes | None = None


@dataclass(eq=False)
class Kernel:
    name: str
    parameters: list[Variable]
    max_threads: int | None  # of a block, where __launch_bounds__ says so
    register_bits: list[int] = field(default_factory=list)
    code: list[Instruction] = field(default_factory=list)
    labels: dict = field(default_factory=dict)  # (name, scope) -> place in the code
    variables: dict[str, Variable] = field(default_factory=dict)

    def target(self, symbol):
        """The place that a label names, seen from inside its scopes."""
        return next(self.labels[symbol.name, scope] for scope in reversed(symbol.scopes)
                    if (symbol.name, scope) in self.labels)


def split(text):
    """Operands, at the commas that no bracket encloses."""
    return [part.strip() for part in re.split(r",(?![^{\[(]*[}\])])", text) if part.strip()]


def variable(text):
    """A declaration of a variable in .shared, .local, .global, .const or .param, or None."""
    match = re.match(
        r"(?:\.(?:visible|extern|weak)\s+)*\.(shared|local|global|const|param)\s+"
        r"(?:\.align\s+(\d+)\s+)?\.(\w+)\s+(?:\.ptr\s+(?:\.\w+\s+)*?(?:\.align\s+\d+\s+)?)?"
        r"([\w$]+)\s*(?:\[(\d*)\])?(?:\s*=\s*(.*))?$", text, re.S)
    if not match:
        return None
    space, align, kind, name, count, initial = match.groups()
    width = TYPE_BITS[kind] // 8
    size = 0 if count == "" else width * int(count or 1)
    if initial is not None:
        values = [int(value, 0) % 256**width for value in re.findall(r"-?\w+", initial)]
        initial = b"".join(value.to_bytes(width, "little") for value in values).ljust(size, b"\0")
    elif space in ("global", "const"):
        initial = bytes(size)
    return Variable(name, space, kind, int(align or width), size, initial)


class Reader:
    """Reads the body of one kernel, statement by statement; scopes nest as the braces do."""

    def __init__(self, kernel):
        self.kernel = kernel
        self.scopes = [(0, {})]
        self.opened = 0

    def body(self, text, line):
        position = 0
        statement = re.compile(r"\s*(?:([{}])|([\w$]+)\s*:(?!:)|(\.(?:loc|file)\b[^\n]*)|([^;]+);)")
        while match := statement.match(text, position):
            start = match.start(match.lastindex)
            brace, label, _, words = match.groups()
            if brace == "{":
                self.opened += 1
                self.scopes.append((self.opened, {}))
            elif brace:
                self.scopes.pop()
            elif label:
                self.kernel.labels[label, self.scopes[-1][0]] = len(self.kernel.code)
            elif words:
                self.statement(" ".join(words.split()), line + text.count("\n", 0, start))
            position = match.end()

    def statement(self, text, line):
        if text.startswith(".reg"):
            kind, names = re.match(r"\.reg\s+\.(\w+)\s+(.*)", text).groups()
            for name in split(names):
                self.declare(name, TYPE_BITS[kind])
        elif found := variable(text):
            self.kernel.variables[found.name] = found
        elif not text.startswith(".pragma"):
            negated, guard, names, rest = re.match(
                r"(?:@(!?)([%\w]+)\s+)?([\w.:]+)\s*(.*)", text).groups()
            op, *modifiers = names.split(".")
            self.kernel.code.append(Instruction(
                op, tuple(modifiers), tuple(self.operand(part) for part in split(rest)),
                self.operand(guard) if guard else None, negated == "!", line, text))

    def declare(self, name, bits):
        many = re.match(r"(%?\w+)<(\d+)>", name)
        names = [f"{many[1]}{i}" for i in range(int(many[2]))] if many else [name]
        for each in names:
            self.scopes[-1][1][each] = Register(len(self.kernel.register_bits), bits, each)
            self.kernel.register_bits.append(bits)

    def operand(self, text):
        if text[0] == "{":
            return tuple(self.operand(part) for part in split(text[1:-1]))
        if text[0] == "[":
            base, _, offset = text[1:-1].replace(" ", "").partition("+")
            return Address(self.operand(base), int(offset or "0", 0))
        if "|" in text:
            return Pair(*map(self.operand, text.split("|")))
        for _, names in reversed(self.scopes):
            if text in names:
                return names[text]
        if text[0] == "%":
            return Special(text[1:])
        if match := re.fullmatch(r"0[fFdD]([0-9a-fA-F]+)", text):
            return Immediate(int(match[1], 16))
        if re.fullmatch(r"-?\d\w*", text):
            return Immediate(int(text.rstrip("U"), 0))
        return Symbol(text, tuple(scope for scope, _ in self.scopes))


def mark_fragments(kernel):
    """Say of registers that they are fragments."""
    found = {register for each in kernel.code if each.op == "wgmma"
             for operand in each.operands if isinstance(operand, tuple) for register in operand}

    def marked(operand):
        if isinstance(operand, tuple):
            return tuple(map(marked, operand))
        return replace(operand, fragment=True) if operand in found else operand

    if found:
        kernel.code = [replace(each, operands=marked(each.operands)) for each in kernel.code]


def closing_brace(text, begin):
    """Where the brace is closed that was opened before `begin`."""
    depth = 1
    for brace in re.finditer(r"[{}]", text[begin:]):
        depth += 1 if brace[0] == "{" else -1
        if not depth:
            return begin + brace.start()
    raise ValueError("a kernel without an end")


@functools.lru_cache(64)
def parse(ptx: str) -> dict[str, Kernel]:
    """The kernels of a module, by name; variables of the module are in each kernel that names them."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", lambda match: "\n" * match[0].count("\n"), ptx, flags=re.S)
    kernels, bodies, outside = {}, {}, text[re.search(r"\.address_size\s+\d+", text).end():]
    for match in re.finditer(r"(?:\.visible\s+)?\.entry\s+([\w$]+)\s*\((.*?)\)([^{]*)\{", text, re.S):
        end = closing_brace(text, match.end())
        threads = re.search(r"\.maxntid\s+(.*)", match[3])
        kernels[match[1]] = kernel = Kernel(
            match[1], [variable(part) for part in split(" ".join(match[2].split()))],
            math.prod(map(int, threads[1].split(","))) if threads else None)
        bodies[match[1]] = text[match.end():end]
        Reader(kernel).body(bodies[match[1]], 1 + text.count("\n", 0, match.end()))
        mark_fragments(kernel)
        outside = outside.replace(text[match.start():end + 1], "")
    for declaration in outside.split(";"):
        found = variable(" ".join(declaration.split()))
        for name, body in bodies.items():
            if found and re.search(rf"(?<![\w$]){re.escape(found.name)}(?![\w$])", body):
                kernels[name].variables[found.name] = found
    return kernels


def ordering(ptx: str) -> list[str]:
    """The instructions of a module that order threads or wait for copies, in the order of the text."""
    return [" ".join(match[0].split()) for match in ORDERING.finditer(ptx)]


def drop(ptx: str, which: int) -> str:
    """The module without the instruction `ordering(ptx)[which]`; a trial at an mbarrier succeeds at once."""
    match = list(ORDERING.finditer(ptx))[which]
    instead = TRIAL.sub(r"mov.pred \1, -1;", match[0]) if TRIAL.search(match[0]) else ""
    return ptx[:match.start()] + instead + ptx[match.end():]
