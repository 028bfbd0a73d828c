// The softmax engine on the GPU, with ordinary arithmetic: any type, any widths.
//
// Milakov and Gimelshein 2018, arXiv:1805.02867 (the running maximum and sum); Dao et al. 2022,
// arXiv:2205.14135 (tiles, so that scores never leave the chip). A block takes one tile of 64 queries of one
// leading entry and walks through its keys. Its threads stand in rows of 16: thread (y, x) computes every 8th
// query from y on (every 16th if sums are wide, or keys by distance are doubles) and the keys x, x + 16, ...,
// so that a row of scores lives in half a warp. Operands pass through shared memory in slices, whose size
// depends on no width: shared memory suffices on every GPU, and d is no constant of the kernel.
//
// -DXF_WIDTH=32|64|128|256: columns of the output that a block computes, blockIdx.y numbering such stretches
// of e;
// -DXF_PAIRS_SAID=1 where there is a mask, a bias or labels of single pairs; -DXF_RELATIVE=1 where there are
// keys by distance.
#include "products.cuh"
#include "tiles.cuh"

constexpr bool FEW = XF_WIDTH * sizeof(real) < 512 && (sizeof(real) == 4 || !XF_RELATIVE);
constexpr int THREADS = FEW ? 128 : 256, DOWN = THREADS / ACROSS;
constexpr int KEYS = sizeof(real) == 4 ? 64 : 32;    // in a tile
constexpr int SLICE = sizeof(real) == 4 ? 32 : 16;   // columns of q and k in shared memory
constexpr int LINE = SLICE + VECTOR;                 // one vector more: no two rows in the same banks
constexpr int WEIGHTS = KEYS + VECTOR;               // likewise, a row of weights
constexpr int PORTION = XF_WIDTH < 128 ? KEYS : 64 * KEYS / XF_WIDTH;  // rows of v in shared memory
constexpr int ROWS = QUERIES / DOWN, COLUMNS = KEYS / ACROSS;         // of scores, per thread
constexpr int OUTPUTS = XF_WIDTH / ACROSS;                            // columns of the output, per thread
constexpr int APART = QUERIES + KEYS - 1;             // keys by distance that the pairs of a tile need
constexpr int SLICES = (QUERIES + (XF_RELATIVE ? APART : KEYS)) * LINE, VALUES = PORTION * XF_WIDTH;

