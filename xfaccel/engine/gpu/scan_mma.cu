// The scan engine on the GPU's matrix units: elu + 1 of float16 and bfloat16, sums in float. Compute
// capability 8.0 and up.
//
// As scan.cu, which says what is done and where it is from. Features, weights and sums go to the matrix units
// as tf32: sums over many keys need the exponents of float, and float16 the 10 bits of it. A block of four
// warps has 64 columns of the values (blockIdx.y). Each warp computes 16 queries of a chunk, and has the sums
// of a quarter of the features in its registers; before every chunk the others get them by shared memory.
// While a chunk is computed, the next is copied.
//
// -DXF_WIDTH=64|128: there are at most so many features, d; -DXF_MODE=XF_SUM|XF_READ|XF_CAUSAL.
//
// What a product sums over may be taken in any order, and so may rows and columns, if all sides agree.
// Here it is the order in which a lane's numbers lie side by side in memory.
#include "swizzled.cuh"

typedef stored source;
#include "scan.cuh"

constexpr int TOKENS = 64, COLUMNS = 64, WARP_ROWS = 16;
constexpr int SHARE = XF_WIDTH / 4;  // the features of a query that a lane has, and those that a warp sums
constexpr int STRIPS = SHARE / 16;
constexpr int OWN = XF_MODE == XF_READ ? 16 : SHARE;  // features of a query that a lane has at a time

DEVICE float feature(stored x) { return tf32(elu_plus_one(widen(x))); }

// Where float numbers lie in shared memory, so that a warp reads different banks: features of keys, in pieces
// of four mixed with the token's number, and sums, in pieces mixed with the bits of the feature's number in
// which lanes that read at once differ (by 8 and 16) and those that write (by 2)
DEVICE int feature_place(int t, int f) { return t * XF_WIDTH + (f / 4 ^ (t & 7)) * 4 + f % 4; }
DEVICE int sum_place(int f, int c) {
    const int mixed = c / 4 ^ c / 32 ^ (f >> 3 & 1) ^ (f & 2) ^ (f >> 2 & 4);
    return f * COLUMNS + mixed * 4 + c % 4;
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) scan(XF_SCAN_ARGUMENTS) {
    extern __shared__ __align__(128) float memory[];
    float* const published = memory;  // (XF_WIDTH, COLUMNS), the sums
    float* const norms = published + (XF_MODE == XF_SUM ? 0 : XF_WIDTH * COLUMNS);  // (XF_WIDTH)
    float* const features = norms + XF_WIDTH;                                       // (TOKENS, XF_WIDTH)
    stored* const keys = (stored*)(features + TOKENS * XF_WIDTH);                   // (TOKENS, XF_WIDTH)
    stored* const values = keys + TOKENS * XF_WIDTH;  // two times (TOKENS, COLUMNS)
    const i64 entry = blockIdx.x / parts, part = blockIdx.x % parts, column = i64(blockIdx.y) * COLUMNS;
    const i64 start = ranges[2 * part], stop = ranges[2 * part + 1];
    const int width = int(d), columns = int(min(e - column, i64(COLUMNS)));  // that there are
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    // of eight products, number j gives the sums 2 j and 2 j + 1: the first is of column j of these, the
    // second lies 8 further on
    const int own_columns = lane % 4 * 16;
    const real* const old = begin_first ? XF_ENTRY(begin) + part * begin_row : nullptr;
    const auto begun = [&](int f, int c) {
        return old && f < width && c < columns ? old[f * e + column + c] : 0.0f;
    };

#if XF_MODE != XF_SUM
    const stored* const q = XF_ENTRY(q);
    stored* const out = XF_ENTRY(out) + column;
    const bool q_whole = is_whole(q, q_row), out_whole = is_whole(out, out_row);
    // feature i of those of a query that this lane has
    const auto own_feature = [&](int i) { return i / 8 * 32 + lane % 4 * 8 + i % 8; };
#endif
#if XF_MODE == XF_READ
    for (int i = threadIdx.x; i < XF_WIDTH * COLUMNS; i += THREADS)
        published[sum_place(i / COLUMNS, i % COLUMNS)] = tf32(begun(i / COLUMNS, i % COLUMNS));
    for (int f = threadIdx.x; f < XF_WIDTH; f += THREADS) norms[f] = old && f < width ? old[d * e + f] : 0.0f;
    __syncthreads();
#else
    // this lane's sums are those of the features f and f + 1 of each strip, and its share of their norms
    const auto summed_feature = [&](int strip) { return warp * SHARE + strip * 16 + lane / 4 * 2; };
    float sums[STRIPS][2][COLUMNS / 4], norm[STRIPS][2];
#pragma unroll
    for (int strip = 0; strip < STRIPS; ++strip)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int f = summed_feature(strip) + r;
            norm[strip][r] = old && f < width && lane % 4 == 0 ? old[d * e + f] : 0.0f;
#pragma unroll
            for (int j = 0; j < COLUMNS / 4; ++j)
                sums[strip][r][j] = begun(f, own_columns + j % 2 * 8 + j / 2);
        }

    const stored* const k = XF_ENTRY(k);
    const stored* const v = XF_ENTRY(v) + column;
    const bool k_whole = is_whole(k, k_row), v_whole = is_whole(v, v_row);
    const unsigned char* const mask = XF_ENTRY(key_mask);
    const auto seen = [&](i64 token) { return token < stop && (!mask || mask[token * key_mask_column]); };
    const auto load = [&](i64 first, int buffer) {
        // a hidden key's value may be NaN, and 0 * NaN would not be 0
        load_rows<TOKENS, XF_WIDTH>(keys, 0, width, k_whole, k, [&](int t) {
            return seen(first + t) ? k + (first + t) * k_row : nullptr;
        });
        load_rows<TOKENS, COLUMNS>(values + buffer * TOKENS * COLUMNS, 0, columns, v_whole, v, [&](int t) {
            return seen(first + t) ? v + (first + t) * v_row : nullptr;
        });
        copies_commit();
    };
    // 8 columns of a token's values, one for each of eight products
    const auto load_values = [&](float (&to)[8], int buffer, int t) {
        const Piece x = *(const Piece*)(values + buffer * TOKENS * COLUMNS + place<COLUMNS>(t, lane / 4 * 8));
#pragma unroll
        for (int j = 0; j < 8; ++j) to[j] = widen(x.at[j]);
    };
    if (start < stop) load(start, 0);
