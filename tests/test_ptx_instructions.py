"""The instructions of PTX under the interpreter, one at a time, beside NumPy."""

import numpy as np
import pytest
from ptx import REMEDY, blank, compile, launch, library
from ptx.examples import run, to_bits
from ptx.numbers import from_bfloat16

pytestmark = pytest.mark.skipif(library() is None, reason=REMEDY)
each_schedule = pytest.mark.parametrize("schedule", ["lockstep", "forward", "backward", 7])
each_compiler = pytest.mark.parametrize("sm", [80, 100])  # up to 90 and from 100 on NVRTC is another compiler


def values_of(expressions, x, y, word, sm=80, options=()):
    """What a kernel computes for each expression of C, of x and y: (expressions, numbers)."""
    body = "\n".join(f"out[{i} * n + i] = {text};" for i, text in enumerate(expressions))
    source = f"""extern "C" __global__ void values(const {word}* xs, const {word}* ys, {word}* out, int n) {{
        int i = blockIdx.x * blockDim.x + threadIdx.x;
        if (i >= n) return;
        {word} x = xs[i], y = ys[i];
        {body} }}"""
    out = blank((len(expressions), len(x)), x.dtype)
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
    "x < y ? x : 5": np.where(X < Y, X, 5),
    "(x & 3) == 0 || y > 5 && x < 0": (X & 3 == 0) | (Y > 5) & (X < 0),
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
    "(int)__umul64hi((unsigned long long)x, (unsigned long long)y)":
        [(x % 2**64) * (y % 2**64) >> 64 for x, y in PAIRS],
    "(signed char)x": X.astype(np.int8), "x >> 7 & 31": X >> 7 & 31, "(x << 20) >> 25": X << 20 >> 25,
    "(unsigned short)x + (short)y": X.astype(np.uint16) + Y.astype(np.int16).astype(np.int32),
}


@each_compiler
def test_instructions_of_integers(sm):
    for found, text in zip(values_of(INTEGER, X, Y, "int", sm), INTEGER, strict=True):
        assert [int(each) % 2**32 for each in found] == [int(each) % 2**32 for each in INTEGER[text]], text


ASSEMBLY = {  # what C has no expression for: registers of 32 bits to one
    "lop3.b32 %0, %1, %2, %1, 0x1E;": lambda x, y: x ^ (y | x),
    "bfe.u32 %0, %1, 5, 9;": lambda x, y: x >> 5 & 511,
    "bfe.s32 %0, %1, 5, 9;": lambda x, y: (x >> 5 & 511) - (x >> 13 & 1) * 512,
    "bfi.b32 %0, %1, %2, 7, 6;": lambda x, y: y & ~(63 << 7) | (x & 63) << 7,
    "bfind.u32 %0, %1;": lambda x, y: x.bit_length() - 1,
    "bfind.s32 %0, %1;": lambda x, y: (x if x < 2**31 else x ^ 0xFFFFFFFF).bit_length() - 1,
    "prmt.b32 %0, %1, %2, 0xB60C;": lambda x, y: (  # sign of y, third of y, first of x, sign of y's first
        (255 if y >> 7 & 1 else 0) | (x & 255) << 8 | (y >> 16 & 255) << 16 | (255 if x >> 31 else 0) << 24),
    "shf.r.clamp.b32 %0, %1, %2, 40;": lambda x, y: y,
    "cvt.rna.tf32.f32 %0, %1;": lambda x, y: x + 0x1000 & ~0x1FFF,
}


@pytest.mark.parametrize("text", ASSEMBLY)
def test_instructions_that_only_assembly_has(text):
    x, y, out = U.copy(), V.copy(), blank(len(U), np.uint32)
    run(f"""int i = blockIdx.x * 32 + threadIdx.x; unsigned r;
        if (i < n) {{ asm("{text}" : "=r"(r) : "r"(x[i]), "r"(y[i])); out[i] = r; }}""",
        [x, y, out, np.int32(len(U))], "const unsigned* x, const unsigned* y, unsigned* out, int n", grid=3)
    assert out.tolist() == [ASSEMBLY[text](x % 2**32, y % 2**32) % 2**32 for x, y in PAIRS]


