"""Small kernels for Hopper, and whether what they compute under the interpreter is what NumPy does."""

import numpy as np

from .examples import to_bits
from .launch import blank, launch
from .nvrtc import compile

INLINE = """
typedef unsigned long long u64;
__device__ unsigned place(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }
__device__ void init(u64* b, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(place(b)), "r"(count) : "memory");
}
__device__ void arrive(u64* b) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(place(b)) : "memory");
}
__device__ void arrive_with_copies(u64* b) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" :: "r"(place(b)) : "memory");
}
__device__ void wait(u64* b, int parity) {
    asm volatile("{\\n.reg .pred p;\\nAGAIN:\\n mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\\n"
                 "@p bra OVER;\\n bra AGAIN;\\nOVER:\\n}" :: "r"(place(b)), "r"(parity) : "memory");
}
__device__ void copy(void* to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(place(to)), "l"(from) : "memory");
}
__device__ void copies_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }
__device__ void fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
"""

# A warp fills a ring of two stages; two warps take out each tile of 128 numbers, mirrored, and add them up.
RING = INLINE + """
extern "C" __global__ void __launch_bounds__(96) ring(const float* x, float* out, int tiles) {
    __shared__ __align__(16) float stage[2][128];
    __shared__ u64 full[2], empty[2];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (threadIdx.x == 0) {
        for (int s = 0; s < 2; ++s) init(full + s, 32), init(empty + s, 64);
        asm volatile("fence.mbarrier_init.release.cluster;");
    }
    __syncthreads();
    if (warp == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        for (int t = 0; t < tiles; ++t) {
            int s = t % 2;
            if (t >= 2) wait(empty + s, (t / 2 - 1) & 1);
            copy(&stage[s][4 * lane], x + (blockIdx.x * tiles + t) * 128 + 4 * lane);
            FILLED
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        float sum[2] = {};
        for (int t = 0; t < tiles; ++t) {
            int s = t % 2;
            wait(full + s, t / 2 & 1);
            for (int i = 0; i < 2; ++i) sum[i] += stage[s][127 - (threadIdx.x - 32) - 64 * i];
            arrive(empty + s);
        }
        for (int i = 0; i < 2; ++i) out[blockIdx.x * 128 + threadIdx.x - 32 + 64 * i] = sum[i];
    }
}"""
FILLED = {"by copies": "arrive_with_copies(full + s);", "after a wait": "copies_wait(); arrive(full + s);"}


def ring(filled="by copies", *edits):
    source = RING.replace("FILLED", FILLED[filled])
    for old, new in edits:
        assert old in source
        source = source.replace(old, new)
    return compile(source, "90a")


def ring_is_right(module, schedule, tiles=7):
    x = np.random.default_rng(5).integers(-9, 9, (3, tiles, 128)).astype(np.float32)
    out = blank((3, 128), np.float32)
    launch(module, "ring", 3, 96, [x, out, np.int32(tiles)], schedule=schedule)
    return np.array_equal(out, x.sum(1)[:, ::-1])


def wgmma(columns, kind="bf16", transposed=0, registers=False):
    """A device function `multiply(sum, a, b, adds)`; `a` is a descriptor or four registers."""
    count = columns // 2
    results = ", ".join(f"%{i}" for i in range(count))
    own = [f"%{count + i}" for i in range(4 if registers else 1)]
    left = f"{{{', '.join(own)}}}" if registers else own[0]
    right, adds = f"%{count + len(own)}", f"%{count + len(own) + 1}"
    numbers = f"1, 1, {transposed}" if registers else f"1, 1, 0, {transposed}"
    outputs = ", ".join(f'"+f"(d[{i}])' for i in range(count))
    inputs = ", ".join(f'"r"(a[{i}])' for i in range(4)) if registers else '"l"(a)'
    return f"""__device__ void multiply(float (&d)[{count}], {'unsigned (&a)[4]' if registers else 'u64 a'},
                                         u64 b, int adds) {{
        asm volatile("{{\\n.reg .pred p;\\n setp.ne.b32 p, {adds}, 0;\\n"
            "wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{kind}.{kind} {{{results}}}, "
            "{left}, {right}, p, {numbers};\\n}}" : {outputs} : {inputs}, "l"(b), "r"(adds) : "memory"); }}
"""


