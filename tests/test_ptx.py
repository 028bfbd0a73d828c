"""The PTX interpreter: kernels compute what NumPy does, and every fault that was planted is found."""

import numpy as np
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
    Trap,
    UnknownInstruction,
    Unwritten,
    blank,
    compile,
    drop,
    launch,
    library,
    machine,
    ordering,
)
from ptx.examples import (
    ADD,
    MATMUL,
    PARAMETERS,
    SCALED,
    SUM,
    THREAD,
    matmul_is_right,
    run,
    sum_is_right,
    tensor,
    tensor_is_right,
)

needs_nvrtc = pytest.mark.skipif(library() is None, reason=REMEDY)
each_schedule = pytest.mark.parametrize("schedule", ["lockstep", "forward", "backward", 7])
each_compiler = pytest.mark.parametrize("sm", [80, 100])  # up to 90 and from 100 on NVRTC is another compiler

# a kernel written by hand, so that the interpreter is tried without a compiler too


def test_a_kernel_that_was_written_by_hand(rng):
    x, out = rng.standard_normal(75, np.float32), blank(75, np.float32)
    report = launch(SCALED, "scaled", 3, 32, [x, out, np.int32(75)])
    assert np.array_equal(out, x / 2) and report.unwritten == {1: 0}


@pytest.mark.parametrize("line", [
    "sad.u32 %r5, %r2, %r3, %r4", "mad.lo.sat.s32 %r5, %r2, %r3, %r4", "mov.u32 %r5, %clock",
    "ld.surf.u32 %r5, [%rd1]", "setp.whatever.s32 %p1, %r5, %r1", "mov.u32 %r5, nowhere",
    "cp.async.bulk.commit_group", "fma.rn.f32.f32 %f1, %f1, %f1, %f1"])
def test_an_unknown_instruction_names_itself(line):
    x = np.zeros(8, np.float32)
    module = SCALED.replace("mad.lo.s32 %r5, %r2, %r3, %r4", line)
    with pytest.raises(UnknownInstruction, match="PTX line 15: " + line.split()[0]):
        launch(module, "scaled", 1, 32, [x, x, np.int32(8)])


# what is computed


@needs_nvrtc
@each_compiler
@pytest.mark.parametrize("n", [1, 33, 5000])
@pytest.mark.parametrize("word, dtype", [("float", "f4"), ("double", "f8"), ("int", "i4"),
                                         ("long long", "i8"), ("unsigned char", "u1"), ("short", "i2")])
