// The tile list on the GPU: which keys the queries of a block see, and what is added to their scores.
//
// `xfaccel.engine.tiles` says what a tile list is. An operand is four arguments: the address of its first
// number, the offsets of its leading entries, and the strides of rows and columns; offsets and strides count
// numbers, not bytes, and have 64 bits. An operand that a call lacks has the address 0.
#pragma once
#include "primitives.cuh"

constexpr int QUERIES = 64;  // in a tile
#ifndef XF_HALVES
#define XF_HALVES 1
#endif
constexpr int HALVES = XF_HALVES;  // tiles of queries that go together, as `tiles.paired` makes them

#define XF_ROWS(T, name) \
    T* const name##_first, const i64* const name##_offsets, const i64 name##_row, const i64 name##_column
#define XF_ENTRY(name) (name##_first ? name##_first + name##_offsets[entry] : nullptr)

// what both softmax kernels take, in the order of `launch.softmax`
#define XF_SOFTMAX_ARGUMENTS \
    XF_ROWS(const stored, q), XF_ROWS(const stored, k), XF_ROWS(const stored, v), XF_ROWS(stored, out), \
    XF_ROWS(real, lse), XF_ROWS(const unsigned char, key_mask), XF_ROWS(const unsigned char, mask), \
    XF_ROWS(const stored, bias), XF_ROWS(const stored, table), const i64 nearest, const i64 farthest, \
    XF_ROWS(const stored, apart_q), XF_ROWS(const stored, apart_k), const i64 apart_nearest, \
    const i64 apart_farthest, \
    XF_ROWS(const i64, q_label), XF_ROWS(const i64, k_label), const i64* const limits, const i64 labels, \
    XF_ROWS(const i64, q_order), XF_ROWS(const i64, k_order), XF_ROWS(const real, so_far), \
    const i64* const planes, const i64* const plane_of, const i64* tiles, const i64* const offsets, \
    const i64* const segments, const i64* const masks, const i64 slots, const i64 d, const i64 e, \
    const real scale
#define XF_PAIRS { \
    XF_ENTRY(mask), mask_row, mask_column, XF_ENTRY(bias), bias_row, bias_column, \
    XF_ENTRY(table), table_row, table_column, nearest, farthest, \
    XF_ENTRY(q_label), q_label_row, XF_ENTRY(k_label), k_label_row, limits, labels, q_at, k_at}

// Where the rows of a sequence lie: one behind the other, or where an order says.
struct Order {
    const i64* places;
    DEVICE i64 operator()(i64 row) const { return places ? places[row] : row; }
};

// A tile of up to KEYS keys of a segment.
template <int KEYS> struct KeyTile {
    static constexpr int WORDS = (KEYS + 63) / 64;
    i64 first, step;  // key t of the tile is first + t step
    i64 words;        // masks[words + t] has the bits of the lanes that see it; below 0 there are none
    // lane l of a half sees key t iff lower <= t - l <= upper, as far as the bits allow
    int lower[HALVES], upper[HALVES];
    u64 there[WORDS];  // bit t: key t exists, and the key mask shows it

    DEVICE i64 key(int t) const { return first + t * step; }
    DEVICE bool has(int t) const { return (t < 64 ? there[0] : there[WORDS - 1]) >> t % 64 & 1; }
    DEVICE bool any() const { return (there[0] | there[WORDS - 1]) != 0; }
    DEVICE bool all() const {
        return (there[0] & there[WORDS - 1]) == ~u64(0) >> (KEYS < 64 ? 64 - KEYS : 0);
    }
    // every lane of a half sees every key
    DEVICE bool full(int half = 0) const {
        return all() && lower[half] <= 1 - QUERIES && upper[half] >= KEYS - 1 && words < 0;
    }
    // of so many lanes of a half, any may see a key
    DEVICE bool met(int half, int lanes) const { return lower[half] < KEYS && upper[half] > -lanes; }
    // the lanes that see key t
    DEVICE u64 word(const i64* masks, int t) const {
        return !has(t) ? 0 : words < 0 ? ~u64(0) : u64(masks[words + t]);
    }
    DEVICE bool sees(int lane, int t, u64 word, int half = 0) const {
        return word >> lane & 1 && lower[half] <= t - lane && t - lane <= upper[half];
    }
};

