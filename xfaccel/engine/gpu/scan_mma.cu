// The scan engine on the GPU's matrix units: elu + 1 of float16 and bfloat16, sums in float. Compute
// capability 8.0 and up.
//
// As scan.cu, which says what is done and where it is from. Features, weights and sums go to the matrix units
// as tf32: sums over many keys need the exponents of float, and float16 the 10 bits of it. A block of four
// warps has 64 columns of the values (blockIdx.y). Each warp computes 16 queries of a chunk, and has the sums
// of a quarter of the features in its registers; before every chunk the others get them by shared memory.
// While a chunk is computed, the next is copied. Denominators are one more column, whose values are 1 for the
// keys that are seen: hidden ones have no other mark, but that their values are 0.
//
// -DXF_WIDTH=64|128: there are at most so many features, d; -DXF_MODE=XF_SUM|XF_READ|XF_CAUSAL.
//
// What a product sums over may be taken in any order, and so may rows and columns, if all sides agree.
// Here it is the order in which a lane's numbers lie side by side in memory.
#include "scan_mma.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) scan(XF_SCAN_ARGUMENTS) {
    extern __shared__ __align__(128) float memory[];
    float* const published = memory;  // (XF_WIDTH, COLUMNS), the sums
    float* const norms = published + (XF_MODE == XF_SUM ? 0 : XF_WIDTH * COLUMNS);  // (XF_WIDTH)
    float* const ones = norms + (XF_MODE == XF_SUM ? 0 : XF_WIDTH);                 // two times (TOKENS)
    float* const features = ones + 2 * TOKENS;                                      // (TOKENS, XF_WIDTH)
    stored* const keys = (stored*)(features + (XF_MODE == XF_SUM ? 0 : KEYS));      // in XF_SUM two times
    stored* const values = keys + (XF_MODE == XF_SUM ? 2 : 1) * KEYS;               // two times
    const i64 entry = blockIdx.x / parts, part = blockIdx.x % parts, column = i64(blockIdx.y) * COLUMNS;
    const i64 start = ranges[2 * part];
    int left = int(ranges[2 * part + 1] - start);  // tokens from this chunk on
    const int width = int(d), columns = int(min(e - column, i64(COLUMNS)));  // that there are
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    // of eight products, number j gives the sums 2 j and 2 j + 1: the first is of column j of these, the
    // second lies 8 further on
    const int own_columns = lane % 4 * 16;
    const real* const old = begin_first ? XF_ENTRY(begin) + part * begin_row : nullptr;
    const auto begun = [&](int f, int c) {
        return old && f < width && c < columns ? old[f * e + column + c] : 0.0f;
    };
    const auto begun_norm = [&](int f) { return old && f < width ? old[d * e + f] : 0.0f; };

#if XF_MODE != XF_SUM
    const stored* const q = XF_ENTRY(q) + (start + shift) * q_row + lane % 4 * 8;
    stored* const out = XF_ENTRY(out) + (start + shift) * out_row + column + own_columns;
    const bool q_whole = is_whole(q, q_row), out_whole = is_whole(out, out_row);
    const bool q_full = q_whole && width == XF_WIDTH;
    // feature i of those of a query that this lane has
    const auto own_feature = [&](int i) { return i / 8 * 32 + lane % 4 * 8 + i % 8; };
    const int read_at[2] = {sum_place(own_feature(0), lane / 4 * 8), sum_place(own_feature(2), lane / 4 * 8)};
#endif
#if XF_MODE == XF_READ
    for (int i = threadIdx.x; i < XF_WIDTH * COLUMNS; i += THREADS)
        published[sum_place(i / COLUMNS, i % COLUMNS)] = taken(begun(i / COLUMNS, i % COLUMNS));
    for (int f = threadIdx.x; f < XF_WIDTH; f += THREADS) norms[f] = taken(begun_norm(f));
    __syncthreads();
#else
    // this lane's sums are those of the features f and f + 1 of each strip
    const auto summed_feature = [&](int strip) { return warp * SHARE + strip * 16 + lane / 4 * 2; };
    float sums[STRIPS][2][SUMS];
#pragma unroll
    for (int strip = 0; strip < STRIPS; ++strip)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int f = summed_feature(strip) + r;
