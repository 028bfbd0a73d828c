// The softmax engine on Hopper's matrix units: float16 and bfloat16, sums in float. Compute capability 9.0.
//
// Shah et al. 2024, arXiv:2407.08608 (FlashAttention-3): products of whole groups of four warps go on by
// themselves, both factors in shared memory. One group copies tiles of keys and values into a ring; two
// multiply, each for its half of a tile of 128 queries, and turn scores into weights while the products of
// the tile before go on. A block takes one tile of queries after another, so that the next one's keys are
// copied while results are written. Other than there, tiles are copied row by row, not by tensor maps: rows
// may lie anywhere.
//
// -DXF_WIDTH=64|128: d is at most that wide; blockIdx.y numbers stretches of e of that width. Every row of q,
// k and v begins at a multiple of 16 bytes, and `scale` is positive.
#define XF_HALVES 2
#include "ring.cuh"

// registers of a thread: 168 when they begin, which three groups may share out anew
constexpr int COPYING = 56, MULTIPLYING = 224;

extern "C" __global__ void __launch_bounds__(3 * GROUP, 1) softmax(
    XF_SOFTMAX_ARGUMENTS, const i64 items) {
    extern __shared__ __align__(1024) stored rows[];  // queries, a ring of keys, one of values
    stored* const queries = rows;
    stored* const keys = rows + ROWS * XF_WIDTH;
    stored* const values = keys + STAGES * KEYS * XF_WIDTH;
    Shared& shared = *(Shared*)(values + STAGES * KEYS * XF_WIDTH);
    const i64 column = i64(blockIdx.y) * XF_WIDTH;
    if (threadIdx.x == 0) {
        // once more for what is said beside the rows
        for (int half = 0; half < 2; ++half) {
            barrier_init(shared.q_there + half, GROUP + 1);
            barrier_init(shared.q_read + half, WARPS / 2);
        }
        for (int i = 0; i < STAGES; ++i) {
            barrier_init(shared.k_there + i, GROUP + 1);
            barrier_init(shared.k_read + i, WARPS);
            barrier_init(shared.v_read + i, WARPS);
        }
        barriers_are_there();
    }
    __syncthreads();
    const int group = uniform(threadIdx.x / GROUP) - 1;

    if (group < 0) {  // copies
        fewer_registers<COPYING>();
        Place k_place, v_place;
        int turn = 0;
        for (i64 item = blockIdx.x;; item += gridDim.x) {
            const i64 entry = item < items ? item / slots : -1;
            const i64* tile = nullptr;
            if (entry >= 0) {
                const i64* const plane = planes + plane_of[entry];
                // to and fro: the longest of a plane come first, and every block gets some of each
                const i64 own = item - entry * slots, place = plane[0] + (entry & 1 ? slots - 1 - own : own);
                if (place >= plane[1]) continue;  // a plane may have fewer tiles than the largest
                tile = tiles + 6 * place;
            }
            const auto begin = [&](int half) {
                wait(shared.q_read + half, turn & 1 ^ 1);
                if (threadIdx.x == 0) {
                    Item& said = shared.item[turn & 1][half];
                    said.entry = entry;
                    if (tile) said.tile = ((const Tile*)tile)[half];
                    arrive(shared.q_there + half);
                }
            };
            if (!tile) {
                for (int half = 0; half < 2; ++half) {
                    begin(half);
                    arrive_with_copies(shared.q_there + half);
                }
                return;
            }
            const int lanes[2] = {int(tile[2]), int(tile[5])};
            const stored* const q = XF_ENTRY(q);
            const stored* const k = XF_ENTRY(k);
            const stored* const v = XF_ENTRY(v);
            const Order q_at{XF_ENTRY(q_order)}, k_at{XF_ENTRY(k_order)};
            Walk<KEYS> walk(segments, offsets + (tile - tiles) / 6, XF_ENTRY(key_mask), key_mask_column,
                            lanes[0], lanes[1]);
            const KeyTile<KEYS>& here = walk.here;
            const auto copy = [&](stored* to, i64 column, i64 width, const stored* x, i64 stride) {
                if (!k_at.places && here.all()) {
                    copy_rows<KEYS>(to, column, width, x + here.first * stride, here.step * stride);
                    return;
                }
                // a hidden key's value may be NaN, and 0 * NaN would not be 0
                load_rows<KEYS, KEYS>(to, column, width, x, [&](int t) {
                    return here.has(t) ? x + k_at(here.key(t)) * stride : nullptr;
                });
            };
            bool begun = false;
            for (bool more = true; more; k_place.advance()) {
                more = walk.next();
                wait(shared.k_read + k_place.stage, k_place.parity ^ 1);
                if (threadIdx.x == 0) {
                    Said& said = shared.said[k_place.stage];
                    said.tile = here;
#pragma unroll
                    for (int half = 0; half < 2; ++half)
                        said.how[half] = !more ? OVER : !here.met(half, lanes[half]) ? HIDDEN :
                                         here.full(half) ? FULLY : PARTLY;
                    arrive(shared.k_there + k_place.stage);
                }
                if (more) copy(keys + k_place.stage * KEYS * XF_WIDTH, 0, d, k, k_row);
                arrive_with_copies(shared.k_there + k_place.stage);
                if (!begun) {  // the first keys come while the queries before are still at work
                    begun = true;
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        begin(half);
                        const i64 first = tile[3 * half], step = tile[3 * half + 1];
                        const auto row = [&](int r) {
                            return r < lanes[half] ? q + q_at(first + r * step) * q_row : nullptr;
                        };
                        load_rows<QUERIES, ROWS>(queries + half * QUERIES * PANEL, 0, d, q, row);
                        arrive_with_copies(shared.q_there + half);
                    }
                    ++turn;
                }
                if (!more) continue;
                wait(shared.v_read + v_place.stage, v_place.parity ^ 1);
                copy(values + v_place.stage * KEYS * XF_WIDTH, column, e, v, v_row);
                v_place.advance();
            }
        }
    }

    more_registers<MULTIPLYING>();
    const int lane = threadIdx.x % 32;
    // this lane has two rows of scores and sums: of lane / 4 and 8 further
    const int own_lane = threadIdx.x % GROUP / 32 * 16 + lane / 4;
    const int columns = int(min(e - column, i64(XF_WIDTH)));  // of the output, that there are
    // of which those numbered j are of this column or key
    const auto number = [&](int j) { return j / 2 * 8 + lane % 4 * 2 + j % 2; };
    const auto release = [&](u64* barrier) {
        if (lane == 0) arrive(barrier);
    };
    const u32 q_factor = uniform(factor(queries + group * QUERIES * PANEL));
    const u32 k_factor = uniform(factor(keys));
    const u32 v_factor = uniform(factor(values, KEYS * PANEL * sizeof(stored)));
    float s[2][KEYS / 4] = {}, sums[2][XF_WIDTH / 4];
    u32 weights[KEYS / 4];
    Place k_place, v_place;

    const auto values_read = [&] { release(shared.v_read + v_place.stage), v_place.advance(); };

    for (int turn = 0;; ++turn) {
        wait(shared.q_there + group, turn & 1);
        const Item& item = shared.item[turn & 1][group];
        if (uniform(item.entry < 0)) return;
        // these are read anew where they are needed, so that they take no registers in between
        const auto is_there = [&](int lane) { return lane < item.tile.count; };
        const auto place_of = [&](int lane) {
            const i64 entry = item.entry, query = item.tile.first + lane * item.tile.step;
            const Order q_at{XF_ENTRY(q_order)};
            // results that are joined with those so far lie where their queries do
            return so_far_first ? q_at(query) : query;
        };
        const auto out_row_at = [&](i64 place) {
            const i64 entry = item.entry;
            return XF_ENTRY(out) + column + place * out_row;
        };
        float top[2] = {minus_infinity(), minus_infinity()}, total[2] = {};
#pragma unroll
        for (int r = 0; r < 2; ++r)
#pragma unroll
            for (int j = 0; j < XF_WIDTH / 4; ++j) sums[r][j] = 0;
        if (so_far_first) {
            const i64 entry = item.entry;
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                if (!is_there(own_lane + 8 * r)) continue;
                const i64 place = place_of(own_lane + 8 * r);
                top[r] = XF_ENTRY(so_far)[place * so_far_row] * LOG2_E<real>;
                total[r] = lane % 4 == 0 && top[r] > minus_infinity();
                const stored* const row = out_row_at(place);
#pragma unroll
                for (int j = 0; j < XF_WIDTH / 4; ++j)
                    if (number(j) < columns) sums[r][j] = widen(row[number(j)]);
            }
        }

        // what there is to do with the next tile, once its keys are there, and with them all values before
        const auto next = [&] {
            wait(shared.k_there + k_place.stage, k_place.parity);
            const int how = uniform(shared.said[k_place.stage].how[group]);
            if (how == OVER) release(shared.q_read + group);  // all products with queries are done
            return how;
        };
        const auto keys_read = [&] { release(shared.k_read + k_place.stage), k_place.advance(); };
        float shrink[2];
        // scores as weights, 2 to the power of what they are above the largest
        const auto weigh = [&] {
#pragma unroll
            for (int r = 0; r < 2; ++r) shrink[r] = soften<4>(s[r], top[r], total[r], scale);
            // which no sum of weights is: ptxas thus makes them before this, and before it waits for products
            if (!(total[0] + total[1] < 0)) keys_read();
        };
        const auto rescale = [&] {
#pragma unroll
            for (int r = 0; r < 2; ++r)
#pragma unroll
                for (int c = 0; c < XF_WIDTH / 4; ++c) sums[r][c] *= shrink[r];
#pragma unroll
            for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
                for (int r = 0; r < 2; ++r) weights[2 * j + r] = pair(s[r][2 * j], s[r][2 * j + 1], stored());
        };

        int how = next();
        while (how != OVER) {
            if (how == HIDDEN) {
                __syncwarp();
                keys_read();
                how = next();
                values_read();
                continue;
            }
            score(s, q_factor, further(k_factor, k_place.stage * BYTES));
            products_wait<0>();
            settle(s);
            if (how == PARTLY) hide(s, shared.said[k_place.stage].tile, masks, group, own_lane);
            weigh();
            rescale();
            while ((how = next()) >= PARTLY) {
                score(s, q_factor, further(k_factor, k_place.stage * BYTES));
                add_values(sums, weights, further(v_factor, v_place.stage * BYTES));
                if (how == PARTLY) {
                    // where products go on, ptxas would copy all scores before some of them are changed
                    products_wait<0>();
                    settle(s);
                    hide(s, shared.said[k_place.stage].tile, masks, group, own_lane);
                    weigh();
                } else {
                    products_wait<1>();
                    settle(s);
                    weigh();
                    settle(s);
                    products_wait<0>();
                }
                settle(sums);
                values_read();
                rescale();
            }
            copies_to_products();
            settle(sums);
            products_begin();
            add_values(sums, weights, further(v_factor, v_place.stage * BYTES));
            products_wait<0>();
            settle(sums);
            values_read();
        }
        __syncwarp();
        keys_read();

        const i64 entry = item.entry;
        real* const lse = XF_ENTRY(lse);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const float whole = group_sum<4>(total[r]), share = whole == 0 ? 0 : 1 / whole;
            if (!is_there(own_lane + 8 * r)) continue;
            const i64 place = place_of(own_lane + 8 * r);
            stored* const row = out_row_at(place);
            const bool in_pairs = e % 2 == 0 && u64(row) % 4 == 0;
#pragma unroll
            for (int j = 0; j < XF_WIDTH / 4; j += 2) {
                const float low = sums[r][j] * share, high = sums[r][j + 1] * share;
                if (in_pairs) {
                    if (number(j) < columns) *(u32*)(row + number(j)) = pair(low, high, stored());
                } else {
                    if (number(j) < columns) narrow(low, row[number(j)]);
                    if (number(j + 1) < columns) narrow(high, row[number(j + 1)]);
                }
            }
            if (lse && lane % 4 == 0 && blockIdx.y == 0) lse[place * lse_row] = lse_of(top[r], whole);
        }
        __syncwarp();  // no lane still reads what is said of these queries
    }
}
