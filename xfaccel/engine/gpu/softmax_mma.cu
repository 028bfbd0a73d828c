// The softmax engine on the GPU's matrix units: float16 and bfloat16, sums in float. Compute capability 8.0
// and up.
//
// Dao 2023, arXiv:2307.08691 (FlashAttention-2): a block of four warps takes one tile of 64 queries, each
// warp 16 of them with all keys, so that no two warps exchange scores. While a tile of keys is computed, the
// next is copied to the other half of a double buffer.
//
// -DXF_WIDTH=32|64|128|256: d is at most that wide; blockIdx.y numbers stretches of e of VALUES columns;
// -DXF_PAIRS_SAID=1 where there is a mask, a bias or labels of single pairs; -DXF_RELATIVE=1 where there are
// keys by distance. A warp makes the scores of its queries with all of these that its pairs need, and reads
// them by key from shared memory, every row one place further on.
#include "swizzled.cuh"
#include "tiles.cuh"

constexpr int WARP_ROWS = 16;
constexpr int VALUES = XF_WIDTH < 256 ? XF_WIDTH : 128;  // columns of the output: registers hold the sums
// in a tile: memory and registers suffice
constexpr int KEYS = XF_WIDTH < 256 && !XF_PAIRS_SAID && !XF_RELATIVE ? 64 : 32;
constexpr int APART = WARP_ROWS + KEYS;  // keys by distance that a warp needs, and one more
constexpr int LINE = KEYS + 4;           // of scores in shared memory

extern "C" __global__ void __launch_bounds__(THREADS, 1) softmax(XF_SOFTMAX_ARGUMENTS) {
    // queries, two tiles of keys, two of values; queries and keys by distance, scores
    extern __shared__ __align__(128) stored rows[];
    const i64 entry = blockIdx.x / slots;
    const i64* plane = planes + plane_of[entry];
    const i64 tile = plane[0] + (blockIdx.x - entry * slots);
    if (tile >= plane[1]) return;  // a plane may have fewer tiles than the largest
    const i64 first = tiles[3 * tile], step = tiles[3 * tile + 1];
    const int count = int(tiles[3 * tile + 2]);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const i64 column = i64(blockIdx.y) * VALUES;
    const int columns = int(min(e - column, i64(VALUES)));  // of the output, that there are
    stored* const queries = rows;
    stored* const keys = rows + QUERIES * XF_WIDTH;
    stored* const values = keys + 2 * KEYS * XF_WIDTH;
#if XF_RELATIVE
    stored* const apart_queries = values + 2 * KEYS * VALUES;
    stored* const apart_keys = apart_queries + QUERIES * XF_WIDTH;
    float* const scores = (float*)(apart_keys + (QUERIES + KEYS) * XF_WIDTH) + warp * WARP_ROWS * LINE;
#endif

    const Order q_at{XF_ENTRY(q_order)}, k_at{XF_ENTRY(k_order)};
    const stored* q = XF_ENTRY(q);
    const stored* k = XF_ENTRY(k);
    const stored* v = XF_ENTRY(v);
    const bool k_whole = is_whole(k, k_row), v_whole = is_whole(v, v_row);
    const bool in_line = k_whole && v_whole && !k_at.places;
    stored* const out = XF_ENTRY(out) + column;
    // results that are joined with those so far lie where their queries do
    const real* const known = XF_ENTRY(so_far);
    const auto place_of = [&](int lane) {
        const i64 query = first + lane * step;
        return known ? q_at(query) : query;
    };
#if XF_PAIRS_SAID
    const Pairs pairs = XF_PAIRS;
#endif
#if XF_RELATIVE
    const stored* const apart_q = XF_ENTRY(apart_q);
    const Apart apart{XF_ENTRY(apart_k), apart_k_row, apart_nearest, apart_farthest};
    const bool apart_whole = is_whole(apart.keys, apart_k_row);
    const Factor<XF_WIDTH> apart_q_factor(apart_queries, warp * WARP_ROWS + lane % 16, lane / 16);
    const Factor<XF_WIDTH> apart_k_factor(
        apart_keys, QUERIES - (warp + 1) * WARP_ROWS + lane % 8 + lane / 16 * 8, lane / 8 % 2);
#endif
    // this lane has two rows of scores and sums: of lane / 4 and 8 further
    const int own_lane = warp * WARP_ROWS + lane / 4;
    float sums[2][VALUES / 4] = {}, top[2] = {minus_infinity(), minus_infinity()}, total[2] = {};
    // of which those numbered j are of this column or key
    const auto number = [&](int j) { return j / 2 * 8 + lane % 4 * 2 + j % 2; };
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        if (!known || own_lane + 8 * r >= count) continue;
        const i64 place = place_of(own_lane + 8 * r);
        top[r] = known[place * so_far_row] * LOG2_E<real>;
        total[r] = lane % 4 == 0 && top[r] > minus_infinity();
        const stored* const row = out + place * out_row;
#pragma unroll
        for (int j = 0; j < VALUES / 4; ++j)
            if (number(j) < columns) sums[r][j] = widen(row[number(j)]);
    }

    const Factor<XF_WIDTH> q_factor(queries, warp * WARP_ROWS + lane % 16, lane / 16);
    const Factor<XF_WIDTH> k_factor(keys, lane % 8 + lane / 16 * 8, lane / 8 % 2);
    const Factor<VALUES> v_factor(values, lane % 16, lane / 16);
    Walk<KEYS> next(segments, offsets + tile, XF_ENTRY(key_mask), key_mask_column, count);
    auto load = [&](int buffer) {
        stored* const to_keys = keys + buffer * KEYS * XF_WIDTH;
        stored* const to_values = values + buffer * KEYS * VALUES;
        if (in_line && next.here.all()) {
            const i64 key = next.here.key(0), step = next.here.step;
            copy_rows<KEYS, XF_WIDTH>(to_keys, 0, d, k + key * k_row, step * k_row);
            copy_rows<KEYS, VALUES>(to_values, column, e, v + key * v_row, step * v_row);
            return;
        }
        const auto row = [&](const stored* x, i64 stride, int t) {
            // a hidden key's value may be NaN, and 0 * NaN would not be 0
            return next.here.has(t) ? x + k_at(next.here.key(t)) * stride : nullptr;
        };
        load_rows<KEYS, XF_WIDTH>(to_keys, 0, d, k_whole, k, [&](int t) { return row(k, k_row, t); });
        load_rows<KEYS, VALUES>(to_values, column, e, v_whole, v, [&](int t) { return row(v, v_row, t); });
    };
    bool more = next.next();
    load_rows<QUERIES, XF_WIDTH>(queries, 0, d, is_whole(q, q_row), q,
                                 [&](int r) {
                                     return r < count ? q + q_at(first + r * step) * q_row : nullptr;
                                 });