#endif

    int buffer = 0;
    for (i64 first = start; first < stop; first += TOKENS, buffer ^= 1) {
#if XF_MODE != XF_SUM
        const int query = warp * WARP_ROWS + lane / 4;  // and that 8 further on
        float own[2][OWN], result[2][COLUMNS / 4] = {}, total[2] = {};  // of the total, this lane's share
        const auto load_own = [&](int begin) {
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                const bool there = first + query + 8 * r < stop;
                const stored* const row = q + (first + query + 8 * r + shift) * q_row;
#pragma unroll
                for (int i = 0; i < OWN; i += 8) {
                    const int f = own_feature(begin + i);
                    const Piece x = read_piece(row + f, there ? width - f : 0, q_whole);
#pragma unroll
                    for (int n = 0; n < 8; ++n)
                        own[r][i + n] = there && f + n < width ? feature(x.at[n]) : 0.0f;
                }
            }
        };
        const auto read_sums = [&](int begin) {
#pragma unroll
            for (int i = 0; i < OWN; i += 2) {
                const int f = own_feature(begin + i);
                const Two both = *(const Two*)(norms + f);
#pragma unroll
                for (int r = 0; r < 2; ++r) total[r] += own[r][i] * both.at[0] + own[r][i + 1] * both.at[1];
                const float a[4] = {own[0][i], own[1][i], own[0][i + 1], own[1][i + 1]};
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int c = lane / 4 * 8 + half * 4;
                    const Vector x = *(const Vector*)(published + sum_place(f, c));
                    const Vector y = *(const Vector*)(published + sum_place(f + 1, c));
#pragma unroll
                    for (int n = 0; n < 4; ++n) multiply_add(result, half * 4 + n, a, x.at[n], y.at[n]);
                }
            }
        };
#endif
#if XF_MODE == XF_READ
#pragma unroll 1
        for (int begin = 0; begin < SHARE; begin += OWN) {
            load_own(begin);
            read_sums(begin);
        }
#elif XF_MODE == XF_CAUSAL
        load_own(0);
#endif
#if XF_MODE != XF_READ
        copies_wait<0>();
        __syncthreads();  // the chunk is there, and features and sums before it have been read
#pragma unroll
        for (int i = threadIdx.x; i < TOKENS * SHARE; i += THREADS) {
            const int t = i / SHARE, f = i % SHARE * 4;
            const HalfPiece x = *(const HalfPiece*)(keys + place<XF_WIDTH>(t, f));
            const bool there = seen(first + t);
            Vector made;
#pragma unroll
            for (int n = 0; n < 4; ++n) made.at[n] = there && f + n < width ? feature(x.at[n]) : 0.0f;
            *(Vector*)(features + feature_place(t, f)) = made;
        }