def test_vectors_are_added(n, word, dtype, sm, rng):
    x, y = rng.integers(0, 99, (2, n)).astype(dtype)
    module = compile(ADD, sm, names=(f"add<{word}>",))
    out = blank(n, dtype)
    report = launch(module, module.names[f"add<{word}>"], -(-n // 48), 48, [x, y, out, np.int32(n)])
    assert np.array_equal(out, x + y) and report.unwritten == {2: 0}


@needs_nvrtc
@each_compiler
@each_schedule
def test_a_block_is_summed(schedule, sm):
    assert sum_is_right(compile(SUM, sm).ptx, schedule)


@needs_nvrtc
@each_compiler
@pytest.mark.parametrize("schedule, m, n, k", [("lockstep", 33, 20, 50), ("forward", 5, 17, 35),
                                               (3, 16, 16, 48), ("backward", 1, 1, 1)])
def test_matrices_are_multiplied_by_tiles(schedule, m, n, k, sm):
    assert matmul_is_right(compile(MATMUL, sm).ptx, schedule, m, n, k)


@needs_nvrtc
@each_compiler
@pytest.mark.parametrize("kind", ["bf16", "f16"])
@pytest.mark.parametrize("schedule, m, n, k", [("lockstep", 70, 37, 104), ("forward", 32, 5, 32),
                                               (1, 1, 65, 8)])
def test_matrices_are_multiplied_on_tensor_cores(schedule, m, n, k, kind, sm):
    assert tensor_is_right(tensor(kind, sm), schedule, m, n, k, kind)


@needs_nvrtc
@each_schedule
def test_atomics_of_all_blocks_add_up(schedule):
    out = np.array([0, 0, 99, 7], np.int32)
    before = blank(200, np.int32)
    run("""int i = blockIdx.x * 40 + threadIdx.x;
        before[i] = atomicAdd(out, 1); atomicMax(out + 1, i); atomicMin(out + 2, i);
        atomicCAS(out + 3, 7, i);""",
        [out, before], "int* out, int* before", grid=5, block=40, schedule=schedule)
    assert out[:3].tolist() == [200, 199, 0] and sorted(before) == list(range(200)) and out[3] in range(200)


NAMED = """
    int w = threadIdx.x / 32;
    __shared__ int box[32];
    if (w == 0) { box[threadIdx.x] = threadIdx.x * 3; asm volatile("bar.arrive 1, 64;" ::: "memory"); }
    else { asm volatile("bar.sync 1, 64;" ::: "memory"); out[threadIdx.x - 32] = box[63 - threadIdx.x]; }"""


@needs_nvrtc
@each_schedule
def test_barriers_of_some_warps(schedule):
    out = blank(32, np.int32)
    run(NAMED, [out], "int* out", block=64, schedule=schedule)
    assert out.tolist() == [3 * (31 - i) for i in range(32)]
    # four warps, so that it is used twice
    run('asm volatile("bar.sync 1, 64;" ::: "memory");', [out], "int* out", block=128, schedule=schedule)


# faults


SHARED = "__shared__ volatile float s[64]; s[i] = x[i]; __syncthreads();"
FAULTS = {  # what is wrong: the fault, and a kernel of x and out, 64 floats each, one for each thread i
    "load beside": (OutOfBounds, "out[i] = x[i + 1];"),
    "load before": (OutOfBounds, "out[i] = x[i - 1];"),
    "store beside": (OutOfBounds, "out[i + 4] = 1;"),
    "null": (OutOfBounds, "out[i] = *(float*)(x == out ? 8ll : 0ll);"),
    "store into what must not be written": (OutOfBounds, "x[i] = 1;"),
    "beside static shared memory": (
        OutOfBounds, "__shared__ float s[32]; s[i] = x[i]; __syncthreads(); out[i] = s[i ^ 1];"),
    "beside dynamic shared memory": (OutOfBounds, "extern __shared__ float d[]; d[i + 63] = x[i];"),
    "misaligned": (Misaligned, "float4 v = *(float4*)(x + 1); out[i] = v.x + v.w;"),
    "shared memory that nobody wrote": (
        Unwritten, "__shared__ float s[64]; if (i) s[i] = 1; __syncthreads(); out[i] = s[i];"),
    "result that nobody wrote": (Unwritten, "out[i] += x[i];"),
    "no barrier": (Race, "__shared__ float s[64]; s[i] = x[i]; s[63 - i] += 1;"),
    "no barrier before writing again": (
        Race, "__shared__ float s[64]; s[i] = x[i]; __syncthreads(); float y = s[63 - i]; s[i] = y;"),
    "no barrier but an earlier one": (
        Race, "__shared__ volatile float s[64]; s[i] = 0; __syncwarp(); s[i] = x[i]; out[i] = s[i ^ 1];"),
    "no barrier within a warp": (
        Race, "__shared__ volatile float s[64]; s[i] = x[i]; __syncthreads(); if (i < 32) s[i] = s[i ^ 1];"),
    "many readers, one writer": (
        Race, "__shared__ float s[64]; s[i] = x[i]; __syncthreads(); out[i] = s[3]; if (i == 3) s[3] = 0;"),
    "a warp of readers, one writes": (
        Race, SHARED + "if (i < 32) { out[i] = s[3]; if (i == 31) s[3] = 0; }"),
    "two readers at different lines, one writes": (
        Race, SHARED + "if (i == 0) out[0] = s[3]; if (i == 31) { out[31] = s[3]; s[3] = 0; }"),
    "two writers": (Race, "__shared__ volatile float s[64]; s[i / 2] = x[i];"),
    "two writers of results": (Race, "out[i / 2] = x[i];"),
    "two blocks write": (Race, "out[threadIdx.x] = x[i];"),
    "two blocks write, one after a barrier": (
        Race, "if (i == 0) out[0] = 1; __syncthreads(); if (i == 32) out[0] = 2;"),
    "blocks read, one of them writes": (
        Race, "volatile float* v = x; float y = v[3]; if (i == 32) v[3] = y;"),
    "blocks read at different lines, one of them writes": (
        Race, "volatile float* v = x; if (i == 0) out[i] = v[3]; if (i == 32) { out[i] = v[3]; v[3] = 0; }"),
    "a block reads what another wrote": (Race, "out[i] = x[i]; __syncthreads(); out[i] = out[63 - i];"),
    "a block writes what others have read": (
        Race, "out[i] = x[i]; __syncthreads(); if (blockIdx.x) atomicAdd(out, out[33]); else out[33] = 1;"),
    "atomic and plain": (Race, "if (i == 0) out[0] = 0; else atomicAdd(out, 1);"),
    "half of a warp at a barrier": (Divergence, "if (i % 32 < 16) __syncthreads(); out[i] = x[i];"),
    "two barriers of one warp": (
        Divergence, "if (i % 2) { out[i] = 1; __syncthreads(); } else { __syncthreads(); }"),
    "threads that have ended": (Divergence, "if (i % 32 > 20) return; __syncthreads(); out[i] = x[i];"),
    "lanes that do not shuffle": (Divergence, "if (i % 2) out[i] = __shfl_xor_sync(~0u, x[i], 2);"),
    "lanes that are not in the mask": (Divergence, "out[i] = __shfl_xor_sync(0xFFFF, x[i], 2);"),
    "lanes that are read but not there": (
        Divergence, "if (i % 32 < 8) out[i] = __shfl_xor_sync(0xFF, x[i], 16);"),
    "a warp that does not come": (Deadlock, "if (threadIdx.x < 32) __syncthreads(); out[i] = x[i];"),
    "a warp that has ended": (Deadlock, "if (threadIdx.x >= 32) return; __syncthreads(); out[i] = x[i];"),
    "gave up": (Trap, "if (x[i] == 63) __trap();"),
}


@needs_nvrtc
@each_schedule
@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_is_found(what, schedule):
    fault, body = FAULTS[what]
    x, out = np.arange(64, dtype=np.float32), blank(64, np.float32)
    x.flags.writeable = "must not be written" not in what
    grid = 2 if "block" in what else 1
    # a warp that runs ahead finds unwritten memory where one in step finds a race
    either = (Race, Unwritten) if fault is Race else fault
    with pytest.raises(either, match=r"PTX line \d+.*block \(\d, 0, 0\), thread \(\d+, 0, 0\)"):
        run(THREAD + body, [x, out], PARAMETERS, grid=grid, block=64 // grid, shared=256, schedule=schedule)


@needs_nvrtc
@each_schedule
def test_an_asynchronous_copy_is_there_only_after_the_wait(schedule):
    body = """__shared__ __align__(16) float s[128]; int j = i * 4 % 128;
        unsigned to = (unsigned)__cvta_generic_to_shared(s + j);
        asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;"
                     :: "r"(to), "l"(x + j), "r"(12) : "memory");
        asm volatile("cp.async.WAIT;" ::: "memory");
        s[j + 1] *= 2;
        asm volatile("cp.async.wait_all;" ::: "memory");  // once more: nothing comes twice
        for (int l = 0; l < 4; ++l) out[j + l] = s[j + l];"""
    x, out = np.arange(1, 129, dtype=np.float32), blank(128, np.float32)
    run(THREAD + body.replace("WAIT", "wait_all"), [x, out], PARAMETERS, schedule=schedule)
    assert np.array_equal(out.reshape(-1, 4), x.reshape(-1, 4) * [1, 2, 1, 0])
    with pytest.raises(InFlight):
        run(THREAD + body.replace("WAIT", "commit_group"), [x, out], PARAMETERS, schedule=schedule)


@needs_nvrtc
@each_schedule
def test_too_small_a_wait_is_found(schedule):
    with pytest.raises(InFlight):
        tensor_is_right(tensor(pending=2), schedule)


@needs_nvrtc
def test_a_loop_without_an_end_is_found(monkeypatch):
    monkeypatch.setattr(machine, "LIMIT", 2000)
    x, out = np.zeros(2, np.float32), blank(2, np.float32)
    with pytest.raises(Deadlock, match="still running"):
        run("while (((volatile float*)x)[0] == 0); out[0] = 1;", [x, out], PARAMETERS)


@needs_nvrtc
@each_schedule
@pytest.mark.parametrize("name", ["sum", "matmul", "tensor"])
def test_each_barrier_and_each_wait_is_needed(name, schedule):
    """Left out, it is found by a fault, whatever the order of the warps."""
    is_right, module = {"sum": (sum_is_right, compile(SUM)), "matmul": (matmul_is_right, compile(MATMUL)),
                        "tensor": (tensor_is_right, tensor())}[name]
    steps = ordering(module.ptx)
    assert len(steps) == {"sum": 2, "matmul": 2, "tensor": 5}[name]
    for i in range(len(steps)):
        with pytest.raises(Fault):
            is_right(drop(module.ptx, i), schedule)
