// Rows of 16-bit numbers in shared memory, as the matrix units take them: copied there, and addressed. And
// pieces of rows elsewhere.
//
// A row has the padded width, zeros beyond d or e, and its pieces of 16 bytes are swapped from row to row so
// that eight rows are read from different banks.
#pragma once
#include "primitives.cuh"

constexpr int THREADS = 128;  // of the block that copies

// where column `column` of a row lies: the lowest bits of the piece's number are mixed with the row's
template <int WIDTH> DEVICE int place(int row, int column) {
    const int piece = column / 8, mixed = WIDTH < 64 ? piece ^ (row / 2 & 3) : piece ^ (row & 7);
    return row * WIDTH + 8 * mixed + column % 8;
}

// What a lane gives `load_matrices`: the address of its row, for 16 columns. Those of 64 columns differ in
// two bits; columns and rows further on, by multiples of 64 and 16, are as far away from all of them, so that
// no address has to be computed for a product.
template <int WIDTH> struct Factor {
    static constexpr int PLACES = WIDTH < 64 ? WIDTH / 16 : 4;
    u32 first[PLACES];

    // with the second 8 columns if `half` is 1
    DEVICE Factor(const stored* rows, int row, int half) {
#pragma unroll
        for (int i = 0; i < PLACES; ++i)
            first[i] = shared_address(rows + place<WIDTH>(row, 16 * i + 8 * half));
    }
    DEVICE u32 at(int rows, int column) const {
        return first[column / 16 % PLACES] + sizeof(stored) * (rows * WIDTH + column / 64 * 64);
    }
};

// s += the rows of a times those of b from `row` on, COLUMNS / 4 times 16 of them
template <int WIDTH, int COLUMNS>
DEVICE void multiply_rows(const Factor<WIDTH>& a, const Factor<WIDTH>& b, int row, float (&s)[2][COLUMNS]) {
#pragma unroll
    for (int c = 0; c < WIDTH; c += 16) {
        u32 own[4];
        load_matrices(own, a.at(0, c));
#pragma unroll
        for (int t = 0; t < COLUMNS / 4; ++t) {
            u32 other[4];
            load_matrices(other, b.at(row + 16 * t, c));
            multiply_add(s, 2 * t, own, other[0], other[1], stored());
            multiply_add(s, 2 * t + 1, own, other[2], other[3], stored());
        }
    }
}

// COUNT rows x(r), their WIDTH columns from `column` on, with zeros from `width` on and for rows that are
// null; `whole` says that all rows begin at a multiple of 16 bytes, as `anchor` then does
template <int COUNT, int WIDTH, class Row>
DEVICE void load_rows(stored* to, i64 column, i64 width, bool whole, const stored* anchor, const Row& x) {
#pragma unroll
    for (int i = threadIdx.x; i < COUNT * WIDTH / 8; i += THREADS) {
        const int r = i / (WIDTH / 8), c = i % (WIDTH / 8) * 8;
        const stored* row = x(r);
        const int number = row ? int(min(max(width - column - c, i64(0)), i64(8))) : 0;
        const stored* from = number ? row + column + c : anchor;  // of which nothing is read
        stored* target = to + place<WIDTH>(r, c);
        if (whole) {
            copy_async(target, from, number * sizeof(stored));
        } else {
#pragma unroll
            for (int n = 0; n < 8; ++n) target[n] = n < number ? from[n] : stored{0};
        }
    }
}

// the same where all rows are there, `row` numbers apart: one address goes from row to row, which saves
// most of the instructions; every thread has pieces of the same columns
template <int COUNT, int WIDTH>
DEVICE void copy_rows(stored* to, i64 column, i64 width, const stored* first, i64 row) {
    constexpr int PIECES = WIDTH / 8, DOWN = THREADS / PIECES;
    const int r = threadIdx.x / PIECES, c = threadIdx.x % PIECES * 8;
    const int number = int(min(max(width - column - c, i64(0)), i64(8)));
    const stored* from = number ? first + r * row + column + c : first;
    const i64 across = number ? DOWN * row : 0;
#pragma unroll
    for (int i = 0; i < COUNT / DOWN; ++i, from += across)
        copy_async(to + place<WIDTH>(r + DOWN * i, c), from, number * sizeof(stored));
}

DEVICE bool is_whole(const stored* first, i64 row) { return u64(first) % 16 == 0 && row % 8 == 0; }

struct alignas(16) Piece { stored at[8]; };

// 8 numbers of a row from `from` on, of which `number` are there, and zeros for the others
DEVICE Piece read_piece(const stored* from, int number, bool whole) {
    if (whole && number >= 8) return *(const Piece*)from;
    Piece x;
#pragma unroll
    for (int n = 0; n < 8; ++n) x.at[n] = n < number ? from[n] : stored{0};
    return x;
}
DEVICE void write_piece(const Piece& x, stored* to, int number, bool whole) {
    if (whole && number >= 8) {
        *(Piece*)to = x;
        return;
    }
#pragma unroll
    for (int n = 0; n < 8; ++n)
        if (n < number) to[n] = x.at[n];
}