#pragma unroll
            for (int j = 0; j < SUMS; ++j)
                sums[strip][r][j] = j / 2 == ONES ? begun_norm(f) : begun(f, own_columns + j % 2 * 8 + j / 2);
        }

    // of the next chunk that is copied
    const stored* k = XF_ENTRY(k) + start * k_row;
    const stored* v = XF_ENTRY(v) + start * v_row + column;
    const bool k_whole = is_whole(k, k_row), v_whole = is_whole(v, v_row);
    const bool pieces = k_whole && v_whole && !key_mask_first && width % 8 == 0 && columns % 8 == 0;
    const auto load = [&](int count, int buffer) {  // of which so many tokens are left
        stored* const to_keys = keys + (XF_MODE == XF_SUM ? buffer * KEYS : 0);
        stored* const to_values = values + buffer * VALUES;
        float* const to_ones = ones + buffer * TOKENS + threadIdx.x;
        if (pieces && count >= TOKENS) {
            copy_pieces<XF_WIDTH>(to_keys, width, k, k_row);
            copy_pieces<COLUMNS>(to_values, columns, v, v_row);
            if (threadIdx.x < TOKENS) *to_ones = 1;
        } else {  // addresses are computed anew: nothing of them takes registers elsewhere
            const i64 first = ranges[2 * part + 1] - count;
            const unsigned char* const mask = XF_ENTRY(key_mask);
            const auto seen = [&](int t) {
                return t < count && (!mask || mask[(first + t) * key_mask_column]);
            };
            const stored* const k = XF_ENTRY(k) + first * k_row;
            const stored* const v = XF_ENTRY(v) + first * v_row + column;
            // a hidden key's value may be NaN, and 0 * NaN would not be 0
            load_rows<TOKENS, XF_WIDTH>(to_keys, 0, width, k_whole, k, [&](int t) {
                return seen(t) ? k + t * k_row : nullptr;
            });
            load_rows<TOKENS, COLUMNS>(to_values, 0, columns, v_whole, v, [&](int t) {
                return seen(t) ? v + t * v_row : nullptr;
            });
            if (threadIdx.x < TOKENS) *to_ones = seen(threadIdx.x);
        }
        copies_commit();
        k += TOKENS * k_row;
        v += TOKENS * v_row;
    };
    // two rows and 8 columns of a lane in 8 keys
    const int even = place<COLUMNS>(lane % 4 * 2, lane / 4 * 8);
    const int odd = place<COLUMNS>(lane % 4 * 2 + 1, lane / 4 * 8);
    const auto keys_from = [&](int buffer, int t) {
        const stored* const own = values + buffer * VALUES + t * COLUMNS;
        return Keys(own + even, own + odd, ones + lane % 4 * 2 + buffer * TOKENS + t);
    };
    if (left > 0) load(left, 0);
