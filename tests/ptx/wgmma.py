"""Steps of products of warp groups: wgmma.

Of the 64 rows of a product each warp of four computes 16. It reads shared memory and writes its registers
when it is waited for, as late as a GPU may; until then nobody may write what it reads, or touch its results.
What each warp knows decides what it may read, and the warps need not come at once; but in the end all four
have to have issued the same products.
"""

import re

import numpy as np

from .collective import LANES, WARP, left_matrix
from .faults import Divergence, InFlight, Misaligned, Race, Unwritten
from .numbers import FORMATS
from .operands import full, reader, reinterpret
from .parse import UnknownInstruction

GROUP = 4  # warps
DEPTH = 16  # what a product is summed over
CHUNK = 16  # bytes that swizzling keeps together
F32, U32, U64, PRED = FORMATS["f32"], FORMATS["u32"], FORMATS["u64"], FORMATS["pred"]


def fragments(kernel):
    """The indices of the registers that products read or write."""
    return sorted({each.index for instruction in kernel.code if instruction.op == "wgmma"
                   for operand in instruction.operands if isinstance(operand, tuple) for each in operand})


class MatrixUnit:
    """The products of a team that are under way, and what becomes of the registers in `rows` meanwhile.

    `results` and `operands` count the products under way of each thread that write or read a register; `read`
    and `written` say what it did since its last wgmma.fence. `group` is what it has committed.
    """

    def __init__(self, registers, size):
        self.rows = {index: row for row, index in enumerate(registers)}
        self.results, self.operands = np.zeros((2, len(registers), size), np.int64)
        self.read, self.written = np.zeros((2, len(registers), size), np.bool_)
        self.group, self.fenced = np.zeros(size, np.int64), np.zeros(size, np.bool_)
        self.products = []

    def note_read(self, team, register):
        """An instruction other than wgmma reads."""
        row, mask = self.rows[register.index], team.now.mask
        demand(team, mask & (self.results[row] > 0), InFlight, register, "its product was not waited for")
        self.read[row] |= mask

    def note_write(self, team, register, mask):
        row = self.rows[register.index]
        busy = self.results[row] + self.operands[row] > 0
        demand(team, mask & busy, InFlight, register, "a product that uses it was not waited for")
        self.written[row] |= mask

    def begin(self, team, mask, results, operands, shape):
        """A product of these registers, if nothing else is going on with them."""
        demand(team, mask & ~self.fenced, Race, None, "no wgmma.fence before the first product")
        for register in results:
            row = self.rows[register.index]
            other = self.operands[row] > 0
            for each in self.products:  # one of the same shape is added to, in order
                if each.shape != shape and register in each.results:
                    other[each.first[each.under_way]] = True
            demand(team, mask & other, InFlight, register, "a product that uses it was not waited for")
            demand(team, mask & (self.read[row] | self.written[row]), Race, register,
                   "no wgmma.fence since it was read or written")
            self.results[row] += mask
        for register in operands:
            row = self.rows[register.index]
            demand(team, mask & (self.results[row] > 0), InFlight, register, "its product was not waited for")
            demand(team, mask & self.written[row], Race, register, "no wgmma.fence since it was written")
            self.operands[row] += mask

    def wait(self, team, active, still):
        """Finish the products of these threads but for the last `still` groups."""
        for product in self.products:
            first = product.first
            old = product.group < self.group[first] - still
            product.finish(team, active.mask[first] & old)
        self.products = [product for product in self.products if product.under_way.any()]


def demand(team, wrong, kind, register, why):
    if wrong.any():
        what = f"register {register.name}: " if register else ""
        raise kind(f"{team.where(int(np.argmax(wrong)))}: {what}{why}")


