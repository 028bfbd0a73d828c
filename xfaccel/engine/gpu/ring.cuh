// What groups of warps that copy and groups that multiply have between them in shared memory: queries, a ring
// of tiles of keys and one of values, and what is said of each.
//
// Included with XF_HALVES 2: a tile of queries is two of a tile list.
#pragma once
#include "tiles.cuh"

constexpr int GROUP = 128;  // threads of four warps
constexpr int WARPS = 2 * GROUP / 32;  // that multiply
constexpr int ROWS = 2 * QUERIES;
constexpr int KEYS = 128;   // in a tile
constexpr int STAGES = 3;
constexpr int PANEL = 64;   // columns that lie together
constexpr int PANELS = XF_WIDTH / PANEL;
constexpr int BYTES = KEYS * XF_WIDTH * sizeof(stored), LINE = PANEL * sizeof(stored);  // of a tile, a row
constexpr int PIECES = XF_WIDTH / 8, DOWN = GROUP / PIECES;

// what a half has to do with a tile of keys; OVER stands behind the last
enum { OVER, HIDDEN, PARTLY, FULLY };
struct Said {
    KeyTile<KEYS> tile;
    int how[2];
};
// the queries of a half
struct Tile { i64 first, step, count; };
struct Item {
    i64 entry;  // below 0 behind the last
    Tile tile;
};
struct Shared {
    Said said[STAGES];
    Item item[2][2];  // of both halves: one may still write results when the other has new queries
    u64 q_there[2], q_read[2], k_there[STAGES], k_read[STAGES], v_read[STAGES];
};

// a place in a ring, and whether its round is an odd one
struct Place {
    int stage = 0, parity = 0;
    DEVICE void advance() {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
};

// where column `column` of a row lies, of panels of COUNT rows: pieces of 16 bytes are swapped by row
template <int COUNT> DEVICE int place(int row, int column) {
    return (column / PANEL * COUNT + row) * PANEL + 8 * (column % PANEL / 8 ^ (row & 7)) + column % 8;
}

// COUNT rows x(r) of panels of PANEL_ROWS, their XF_WIDTH columns from `column` on, zeros from `width` on and
// for rows that are null
template <int COUNT, int PANEL_ROWS, class Row>
DEVICE void load_rows(stored* to, i64 column, i64 width, const stored* anchor, const Row& x) {
    const int r = threadIdx.x / PIECES, c = threadIdx.x % PIECES * 8;
    const int number = int(min(max(width - column - c, i64(0)), i64(8)));
    stored* const first = to + place<PANEL_ROWS>(r, c);
#pragma unroll 2
    for (int i = 0; i < COUNT; i += DOWN) {
        const stored* const row = number ? x(r + i) : nullptr;
        copy_async(first + i * PANEL, row ? row + column + c : anchor, row ? number * sizeof(stored) : 0);
    }
}

// the same where all rows are there, `row` numbers apart
template <int COUNT>
DEVICE void copy_rows(stored* to, i64 column, i64 width, const stored* from, i64 row) {
    const int r = threadIdx.x / PIECES, c = threadIdx.x % PIECES * 8;
    const int number = int(min(max(width - column - c, i64(0)), i64(8)));
    if (number) from += r * row + column + c;
    const i64 across = number ? DOWN * row : 0;
    to += place<COUNT>(r, c);
#pragma unroll
    for (int i = 0; i < COUNT; i += DOWN, from += across)
        copy_async(to + i * PANEL, from, number * sizeof(stored));
}

// a half's scores of a tile: these go on when it returns, as `add_values` does
DEVICE void score(float (&s)[2][KEYS / 4], u32 queries, u32 keys) {
    copies_to_products();
    settle(s);
    products_begin();
#pragma unroll
    for (int c = 0; c < XF_WIDTH; c += 16) {
        const int within = c % PANEL * sizeof(stored), panel = c / PANEL * LINE;
        multiply_rows(s, further(queries, panel * ROWS + within), further(keys, panel * KEYS + within),
                      c != 0, stored());
    }
    products_commit();
}

// += the weights times a tile of values
DEVICE void add_values(float (&sums)[2][XF_WIDTH / 4], const u32 (&weights)[KEYS / 4], u32 values) {
#pragma unroll
    for (int t = 0; t < KEYS; t += 16)
        multiply_add(sums, weights + t / 4, further(values, t * LINE), stored());
    products_commit();
}

// the scores of pairs that do not see one another; `own_lane` of a half and the lane 8 further have two rows
DEVICE void hide(float (&s)[2][KEYS / 4], const KeyTile<KEYS>& now, const i64* masks, int half,
                 int own_lane) {
    const int own = threadIdx.x % 4 * 2;  // this thread's first key
    const int low = now.lower[half] + own_lane - own, high = now.upper[half] + own_lane - own;
    const auto key = [](int j) { return j / 2 * 8 + j % 2; };  // behind the first
    if (now.lower[half] > 1 - QUERIES || now.upper[half] < KEYS - 1) {
#pragma unroll
        for (int j = 0; j < KEYS / 4; ++j)
#pragma unroll
            for (int r = 0; r < 2; ++r)
                if (key(j) < low + 8 * r || key(j) > high + 8 * r) s[r][j] = minus_infinity();
    }
    if (!now.all()) {
        const u64 there[2] = {now.there[0] >> own, now.there[1] >> own};
#pragma unroll
        for (int j = 0; j < KEYS / 4; ++j)
            if (!(there[key(j) / 64] >> key(j) % 64 & 1)) s[0][j] = s[1][j] = minus_infinity();
    }
    if (now.words >= 0) {
#pragma unroll
        for (int j = 0; j < KEYS / 4; ++j) {
            const u64 word = now.word(masks, own + key(j)) >> own_lane;
            if (!(word & 1)) s[0][j] = minus_infinity();
            if (!(word >> 8 & 1)) s[1][j] = minus_infinity();
        }
    }
    __syncwarp();  // all lanes have read what is said
}
