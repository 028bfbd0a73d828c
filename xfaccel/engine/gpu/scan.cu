// The scan engine on the GPU: attention with the weights f(q) . f(k) as running sums over chunks.
//
// Katharopoulos et al. 2020, arXiv:2006.16236 (running sums); Hua et al. 2022, arXiv:2202.10447 (chunks:
// within a chunk the weights are computed as a matrix, so that all work is matrix products). A block takes a
// part of the tokens of one leading entry, and COLUMNS of the values (blockIdx.y). The sums over its keys
// stay in shared memory; tokens pass by in chunks, their features in slices. A long sequence is cut into
// parts: a first launch sums each up, and what these add up to is what the parts of the second begin with.
//
// -DXF_WIDTH=32|64|128|256|512: there are at most so many features, d; -DXF_MODE=XF_SUM|XF_READ|XF_CAUSAL:
// what is done with the tokens of a part: keys are added to the sums, queries read the sums, or both in turn.
// A state is d rows of e sums of values, then d sums of features; begin and end have a row for each part.
//
// -DXF_FEATURES=XF_ELU: elu + 1 of q and k. XF_GIVEN: q and k are features already, of the type `real`, and
// those of a key may be multiplied by 2 to an exponent of its own, where features of exponentials would
// overflow. The sums are divided by 2 to the largest exponent so far, which a state then holds at its end; a
// query divides by the largest that it sees, so that no later key touches it.
#include "products.cuh"

#define XF_ELU 0
#define XF_GIVEN 1

constexpr int THREADS = 128, DOWN = THREADS / ACROSS;
constexpr int TOKENS = sizeof(real) == 4 ? 64 : 32;  // in a chunk
constexpr int SLICE = sizeof(real) == 4 ? 32 : 16;   // features in shared memory
constexpr int LINE = SLICE + VECTOR, WEIGHTS = TOKENS + VECTOR;
constexpr int COLUMNS = XF_WIDTH > 256 ? 16 : sizeof(real) == 4 && XF_WIDTH <= 128 ? 64 : 32;
constexpr int ROWS = TOKENS / DOWN, OUTPUTS = COLUMNS / ACROSS;
static_assert(SLICE / DOWN == VECTOR, "a thread adds to the sums of one vector of features");

#if XF_FEATURES == XF_ELU
typedef stored source;
#else
typedef real source;
#endif
#include "scan.cuh"

#if XF_FEATURES == XF_ELU
DEVICE float exponential(float x) { return expf(x); }
DEVICE double exponential(double x) { return exp(x); }
DEVICE real feature(source stored_x) {
    const real x = widen(stored_x);
    return x > 0 ? x + 1 : exponential(x);
}
#else
DEVICE real feature(source x) { return x; }
#endif

