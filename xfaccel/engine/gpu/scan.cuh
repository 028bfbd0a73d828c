// What both scan kernels take, what they do with the tokens of a part, and what they do with an exponent.
//
// A file with such a kernel says what the numbers of q and k are: `source`.
#pragma once
#include "tiles.cuh"

#define XF_SUM 0     // keys are added to the sums,
#define XF_READ 1    // queries read the sums,
#define XF_CAUSAL 2  // or both in turn

// in the order of `launch.scan`
#define XF_SCAN_ARGUMENTS \
    XF_ROWS(const source, q), XF_ROWS(const source, k), XF_ROWS(const stored, v), XF_ROWS(stored, out), \
    XF_ROWS(const unsigned char, key_mask), XF_ROWS(const real, exponent), XF_ROWS(const real, begin), \
    XF_ROWS(real, end), \
    const i64* const ranges, const i64 parts, const i64 shift, const i64 d, const i64 e

// 2 to the x less the largest exponent, which is -infinity if there is none
DEVICE real below(real x, real most) { return power(x - (most == minus_infinity() ? real(0) : most)); }
