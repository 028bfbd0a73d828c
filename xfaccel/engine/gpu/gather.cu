// The softmax engine for scattered keys on the GPU: every query has a short list of its own.
//
// A warp takes a query and walks through its list, 32 keys at a time: groups of 8 lanes make the scores of 4
// keys at once, then each lane has the score of one key, then all lanes sum up the values, row by row. A list
// is in ascending order: the places of a key that it holds twice are neighbours, and only the first counts.
//
// -DXF_WIDTH=32|64|128|256: columns of the output that a warp computes, blockIdx.y numbering such stretches
// of e.
#include "tiles.cuh"

constexpr int THREADS = 128, WARPS = THREADS / 32;
constexpr int GROUP = 8, GROUPS = 32 / GROUP;  // lanes that share a key
constexpr int OUTPUTS = XF_WIDTH / 32;         // columns of the output, per lane

// `total` queries of all leading entries, n of each; query i sees no key beyond i + last
extern "C" __global__ void __launch_bounds__(THREADS, 1) gather(
        XF_ROWS(const stored, q), XF_ROWS(const stored, k), XF_ROWS(const stored, v), XF_ROWS(stored, out),
        XF_ROWS(real, lse), XF_ROWS(const unsigned char, key_mask), XF_ROWS(const i64, indices),
        const i64 number, const i64 total, const i64 n, const i64 last, const i64 d, const i64 e,
        const real scale) {
    const int lane = threadIdx.x % 32;
    const i64 item = i64(blockIdx.x) * WARPS + threadIdx.x / 32;
    if (item >= total) return;
    const i64 entry = item / n, query = item % n, column = i64(blockIdx.y) * XF_WIDTH + lane;
    const stored* q = XF_ENTRY(q) + query * q_row;
    const stored* k = XF_ENTRY(k);
    const stored* v = XF_ENTRY(v) + column;
    const unsigned char* mask = XF_ENTRY(key_mask);
    const i64* listed = XF_ENTRY(indices) + query * indices_row;

    real sums[OUTPUTS] = {}, top = minus_infinity(), whole = 0;
    for (i64 begin = 0; begin < number; begin += 32) {
        const i64 place = begin + lane;
        const i64 key = place < number ? listed[place * indices_column] : -1;
        const i64 before = place > 0 && place < number ? listed[(place - 1) * indices_column] : -1;
        const bool seen = key >= 0 && key <= query + last && key != before
                          && (!mask || mask[key * key_mask_column]);
        const u32 found = __ballot_sync(ALL_LANES, seen);
        if (!found) continue;
        real s[1] = {minus_infinity()};
        for (int round = 0; round < GROUP; ++round) {
            const int t = round * GROUPS + lane / GROUP;
            const stored* row = k + __shfl_sync(ALL_LANES, key, t) * k_row;
            const i64 width = found >> t & 1 ? d : 0;
            real product = 0;
            for (i64 c = lane % GROUP; c < width; c += GROUP) product += widen(q[c]) * widen(row[c]);
            product = group_sum<GROUP>(product);
            const real score = __shfl_sync(ALL_LANES, product, lane % GROUPS * GROUP);
            if (seen && lane / GROUPS == round) s[0] = score * scale;
        }
        const real shrink = soften<32>(s, top, whole);
#pragma unroll
        for (int c = 0; c < OUTPUTS; ++c) sums[c] *= shrink;
        for (int t = 0; t < 32; ++t) {
            if (!(found >> t & 1)) continue;
            const real weight = __shfl_sync(ALL_LANES, s[0], t);
            const stored* row = v + __shfl_sync(ALL_LANES, key, t) * v_row;
#pragma unroll
            for (int c = 0; c < OUTPUTS; ++c)
                if (column + 32 * c < e) sums[c] += weight * widen(row[32 * c]);
        }
    }
    whole = group_sum<32>(whole);
    const real share = whole == 0 ? real(0) : 1 / whole;
    stored* out = XF_ENTRY(out) + query * out_row + column;
#pragma unroll
    for (int c = 0; c < OUTPUTS; ++c)
        if (column + 32 * c < e) narrow(sums[c] * share, out[32 * c]);
    if (lse_first && column == 0)
        XF_ENTRY(lse)[query * lse_row] = lse_of(top, whole);
}
