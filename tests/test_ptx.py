"""The PTX interpreter: it computes what NumPy does, and finds every fault that was planted."""

import numpy as np
import pytest
from ptx import (
    ARCHITECTURES,
    REMEDY,
    CompileError,
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
from ptx.numbers import from_bfloat16, to_bfloat16

needs_nvrtc = pytest.mark.skipif(library() is None, reason=REMEDY)
SCHEDULES = ["lockstep", "forward", "backward", 7]
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES)
each_compiler = pytest.mark.parametrize("sm", [80, 100])  # up to 90 and from 100 on NVRTC is another compiler


def run(body, args, parameters, *, sm=80, grid=1, block=32, shared=0, schedule="lockstep", before=""):
    """Launch a kernel that is given as its parameters and its body."""
    source = f'{before}\nextern "C" __global__ void kernel({parameters}) {{ {body} }}'
    return launch(compile(source, sm), "kernel", grid, block, args, shared, schedule=schedule)


# by hand, so that the interpreter is tried without a compiler too

SCALED = """
.version 9.0
.target sm_80
.address_size 64
.visible .entry scaled(.param .u64 scaled_param_0, .param .u64 scaled_param_1, .param .u32 scaled_param_2)
{
    .reg .pred %p<2>;
    .reg .f32 %f<3>;
    .reg .b32 %r<6>;
    .reg .b64 %rd<7>;
    ld.param.u64 %rd1, [scaled_param_0];
    ld.param.u64 %rd2, [scaled_param_1];
    ld.param.u32 %r1, [scaled_param_2];
    mov.u32 %r2, %ctaid.x;  mov.u32 %r3, %ntid.x;  mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.s32 %p1, %r5, %r1;
    @%p1 bra $DONE;
    mul.wide.s32 %rd3, %r5, 4;
    cvta.to.global.u64 %rd4, %rd1;
    add.s64 %rd5, %rd4, %rd3;
    ld.global.f32 %f1, [%rd5];
    { .reg .f32 %f1; mov.f32 %f1, 0f40000000; }  // another register
    mul.f32 %f2, %f1, 0f3F000000;
    add.s64 %rd6, %rd2, %rd3;
    st.global.f32 [%rd6], %f2;
$DONE:
    ret;
}
"""


def test_a_kernel_that_was_written_by_hand(rng):
    x, out = rng.standard_normal(75, np.float32), blank(75, np.float32)
    report = launch(SCALED, "scaled", 3, 32, [x, out, np.int32(75)])
    assert np.array_equal(out, x / 2) and report.unwritten == {1: 0}


@pytest.mark.parametrize("line", ["sad.u32 %r5, %r2, %r3, %r4", "mad.lo.sat.s32 %r5, %r2, %r3, %r4",
                                  "mov.u32 %r5, %clock", "ld.surf.u32 %r5, [%rd1]", "setp.whatever.s32 %p1, %r5, %r1"])
def test_an_unknown_instruction_names_itself(line):
    x = np.zeros(8, np.float32)
    module = SCALED.replace("mad.lo.s32 %r5, %r2, %r3, %r4", line)
    with pytest.raises(UnknownInstruction, match="PTX line 15: " + line.split()[0]):
        launch(module, "scaled", 1, 32, [x, x, np.int32(8)])


# what is computed

ADD = """
template <class T> __global__ void add(const T* x, const T* y, T* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = x[i] + y[i];
}"""


@needs_nvrtc
@each_compiler
@pytest.mark.parametrize("n", [1, 33, 5000])
@pytest.mark.parametrize("word, dtype", [("float", "f4"), ("double", "f8"), ("int", "i4"), ("long long", "i8"),
                                         ("unsigned char", "u1"), ("short", "i2")])