A, B = np.random.default_rng(4).uniform(-20, 20, (2, 64)).astype(np.float32)
A[:8], B[:8] = [0, -0.0, np.inf, -np.inf, np.nan, 1e38, 1e-42, 2.5], [1, 2, 3, np.nan, 1, -1e38, 1, 0.5]
S, T = A.astype(np.float64), B.astype(np.float64)
with np.errstate(all="ignore"):
    FLOATS = {
        "x + y": S + T, "x - y": S - T, "x * y": S * T, "fmaf(x, y, 1.f)": S * T + 1, "x / y": S / T,
        "__fdividef(x, 3.f)": S / 3, "sqrtf(x)": np.sqrt(S), "rsqrtf(fabsf(x))": 1 / np.sqrt(np.abs(S)),
        "1.f / x": 1 / S, "expf(x)": np.exp(S), "exp2f(x)": np.exp2(S),
        "logf(x)": np.log(S), "__log2f(fabsf(x))": np.log2(np.abs(S)), "tanhf(x)": np.tanh(S),
        "fminf(x, y)": np.fmin(S, T), "fmaxf(x, y)": np.fmax(S, T), "copysignf(y, x)": np.copysign(T, S),
        "floorf(x)": np.floor(S), "ceilf(x)": np.ceil(S), "rintf(x)": np.rint(S), "truncf(x)": np.trunc(S),
        "(float)(int)x": np.clip(np.nan_to_num(np.trunc(S)), -2**31, 2**31 - 1),
        "(float)(unsigned)x": np.clip(np.nan_to_num(np.trunc(S)), 0, 2**32 - 1),
        "__saturatef(x)": np.clip(np.nan_to_num(S), 0, 1),
        "isnan(x) + 2 * isinf(x)": np.isnan(S) + 2 * np.isinf(S),
        "(float)exp((double)y)": np.exp(T), "(float)((double)x * y + 1e-3)": S * T + 1e-3,
        "x < y": S < T, "!(x < y)": ~(S < T), "x != y": S != T,
        "(x <= y) + 2 * (x >= y)": (S <= T) + 2.0 * (S >= T),
    }


@each_compiler
def test_instructions_of_floats(sm):
    for found, text in zip(values_of(FLOATS, A, B, "float", sm), FLOATS, strict=True):
        with np.errstate(over="ignore"):
            wanted = np.asarray(FLOATS[text], np.float64).astype(np.float32)
        assert np.allclose(found, wanted, rtol=5e-7, atol=2e-38, equal_nan=True), text


def test_directed_rounding():
    exact = S * T
    finite = np.isfinite(exact) & (np.abs(exact) < 1e38)
    names = ["__fmul_rd(x, y)", "__fmul_ru(x, y)", "__fmul_rz(x, y)", "__fmul_rn(x, y)"]
    down, up, zero, near = values_of(names, A, B, "float")[:, finite].astype(np.float64)
    exact = exact[finite]
    step = np.nextafter(down.astype(np.float32), np.float32(np.inf))
    assert (down <= exact).all() and (up >= exact).all() and (up <= step).all() and (up > down).any()
    assert np.array_equal(zero, np.where(exact > 0, down, up)) and ((near == up) | (near == down)).all()


def test_subnormal_numbers_are_flushed_where_asked_for():
    x, y = np.full((2, 1), [[1e-20], [1e-20]], np.float32)
    assert values_of(["x * y"], x, y, "float") > 0
    assert values_of(["x * y"], x, y, "float", options=("-ftz=true",)) == 0


HALVES = {  # instruction, the NumPy function of the three operands, the sm it needs
    "fma.rn.{0}x2 %0, %1, %2, %3;": (lambda x, y, z: x * y + z, 80),
    "add.rn.{0}x2 %0, %1, %2;": (lambda x, y, z: x + y, 90),
    "mul.rn.{0}x2 %0, %1, %3;": (lambda x, y, z: x * z, 90),
    "max.{0}x2 %0, %1, %2;": (lambda x, y, z: np.maximum(x, y), 80),
    "neg.{0}x2 %0, %1;": (lambda x, y, z: -x, 80),
}


@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize("text", HALVES)
def test_instructions_of_half_precision(kind, text, rng):
    function, sm = HALVES[text]
    to, of = to_bits(kind)
    operands = [to(rng.uniform(-4, 4, 64)) for _ in range(3)]
    out = blank(64, np.uint16)
    run(f"""unsigned r; int i = threadIdx.x;
        asm("{text.format(kind)}" : "=r"(r) : "r"(x[i]), "r"(y[i]), "r"(z[i])); out[i] = r;""",
        [*operands, out], "const unsigned* x, const unsigned* y, const unsigned* z, unsigned* out", sm=sm)
    assert np.array_equal(of(out), of(to(function(*map(of, operands)))))


