"""What Hopper added: barriers in shared memory and products of warp groups, and the faults in their use."""

import re

import pytest
from ptx import (
    REMEDY,
    Deadlock,
    Divergence,
    Fault,
    InFlight,
    Misaligned,
    OutOfBounds,
    Race,
    UnknownInstruction,
    Unwritten,
    drop,
    library,
    ordering,
)
from ptx.hopper import (
    FILLED,
    pipeline,
    pipeline_is_right,
    product,
    product_is_right,
    ring,
    ring_is_right,
)

pytestmark = pytest.mark.skipif(library() is None, reason=REMEDY)
each_schedule = pytest.mark.parametrize("schedule", ["lockstep", "forward", "backward", 7])
two_schedules = pytest.mark.parametrize("schedule", ["lockstep", "backward"])

COMES = "wait(full + s, t / 2 & 1);"
LEAVES = "arrive(empty + s);"
FEW = "init(empty + s, 64)", "init(empty + s, 2)"


@each_schedule
@pytest.mark.parametrize("filled", FILLED)
def test_a_ring_is_filled_and_emptied(filled, schedule):
    assert ring_is_right(ring(filled), schedule)
    assert ring_is_right(ring(filled), schedule, tiles=1)
    # one lane waits for its warp, and tells that it is done
    few = ring(filled, FEW, (LEAVES, "__syncwarp(); if (lane == 0) " + LEAVES),
               (COMES, "if (lane == 0) " + COMES + " __syncwarp();"))
    assert ring_is_right(few, schedule)


@two_schedules
@pytest.mark.parametrize("filled", FILLED)
def test_each_step_of_the_ring_is_needed(filled, schedule):
    module = ring(filled)
    steps = ordering(module.ptx)
    assert len({step.split()[0] for step in steps}) == {"by copies": 4, "after a wait": 4}[filled]
    for i, step in enumerate(steps):
        with pytest.raises(Fault):
            assert ring_is_right(drop(module.ptx, i), schedule)
            pytest.fail(f"nobody misses {step}", pytrace=False)


RING_FAULTS = {  # what is wrong: the faults, how the ring is filled, what becomes of its source
    "parity of the full stage": ((InFlight, Unwritten, Race), "by copies", ("t / 2 & 1", "~t / 2 & 1")),
    "parity of the empty stage": ((Race, InFlight, Deadlock), "by copies", ("(t / 2 - 1) & 1", "t / 2 & 1")),
    "parity that never changes": (Fault, "by copies", ("t / 2 & 1", "0")),
    "too few arrivals": (Deadlock, "by copies", ("init(full + s, 32)", "init(full + s, 33)")),
    "a thread that does not arrive": (
        Deadlock, "by copies", ("arrive(empty", "if (lane) arrive(empty")),
    "arrivals that are not expected": (
        (Race, Deadlock), "by copies", ("init(empty + s, 64)", "init(empty + s, 32)")),
    "a lane that speaks for its warp before all are there": (
        Race, "by copies", FEW, (LEAVES, "if (lane == 0) " + LEAVES)),
    "arrival before the copies": (
        (InFlight, Race), "after a wait", (
            "copies_wait(); arrive(full + s)", "arrive(full + s); copies_wait()")),
    "arrival without the copies": (InFlight, "by copies", ("   arrive_with_copies", "   arrive")),
    "arrival before the stage is read": (Race, "by copies", (
        COMES, COMES + " arrive(empty + s);"), ("            arrive(empty + s);\n        }", "        }")),
    "a wait that is not asked again": ((InFlight, Unwritten, Race), "by copies", ("bra AGAIN", "bra OVER")),
    "nobody made the barriers": (Unwritten, "by copies", ("init(full + s, 32),", "")),
    "barriers that others do not know of": (
        (Race, Unwritten), "by copies", ("__syncthreads();", "")),
    "half of a warp takes registers": ((Divergence, Deadlock), "by copies", (
        'asm volatile("setmaxnreg.inc', 'if (lane < 16) asm volatile("setmaxnreg.inc')),
}