#if XF_MODE == XF_CAUSAL
#pragma unroll
        for (int strip = 0; strip < STRIPS; ++strip)
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                const int f = summed_feature(strip) + r;
#pragma unroll
                for (int c = 0; c < 16; c += 4) {
                    Vector x;
#pragma unroll
                    for (int n = 0; n < 4; ++n) x.at[n] = tf32(sums[strip][r][(c + n) % 8 * 2 + (c + n) / 8]);
                    *(Vector*)(published + sum_place(f, own_columns + c)) = x;
                }
                const float whole = group_sum<4>(norm[strip][r]);
                if (lane % 4 == 0) norms[f] = whole;
            }
#endif
        __syncthreads();  // features and sums have been written, and the keys have been read
        if (first + TOKENS < stop) load(first + TOKENS, buffer ^ 1);
#endif
#if XF_MODE == XF_CAUSAL
        read_sums(0);
#pragma unroll 1
        for (int group = 0; group <= warp; ++group) {  // of 16 keys
            float s[2][4] = {};
#pragma unroll
            for (int i = 0; i < SHARE; i += 4) {
                const float a[4] = {own[0][i], own[1][i], own[0][i + 1], own[1][i + 1]};
                const float b[4] = {own[0][i + 2], own[1][i + 2], own[0][i + 3], own[1][i + 3]};
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int t = group * 16 + half * 8 + lane / 4;
                    const Vector x = *(const Vector*)(features + feature_place(t, own_feature(i)));
                    multiply_add(s, half, a, x.at[0], x.at[1]);
                    multiply_add(s, half, b, x.at[2], x.at[3]);
                }
            }
#pragma unroll
            for (int j = 0; j < 4; ++j)
#pragma unroll
                for (int r = 0; r < 2; ++r) {
                    const int key = group * 16 + j / 2 * 8 + lane % 4 * 2 + j % 2;
                    s[r][j] = key > query + 8 * r ? 0.0f : tf32(s[r][j]);
                    total[r] += s[r][j];
                }
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                // the sums of one product are laid out as the first factor of another, for keys in pairs
                const float a[4] = {s[0][2 * half], s[1][2 * half], s[0][2 * half + 1], s[1][2 * half + 1]};
                float x[8], y[8];
                const int t = group * 16 + half * 8 + lane % 4 * 2;
                load_values(x, buffer, t);
                load_values(y, buffer, t + 1);
#pragma unroll
                for (int j = 0; j < 8; ++j) multiply_add(result, j, a, x[j], y[j]);
            }
        }
#endif
#if XF_MODE != XF_READ
#pragma unroll 1  // more registers than there are would be wanted
        for (int t = lane % 4 * 2; t < TOKENS; t += 8) {
            float x[8], y[8];
            load_values(x, buffer, t);
            load_values(y, buffer, t + 1);
#pragma unroll
            for (int strip = 0; strip < STRIPS; ++strip) {
                const int f = summed_feature(strip);
                const Two low = *(const Two*)(features + feature_place(t, f));
                const Two high = *(const Two*)(features + feature_place(t + 1, f));
                const float a[4] = {low.at[0], low.at[1], high.at[0], high.at[1]};
#pragma unroll
                for (int r = 0; r < 2; ++r) norm[strip][r] += low.at[r] + high.at[r];
#pragma unroll
                for (int j = 0; j < 8; ++j) multiply_add(sums[strip], j, a, x[j], y[j]);
            }
        }
#endif
#if XF_MODE != XF_SUM
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const float whole = group_sum<4>(total[r]), share = whole == 0 ? 0.0f : 1 / whole;
            if (first + query + 8 * r >= stop) continue;
            stored* const row = out + (first + query + 8 * r + shift) * out_row + own_columns;
#pragma unroll
            for (int c = 0; c < 16; c += 8) {
                Piece x;
#pragma unroll
                for (int n = 0; n < 8; ++n) narrow(result[r][2 * n + c / 8] * share, x.at[n]);
                write_piece(x, row + c, columns - own_columns - c, out_whole);
            }
        }
#endif
    }
#if XF_MODE != XF_READ
    if (!end_first) return;
    real* const state = XF_ENTRY(end) + part * end_row;
#pragma unroll
    for (int strip = 0; strip < STRIPS; ++strip)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int f = summed_feature(strip) + r;
            const float whole = group_sum<4>(norm[strip][r]);
            if (f >= width) continue;
            if (blockIdx.y == 0 && lane % 4 == 0) state[d * e + f] = whole;
#pragma unroll
            for (int j = 0; j < COLUMNS / 4; ++j) {
                const int c = own_columns + j % 2 * 8 + j / 2;
                if (c < columns) state[f * e + column + c] = sums[strip][r][j];
            }
        }
#endif
}