@each_compiler
def test_conversions_to_half_precision(sm, rng):
    x = rng.uniform(-100, 100, 64).astype(np.float32)
    x[:3] = np.inf, 1 + 1 / 256, 1 + 3 / 256  # each half way between two numbers of bfloat16
    half, brain, single = blank(64, np.float16), blank(64, np.uint16), blank(64, np.float32)
    run("""unsigned r; int i = threadIdx.x;
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(x[2 * i + 1]), "f"(x[2 * i])); half[i] = r;
        asm("{\\n.reg .b16 a, b;\\nmov.b32 {a, b}, %2; cvt.f32.f16 %0, a; cvt.f32.f16 %1, b;\\n}"
            : "=f"(single[2 * i]), "=f"(single[2 * i + 1]) : "r"(r));
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(x[2 * i + 1]), "f"(x[2 * i])); brain[i] = r;""",
        [x, half, brain, single], "const float* x, unsigned* half, unsigned* brain, float* single", sm=sm)
    assert np.array_equal(half, x.astype(np.float16)) and np.array_equal(single, x.astype(np.float16))
    near = from_bfloat16(np.asarray(brain))
    assert near[:3].tolist() == [np.inf, 1, 1 + 4 / 256]
    assert (np.abs(near[1:] - x[1:]) <= np.abs(x[1:]) / 256).all()


# threads that part and meet


def test_lanes_meet_at_an_earlier_line():
    """Those that jump back come late to the shuffle, which waits for them."""
    module = """.version 9.0
        .target sm_80
        .address_size 64
        .entry late(.param .u64 out) {
            .reg .pred %p<2>;  .reg .b32 %r<5>;  .reg .b64 %rd<4>;
            mov.u32 %r1, %tid.x;
            and.b32 %r2, %r1, 1;
            setp.eq.u32 %p1, %r2, 1;
            @%p1 bra $ODD;
        $MEET:
            shfl.sync.bfly.b32 %r3, %r1, 1, 31, -1;
            ld.param.u64 %rd1, [out];
            mul.wide.u32 %rd2, %r3, 4;
            add.s64 %rd3, %rd1, %rd2;
            st.global.u32 [%rd3], %r1;
            ret;
        $ODD:
            add.s32 %r1, %r1, 0;
            bra.uni $MEET;
        }"""
    out = blank(32, np.int32)
    launch(module, "late", 1, 32, [out])
    assert np.array_equal(out, np.arange(32) ^ 1)


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
    wanted = [x[5], x[i // 8 * 8 + (i + 1) % 8], x[np.where(i < 3, i, i - 3)],
              x[np.where(i % 16 < 14, i + 2, i)], x[i ^ 9],
              sum(1 << j for j in range(32) if x[j] > 9) - 2**32 * (x[31] > 9), int(36 in x), 1,
              x.sum(), x.min() - 20, np.bitwise_xor.reduce(x), -1]
    for row, each in zip(out, wanted, strict=True):
        assert np.array_equal(row, np.broadcast_to(each, 32))


def test_tf32_on_tensor_cores(rng):
    a, b = (rng.integers(-9, 9, shape).astype(np.float32) for shape in [(16, 8), (8, 8)])
    out = blank((16, 8), np.float32)
    run("""int g = threadIdx.x / 4, t = threadIdx.x % 4; float c[4] = {1, 1, 1, 1};
        asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9},"
            "{%0, %1, %2, %3};" : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[g * 8 + t]), "r"(a[g * 8 + 64 + t]), "r"(a[g * 8 + t + 4]), "r"(a[g * 8 + 64 + t + 4]),
              "r"(b[t * 8 + g]), "r"(b[t * 8 + 32 + g]));
        for (int i = 0; i < 4; ++i) out[(g + i / 2 * 8) * 8 + t * 2 + i % 2] = c[i];""",
        [a.view(np.uint32) | 0xFFF, b.view(np.uint32), out],
        "const unsigned* a, const unsigned* b, float* out")
    assert np.array_equal(out, a @ b + 1)  # the lower bits, which are set, are not looked at
