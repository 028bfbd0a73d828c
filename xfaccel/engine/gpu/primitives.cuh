// What the kernels are written in: types, constants, and every instruction that C++ has no name for.
//
// Compiled by NVRTC, which has no headers of its own: no <math.h> macros, no half types. The including file
// is compiled with -DXF_STORED=float|double|float16|bfloat16, the type of the operands in memory; arithmetic
// is done in `real`, which is double for double and float for the others.
#pragma once

#define DEVICE __device__ __forceinline__

typedef long long i64;
typedef unsigned long long u64;
typedef unsigned int u32;
typedef unsigned short u16;

struct float16 { u16 bits; };
struct bfloat16 { u16 bits; };

template <class T> struct Arithmetic { typedef float type; };
template <> struct Arithmetic<double> { typedef double type; };
typedef XF_STORED stored;
typedef Arithmetic<stored>::type real;

template <class T> constexpr T LOG2_E = T(1.4426950408889634);
template <class T> constexpr T LOG_2 = T(0.6931471805599453);
constexpr u32 ALL_LANES = 0xffffffffu;

// 16 bytes, which one access moves
constexpr int VECTOR = 16 / sizeof(real);
struct alignas(16) Vector { real at[VECTOR]; };
struct alignas(8) Two { float at[2]; };

DEVICE real minus_infinity() { return real(-__int_as_float(0x7f800000)); }

// memory and arithmetic types
DEVICE float widen(float x) { return x; }
DEVICE double widen(double x) { return x; }
DEVICE float widen(bfloat16 x) { return __uint_as_float(u32(x.bits) << 16); }
DEVICE float widen(float16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}
DEVICE void narrow(float x, float& y) { y = x; }
DEVICE void narrow(double x, double& y) { y = x; }
DEVICE void narrow(float x, float16& y) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x)); }
DEVICE void narrow(float x, bfloat16& y) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x)); }

// two numbers as one register of a matrix fragment, the first in the lower half
DEVICE u32 pair(float low, float high, float16) {
    u32 both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}
DEVICE u32 pair(float low, float high, bfloat16) {
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}
// and back
DEVICE Two unpair(u32 both, bfloat16) {
    return {__uint_as_float(both << 16), __uint_as_float(both & 0xffff0000u)};
}
DEVICE Two unpair(u32 both, float16) {
    return {widen(float16{u16(both)}), widen(float16{u16(both >> 16)})};
}

// 2 to the x. That of float is off by 2 units in the last place at most, is 1 at 0 and 0 at -infinity
DEVICE float power(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
DEVICE double power(double x) { return exp2(x); }
DEVICE float logarithm(float x) { return log2f(x); }
DEVICE double logarithm(double x) { return log2(x); }
DEVICE float largest(float x, float y) { return fmaxf(x, y); }
DEVICE double largest(double x, double y) { return fmax(x, y); }

// the sum and the maximum over groups of LANES neighbouring lanes, which all of them get
template <int LANES, class T> DEVICE T group_sum(T x) {
#pragma unroll
    for (int other = LANES / 2; other > 0; other /= 2) x += __shfl_xor_sync(ALL_LANES, x, other);
    return x;
}
template <int LANES, class T> DEVICE T group_largest(T x) {
#pragma unroll
    for (int other = LANES / 2; other > 0; other /= 2) x = largest(x, __shfl_xor_sync(ALL_LANES, x, other));
    return x;
}

// what all lanes have alike, so that the compiler knows
DEVICE int uniform(int x) { return __shfl_sync(ALL_LANES, x, 0); }

DEVICE u32 shared_address(const void* place) { return u32(__cvta_generic_to_shared(place)); }

// 16 bytes to shared memory, of which the first `bytes` are read and the others become zero; both ends at
// multiples of 16. They are there when `copies_wait` and a barrier after it have passed.
DEVICE void copy_async(void* to, const void* from, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(shared_address(to)), "l"(__cvta_generic_to_global(from)), "r"(bytes) : "memory");
}
DEVICE void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// until all but the latest PENDING groups of this thread are there
template <int PENDING> DEVICE void copies_wait() {
    asm volatile("cp.async.wait_group %0;" :: "n"(PENDING) : "memory");
}

// four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8. A transposed one is spread as
// if it were stored by columns
DEVICE void load_matrices(u32 (&to)[4], u32 row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(row) : "memory");
}
DEVICE void load_transposed(u32 (&to)[4], u32 row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(row) : "memory");
}

// sums (16 x 8) += a (16 x 16) b (16 x 8); lane l holds the sums of the rows l / 4 and l / 4 + 8, columns 2
// (l % 4) and the next: numbers 2 n and 2 n + 1 of an array for each row
#define XF_MULTIPLY_ADD(type, name) \
    template <int N> \
    DEVICE void multiply_add(float (&sums)[2][N], int n, const u32 (&a)[4], u32 b0, u32 b1, type) { \
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." name "." name ".f32 {%0, %1, %2, %3}, " \
                     "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                     : "+f"(sums[0][2 * n]), "+f"(sums[0][2 * n + 1]), "+f"(sums[1][2 * n]), \
                       "+f"(sums[1][2 * n + 1]) \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1)); \
    }
XF_MULTIPLY_ADD(float16, "f16")
XF_MULTIPLY_ADD(bfloat16, "bf16")