def test_vectors_are_added(n, word, dtype, sm, rng):
    x, y = rng.integers(0, 99, (2, n)).astype(dtype)
    module = compile(ADD, sm, names=(f"add<{word}>",))
    out = blank(n, dtype)
    report = launch(module, module.names[f"add<{word}>"], -(-n // 48), 48, [x, y, out, np.int32(n)])
    assert np.array_equal(out, x + y) and report.unwritten == {2: 0}


SUM = """
extern "C" __global__ void sum(const float* x, float* out, int* count, int n) {
    __shared__ float part[8];
    extern __shared__ float row[];
    int i = threadIdx.x, at = blockIdx.x * blockDim.x + i;
    row[i] = at < n ? x[at] : 0;
    __syncthreads();
    float s = row[i ^ 1 ^ 32] + row[i];           // of another warp, so that the barrier is needed
    for (int d = 16; d; d >>= 1) s += __shfl_xor_sync(~0u, s, d);
    if (i % 32 == 0) part[i / 32] = s;
    __syncthreads();
    if (i == 0) {
        s = 0;
        for (int w = 0; w < blockDim.x / 32; ++w) s += part[w];
        atomicAdd(out, s / 2);
        atomicAdd(count, 1);
    }
}"""


def sum_of(ptx, schedule="lockstep", n=500):
    x, out, count = np.arange(n, dtype=np.float32) % 7, np.zeros(1, np.float32), np.zeros(1, np.int32)
    launch(ptx, "sum", 4, 128, [x, out, count, np.int32(n)], 128 * 4, schedule=schedule)
    return out[0] == x.sum() and count[0] == 4


@needs_nvrtc
@each_compiler
@each_schedule
def test_a_block_is_summed(schedule, sm):
    assert sum_of(compile(SUM, sm).ptx, schedule)


MATMUL = """
extern "C" __global__ void matmul(const float* a, const float* b, float* c, int m, int n, int k) {
    __shared__ float x[16][16], y[16][17];
    int i = threadIdx.y, j = threadIdx.x, row = blockIdx.y * 16 + i, column = blockIdx.x * 16 + j;
    float sum = 0;
    for (int at = 0; at < k; at += 16) {
        x[i][j] = row < m && at + j < k ? a[row * k + at + j] : 0;
        y[i][j] = at + i < k && column < n ? b[(at + i) * n + column] : 0;
        __syncthreads();
        for (int l = 0; l < 16; ++l) sum += x[i][l] * y[l][j];
        __syncthreads();
    }
    if (row < m && column < n) c[row * n + column] = sum;
}"""


def product_of(ptx, schedule="lockstep", m=33, n=20, k=50):
    a, b = np.random.default_rng(1).standard_normal((2, 60, 60)).astype(np.float32)
    a, b, c = a[:m, :k].copy(), b[:k, :n].copy(), blank((m, n), np.float32)
    launch(ptx, "matmul", (-(-n // 16), -(-m // 16)), (16, 16), [a, b, c, *np.int32([m, n, k])], schedule=schedule)
    return np.abs(c - a.astype(np.float64) @ b).max() < 1e-5


@needs_nvrtc
@each_compiler
@pytest.mark.parametrize("schedule, m, n, k", [("lockstep", 33, 20, 50), ("forward", 5, 17, 35), (3, 16, 16, 48),
                                               ("backward", 1, 1, 1)])
def test_matrices_are_multiplied_by_tiles(schedule, m, n, k, sm):
    assert product_of(compile(MATMUL, sm).ptx, schedule, m, n, k)


# c = a b^T on tensor cores: tiles of 32 x 32 x 32, two warps, the next tile copied while this one is multiplied
TENSOR = """
#define WORDS4(r) "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
typedef unsigned short half;
__device__ unsigned place(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }
__device__ void load(half (*to)[40], const half* from, int row, int rows, int at, int k) {
    for (int i = threadIdx.x; i < 128; i += 64) {
        int r = i / 4, c = at + i % 4 * 8, bytes = row + r < rows && c < k ? 16 : 0;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(place(&to[r][i % 4 * 8])),
                     "l"(bytes ? from + (long long)(row + r) * k + c : from), "r"(bytes) : "memory");
    }
}
__device__ void matrices(unsigned (&r)[4], const half* p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : WORDS4(r) : "r"(place(p)) : "memory");
}
extern "C" __global__ void tensor(const half* a, const half* b, float* c, int m, int n, int k) {
    __shared__ __align__(16) half x[2][32][40], y[2][32][40];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = blockIdx.y * 32, column = blockIdx.x * 32;
    float sum[4][4] = {};
    load(x[0], a, row, m, 0, k), load(y[0], b, column, n, 0, k);
    asm volatile("cp.async.commit_group;" ::: "memory");
    for (int at = 0, now = 0; at < k; at += 32, now ^= 1) {
        if (at + 32 < k) load(x[now ^ 1], a, row, m, at + 32, k), load(y[now ^ 1], b, column, n, at + 32, k);
        asm volatile("cp.async.commit_group;" ::: "memory");
        asm volatile("cp.async.wait_group PENDING;" ::: "memory");
        __syncthreads();
        for (int l = 0; l < 32; l += 16) {
            unsigned left[4], right[2][4];
            matrices(left, &x[now][warp * 16 + lane % 16][l + lane / 16 * 8]);
            for (int j = 0; j < 2; ++j)
                matrices(right[j], &y[now][j * 16 + lane % 8 + lane / 16 * 8][l + lane / 8 % 2 * 8]);
            for (int j = 0; j < 4; ++j)
                asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.KIND.KIND.f32 {%0, %1, %2, %3}, "
                    "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                    : "+f"(sum[j][0]), "+f"(sum[j][1]), "+f"(sum[j][2]), "+f"(sum[j][3])
                    : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]),
                      "r"(right[j / 2][j % 2 * 2]), "r"(right[j / 2][j % 2 * 2 + 1]));
        }
        __syncthreads();
    }
    for (int j = 0; j < 4; ++j)
        for (int i = 0; i < 4; ++i) {
            int r = row + warp * 16 + lane / 4 + i / 2 * 8, s = column + j * 8 + lane % 4 * 2 + i % 2;
            if (r < m && s < n) c[r * n + s] = sum[j][i];
        }
}"""


def tensor(kind="bf16", sm=80, pending=1):
    return compile(TENSOR.replace("KIND", kind).replace("PENDING", str(pending)), sm).ptx


def tensor_product_of(ptx, schedule="lockstep", m=70, n=37, k=104, kind="bf16"):
    bits = (lambda x: x.astype(np.float16).view(np.uint16)) if kind == "f16" else to_bfloat16
    numbers = (lambda x: x.view(np.float16).astype(np.float64)) if kind == "f16" else from_bfloat16
    a, b = np.random.default_rng(2).standard_normal((2, 128, 128))
    a, b, c = bits(a[:m, :k].copy()), bits(b[:n, :k].copy()), blank((m, n), np.float32)
    launch(ptx, "tensor", (-(-n // 32), -(-m // 32)), 64, [a, b, c, *np.int32([m, n, k])], schedule=schedule)
    return np.abs(c - numbers(a).astype(np.float64) @ numbers(b).T).max() < 1e-4


@needs_nvrtc
@each_compiler
@pytest.mark.parametrize("kind", ["bf16", "f16"])
@pytest.mark.parametrize("schedule, m, n, k", [("lockstep", 70, 37, 104), ("forward", 32, 5, 32), (1, 1, 65, 8)])
def test_matrices_are_multiplied_on_tensor_cores(schedule, m, n, k, kind, sm):
    assert tensor_product_of(tensor(kind, sm), schedule, m, n, k, kind)


@needs_nvrtc
def test_tf32_on_tensor_cores(rng):
    a, b = (rng.integers(-9, 9, shape).astype(np.float32) for shape in [(16, 8), (8, 8)])
    out = blank((16, 8), np.float32)
    run("""int g = threadIdx.x / 4, t = threadIdx.x % 4; float c[4] = {1, 1, 1, 1};
        asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9},"
            "{%0, %1, %2, %3};" : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[g * 8 + t]), "r"(a[g * 8 + 64 + t]), "r"(a[g * 8 + t + 4]), "r"(a[g * 8 + 64 + t + 4]),
              "r"(b[t * 8 + g]), "r"(b[t * 8 + 32 + g]));
        for (int i = 0; i < 4; ++i) out[(g + i / 2 * 8) * 8 + t * 2 + i % 2] = c[i];""",
        [a.view(np.uint32) | 0xFFF, b.view(np.uint32), out], "const unsigned* a, const unsigned* b, float* out")
    assert np.array_equal(out, a @ b + 1)  # the lower bits, which are set, are not looked at


# single instructions: expressions of C, beside those of NumPy


def values_of(expressions, x, y, word, sm, options=(), result="int"):
    """What a kernel computes for each expression of x and y: (expressions, numbers)."""
    body = "\n".join(f"out[{i} * n + i] = {text};" for i, text in enumerate(expressions))
    source = f"""extern "C" __global__ void values(const {word}* xs, const {word}* ys, {result}* out, int n) {{
        int i = blockIdx.x * blockDim.x + threadIdx.x;
        if (i >= n) return;
        {word} x = xs[i], y = ys[i];
        {body} }}"""
    out = blank((len(expressions), len(x)), {"int": np.int32, "float": np.float32, "double": np.float64}[result])
    launch(compile(source, sm, options), "values", 3, 32, [x, y, out, np.int32(len(x))])
    return out


RANDOM = np.random.default_rng(3).integers(-2**31, 2**31, (2, 60))
EDGES = [[0, -1, 1, 7, -2**31, 2**31 - 1, 5, -9], [1, 1, 3, -2, 3, 33, 40, 4]]
X, Y = np.concatenate([RANDOM, EDGES], 1).astype(np.int32)
U, V = X.view(np.uint32), Y.view(np.uint32)
WIDE, LONG = X.astype(np.int64), Y.astype(np.int64)
PAIRS = [(int(x), int(y)) for x, y in zip(X, Y, strict=True)]
INTEGER = {
    "x + y * 3": X + Y * 3, "x & y | x ^ ~y": X & Y | X ^ ~Y, "-x": -X, "abs(x)": np.abs(X),
    "x / y": np.trunc(X / Y), "x % y": np.fmod(WIDE, LONG),
    "(unsigned)x / (unsigned)y": U // V, "(unsigned)x % (unsigned)y": U % V,
    "__mulhi(x, y)": WIDE * LONG >> 32, "__umulhi(x, y)": U.astype(np.uint64) * V >> np.uint64(32),
    "x << (y & 31)": X << (Y & 31), "x >> (y & 31)": X >> (Y & 31), "(unsigned)x >> (y & 31)": U >> (V & 31),
    "min(x, y)": np.minimum(X, Y), "max((unsigned)x, (unsigned)y)": np.maximum(U, V),
    "x < y ? x : 5": np.where(X < Y, X, 5), "(x & 3) == 0 || y > 5 && x < 0": (X & 3 == 0) | (Y > 5) & (X < 0),
    "__popc(x)": np.bitwise_count(U), "__clz(x)": [32 - int(u).bit_length() for u in U],
    "__brev(x)": [int(f"{u:032b}"[::-1], 2) for u in U],
    "__ffs(x)": [(x & -x).bit_length() for x, _ in PAIRS],
    "__clzll((long long)x * x)": [64 - (x * x).bit_length() for x, _ in PAIRS],
    "__byte_perm(x, y, 0x5410)": U & 0xFFFF | (V & 0xFFFF) << 16,
    "__funnelshift_l(x, y, 9)": V << np.uint32(9) | U >> np.uint32(23),
    "__funnelshift_r(x, y, y)": [((y % 2**32) << 32 | x % 2**32) >> (y & 31) for x, y in PAIRS],
    "(unsigned)((unsigned long long)(unsigned)x * (unsigned)y % 1000003)":
        U.astype(np.uint64) * V % np.uint64(1000003),
    "(int)((long long)x * y / 1000)": [abs(x * y) // 1000 * (1 if x * y > 0 else -1) for x, y in PAIRS],
    "(int)__mul64hi((long long)x << 30, (long long)y << 30)": [(x << 30) * (y << 30) >> 64 for x, y in PAIRS],
    "(int)__umul64hi((unsigned long long)x, (unsigned long long)y)": [(x % 2**64) * (y % 2**64) >> 64
                                                                     for x, y in PAIRS],
    "(signed char)x": X.astype(np.int8), "(unsigned short)x + (short)y": X.astype(np.uint16) + Y.astype(
        np.int16).astype(np.int32), "x >> 7 & 31": X >> 7 & 31, "(x << 20) >> 25": X << 20 >> 25,
}


@needs_nvrtc
@each_compiler
def test_instructions_of_integers(sm):
    for found, text in zip(values_of(INTEGER, X, Y, "int", sm), INTEGER, strict=True):
        assert [int(value) % 2**32 for value in found] == [int(value) % 2**32 for value in INTEGER[text]], text


A, B = np.random.default_rng(4).uniform(-20, 20, (2, 64)).astype(np.float32)
A[:8], B[:8] = [0, -0.0, np.inf, -np.inf, np.nan, 1e38, 1e-42, 2.5], [1, 2, 3, np.nan, 1, -1e38, 1, 0.5]
S, T = A.astype(np.float64), B.astype(np.float64)
with np.errstate(all="ignore"):
    FLOATS = {
        "x + y": S + T, "x - y": S - T, "x * y": S * T, "fmaf(x, y, 1.f)": S * T + 1, "x / y": S / T,
        "__fdividef(x, 3.f)": S / 3, "sqrtf(x)": np.sqrt(S), "rsqrtf(fabsf(x))": 1 / np.sqrt(np.abs(S)),
        "1.f / x": 1 / S, "expf(x)": np.exp(S), "exp2f(x)": np.exp2(S),
        "logf(x)": np.log(S), "__log2f(fabsf(x))": np.log2(np.abs(S)), "__sinf(x)": np.sin(S), "tanhf(x)": np.tanh(S),
        "fminf(x, y)": np.fmin(S, T), "fmaxf(x, y)": np.fmax(S, T), "copysignf(y, x)": np.copysign(T, S),
        "floorf(x)": np.floor(S), "ceilf(x)": np.ceil(S), "rintf(x)": np.rint(S), "truncf(x)": np.trunc(S),
        "(float)(int)x": np.clip(np.nan_to_num(np.trunc(S)), -2**31, 2**31 - 1),
        "(float)(unsigned)x": np.clip(np.nan_to_num(np.trunc(S)), 0, 2**32 - 1), "__saturatef(x)": np.clip(np.nan_to_num(S), 0, 1), "isnan(x) + 2 * isinf(x)": np.isnan(S) + 2 * np.isinf(S), "(float)exp((double)y)":
        np.exp(T), "x < y": S < T, "!(x < y)": ~(S < T), "x != y": S != T, "(x <= y) + 2 * (x >= y)":
        (S <= T) + 2.0 * (S >= T), "(float)((double)x * y + 1e-3)": S * T + 1e-3,
    }


@needs_nvrtc
@each_compiler
def test_instructions_of_floats(sm):
    for found, text in zip(values_of(FLOATS, A, B, "float", sm, (), "float"), FLOATS, strict=True):
        with np.errstate(over="ignore"):
            wanted = np.asarray(FLOATS[text], np.float64).astype(np.float32)
        if text.startswith("__sinf"):
            wanted[5] = found[5] = 0  # of 1e38: the accuracy is that of the argument
        assert np.allclose(found, wanted, rtol=5e-7, atol=2e-38, equal_nan=True), text


@needs_nvrtc
def test_directed_rounding():
    exact = S * T
    finite = np.isfinite(exact) & (np.abs(exact) < 1e38)
    names = ["__fmul_rd(x, y)", "__fmul_ru(x, y)", "__fmul_rz(x, y)", "__fmul_rn(x, y)"]
    down, up, zero, near = values_of(names, A, B, "float", 80, (), "float")[:, finite].astype(np.float64)
    exact = exact[finite]
    step = np.nextafter(down.astype(np.float32), np.float32(np.inf))
    assert (down <= exact).all() and (up >= exact).all() and (up <= step).all() and (up > down).any()
    assert np.array_equal(zero, np.where(exact > 0, down, up)) and ((near == up) | (near == down)).all()


@needs_nvrtc
def test_subnormal_numbers_are_flushed_where_asked_for():
    x, y = np.full((2, 1), [[1e-20], [1e-20]], np.float32)
    assert values_of(["x * y"], x, y, "float", 80, (), "float") > 0
    assert values_of(["x * y"], x, y, "float", 80, ("-ftz=true",), "float") == 0


HALVES = {  # instruction, the NumPy function of the three operands, the sm it needs
    "fma.rn.{0}x2 %0, %1, %2, %3;": (lambda x, y, z: x * y + z, 80),
    "add.rn.{0}x2 %0, %1, %2;": (lambda x, y, z: x + y, 90), "mul.rn.{0}x2 %0, %1, %3;": (lambda x, y, z: x * z, 90),
    "max.{0}x2 %0, %1, %2;": (lambda x, y, z: np.maximum(x, y), 80), "neg.{0}x2 %0, %1;": (lambda x, y, z: -x, 80),
}


@needs_nvrtc
@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize("text", HALVES)
def test_instructions_of_half_precision(kind, text, rng):
    function, sm = HALVES[text]
    to, of = ((lambda x: x.astype(np.float16).view(np.uint16)), (lambda x: x.view(np.float16).astype(np.float64)))
    if kind == "bf16":
        to, of = to_bfloat16, from_bfloat16
    operands = [to(rng.uniform(-4, 4, 64)) for _ in range(3)]
    out = blank(64, np.uint16)
    run(f"""unsigned r; int i = threadIdx.x;
        asm("{text.format(kind)}" : "=r"(r) : "r"(x[i]), "r"(y[i]), "r"(z[i])); out[i] = r;""",
        [*operands, out], "const unsigned* x, const unsigned* y, const unsigned* z, unsigned* out", sm=sm)
    exact = function(*(of(each).astype(np.float64) for each in operands))
    assert np.array_equal(of(np.asarray(out)), of(to(exact)))


@needs_nvrtc
@each_compiler
def test_conversions_to_half_precision(sm, rng):
    x = rng.uniform(-100, 100, 64).astype(np.float32)
    x[:2] = np.inf, 1.00390625  # half way between two numbers of bfloat16
    half, brain, single = blank(64, np.float16), blank(64, np.uint16), blank(64, np.float32)
    run("""unsigned r; int i = threadIdx.x;
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(x[2 * i + 1]), "f"(x[2 * i])); half[i] = r;
        asm("{ .reg .b16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high; }"
            : "=f"(single[2 * i]), "=f"(single[2 * i + 1]) : "r"(r));
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(x[2 * i + 1]), "f"(x[2 * i])); brain[i] = r;""",
        [x, half, brain, single], "const float* x, unsigned* half, unsigned* brain, float* single", sm=sm)
    assert np.array_equal(half, x.astype(np.float16)) and np.array_equal(single, x.astype(np.float16))
    near = from_bfloat16(np.asarray(brain))
    assert near[1] == 1 and np.isinf(near[0]) and (np.abs(near[1:] - x[1:]) <= np.abs(x[1:]) / 256).all()


# threads that part and meet


@needs_nvrtc
@each_compiler
@each_schedule
def test_threads_part_and_meet(schedule, sm):
    out = blank(150, np.int32)
    run("""int i = blockIdx.x * blockDim.x + threadIdx.x, sum = 0;
        if (i >= 150) return;
        for (int j = 0; j < i % 7; ++j) {
            if (j * i % 3 == 1) continue;
            if (j > 5) break;
            switch (i % 4) { case 0: sum += j; break; case 1: sum -= 1; break; default: sum += 100; }
        }
        out[i] = sum;""", [out], "int* out", grid=3, block=64, schedule=schedule, sm=sm)

    def value(i):
        terms = [{0: j, 1: -1}.get(i % 4, 100) for j in range(i % 7) if j * i % 3 != 1]
        return sum(terms)

    assert out.tolist() == [value(i) for i in range(150)]


@needs_nvrtc
@each_compiler
def test_local_arrays_constants_and_structures(sm):
    """Also generic addresses: a pointer to any of the spaces."""
    out = blank(32, np.float32)
    pair = np.array((3, 0.5), np.dtype([("many", np.int32), ("by", np.float32)]))[()]
    run("""float own[9]; int i = threadIdx.x; __shared__ float block[32];
        block[i] = i;
        for (int j = 0; j < 9; ++j) own[j] = table[j % 3] * i;
        const float* p = i % 2 ? &own[i % 9] : &own[(i + pair.many) % 9];
        float x = *(choice ? (const float*)&block[i] : p);
        out[i] = x * pair.by;""", [pair, np.int32(0), out], "Pair pair, int choice, float* out", sm=sm,
        before="struct Pair { int many; float by; }; __constant__ float table[3] = {1, 10, 100};")
    at = [i % 9 if i % 2 else (i + 3) % 9 for i in range(32)]
    assert out.tolist() == [10 ** (j % 3) * i / 2 for i, j in enumerate(at)]


@needs_nvrtc
@each_compiler
def test_warps_work_together(sm):
    out = blank((12, 32), np.int32)
    run("""int i = threadIdx.x, x = i * i % 37; unsigned all = ~0u;
        int values[12] = {
            __shfl_sync(all, x, 5), __shfl_sync(all, x, i + 1, 8), __shfl_up_sync(all, x, 3),
            __shfl_down_sync(all, x, 2, 16), __shfl_xor_sync(all, x, 9), (int)__ballot_sync(all, x > 9),
            __any_sync(all, x == 36), __all_sync(all, x < 37), (int)__reduce_add_sync(all, (unsigned)x),
            __reduce_min_sync(all, x - 20), (int)__reduce_xor_sync(all, (unsigned)x), (int)__activemask()};
        for (int j = 0; j < 12; ++j) out[j * 32 + i] = values[j];""", [out], "int* out", sm=sm)
    i = np.arange(32)
    x = i * i % 37
    wanted = [x[5], x[i // 8 * 8 + (i + 1) % 8], x[np.where(i < 3, i, i - 3)], x[np.where(i % 16 < 14, i + 2, i)],
              x[i ^ 9], sum(1 << j for j in range(32) if x[j] > 9) - 2**32 * (x[31] > 9), int(36 in x), 1, x.sum(),
              x.min() - 20, np.bitwise_xor.reduce(x), -1]
    for row, each in zip(out, wanted, strict=True):
        assert np.array_equal(row, np.broadcast_to(each, 32))


@needs_nvrtc
def test_atomics_of_all_blocks_add_up():
    out = np.array([0, 0, 99, 7], np.int32)
    before = blank(200, np.int32)
    run("""int i = blockIdx.x * 40 + threadIdx.x;
        before[i] = atomicAdd(out, 1); atomicMax(out + 1, i); atomicMin(out + 2, i); atomicCAS(out + 3, 7, i);""",
        [out, before], "int* out, int* before", grid=5, block=40)
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


# faults


FAULTS = {  # what is wrong: the fault, the body of a kernel of (float* x, float* out), 64 elements each
    "load beside": (OutOfBounds, "out[i] = x[i + 1];"),
    "load before": (OutOfBounds, "out[i] = x[i - 1];"),
    "store beside": (OutOfBounds, "out[i + 4] = 1;"),
    "null": (OutOfBounds, "out[i] = *(float*)(x == out ? 8ll : 0ll);"),
    "store into what must not be written": (OutOfBounds, "x[i] = 1;"),
    "beside static shared memory": (OutOfBounds, "__shared__ float s[32]; s[i] = x[i]; __syncthreads(); out[i] = s[i ^ 1];"),
    "beside dynamic shared memory": (OutOfBounds, "extern __shared__ float d[]; d[i + 63] = x[i];"),
    "misaligned": (Misaligned, "float4 v = *(float4*)(x + 1); out[i] = v.x + v.w;"),
    "shared memory that nobody wrote": (Unwritten, "__shared__ float s[64]; if (i) s[i] = 1; __syncthreads(); out[i] = s[i];"),
    "result that nobody wrote": (Unwritten, "out[i] += x[i];"),
    "no barrier": (Race, "__shared__ float s[64]; s[i] = x[i]; s[63 - i] += 1;"),
    "no barrier before writing again": (
        Race, "__shared__ float s[64]; s[i] = x[i]; __syncthreads(); float y = s[63 - i]; s[i] = y; out[i] = y;"),
    "no barrier within a warp": (
        Race, "__shared__ volatile float s[64]; s[i] = x[i]; __syncthreads(); if (i < 32) { float y = s[i ^ 1]; s[i] = y; }"),
    "many readers, one writer": (
        Race, "__shared__ float s[64]; s[i] = x[i]; __syncthreads(); out[i] = s[3]; if (i == 3) s[3] = 0;"),
    "two writers": (Race, "__shared__ volatile float s[64]; s[i / 2] = x[i];"),
    "two writers of results": (Race, "out[i / 2] = x[i];"),
    "two blocks write": (Race, "out[threadIdx.x] = x[i];"),
    "a block reads what another wrote": (Race, "out[i] = x[i]; __syncthreads(); out[i] = out[63 - i];"),
    "atomic and plain": (Race, "if (i == 0) out[0] = 0; else atomicAdd(out, 1);"),
    "half of a warp at a barrier": (Divergence, "if (i % 32 < 16) __syncthreads(); out[i] = x[i];"),
    "two barriers of one warp": (Divergence, """if (i % 2) { out[i] = 1; __syncthreads(); } else { __syncthreads(); }"""),
    "threads that have ended": (Divergence, "if (i % 32 > 20) return; __syncthreads(); out[i] = x[i];"),
    "lanes that do not shuffle": (Divergence, "if (i % 2) out[i] = __shfl_xor_sync(~0u, x[i], 2);"),
    "lanes that are not in the mask": (Divergence, "out[i] = __shfl_xor_sync(0xFFFF, x[i], 2);"),
    "a warp that does not come": (Deadlock, "if (threadIdx.x < 32) __syncthreads(); out[i] = x[i];"),
    "a warp that has ended": (Deadlock, "if (threadIdx.x >= 32) return; __syncthreads(); out[i] = x[i];"),
    "gave up": (Trap, "if (x[i] == 63) __trap();"),
}
PARAMETERS = "float* x, float* out"
THREAD = "int i = blockIdx.x * blockDim.x + threadIdx.x;"


@needs_nvrtc
@each_schedule
@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_is_found(what, schedule):
    fault, body = FAULTS[what]
    x, out = np.arange(64, dtype=np.float32), blank(64, np.float32)
    x.flags.writeable = False
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
        asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" :: "r"(to), "l"(x + j), "r"(12) : "memory");
        asm volatile("cp.async.WAIT;" ::: "memory");
        for (int l = 0; l < 4; ++l) out[j + l] = s[j + l];"""
    x, out = np.arange(1, 129, dtype=np.float32), blank(128, np.float32)
    run(THREAD + body.replace("WAIT", "wait_all"), [x, out], PARAMETERS, schedule=schedule)
    assert np.array_equal(out, np.where(np.arange(128) % 4 < 3, x, 0))
    with pytest.raises(InFlight):
        run(THREAD + body.replace("WAIT", "commit_group"), [x, out], PARAMETERS, schedule=schedule)


@needs_nvrtc
@each_schedule
def test_too_small_a_wait_is_found(schedule):
    with pytest.raises(InFlight):
        tensor_product_of(tensor(pending=2), schedule)


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
    check, ptx = {"sum": (sum_of, compile(SUM).ptx), "matmul": (product_of, compile(MATMUL).ptx),
                  "tensor": (tensor_product_of, tensor())}[name]
    steps = ordering(ptx)
    assert len(steps) == {"sum": 2, "matmul": 2, "tensor": 5}[name]
    for i in range(len(steps)):
        with pytest.raises(Fault):
            check(drop(ptx, i), schedule)


# the launch


@needs_nvrtc
def test_results_remember_what_was_written():
    body, out = THREAD + "if (i < 10) out[i] = x[i] + 1;", blank(64, np.float32)
    x = np.zeros(64, np.float32)
    assert run(body, [x, out], PARAMETERS).unwritten == {1: 54 * 4}
    assert np.isnan(out[10:]).all() and run(body, [out, x], PARAMETERS).unwritten == {0: 54 * 4}
    with pytest.raises(Unwritten, match=r"argument 0, byte 40 of 256"):
        run(body.replace("10", "11"), [out, x], PARAMETERS)


@needs_nvrtc
def test_parts_of_an_array_are_what_may_be_accessed():
    whole = np.arange(100, dtype=np.float32)
    run(THREAD + "out[i] = x[i];", [whole[:32], whole[40:72]], PARAMETERS)
    assert np.array_equal(whole[40:72], np.arange(32)) and whole[39] == 39 and whole[72] == 72
    with pytest.raises(OutOfBounds):
        run(THREAD + "out[i] = x[i + 1];", [whole[:32], whole[40:72]], PARAMETERS)
    turned = np.zeros((4, 8), np.float32).T
    run(THREAD + "out[i] = i;", [whole, turned], PARAMETERS)
    assert np.array_equal(turned.T.ravel(), np.arange(32))


@needs_nvrtc
@pytest.mark.parametrize("argument", [1, 1.0, np.float64(1), np.int32(1), "1"])
def test_a_scalar_has_the_type_of_its_parameter(argument):
    out = blank(1, np.float32)
    with pytest.raises(TypeError, match=r"kernel_param_1 is \.f32"):
        run("out[0] = x;", [out, argument], "float* out, float x")


@needs_nvrtc
def test_a_launch_that_a_gpu_refuses():
    x = np.zeros(4, np.float32)
    with pytest.raises(TypeError, match="takes 2 arguments"):
        run("out[0] = 1;", [x], PARAMETERS)
    for grid, block in [(0, 32), (1, 1056), (1, 0)]:
        with pytest.raises(ValueError, match="cannot be launched"):
            run("out[0] = 1;", [x, x], PARAMETERS, grid=grid, block=block)


# the compiler


@needs_nvrtc
@pytest.mark.parametrize("sm", ARCHITECTURES)
def test_every_architecture_is_compiled_for(sm):
    module = compile(TENSOR.replace("KIND", "bf16").replace("PENDING", "1"), sm)
    found = module.resources["tensor"]
    assert f".target sm_{sm}" in module.ptx and module.cubin[:4] == b"\x7fELF"
    assert 32 <= found.registers <= 128 and found.spill_stores == found.spill_loads == found.stack == 0


@needs_nvrtc
def test_what_does_not_compile_is_said():
    with pytest.raises(CompileError, match=r"kernel\.cu\(1\).*undefined_name"):
        compile('extern "C" __global__ void kernel() { undefined_name = 1; }')