GROUPS = INLINE + """
__device__ void group_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
// what was computed for these registers before the fence must not be computed after it
template <int n> __device__ void settle(float (&d)[n]) {
    for (int j = 0; j < n; ++j) asm volatile("" : "+f"(d[j]) :: "memory");
}
__device__ void group_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int still> __device__ void group_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(still) : "memory");
}
__device__ u64 descriptor(unsigned at, int leading, int stride, u64 mode = 1) {
    return u64(at >> 4 & 0x3FFF) | u64(leading >> 4) << 16 | u64(stride >> 4) << 32 | mode << 62;
}
__device__ unsigned swizzled(unsigned at) { return at ^ (at >> 7 & 7) << 4; }
"""

# out = a b, (64, 128) by (128, N): in shared memory a row of 128 bytes holds 64 numbers of a row of a, and of
# a column, or if it is transposed of a row, of b
PRODUCT = """
extern "C" __global__ void __launch_bounds__(THREADS)
product(const unsigned short* a, const unsigned short* b, float* out) {
    extern __shared__ __align__(1024) unsigned char tiles[];
    unsigned char *at_a = tiles, *at_b = tiles + 16384;
    int i = threadIdx.x;
    for (int l = i; l < 64 * 16; l += 128) {  // (half of the depth, row) of a
        int r = l / 16, c = l % 16;
        *(uint4*)(at_a + c / 8 * 8192 + swizzled(r * 128 + c % 8 * 16)) = ((const uint4*)a)[r * 16 + c];
    }
    for (int l = i; l < N * 16; l += 128) {
        int r = l / (TRANSPOSED ? N / 8 : 16), c = l % (TRANSPOSED ? N / 8 : 16);
        int tile = c / 8 * (TRANSPOSED ? 16384 : N * 128);
        *(uint4*)(at_b + tile + swizzled(r * 128 + c % 8 * 16)) = ((const uint4*)b)[l];
    }
    fence();
    __syncthreads();
    float d[N / 2];
    for (int j = 0; j < N / 2; ++j) d[j] = 1;
    BEFORE
    settle(d);
    group_fence();
    for (int k = 0; k < 8; ++k) {
        int at = TRANSPOSED ? k * 2048 : k / 4 * N * 128 + k % 4 * 32;
        u64 right = descriptor(place(at_b) + at, TRANSPOSED ? 16384 : 0, 1024);
        MULTIPLY
    }
    group_commit();
    group_wait<0>();
    AFTER
    for (int j = 0; j < N / 2; ++j)
        out[(i / 32 * 16 + i % 32 / 4 + j / 2 % 2 * 8) * N + j / 4 * 8 + i % 4 * 2 + j % 2] = d[j];
}"""
FROM_SHARED = """u64 left = descriptor(place(at_a) + k / 4 * 8192 + k % 4 * 32, 0, 1024);
        multiply(d, left, right, k > 0 || ADDS);"""
FROM_REGISTERS = "multiply(d, own[k], right, k > 0 || ADDS);"
OWN = """unsigned own[8][4];
    for (int k = 0; k < 8; ++k)
        for (int j = 0; j < 4; ++j)
            own[k][j] = *(const unsigned*)(a + (i / 32 * 16 + i % 32 / 4 + j % 2 * 8) * 128 + k * 16
                                           + i % 4 * 2 + j / 2 * 8);"""


def product(columns=64, kind="bf16", transposed=0, registers=False, adds=0, edits=(), threads=128):
    source = GROUPS + wgmma(columns, kind, transposed, registers) + PRODUCT
    defaults = [("BEFORE", OWN if registers else ""), ("AFTER", ""), ("THREADS", str(threads)),
                ("MULTIPLY", FROM_REGISTERS if registers else FROM_SHARED)]
    for old, new in [*edits, *defaults]:
        assert old in source or (old, new) in defaults
        source = source.replace(old, new)
    sizes = f"#define N {columns}\n#define TRANSPOSED {transposed}\n#define ADDS {adds}\n"
    return compile(sizes + source, "90a")


def product_is_right(module, columns=64, kind="bf16", transposed=0, adds=0, schedule="lockstep", threads=128):
    to, of = to_bits(kind)
    rng = np.random.default_rng(6)
    a, b = to(rng.standard_normal((64, 128))), to(rng.standard_normal((128, columns)))
    out = blank((64, columns), np.float32)
    launch(module, "product", 1, threads, [a, b if transposed else np.ascontiguousarray(b.T), out],
           16384 + (32768 if transposed else columns * 256), schedule=schedule)
    return np.abs(out - (of(a) @ of(b) + adds)).max() < 1e-4