#endif

    int chunk = 0;
    for (; left > 0; left -= TOKENS, ++chunk) {
        const int buffer = chunk % 2;
#if XF_MODE != XF_SUM
        // the last queries of a chunk see most of its keys: every warp has them in its turn
        const int strip = (warp + chunk) % 4;
        const int count = min(left, TOKENS);
        const bool full = q_full && count == TOKENS;
        const auto query = [&](int r) { return strip * WARP_ROWS + lane / 4 + 8 * r; };
        float own[2][OWN], result[2][SUMS] = {};
        Words raw[2][OWN / 8];
        const auto load_own = [&](int begin) {
            const stored* const row = q + (chunk * TOKENS + query(0)) * q_row + begin * 4;
            if (full) {
#pragma unroll
                for (int i = 0; i < OWN / 4; ++i)
                    raw[i % 2][i / 2] = *(const Words*)(row + i % 2 * 8 * q_row + i / 2 * 32);
                return;
            }
#pragma unroll
            for (int i = 0; i < OWN / 4; ++i) {
                const int number = query(i % 2) < count ? width - own_feature(begin + i / 2 * 8) : 0;
                const Piece x = read_piece(row + i % 2 * 8 * q_row + i / 2 * 32, number, q_whole);
                raw[i % 2][i / 2] = *(const Words*)&x;
            }
        };
        const auto make_own = [&](int begin) {
#pragma unroll
            for (int i = 0; i < OWN / 4; ++i) {
                float x[8];
                widen(raw[i % 2][i / 2], x);
#pragma unroll
                for (int n = 0; n < 8; ++n) own[i % 2][i / 2 * 8 + n] = feature(x[n]);
            }
            if (full) return;
#pragma unroll
            for (int i = 0; i < 2 * OWN; ++i)
                if (query(i % 2) >= count || own_feature(begin + i / 2) >= width) own[i % 2][i / 2] = 0;
        };
        const auto read = [&](int begin) {
            const float* const own_norms = norms + lane % 4 * 8 + begin * 4;
            read_sums(result, own, published + begin * 4 * COLUMNS, own_norms, read_at);
        };
#endif
#if XF_MODE == XF_READ
#pragma unroll 1
        for (int begin = 0; begin < SHARE; begin += OWN) {
            load_own(begin);
            make_own(begin);
            read(begin);
        }
#elif XF_MODE == XF_CAUSAL
        load_own(0);
#endif
#if XF_MODE != XF_READ
        copies_wait<0>();
        __syncthreads();  // the chunk is there, and what was read of the one before has been read
#endif
#if XF_MODE == XF_SUM
        if (left > TOKENS) load(left - TOKENS, buffer ^ 1);
#elif XF_MODE == XF_CAUSAL
#pragma unroll 4
        for (int i = 0; i < TOKENS * SHARE / THREADS; ++i) {
            const int t = threadIdx.x / SHARE + THREADS / SHARE * i, f = threadIdx.x % SHARE * 4;
            const HalfWords x = *(const HalfWords*)(keys + place<XF_WIDTH>(t, f));
            const Two low = unpair(x.at[0], stored()), high = unpair(x.at[1], stored());
            *(Vector*)(features + feature_place(t, f)) = {
                feature(low.at[0]), feature(low.at[1]), feature(high.at[0]), feature(high.at[1])};
        }
#pragma unroll
        for (int s = 0; s < STRIPS; ++s) {
            const int f = summed_feature(s), to = sum_place(f, own_columns);
#pragma unroll
            for (int j = 0; j < 8; ++j) {  // columns 2 j and 2 j + 1 of those of this lane
                Vector x;
#pragma unroll
                for (int n = 0; n < 4; ++n) x.at[n] = taken(sums[s][n % 2][(2 * j + n / 2) % 8 * 2 + j / 4]);
                *(Vector*)(published + (to ^ 4 * j)) = x;
            }
            if (lane % 4 == 0) *(Two*)(norms + f) = taken(sums[s][0][2 * ONES], sums[s][1][2 * ONES]);
        }
        __syncthreads();  // features and sums have been written, and the keys have been read
        if (left > TOKENS) load(left - TOKENS, buffer ^ 1);
        make_own(0);
        read(0);
        // features 0 to 3 and 4 to 7 of this lane's of a key
        const float* const key_at[2] = {features + feature_place(lane / 4, own_feature(0)),
                                        features + feature_place(lane / 4, own_feature(4))};
#pragma unroll 1
        for (int group = 0; group <= strip; ++group) {  // of 16 keys
            float s[2][4] = {};
#pragma unroll
            for (int i = 0; i < SHARE; i += 4) {
                const float a[4] = {own[0][i], own[1][i], own[0][i + 1], own[1][i + 1]};
                const float b[4] = {own[0][i + 2], own[1][i + 2], own[0][i + 3], own[1][i + 3]};
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const float* const key = key_at[i / 4 % 2] + (group * 16 + half * 8) * XF_WIDTH;
                    const Vector x = *(const Vector*)(key + i / 8 * 32);
                    multiply_add(s, half, a, x.at[0], x.at[1]);
                    multiply_add(s, half, b, x.at[2], x.at[3]);
                }
            }
#pragma unroll
            for (int j = 0; j < 4; ++j)
#pragma unroll
                for (int r = 0; r < 2; ++r) {
                    s[r][j] = up(s[r][j]);
                    const bool later = j / 2 * 8 + lane % 4 * 2 + j % 2 > lane / 4 + 8 * r;
                    if (group == strip && later) s[r][j] = 0;
                }
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                // the sums of one product are laid out as the first factor of another, for keys in pairs
                const float a[4] = {s[0][2 * half], s[1][2 * half], s[0][2 * half + 1], s[1][2 * half + 1]};
                add(result, a, keys_from(buffer, group * 16 + half * 8));
            }
        }
#endif
#if XF_MODE != XF_READ
#pragma unroll 4  // of more, the registers would be wanted elsewhere
        for (int t = 0; t < TOKENS; t += 8) {
            const Keys own = keys_from(buffer, t);
#pragma unroll
            for (int s = 0; s < STRIPS; ++s) {
                const int key = lane % 4 * 2, f = summed_feature(s);
#if XF_MODE == XF_SUM
                const auto read = [&](int key) {
                    const stored* const at = keys + place<XF_WIDTH>(key, f) + buffer * KEYS + t * XF_WIDTH;
                    return unpair(*(const u32*)at, stored());
                };
                const Two x = read(key), y = read(key + 1);
                const float a[4] = {feature(x.at[0]), feature(x.at[1]), feature(y.at[0]), feature(y.at[1])};
#else
                const Two x = *(const Two*)(features + feature_place(key, f) + t * XF_WIDTH);
                const Two y = *(const Two*)(features + feature_place(key + 1, f) + t * XF_WIDTH);
                const float a[4] = {x.at[0], x.at[1], y.at[0], y.at[1]};
#endif
                add(sums[s], a, own);
            }
        }
#endif
#if XF_MODE != XF_SUM
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            stored* const row = out + (chunk * TOKENS + query(r)) * out_row;
            if (query(r) < count) write_mean(result[r], row, columns - own_columns, out_whole);
        }
#endif
    }
#if XF_MODE != XF_READ
    if (!end_first) return;
    real* const state = XF_ENTRY(end) + part * end_row;
#pragma unroll
    for (int s = 0; s < STRIPS; ++s)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int f = summed_feature(s) + r;
            if (f >= width) continue;
            if (blockIdx.y == 0 && lane % 4 == 0) state[d * e + f] = sums[s][r][2 * ONES];
#pragma unroll
            for (int j = 0; j < 2 * ONES; ++j) {
                const int c = own_columns + j % 2 * 8 + j / 2;
                if (c < columns) state[f * e + column + c] = sums[s][r][j];
            }
        }
#endif
}