#if XF_RELATIVE
    auto load_apart = [&] {
        load_rows<QUERIES + KEYS, XF_WIDTH>(apart_keys, 0, d, apart_whole, apart.keys,
                                            [&](int i) { return apart(i, next.here, first); });
    };
    load_rows<QUERIES, XF_WIDTH>(apart_queries, 0, d, is_whole(apart_q, apart_q_row), apart_q, [&](int i) {
        return i < count ? apart_q + (first + i * step) * apart_q_row : nullptr;
    });
    if (more) load_apart();
#endif
    if (more) load(0);
    copies_commit();
    for (int buffer = 0; more; buffer ^= 1) {
        const KeyTile<KEYS> now = next.here;
        more = next.next();
        if (more) load(buffer ^ 1);
        copies_commit();  // also where there is nothing: so that all groups but one are those until `now`
        copies_wait<1>();
        __syncthreads();

        float s[2][KEYS / 4] = {};
#if XF_RELATIVE
        {
            float by_distance[2][APART / 4] = {};
            multiply_rows(apart_q_factor, apart_k_factor, 0, by_distance);
#pragma unroll
            for (int j = 0; j < APART / 4; ++j)
#pragma unroll
                for (int r = 0; r < 2; ++r) {
                    const int row = lane / 4 + 8 * r, t = number(j) + row - (WARP_ROWS - 1);
                    if (0 <= t && t < KEYS) scores[row * LINE + t] = by_distance[r][j];
                }
        }
        __syncthreads();  // the keys by distance have been read, and a warp's scores have been written
        if (more) {
            load_apart();
            copies_commit();
        }
#pragma unroll
        for (int j = 0; j < KEYS / 4; ++j)
#pragma unroll
            for (int r = 0; r < 2; ++r) s[r][j] = scores[(lane / 4 + 8 * r) * LINE + number(j)];
#endif
        multiply_rows(q_factor, k_factor, buffer * KEYS, s);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
#pragma unroll
            for (int j = 0; j < KEYS / 4; ++j) s[r][j] *= scale;
#if XF_PAIRS_SAID
            pairs.add(s[r], first + min(own_lane + 8 * r, count - 1) * step,
                      [&](int j) { return now.has(number(j)) ? now.key(number(j)) : i64(-1); });
#endif
        }
        if (!now.full()) {
#pragma unroll
            for (int j = 0; j < KEYS / 4; ++j) {
                const u64 word = now.word(masks, number(j));
#pragma unroll
                for (int r = 0; r < 2; ++r)
                    if (!now.sees(own_lane + 8 * r, number(j), word)) s[r][j] = minus_infinity();
            }
        }
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const float shrink = soften<4>(s[r], top[r], total[r]);
            // after the first tiles, few have a larger score than all before
            if (__any_sync(ALL_LANES, shrink != 1)) {
#pragma unroll
                for (int c = 0; c < VALUES / 4; ++c) sums[r][c] *= shrink;
            }
        }
#pragma unroll
        for (int t = 0; t < KEYS / 16; ++t) {
            // the sums of one product are laid out as the first factor of another
            const u32 a[4] = {pair(s[0][4 * t], s[0][4 * t + 1], stored()),
                              pair(s[1][4 * t], s[1][4 * t + 1], stored()),
                              pair(s[0][4 * t + 2], s[0][4 * t + 3], stored()),
                              pair(s[1][4 * t + 2], s[1][4 * t + 3], stored())};
#pragma unroll
            for (int c = 0; c < VALUES / 16; ++c) {
                u32 b[4];
                load_transposed(b, v_factor.at(buffer * KEYS + t * 16, c * 16));
                multiply_add(sums, 2 * c, a, b[0], b[1], stored());
                multiply_add(sums, 2 * c + 1, a, b[2], b[3], stored());
            }
        }
        __syncthreads();  // the buffer has been read, and may be filled anew
    }

    real* const lse = XF_ENTRY(lse);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const float whole = group_sum<4>(total[r]), share = whole == 0 ? 0 : 1 / whole;
        if (own_lane + 8 * r >= count) continue;
        const i64 place = place_of(own_lane + 8 * r);
        stored* const row = out + place * out_row;
#pragma unroll
        for (int j = 0; j < VALUES / 4; ++j)
            if (number(j) < columns) narrow(sums[r][j] * share, row[number(j)]);
        if (lse && lane % 4 == 0 && blockIdx.y == 0)
            lse[place * lse_row] = lse_of(top[r], whole);
    }
}