// rounded to what the matrix units take of a float: 10 bits after the first
DEVICE float tf32(float x) {
    u32 y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
    return __uint_as_float(y);
}
// the same of float numbers, of which the matrix units take 10 bits after the first: a (16 x 8) b (8 x 8)
template <int N>
DEVICE void multiply_add(float (&sums)[2][N], int n, const float (&a)[4], float b0, float b1) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                 "{%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sums[0][2 * n]), "+f"(sums[0][2 * n + 1]), "+f"(sums[1][2 * n]),
                   "+f"(sums[1][2 * n + 1])
                 : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
                   "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)));
}

// What only Hopper has: compiled for sm_90a alone.

// a place in shared memory where threads wait until `count` have arrived, again and again; the rounds have
// the parities 0, 1, 0, ...
DEVICE void barrier_init(u64* barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(shared_address(barrier)), "r"(count));
}
DEVICE void barriers_are_there() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void arrive(u64* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(shared_address(barrier)) : "memory");
}
// once all copies of this thread are there
DEVICE void arrive_with_copies(u64* barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" :: "r"(shared_address(barrier))
                 : "memory");
}
// until the round of this parity is over
DEVICE void wait(u64* barrier, int parity) {
    int over;
    do {
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                     "selp.b32 %0, 1, 0, p;\n}"
                     : "=r"(over) : "r"(shared_address(barrier)), "r"(parity) : "memory");
    } while (!over);
}
// between what copies or stores wrote to shared memory and a product of whole groups that reads it
DEVICE void copies_to_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// a warp's share of the registers
template <int COUNT> DEVICE void fewer_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(COUNT));
}
template <int COUNT> DEVICE void more_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(COUNT));
}

// Products of a group of four warps, which go on beside what follows: between `products_begin` and
// `products_wait` nobody touches the registers and the memory that they use.
DEVICE void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING> DEVICE void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(PENDING) : "memory");
}

// Where a factor of such a product lies: rows of 64 numbers, 128 bytes, whose pieces of 16 bytes are swapped
// from row to row, eight rows after eight. If it is its rows over which a product sums, there are `panel`
// bytes from 64 of its columns to the next.
DEVICE u32 factor(const void* first, int panel = 0) {
    return (shared_address(first) & 0x3ffff) / 16 | u32(panel / 16) << 16;
}
DEVICE u32 further(u32 factor, int bytes) { return factor + bytes / 16; }
// the compiler, which knows nothing of products that go on, reads or writes these no earlier, or no later
template <int N> DEVICE void settle(float (&x)[2][N]) {
#pragma unroll
    for (int r = 0; r < 2; ++r)
#pragma unroll
        for (int j = 0; j < N; ++j) asm volatile("" : "+f"(x[r][j]) :: "memory");
}

#define XF_4(s, j) "+f"(s[0][2 * (j)]), "+f"(s[0][2 * (j) + 1]), "+f"(s[1][2 * (j)]), "+f"(s[1][2 * (j) + 1])
#define XF_16(s, j) XF_4(s, j), XF_4(s, (j) + 1), XF_4(s, (j) + 2), XF_4(s, (j) + 3)
#define XF_32(s, j) XF_16(s, j), XF_16(s, (j) + 4)
#define XF_NAMES_32 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, " \
    "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define XF_NAMES_64 XF_NAMES_32 \
    ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, " \
    "%52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
// sums (64 x columns), laid out as those of `multiply_add` in each warp: (+)= the rows of a times those of b,
// 16 numbers of each; or += a (64 x 16) in registers times b, whose rows number these 16. A factor's upper
// half says that there are 1024 bytes from eight rows to the next, and how pieces are swapped.
#define XF_PRODUCTS(type, name) \
    DEVICE void multiply_rows(float (&sums)[2][32], u32 a, u32 b, int add, type) { \
        asm volatile("{\n.reg .pred p;\n.reg .b64 a, b;\nmov.b64 a, {%64, 0x40000040};\n" \
                     "mov.b64 b, {%65, 0x40000040};\nsetp.ne.b32 p, %66, 0;\n" \
                     "wgmma.mma_async.sync.aligned.m64n128k16.f32." name "." name " {" XF_NAMES_64 "}, " \
                     "a, b, p, 1, 1, 0, 0;\n}" \
                     : XF_32(sums, 0), XF_32(sums, 8) : "r"(a), "r"(b), "r"(add)); \
    } \
    DEVICE void multiply_add(float (&sums)[2][32], const u32* a, u32 b, type) { \
        asm volatile("{\n.reg .pred p;\n.reg .b64 b;\nmov.b64 b, {%68, 0x40000040};\n" \
                     "setp.eq.b32 p, 0, 0;\n" \
                     "wgmma.mma_async.sync.aligned.m64n128k16.f32." name "." name " {" XF_NAMES_64 "}, " \
                     "{%64, %65, %66, %67}, b, p, 1, 1, 1;\n}" \
                     : XF_32(sums, 0), XF_32(sums, 8) \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b)); \
    } \
    DEVICE void multiply_add(float (&sums)[2][16], const u32* a, u32 b, type) { \
        asm volatile("{\n.reg .pred p;\n.reg .b64 b;\nmov.b64 b, {%36, 0x40000040};\n" \
                     "setp.eq.b32 p, 0, 0;\n" \
                     "wgmma.mma_async.sync.aligned.m64n64k16.f32." name "." name " {" XF_NAMES_32 "}, " \
                     "{%32, %33, %34, %35}, b, p, 1, 1, 1;\n}" \
                     : XF_32(sums, 0) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b)); \
    }
XF_PRODUCTS(float16, "f16")
XF_PRODUCTS(bfloat16, "bf16")