@two_schedules
@pytest.mark.parametrize("what", RING_FAULTS)
def test_a_fault_of_the_ring_is_found(what, schedule):
    fault, filled, *edits = RING_FAULTS[what]
    with pytest.raises(fault, match=r"PTX line \d+"):
        ring_is_right(ring(filled, *edits), schedule)


@pytest.mark.parametrize("columns, kind, transposed, registers, adds, schedule", [
    (64, "bf16", 0, False, 0, "lockstep"), (128, "f16", 0, False, 1, "forward"),
    (64, "f16", 1, False, 1, "lockstep"), (128, "bf16", 1, True, 0, "backward"),
    (64, "f16", 0, True, 0, "lockstep"), (8, "bf16", 0, True, 1, 3), (24, "bf16", 1, True, 1, "lockstep")])
def test_a_warp_group_multiplies(columns, kind, transposed, registers, adds, schedule):
    module = product(columns, kind, transposed, registers, adds)
    assert product_is_right(module, columns, kind, transposed, adds, schedule)


@two_schedules
@pytest.mark.parametrize("registers", [False, True])
def test_each_step_of_a_product_is_needed(registers, schedule):
    module = product(16, registers=registers)
    steps = ordering(module.ptx)
    assert len(steps) == 5
    for i, step in enumerate(steps):
        with pytest.raises(Fault):
            assert product_is_right(drop(module.ptx, i), 16, schedule=schedule)
            pytest.fail(f"nobody misses {step}", pytrace=False)


CHANGE = 'asm volatile("add.{0} %0, %0, %0;" : "+{1}"({2}));'
RIGHT = "place(at_b) + at"
WAIT = "group_wait<0>();"
LOOP = "group_fence();\n    for (int k"
PRODUCT_FAULTS = {  # what is wrong: the fault, whether a is in registers, what becomes of the source
    "too small a wait": (InFlight, False, ("group_wait<0>", "group_wait<1>")),
    "a result that is read": (InFlight, False, (WAIT, "out[0] = d[0];" + WAIT)),
    "a result that is written": (InFlight, False, (WAIT, CHANGE.format("f32", "f", "d[0]") + WAIT)),
    "an operand that is written": (InFlight, True, (WAIT, CHANGE.format("u32", "r", "own[7][3]") + WAIT)),
    "a result that was changed after the fence": (
        Race, False, (LOOP, "group_fence();" + CHANGE.format("f32", "f", "d[0]") + LOOP[14:])),
    "a result that was changed when other warps had yet to fence": (Race, False, (
        LOOP, "if (i >= 64) group_fence();" + CHANGE.format("f32", "f", "d[0]") + "if (i < 64) " + LOOP)),
    "an operand that was changed after the fence": (
        Race, True, (LOOP, "group_fence();" + CHANGE.format("u32", "r", "own[7][3]") + LOOP[14:])),
    "no fence of registers at all": (
        Race, False, ("for (int j = 0; j < N / 2; ++j) d[j] = 1;", ""), ("settle(d);", ""),
        (LOOP, LOOP[14:])),
    "fence of the proxy before the writing": (Race, False, (
        "    fence();\n", ""), ("unsigned char *at_a", "fence(); unsigned char *at_a")),
    "fence of the proxy before others are known to have written": (Race, False, (
        "    fence();\n    __syncthreads();", "    if (i < 64) fence();\n    __syncthreads();")),
    "fence of the proxy by one lane of each warp": (Race, False, (
        "    fence();\n", "    if (i % 32 == 0) fence();\n")),
    "a thread that overwrites what its own product reads": (Race, False, (
        WAIT, "if (i == 0) *(volatile unsigned*)at_a = 0;" + WAIT)),
    "a thread that overwrites what another one's product reads": (Race, False, (
        WAIT, WAIT + "((volatile unsigned*)at_b)[i] = 0;")),
    "overwriting after a barrier that came before the wait": (Race, False, (
        WAIT, "__syncthreads(); ((volatile unsigned*)at_b)[i] = 0;" + WAIT)),
    "a copy into what is read": ((Race, InFlight), False, (
        WAIT, "__syncthreads(); copy(at_b + i * 16, a + i * 8);" + WAIT + "copies_wait();")),
    "no swizzling": (UnknownInstruction, False, ("u64 mode = 1", "u64 mode = 0")),
    "bits of a descriptor that say nothing known": (
        UnknownInstruction, False, ("mode << 62", "mode << 62 | 1ull << 49")),
    "a row of a pattern as its beginning": (Misaligned, False, (RIGHT, RIGHT + " + 128")),
    "a piece of a pattern as its beginning": (Misaligned, False, (RIGHT, RIGHT + " + 16")),
    "patterns too close": (Misaligned, False, (", 1024);", ", 512);")),
    "a matrix beside the memory": (OutOfBounds, False, (RIGHT, RIGHT + " + 4096")),
    "memory that nobody wrote": (Unwritten, False, ("l < N * 16", "l < N * 16 - 128")),
    "a warp that does not come": (Divergence, False, (LOOP, "if (i >= 96) return;\n" + LOOP)),
    "half of a warp": (Divergence, False, (LOOP, "if (i % 32 >= 16) return;\n" + LOOP)),
    "lanes with different descriptors": (Divergence, False, (RIGHT, RIGHT + " + i % 2 * 32")),
    "warps with different descriptors": (
        Divergence, False, (RIGHT, RIGHT + " + i / 64 * 1024")),
}


