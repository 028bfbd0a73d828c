// What scan_mma.cu is made of: features as the matrix units take them, where a chunk lies in shared memory,
// how whole pieces get there, and products with sums and with values.
#pragma once
#include "swizzled.cuh"

typedef stored source;
#include "scan.cuh"

constexpr int TOKENS = 64, COLUMNS = 64, WARP_ROWS = 16;
constexpr int SHARE = XF_WIDTH / 4;  // the features of a query that a lane has, and those that a warp sums
constexpr int STRIPS = SHARE / 16;
constexpr int OWN = XF_MODE == XF_READ ? 8 : SHARE;  // features of a query that a lane has at a time
constexpr int ONES = COLUMNS / 8, SUMS = 2 * (ONES + 1);  // the product with ones; sums of a lane in a row
// on a multiprocessor, as many as shared memory has room for: the compiler is to leave them registers
constexpr int BLOCKS = XF_WIDTH > 64 ? 1 : XF_MODE == XF_SUM ? 4 : __CUDA_ARCH__ == 900 ? 3 : 1;
constexpr int KEYS = TOKENS * XF_WIDTH, VALUES = TOKENS * COLUMNS;  // numbers of a chunk

// The matrix units take the upper 19 bits of a float. float16 has as many digits: its features and weights
// are rounded to these, sums and norms multiplied in two parts. Of many features, over which errors are
// averaged out, and for bfloat16 it is enough that they all are multiplied by UP: they are then as much too
// large as too small, in the mean, and those of so few bits stay what they are.
DEVICE constexpr bool exact(float16) { return XF_WIDTH == 64; }
DEVICE constexpr bool exact(bfloat16) { return false; }
constexpr bool EXACT = exact(stored());
template <class T> constexpr T UP = T(1.000352);
template <class T> constexpr T LOG2_UP = T(0.000507738);
DEVICE float up(float x) { return EXACT ? tf32(x) : x * UP<float>; }
DEVICE float taken(float x) { return EXACT ? x : up(x); }
DEVICE Two taken(float x, float y) { return {taken(x), taken(y)}; }
DEVICE float rest(float x) {
    const float upper = __uint_as_float(__float_as_uint(x) & 0xffffe000u);
    return x == upper ? 0 : x - upper;  // also of an infinite sum
}

// elu + 1 as the matrix units take it; both cases are computed, which is less than a branch
DEVICE float feature(float x) {
    if constexpr (EXACT) {
        const float low = power(x * LOG2_E<float>);
        return tf32(x > 0 ? x + 1 : low);
    } else {
        const float low = power(x * LOG2_E<float> + LOG2_UP<float>);
        return x > 0 ? x * UP<float> + UP<float> : low;
    }
}

DEVICE void add_product(float (&result)[2][SUMS], int n, const float (&a)[4], float b0, float b1) {
    multiply_add(result, n, a, b0, b1);
    if constexpr (EXACT) multiply_add(result, n, a, rest(b0), rest(b1));
}

// 8 and 4 numbers of a row
struct alignas(16) Words { u32 at[4]; };
struct alignas(8) HalfWords { u32 at[2]; };
DEVICE void widen(const Words& x, float (&to)[8]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const Two both = unpair(x.at[i], stored());
        to[2 * i] = both.at[0];
        to[2 * i + 1] = both.at[1];
    }
}

// Where float numbers lie in shared memory, so that a warp reads different banks: features of keys, in pieces
// of four mixed with the token's number; and sums, two features in turns as a product takes them, in pieces
// of two columns mixed with the bits in which lanes that read at once differ (f by 8 and 16) and those that
// write (f by 2, c by 16 and 32)
DEVICE int feature_place(int t, int f) { return t * XF_WIDTH + (f / 4 ^ (t & 7)) * 4 + f % 4; }
DEVICE int sum_place(int f, int c) {
    const int mixed = c / 2 ^ (c >> 4 & 3) ^ (f >> 3 & 3) ^ (f & 2) << 1;
    return f / 2 * (2 * COLUMNS) + mixed * 4 + c % 2 * 2 + f % 2;
}

// This thread's pieces of a chunk whose first row is `from`, to where `load_rows` puts them
template <int WIDTH> DEVICE void copy_pieces(stored* to, int width, const stored* from, i64 row) {
    constexpr int PIECES = WIDTH / 8, DOWN = THREADS / PIECES;
    const int r = threadIdx.x / PIECES, c = threadIdx.x % PIECES * 8;
    to += place<WIDTH>(r, c);
    from += r * row + c;
    if (c < width)
#pragma unroll
        for (int i = 0; i < TOKENS / DOWN; ++i) copy_async(to + DOWN * i * WIDTH, from + DOWN * i * row, 16);
    else
#pragma unroll
        for (int i = 0; i < TOKENS / DOWN; ++i) *(Words*)(to + DOWN * i * WIDTH) = Words{};
}

// What 8 keys are multiplied by: of a lane two rows of the values, and a column for each of eight products,
// and the ones.
struct Keys {
    float x[8], y[8];
    Two one;
    DEVICE Keys(const stored* even, const stored* odd, const float* ones) : one(*(const Two*)ones) {
        widen(*(const Words*)even, x);
        widen(*(const Words*)odd, y);
    }
};
DEVICE void add(float (&sums)[2][SUMS], const float (&a)[4], const Keys& own) {
#pragma unroll
    for (int j = 0; j < 8; ++j) multiply_add(sums, j, a, own.x[j], own.y[j]);
    multiply_add(sums, ONES, a, own.one.at[0], own.one.at[1]);
}

// result += features of queries times the sums and norms; `at` has the places of the sums of a lane's
// features 0 and 2: the others are as far from one of these for all lanes
DEVICE void read_sums(float (&result)[2][SUMS], const float (&own)[2][OWN], const float* sums,
                      const float* norms, const int (&at)[2]) {
#pragma unroll
    for (int i = 0; i < OWN; i += 2) {
        const float a[4] = {own[0][i], own[1][i], own[0][i + 1], own[1][i + 1]};
        const Two norm = *(const Two*)(norms + (i / 8 * 32 + i % 8));
        add_product(result, ONES, a, norm.at[0], norm.at[1]);
        const float* const row = sums + (i / 8 * 32 + i % 8 / 4 * 4) * COLUMNS;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const Vector x = *(const Vector*)(row + (at[i / 2 % 2] ^ 4 * j));
            add_product(result, 2 * j, a, x.at[0], x.at[1]);
            add_product(result, 2 * j + 1, a, x.at[2], x.at[3]);
        }
    }
}

// the mean of the values of one row, of whose columns there are so many from `to` on
DEVICE void write_mean(const float (&result)[SUMS], stored* to, int columns, bool whole) {
    const float total = result[2 * ONES], share = total == 0 ? 0.0f : __fdividef(1, total);
#pragma unroll
    for (int c = 0; c < 2; ++c) {
        Words x;
#pragma unroll
        for (int n = 0; n < 4; ++n)
            x.at[n] = pair(result[4 * n + c] * share, result[4 * n + 2 + c] * share, stored());
        write_piece(*(const Piece*)&x, to + 8 * c, columns - 8 * c, whole);
    }
}