# out = max(q k^T, 0) v, of rows of 64 numbers: a group of warps fills a ring of two stages, of 64 keys and
# values each; two groups of 64 queries multiply, and take a stage's values while the next keys are multiplied
PIPELINE = """
extern "C" __global__ void __launch_bounds__(384, 1)
pipeline(const unsigned short* q, const unsigned short* k, const unsigned short* v, float* out, int stages) {
    extern __shared__ __align__(1024) unsigned char tiles[];  // of 64 rows, 128 bytes each
    __shared__ u64 keys[2], values[2], keys_free[2], values_free[2];
    int group = threadIdx.x / 128, i = threadIdx.x % 128;
    auto load = [&](int tile, const unsigned short* from) {
        for (int l = i; l < 512; l += 128) copy(tiles + tile * 8192 + swizzled(l * 16), from + l * 8);
    };
    if (threadIdx.x == 0) {
        for (int s = 0; s < 2; ++s) {
            init(keys + s, 128), init(values + s, 128), init(keys_free + s, 256), init(values_free + s, 8);
        }
        asm volatile("fence.mbarrier_init.release.cluster;");
    }
    __syncthreads();
    if (group == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        for (int t = 0; t <= stages; ++t) {
            if (t < stages) {
                wait(keys_free + t % 2, t / 2 & 1 ^ 1);
                load(2 + t % 2, k + t * 4096);
                arrive_with_copies(keys + t % 2);
            }
            if (int u = t - 1; t > 0) {
                wait(values_free + u % 2, u / 2 & 1 ^ 1);
                load(4 + u % 2, v + u * 4096);
                arrive_with_copies(values + u % 2);
            }
        }
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    load(group - 1, q + (blockIdx.x * 2 + group - 1) * 4096);
    copies_wait();
    asm volatile("bar.sync %0, 128;" :: "r"(group) : "memory");
    auto at = [&](int tile, int depth) { return descriptor(place(tiles) + tile * 8192 + depth, 1024, 1024); };
    float scores[32], sum[32];
    unsigned weights[4][4];
    auto multiply_keys = [&](int s, int parity) {
        wait(keys + s, parity);
        fence();
        settle(scores);
        group_fence();
        for (int c = 0; c < 4; ++c) multiply(scores, at(group - 1, c * 32), at(2 + s, c * 32), c > 0);
        group_commit();
    };
    for (int j = 0; j < 32; ++j) sum[j] = 0;
    multiply_keys(0, 0);
    group_wait<0>();
    arrive(keys_free);
    for (int t = 0; t < stages; ++t) {
        int s = t % 2, parity = t / 2 & 1;
        settle(scores);
        for (int c = 0; c < 16; ++c)
            asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(weights[c / 4][c % 4])
                : "f"(scores[2 * c + 1]), "f"(scores[2 * c]));
        for (int c = 0; c < 16; ++c) asm volatile("" : "+r"(weights[c / 4][c % 4]) :: "memory");
        if (t + 1 < stages) multiply_keys(s ^ 1, (t + 1) / 2 & 1);
        wait(values + s, parity);
        fence();
        settle(sum);
        group_fence();
        for (int c = 0; c < 4; ++c) multiply_values(sum, weights[c], at(4 + s, c * 2048), 1);
        group_commit();
        if (t + 1 < stages) {
            group_wait<1>();
            arrive(keys_free + (s ^ 1));
        }
        group_wait<0>();
        if (i % 32 == 0) arrive(values_free + s);
    }
    settle(sum);
    int row = (blockIdx.x * 2 + group - 1) * 64 + i / 32 * 16 + i % 32 / 4;
    for (int j = 0; j < 32; ++j) out[(row + j / 2 % 2 * 8) * 64 + j / 4 * 8 + i % 4 * 2 + j % 2] = sum[j];
}"""


def pipeline():
    values = wgmma(64, transposed=1, registers=True).replace("multiply", "multiply_values")
    return compile(GROUPS + wgmma(64) + values + PIPELINE, "90a")


def pipeline_is_right(module, schedule="lockstep", stages=3):
    to, of = to_bits("bf16")
    rng = np.random.default_rng(7)
    q, k, v = (to(rng.integers(-1, 2, (n, 64))) for n in (256, stages * 64, stages * 64))
    out = blank((256, 64), np.float32)
    launch(module, "pipeline", 2, 384, [q, k, v, out, np.int32(stages)], 6 * 8192, schedule=schedule)
    return np.array_equal(out, np.maximum(of(q) @ of(k).T, 0) @ of(v))