@two_schedules
@pytest.mark.parametrize("what", PRODUCT_FAULTS)
def test_a_fault_of_a_product_is_found(what, schedule):
    fault, registers, *edits = PRODUCT_FAULTS[what]
    module = product(16, registers=registers, edits=edits)
    with pytest.raises(fault, match=r"PTX line \d+"):
        product_is_right(module, 16, schedule=schedule)


def test_a_product_of_another_shape_has_to_wait():
    """It would be added to some of the results of one under way. Written by hand: ptxas crashes over it."""
    text = product(16).ptx
    wide = re.findall(r"wgmma\.mma_async[^;]*;", text)[-1]
    first = re.search(r"\{((?:%f\d+, ){3}%f\d+)", wide)[1]
    narrow = re.sub(r"\{[^}]*\}", f"{{{first}}}", wide).replace("m64n16k16", "m64n8k16")
    with pytest.raises(InFlight, match="m64n8k16"):
        product_is_right(text.replace(wide, wide + narrow), 16)


def test_a_group_has_four_warps():
    with pytest.raises(Divergence, match="a group of fewer than four warps"):
        product_is_right(product(16, threads=96), 16, threads=96)


@pytest.mark.parametrize("old, new", [
    ("setmaxnreg.dec", "setmaxnreg.most"), ("mbarrier.init", "mbarrier.inval"),
    ("try_wait.parity", "test_wait.parity"), ("arrive.noinc", "arrive")])
def test_barriers_that_are_not_covered_name_themselves(old, new):
    module = ring().ptx
    assert old in module
    with pytest.raises(UnknownInstruction, match=r"PTX line \d+"):
        ring_is_right(module.replace(old, new), "lockstep")


@pytest.mark.parametrize("old, new", [
    ("p, 1, 1, 0, 0;", "p, 1, -1, 0, 0;"), ("p, 1, 1, 0, 0;", "p, 1, 1, 1, 0;"), ("bf16.bf16", "tf32.tf32"),
    ("m64n16k16", "m64n24k16"), ("wgmma.fence.sync", "wgmma.fence.async")])
def test_products_that_are_not_covered_name_themselves(old, new):
    module = product(16).ptx
    assert old in module
    with pytest.raises(UnknownInstruction, match=r"PTX line \d+"):
        product_is_right(module.replace(old, new), 16)


# all of it together


@pytest.mark.parametrize("schedule", ["lockstep", 7])
def test_groups_of_warps_fill_and_multiply_at_once(schedule):
    assert pipeline_is_right(pipeline(), schedule)


def test_each_step_of_the_pipeline_is_needed():
    module = pipeline()
    steps = ordering(module.ptx)
    assert len(steps) > 20
    for i, step in enumerate(steps):
        with pytest.raises(Fault):
            assert pipeline_is_right(drop(module.ptx, i), stages=4)
            pytest.fail(f"nobody misses number {i}, {step}", pytrace=False)