// features `first` .. of the tokens; zeros beyond the width and for tokens that are null
template <class Row> DEVICE void load_features(real* to, i64 first, i64 d, const Row& row) {
#pragma unroll 4
    for (int i = threadIdx.x; i < TOKENS * SLICE; i += THREADS) {
        const int t = i / SLICE, f = i % SLICE;
        const source* x = row(t);
        to[t * LINE + f] = x && first + f < d ? feature(x[first + f]) : real(0);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) scan(XF_SCAN_ARGUMENTS) {
    extern __shared__ __align__(16) real memory[];
    real* const sums = memory;                            // (d, COLUMNS)
    real* const values = sums + XF_WIDTH * COLUMNS;       // (TOKENS, COLUMNS)
    real* const q_slice = values + TOKENS * COLUMNS;
    real* const k_slice = q_slice + TOKENS * LINE;
    real* const weights = k_slice + TOKENS * LINE;
    real* const norms = weights + TOKENS * WEIGHTS;       // (d), the sums of features
#if XF_FEATURES == XF_GIVEN
    real* const exponents = norms + XF_WIDTH;             // (TOKENS), of keys
    real* const reached = exponents + TOKENS;             // (TOKENS), the largest up to each key
    real* const lifts = reached + TOKENS;                 // (TOKENS), what features are multiplied by
#endif
    const i64 entry = blockIdx.x / parts, part = blockIdx.x % parts, column = i64(blockIdx.y) * COLUMNS;
    const int y = threadIdx.x / ACROSS, x = threadIdx.x % ACROSS;

    const real* const old = begin_first ? XF_ENTRY(begin) + part * begin_row : nullptr;
    for (int i = threadIdx.x; i < XF_WIDTH * COLUMNS; i += THREADS) {
        const int f = i / COLUMNS, c = i % COLUMNS;
        sums[i] = old && f < d && column + c < e ? old[f * e + column + c] : real(0);
    }
    for (int f = threadIdx.x; f < XF_WIDTH; f += THREADS) norms[f] = old && f < d ? old[d * e + f] : real(0);
#if XF_FEATURES == XF_GIVEN && XF_MODE != XF_READ
    real top = old ? old[d * e + d] : minus_infinity();  // the largest exponent so far
#endif

    for (i64 first = ranges[2 * part]; first < ranges[2 * part + 1]; first += TOKENS) {
        const int count = int(min(ranges[2 * part + 1] - first, i64(TOKENS)));
#if XF_MODE != XF_READ
        const unsigned char* const mask = XF_ENTRY(key_mask);
        const source* const k = XF_ENTRY(k) + first * k_row;
        const stored* const v = XF_ENTRY(v) + first * v_row + column;
        const auto seen = [&](int t) { return t < count && (!mask || mask[(first + t) * key_mask_column]); };
        __syncthreads();  // the values before have been read
#pragma unroll 4
        for (int i = threadIdx.x; i < TOKENS * COLUMNS; i += THREADS) {
            const int t = i / COLUMNS, c = i % COLUMNS;
            // a hidden key's value may be NaN, and 0 * NaN would not be 0
            values[i] = seen(t) && column + c < e ? widen(v[t * v_row + c]) : real(0);
        }
#if XF_FEATURES == XF_GIVEN
        const real* const exponent = XF_ENTRY(exponent);
        for (int t = threadIdx.x; t < TOKENS; t += THREADS)
            exponents[t] = !seen(t) ? minus_infinity()
                           : exponent ? exponent[(first + t) * exponent_column] : real(0);
        __syncthreads();  // exponents have been written
        real most = top;
        for (int t = 0; t < TOKENS; ++t) {
            most = largest(most, exponents[t]);
            if (threadIdx.x == t) reached[t] = most;
        }
        const real shrink = below(top, most);
        for (int t = threadIdx.x; t < TOKENS; t += THREADS) lifts[t] = below(exponents[t], most);
#else
        constexpr real shrink = 1;
#endif
#endif
#if XF_MODE != XF_SUM
        const source* const q = XF_ENTRY(q) + (first + shift) * q_row;
        real result[ROWS][OUTPUTS] = {}, total[ROWS] = {};  // of the total, this lane's share
#endif
#if XF_MODE == XF_CAUSAL
        real s[ROWS][TOKENS / ACROSS] = {};
#endif
#pragma unroll 1
        for (int f0 = 0; f0 < d; f0 += SLICE) {
            __syncthreads();  // the slices before have been read, and the sums have been written
#if XF_MODE != XF_SUM
            load_features(q_slice, f0, d, [&](int t) { return t < count ? q + t * q_row : nullptr; });
#endif
#if XF_MODE != XF_READ
            load_features(k_slice, f0, d, [&](int t) { return seen(t) ? k + t * k_row : nullptr; });
#endif
            __syncthreads();
#if XF_MODE != XF_SUM
            multiply_add_rows<SLICE, LINE, DOWN>(q_slice, sums + f0 * COLUMNS, y, x, result);
            for (int f = x; f < SLICE; f += ACROSS)
#pragma unroll
                for (int i = 0; i < ROWS; ++i) total[i] += q_slice[(y + DOWN * i) * LINE + f] * norms[f0 + f];
#endif
#if XF_MODE == XF_CAUSAL
            multiply_rows<SLICE, LINE, DOWN>(q_slice, k_slice, y, x, s);
            __syncthreads();  // the sums have been read
#endif
#if XF_MODE != XF_READ
            real added[VECTOR][OUTPUTS] = {}, norm[VECTOR] = {};
#pragma unroll 4
            for (int t = 0; t < TOKENS; ++t) {
                Vector features = *(const Vector*)(k_slice + t * LINE + VECTOR * y);
#if XF_FEATURES == XF_GIVEN
#pragma unroll
                for (int i = 0; i < VECTOR; ++i) features.at[i] *= lifts[t];
#endif
#pragma unroll
                for (int i = 0; i < VECTOR; ++i) {
                    norm[i] += features.at[i];
#pragma unroll
                    for (int c = 0; c < OUTPUTS; ++c)
                        added[i][c] += features.at[i] * values[t * COLUMNS + column_of(OUTPUTS, x, c)];
                }
            }
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) {
                const int f = f0 + VECTOR * y + i;
#pragma unroll
                for (int c = 0; c < OUTPUTS; ++c) {
                    real& sum = sums[f * COLUMNS + column_of(OUTPUTS, x, c)];
                    sum = sum * shrink + added[i][c];
                }
                if (x == 0) norms[f] = norms[f] * shrink + norm[i];
            }
#endif
        }
#if XF_MODE == XF_CAUSAL
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            const int query = y + DOWN * i;
#if XF_FEATURES == XF_GIVEN
            const real before = below(top, reached[query]);
            total[i] *= before;
#pragma unroll
            for (int c = 0; c < OUTPUTS; ++c) result[i][c] *= before;
#endif
#pragma unroll
            for (int j = 0; j < TOKENS / ACROSS; ++j) {
                const int key = x + ACROSS * j;
                real weight = s[i][j];
#if XF_FEATURES == XF_GIVEN
                weight *= below(exponents[key], reached[query]);
#endif
                if (key > query) weight = 0;  // instead of what a later exponent makes of it
                total[i] += weight;
                weights[query * WEIGHTS + key] = weight;
            }
        }
        __syncwarp();  // a row of weights is written and read by half a warp
        multiply_add_rows<TOKENS, WEIGHTS, DOWN>(weights, values, y, x, result);
#endif
#if XF_MODE != XF_SUM
        stored* const out = XF_ENTRY(out) + (first + shift) * out_row + column;
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            const real whole = group_sum<ACROSS>(total[i]);
            const int t = y + DOWN * i;
            if (t >= count) continue;
#pragma unroll
            for (int c = 0; c < OUTPUTS; ++c) {
                const int place = column_of(OUTPUTS, x, c);
                const real mean = whole == 0 ? real(0) : result[i][c] / whole;
                if (column + place < e) narrow(mean, out[t * out_row + place]);
            }
        }
#endif
#if XF_FEATURES == XF_GIVEN && XF_MODE != XF_READ
        top = most;
#endif
    }
#if XF_MODE != XF_READ
    if (!end_first) return;
    __syncthreads();  // all sums have been written
    real* const state = XF_ENTRY(end) + part * end_row;
    for (int i = threadIdx.x; i < XF_WIDTH * COLUMNS; i += THREADS) {
        const int f = i / COLUMNS, c = i % COLUMNS;
        if (f < d && column + c < e) state[f * e + column + c] = sums[i];
    }
    if (blockIdx.y == 0)
        for (int f = threadIdx.x; f < d; f += THREADS) state[d * e + f] = norms[f];
#if XF_FEATURES == XF_GIVEN
    if (blockIdx.y == 0 && threadIdx.x == 0) state[d * e + d] = top;
#endif
#endif
}