class Product:
    """wgmma.mma_async, issued by the warps whose first lanes are `first`, of which some may be done.

    `at` are the places in shared memory that are read, for each warp those of its rows of the left matrix and
    of the right one; or `left` are its rows, which came from registers. `adds`: to what the results hold.
    """

    def __init__(self, team, first, shape, kind, transposed, results, operands, at, left, adds):
        self.first, self.shape, self.kind, self.transposed = first, shape, kind, transposed
        self.results, self.operands, self.at, self.left, self.adds = results, operands, at, left, adds
        self.group, self.under_way = team.unit.group[first], np.ones(len(first), np.bool_)
        shared = team.machine.shared
        who, places = self.reads(team, self.under_way)
        shared.check(who, places, CHUNK)
        self.seen = shared.last_writes(places, CHUNK).reshape(-1, *at.shape)

    def reads(self, team, chosen):
        """(who, places) of all that some of the warps read."""
        at = self.at[chosen]
        who = team.who(np.repeat(self.first[chosen], at.shape[1])).asynchronous()
        return who, at.ravel()

    def finish(self, team, chosen):
        """Read, multiply and write: the products of these warps."""
        chosen = chosen & self.under_way
        if not chosen.any():
            return
        self.under_way &= ~chosen
        shared, unit = team.machine.shared, team.unit
        shared.read_again(*self.reads(team, chosen), CHUNK, self.seen[:, chosen].reshape(len(self.seen), -1))
        lanes = (self.first[chosen][:, None] + LANES).ravel()
        chunks = shared.data.view(np.uint16)[self.at[chosen][..., None] // 2 + np.arange(CHUNK // 2)]
        form = FORMATS[self.kind]
        numbers = form.decode(chunks) if form.decode else chunks.view(form.dtype).astype(np.float32)
        if self.left is None:
            left, right = numbers[:, :2 * 16].reshape(-1, 16, DEPTH), numbers[:, 2 * 16:]
        else:
            left, right = self.left[chosen], numbers
        if self.transposed:
            right = right.reshape(-1, DEPTH, self.shape)
        else:
            right = right.reshape(-1, self.shape, DEPTH).swapaxes(1, 2)
        # lane 4 g + t has of the rows g and g + 8 the columns 2 t and 2 t + 1 of every eight
        product = (left @ right).reshape(-1, 2, 8, self.shape // 8, 4, 2)
        product = product.transpose(3, 1, 5, 0, 2, 4).reshape(len(self.results), -1)
        mask = np.zeros(team.size, np.bool_)
        mask[lanes] = True
        for register, values in zip(self.results, product, strict=True):
            after = reinterpret(team.registers[register.index], F32).copy()
            after[lanes] = np.where(self.adds[lanes], after[lanes], 0) + values
            team.registers[register.index] = after
            unit.results[unit.rows[register.index]] -= mask
        for register in self.operands:
            unit.operands[unit.rows[register.index]] -= mask


class Descriptor:
    """Where matrices lie in shared memory, one for each warp: 64-bit words as PTX defines them."""

    def __init__(self, team, first, words):
        words = words.reshape(-1, WARP)
        different = (words != words[:, :1]).any(1)
        if different.any():
            raise Divergence(f"{team.where(first[np.argmax(different)])}: the warp's descriptors differ")
        self.team, self.first, self.words = team, first, words[:, 0].astype(np.int64)
        self.start, self.leading, self.stride = (
            (self.words >> shift & 0x3FFF) << 4 for shift in (0, 16, 32))

    def demand(self, fine, kind, why):
        if not fine.all():
            which = int(np.argmin(fine))
            word = int(self.words[which]) % 2**64
            raise kind(f"{self.team.where(self.first[which])}: matrix descriptor {word:#018x}: {why}")

    def places(self, chunk, stride, leading, mask):
        """Of chunks that lie so many chunks, strides and leading offsets from the start: three axes, of which
        the first may be the warps. The bits in `mask` cannot be set in the start.
        """
        known = 0x3FFF | 0x3FFF << 16 | 0x3FFF << 32
        self.demand(self.words >> 62 & 3 == 1, UnknownInstruction, "not swizzled by 128 bytes")
        self.demand(self.words & ~known & 0x3FFFFFFFFFFFFFFF == 0, UnknownInstruction, "unknown bits")
        misaligned = self.start & mask
        for offset, used in ((self.stride, stride.any()), (self.leading, leading.any())):
            misaligned |= offset & 1023 if used else 0
        self.demand(misaligned == 0, Misaligned, "the pattern repeats at multiples of 1024 bytes")
        start, sbo, lbo = (each[:, None, None] for each in (self.start, self.stride, self.leading))
        place = start + chunk * CHUNK + stride * sbo + leading * lbo
        place ^= (place >> 7 & 7) << 4
        place = place.reshape(len(place), -1)
        return self.team.machine.shared.place(self.team.local_block[self.first][:, None], place)

    def rows(self, rows):
        """(warps or 1, rows) rows of the depth: two chunks of each."""
        rows = rows[..., None]
        return self.places(rows % 8 * 8 + np.arange(2), rows // 8, np.zeros_like(rows), 0x39F)

    def columns(self, count):
        """For each number along the depth the chunks of all columns."""
        depth, group = np.arange(DEPTH)[None, :, None], np.arange(count // 8)[None, None]
        return self.places(depth % 8 * 8 + group % 8, depth // 8, group // 8, 0x3FF)


def multiplying(program, instruction):
    """wgmma.mma_async of float16 or bfloat16, added to float32."""
    names = instruction.modifiers
    shape = re.fullmatch(r"m64n(\d+)k16", names[3]) if len(names) == 7 else None
    if (names[:3] != ("mma_async", "sync", "aligned") or shape is None or names[4:] not in [
            ("f32", each, each) for each in ("f16", "bf16")]):
        raise instruction.unknown()
    columns, (results, left, right, adds, *flags) = int(shape[1]), instruction.operands
    operands = left if isinstance(left, tuple) else ()
    signs, transposed = [each.bits for each in flags[:2]], [each.bits for each in flags[2:]]
    if (columns % 8 or not 8 <= columns <= 256 or len(results) != columns // 2 or signs != [1, 1]
            or len(operands) not in (0, 4)
            or transposed not in (([0], [1]) if operands else ([0, 0], [0, 1]))):
        raise instruction.unknown()
    read_left = None if operands else reader(program, instruction, left, U64)
    read_right, read_adds = reader(program, instruction, right, U64), reader(program, instruction, adds, PRED)

    def multiply(team, active):
        team.demand_all(active)
        first = active.lanes[::WARP]
        incomplete = (team.warp[first] // GROUP + 1) * GROUP * WARP > team.machine.threads
        if incomplete.any():
            raise Divergence(f"{team.where(first[np.argmax(incomplete)])}: a group of fewer than four warps")
        adds = full(read_adds(team), team.size)
        team.unit.begin(team, active.mask, results, operands, columns)
        undefined = [each for each in (*results, *operands) if team.registers[each.index] is None]
        if undefined and (adds[active.lanes].any() or undefined[-1] in operands):
            raise Unwritten(f"{team.where()}: register {undefined[-1].name}: nothing was computed for it")
        for each in undefined:  # not looked at, and computed once it is waited for
            team.registers[each.index] = np.zeros(team.size, np.float32)
        words = full(read_right(team), team.size)[active.lanes]
        matrix = Descriptor(team, first, words)
        at = [matrix.columns(columns) if transposed[-1] else matrix.rows(np.arange(columns)[None])]
        rows = None
        if operands:
            registers = np.stack([reinterpret(team.registers[each.index], U32) for each in operands])
            rows = left_matrix(names[-1], registers.reshape(4, -1, 8, 4), 2)[first // WARP]
        else:
            own = full(read_left(team), team.size)[active.lanes]
            numbers = team.warp[first][:, None] % GROUP * 16 + np.arange(16)
            at.insert(0, Descriptor(team, first, own).rows(numbers))
            words = np.stack([own, words])
        team.machine.join(team, first, words.reshape(-1, len(first), WARP)[..., 0])
        at = np.concatenate(at, 1)
        team.unit.products.append(Product(
            team, first, columns, names[-1], transposed[-1], results, operands, at, rows, adds))

    return multiply


def ordering(program, instruction):
    """wgmma.fence, wgmma.commit_group and wgmma.wait_group, at which the lanes of a warp meet."""
    if instruction.modifiers[1:] != ("sync", "aligned"):
        raise instruction.unknown()
    kind = instruction.modifiers[0]
    still = instruction.operands[0].bits if kind == "wait_group" else None

    def order(team, active):
        team.demand_all(active)
        unit = team.unit
        if kind == "fence":
            unit.fenced |= active.mask
            unit.read &= ~active.mask
            unit.written &= ~active.mask
        elif kind == "commit_group":
            unit.group += active.mask
        else:
            unit.wait(team, active, still)
        team.machine.advance(team, active)

    return order


WGMMA = {"mma_async": multiplying, "fence": ordering, "commit_group": ordering, "wait_group": ordering}
