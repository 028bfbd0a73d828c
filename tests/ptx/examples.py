"""Small kernels, and whether what they compute under the interpreter is what NumPy does."""

import numpy as np

from .launch import blank, launch
from .numbers import from_bfloat16, to_bfloat16
from .nvrtc import compile

# out = x / 2, written by hand
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
    @%p1 ret;
    mul.wide.s32 %rd3, %r5, 4;
    cvta.to.global.u64 %rd4, %rd1;
    add.s64 %rd5, %rd4, %rd3;
    ld.global.f32 %f1, [%rd5];
    { .reg .f32 %f1; mov.f32 %f1, 0f40000000; }  // another register
    mul.f32 %f2, %f1, 0f3F000000;
    add.s64 %rd6, %rd2, %rd3;
    st.global.f32 [%rd6], %f2;
    ret;
}
"""

ADD = """
template <class T> __global__ void add(const T* x, const T* y, T* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = x[i] + y[i];
}"""

SUM = """
extern "C" __global__ void sum(const float* x, float* out, int* count, int n) {
    __shared__ float part[4];
    extern __shared__ float row[];
    int i = threadIdx.x, at = blockIdx.x * blockDim.x + i;
    row[i] = at < n ? x[at] : 0;
    __syncthreads();
    float s = row[i] + row[i ^ 33];  // of another warp, so that the barrier is needed
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


def sum_is_right(ptx, schedule="lockstep", n=500):
    x, out, count = np.arange(n, dtype=np.float32) % 7, np.zeros(1, np.float32), np.zeros(1, np.int32)
    launch(ptx, "sum", 4, 128, [x, out, count, np.int32(n)], 128 * 4, schedule=schedule)
    return out[0] == x.sum() and count[0] == 4


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


def matmul_is_right(ptx, schedule="lockstep", m=33, n=20, k=50):
    rng = np.random.default_rng(1)
    a, b, c = rng.standard_normal((m, k), "f4"), rng.standard_normal((k, n), "f4"), blank((m, n), "f4")
    grid = -(-n // 16), -(-m // 16)
    launch(ptx, "matmul", grid, (16, 16), [a, b, c, *np.int32([m, n, k])], schedule=schedule)
    return np.abs(c - a.astype(np.float64) @ b).max() < 1e-5


# c = a b^T on tensor cores: tiles of 32 x 32 x 32, two warps, the next tile on its way during the products
TENSOR = """
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
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(place(p)) : "memory");
}
extern "C" __global__ void __launch_bounds__(64)
tensor(const half* a, const half* b, float* c, int m, int n, int k) {
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
    """The module, for float16 or bfloat16; more than one `pending` group of copies is a fault."""
    return compile(TENSOR.replace("KIND", kind).replace("PENDING", str(pending)), sm)


def to_bits(kind):
    """(numbers to the bits of this kind, bits to numbers)"""
    if kind == "bf16":
        return to_bfloat16, lambda x: from_bfloat16(np.asarray(x)).astype(np.float64)
    return lambda x: x.astype(np.float16).view(np.uint16), lambda x: x.view(np.float16).astype(np.float64)


def tensor_is_right(ptx, schedule="lockstep", m=70, n=37, k=104, kind="bf16"):
    to, of = to_bits(kind)
    rng = np.random.default_rng(2)
    a, b, c = to(rng.standard_normal((m, k))), to(rng.standard_normal((n, k))), blank((m, n), np.float32)
    grid = -(-n // 32), -(-m // 32)
    launch(ptx, "tensor", grid, 64, [a, b, c, *np.int32([m, n, k])], schedule=schedule)
    return np.abs(c - of(a) @ of(b).T).max() < 1e-4


# of a kernel whose body alone is given
PARAMETERS = "float* x, float* out"
THREAD = "int i = blockIdx.x * blockDim.x + threadIdx.x;"


def run(body, args, parameters, *, sm=80, grid=1, block=32, shared=0, schedule="lockstep", before=""):
    """Launch a kernel that is given as its parameters and its body."""
    source = f'{before}\nextern "C" __global__ void kernel({parameters}) {{ {body} }}'
    return launch(compile(source, sm), "kernel", grid, block, args, shared, schedule=schedule)