// The key tiles of a tile of queries, one after another; the same in all threads.
template <int KEYS> struct Walk {
    static constexpr int NUMBERS = HALVES == 1 ? 6 : 8;  // that say what a segment is
    const i64 *segment, *end;   // the segment that the walk is in, and the end of the last
    const unsigned char* mask;  // the key mask of the entry, or 0
    i64 column;                 // from one key to the next in it
    i64 begin;                  // the place of the tile in the segment
    int lanes[HALVES];          // queries
    KeyTile<KEYS> here;

    DEVICE Walk(const i64* segments, const i64* offsets, const unsigned char* mask, i64 column, int lanes,
                int others = 0)
        : segment(segments + NUMBERS * offsets[0]), end(segments + NUMBERS * offsets[1]), mask(mask),
          column(column), begin(-KEYS), here() {
        this->lanes[0] = lanes;
        this->lanes[HALVES - 1] = HALVES == 1 ? lanes : others;
    }

    // go on to the next tile of which any query sees any key; false if there is none
    DEVICE bool next() {
        for (begin += KEYS; segment != end;) {
            const i64 length = segment[2];
            if (begin >= length) {
                segment += NUMBERS;
                begin = 0;
                continue;
            }
            const int keys = int(min(length - begin, i64(KEYS)));
#pragma unroll
            for (int half = 0; half < HALVES; ++half) {
                const i64 low = segment[half ? 6 : 3], high = segment[half ? 7 : 4];
                i64 lower = max(low - begin, i64(-QUERIES)), upper = min(high - begin, i64(KEYS));
                if constexpr (HALVES > 1)  // of which one may see no key
                    lower = min(lower, i64(KEYS)), upper = max(upper, i64(-QUERIES));
                here.lower[half] = int(lower);
                here.upper[half] = int(upper);
            }
            here.step = segment[1];
            here.first = segment[0] + begin * here.step;
            here.words = segment[5] < 0 ? -1 : segment[5] + begin;
#pragma unroll
            for (int w = 0; w < KeyTile<KEYS>::WORDS; ++w) {
                const int some = KEYS <= 64 ? keys : max(min(keys - 64 * w, 64), 0);
                here.there[w] = KEYS > 64 && !some ? 0 : ~u64(0) >> (64 - some);
                if (hidden(0, keys) && (HALVES == 1 || hidden(1, keys))) here.there[w] = 0;
                else if (mask) here.there[w] &= shown(64 * w, some);
            }
            if (here.any()) return true;
            begin += KEYS;
        }
        return false;
    }
    // from all lanes of a half, so many keys of the tile
    DEVICE bool hidden(int half, int keys) const {
        const i64 low = segment[half ? 6 : 3], high = segment[half ? 7 : 4];
        return begin - (lanes[half] - 1) > high || begin + keys - 1 < low;
    }
    // of `count` keys of the tile from `from` on, those that the mask shows
    DEVICE u64 shown(int from, int count) const {
        u64 bits = 0;
#pragma unroll
        for (int half = 0; half < (KEYS < 64 ? KEYS : 64); half += 32) {
            const int t = half + threadIdx.x % 32;
            bits |= u64(__ballot_sync(ALL_LANES, t < count && mask[here.key(from + t) * column])) << half;
        }
        return bits;
    }
};

// Keys by distance, of one leading entry: key 0 is that of key - query = nearest, the last is `farthest`, and
// beyond them it is the same. All pairs of a tile that lie as far apart share one.
struct Apart {
    const stored* keys;
    i64 row, nearest, farthest;

    // that of all lanes l and keys t of a tile with t - l = apart - (QUERIES - 1); keys lie as far from one
    // another as queries do
    template <int KEYS>
    DEVICE const stored* operator()(int apart, const KeyTile<KEYS>& tile, i64 query) const {
        const i64 place = tile.first - query - nearest + (apart - (QUERIES - 1)) * tile.step;
        return keys + min(max(place, i64(0)), farthest) * row;
    }
};

// What is said of single pairs, of one leading entry.
struct Pairs {
    const unsigned char* mask;
    i64 mask_row, mask_column;
    const stored* bias;
    i64 bias_row, bias_column;
    const stored* table;  // bias by distance: entry 0 is that of key - query = nearest, the last `farthest`
    i64 table_row, table_column, nearest, farthest;
    const i64* q_label;   // a pair is hidden where low <= key's - query's <= high for any of the labels
    i64 q_label_row;
    const i64* k_label;
    i64 k_label_row;
    const i64* limits;
    i64 labels;
    Order q_at, k_at;     // where the labels lie

    // what is added to the scores of a query, in units of log 2, and -infinity where a pair is hidden; `key`
    // gives the key of each, or -1 where there is none
    template <int N, class Key> DEVICE void add(real (&s)[N], i64 query, const Key& key) const {
#define XF_EACH _Pragma("unroll") for (int j = 0; j < N; ++j) if (key(j) >= 0)
        if (bias) XF_EACH s[j] += widen(bias[query * bias_row + key(j) * bias_column]) * LOG2_E<real>;
        if (table) XF_EACH {
            const i64 apart = min(max(key(j) - query - nearest, i64(0)), farthest);
            s[j] += widen(table[query * table_row + apart * table_column]) * LOG2_E<real>;
        }
        if (mask) XF_EACH if (!mask[query * mask_row + key(j) * mask_column]) s[j] = minus_infinity();
        const i64 own = labels ? q_at(query) : 0;
        for (i64 which = 0; which < labels; ++which) XF_EACH {
            const i64 other = k_label[which * k_label_row + k_at(key(j))];
            const i64 apart = other - q_label[which * q_label_row + own];
            if (limits[2 * which] <= apart && apart <= limits[2 * which + 1]) s[j] = minus_infinity();
        }
#undef XF_EACH
    }
};

// One step of the online softmax, of a row that LANES neighbouring lanes share: scores, which are still to be
// multiplied by a positive `scale`, become weights, `top` the largest score so far, `total` this lane's share
// of the sum of weights. Returns what earlier weights shrink by.
template <int LANES, int COUNT>
DEVICE real soften(real (&s)[COUNT], real& top, real& total, const real scale = 1) {
    real most = s[0];
#pragma unroll
    for (int j = 1; j < COUNT; ++j) most = largest(most, s[j]);
    most = largest(top, group_largest<LANES>(most) * scale);
    // a row that has seen nothing keeps -infinity; 2 to the (-infinity - 0) is 0, (-infinity + infinity) is
    // NaN
    const real reference = most == minus_infinity() ? real(0) : most;
    const real shrink = power(top - reference);
    top = most;
    real sum = 0;
#pragma unroll
    for (int j = 0; j < COUNT; ++j) {
        s[j] = power(s[j] * scale - reference);
        sum += s[j];
    }
    total = total * shrink + sum;
    return shrink;
}

// the logarithm of a row's denominator, of which `whole` is all lanes' sum
DEVICE real lse_of(real top, real whole) {
    return whole == 0 ? minus_infinity() : (top + logarithm(whole)) * LOG_2<real>;
}