// rows x[row], columns from `column` on, of a slice; zeros beyond the rows and the width
template <int COUNT, class Row> DEVICE void load_slice(real* to, i64 column, i64 width, const Row& row) {
#pragma unroll 4
    for (int i = threadIdx.x; i < COUNT * SLICE; i += THREADS) {
        const int r = i / SLICE, c = i % SLICE;
        const stored* x = row(r);
        to[r * LINE + c] = x && column + c < width ? widen(x[column + c]) : real(0);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) softmax(XF_SOFTMAX_ARGUMENTS) {
    __shared__ alignas(16) real slices[SLICES > VALUES ? SLICES : VALUES];  // of q and k; later of v
    __shared__ alignas(16) real weights[QUERIES * WEIGHTS];
    const i64 entry = blockIdx.x / slots;
    const i64* plane = planes + plane_of[entry];
    const i64 tile = plane[0] + (blockIdx.x - entry * slots);
    if (tile >= plane[1]) return;  // a plane may have fewer tiles than the largest
    const i64 first = tiles[3 * tile], step = tiles[3 * tile + 1];
    const int count = int(tiles[3 * tile + 2]);
    const int y = threadIdx.x / ACROSS, x = threadIdx.x % ACROSS;
    real* const own = weights + y * WEIGHTS + x;  // from here lie this thread's scores, 16 columns apart
    const i64 column = i64(blockIdx.y) * XF_WIDTH;
    const int columns = int(min(e - column, i64(XF_WIDTH)));  // of the output, that there are

    const Order q_at{XF_ENTRY(q_order)}, k_at{XF_ENTRY(k_order)};
    const stored* q = XF_ENTRY(q);
    const stored* k = XF_ENTRY(k);
    const stored* v = XF_ENTRY(v);
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
#endif
    real sums[ROWS][OUTPUTS] = {}, top[ROWS], total[ROWS] = {};
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
        top[i] = minus_infinity();
        if (!known || y + DOWN * i >= count) continue;
        const i64 place = place_of(y + DOWN * i);
        top[i] = known[place * so_far_row] * LOG2_E<real>;
        total[i] = x == 0 && top[i] > minus_infinity();
        const stored* const row = out + place * out_row;
#pragma unroll
        for (int c = 0; c < OUTPUTS; ++c)
            if (column_of(OUTPUTS, x, c) < columns) sums[i][c] = widen(row[column_of(OUTPUTS, x, c)]);
    }

    Walk<KEYS> walk(segments, offsets + tile, XF_ENTRY(key_mask), key_mask_column, count);
    while (walk.next()) {
        real s[ROWS][COLUMNS] = {};
        for (i64 c = 0; c < d; c += SLICE) {
            __syncthreads();  // the slices before have been read
            load_slice<QUERIES>(slices, c, d, [&](int r) {
                return r < count ? q + q_at(first + r * step) * q_row : nullptr;
            });
            load_slice<KEYS>(slices + QUERIES * LINE, c, d, [&](int t) {
                return walk.here.has(t) ? k + k_at(walk.here.key(t)) * k_row : nullptr;
            });
            __syncthreads();
            multiply_rows<SLICE, LINE, DOWN>(slices, slices + QUERIES * LINE, y, x, s);
        }
#if XF_RELATIVE
        for (i64 c = 0; c < d; c += SLICE) {
            __syncthreads();
            load_slice<QUERIES>(slices, c, d, [&](int i) {
                return i < count ? apart_q + (first + i * step) * apart_q_row : nullptr;
            });
            load_slice<APART>(slices + QUERIES * LINE, c, d,
                              [&](int i) { return apart(i, walk.here, first); });
            __syncthreads();
            multiply_apart<SLICE, LINE, DOWN, QUERIES - 1>(slices, slices + QUERIES * LINE, y, x, s);
        }
#endif
#pragma unroll
        for (int i = 0; i < ROWS; ++i)
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) s[i][j] *= scale;
        if (XF_PAIRS_SAID || !walk.here.full()) {
            // what single pairs meet is done in shared memory, one after another: registers hold them all
#pragma unroll
            for (int i = 0; i < ROWS; ++i)
#pragma unroll
                for (int j = 0; j < COLUMNS; ++j) own[i * DOWN * WEIGHTS + ACROSS * j] = s[i][j];
#pragma unroll 1
            for (int j = 0; j < COLUMNS; ++j) {
                const int t = x + ACROSS * j;
                const u64 word = walk.here.word(masks, t);
#pragma unroll 1
                for (int i = 0; i < ROWS; ++i) {
                    const int lane = y + DOWN * i;
                    real score[1] = {own[i * DOWN * WEIGHTS + ACROSS * j]};
                    if (!walk.here.sees(lane, t, word)) score[0] = minus_infinity();
#if XF_PAIRS_SAID
                    else if (lane < count)
                        pairs.add(score, first + lane * step, [&](int) { return walk.here.key(t); });
#endif
                    own[i * DOWN * WEIGHTS + ACROSS * j] = score[0];
                }
            }
#pragma unroll
            for (int i = 0; i < ROWS; ++i)
#pragma unroll
                for (int j = 0; j < COLUMNS; ++j) s[i][j] = own[i * DOWN * WEIGHTS + ACROSS * j];
        }
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            const real shrink = soften<ACROSS>(s[i], top[i], total[i]);
#pragma unroll
            for (int c = 0; c < OUTPUTS; ++c) sums[i][c] *= shrink;
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) own[i * DOWN * WEIGHTS + ACROSS * j] = s[i][j];
        }
        for (int t0 = 0; t0 < KEYS && walk.here.there[0] >> t0; t0 += PORTION) {
            __syncthreads();  // what lay in the slices has been read, the weights have been written
#pragma unroll 4
            for (int i = threadIdx.x; i < VALUES; i += THREADS) {
                const int t = t0 + i / XF_WIDTH, c = i % XF_WIDTH;
                // a hidden key's value may be NaN, and 0 * NaN would not be 0
                const bool there = walk.here.has(t) && c < columns;
                slices[i] = there ? widen(v[k_at(walk.here.key(t)) * v_row + column + c]) : real(0);
            }
            __syncthreads();
            multiply_add_rows<PORTION, WEIGHTS, DOWN>(weights + t0, slices, y, x, sums);
        }
    }

    real* const lse = XF_ENTRY(lse);
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
        const int lane = y + DOWN * i;
        const real whole = group_sum<ACROSS>(total[i]), share = whole == 0 ? real(0) : 1 / whole;
        if (lane >= count) continue;
        const i64 place = place_of(lane);
        stored* const row = out + place * out_row;
#pragma unroll
        for (int c = 0; c < OUTPUTS; ++c)
            if (column_of(OUTPUTS, x, c) < columns)
                narrow(sums[i][c] * share, row[column_of(OUTPUTS, x, c)]);
        if (lse && x == 0 && blockIdx.y == 0)
            lse[place * lse_row] = lse_of(top[i], whole);
    }
}
