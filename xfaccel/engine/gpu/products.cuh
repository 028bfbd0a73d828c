// Products of matrices that lie in shared memory; the sums are in registers.
//
// Threads stand in DOWN rows of 16. Thread (y, x) has the rows y, y + DOWN, ... of a result; of its columns
// either x, x + 16, ... (`multiply_rows`) or, from GROUP x on, GROUP neighbours, every 16 GROUP
// (`multiply_add_rows`).
#pragma once
#include "primitives.cuh"

constexpr int ACROSS = 16;

// neighbouring columns of a thread that has `columns` of them, and the place of its column c
DEVICE constexpr int group(int columns) { return columns < VECTOR ? columns : VECTOR; }
DEVICE constexpr int column_of(int columns, int x, int c) {
    return group(columns) * (x + ACROSS * (c / group(columns))) + c % group(columns);
}

// s[i][j] += row y + DOWN i of a times row x + 16 j of b, both `LINE` numbers apart and WIDTH long
template <int WIDTH, int LINE, int DOWN, int ROWS, int COLUMNS>
DEVICE void multiply_rows(const real* a, const real* b, int y, int x, real (&s)[ROWS][COLUMNS]) {
#pragma unroll 1
    for (int c = 0; c < WIDTH; c += VECTOR) {
        Vector row[COLUMNS];
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) row[j] = *(const Vector*)(b + (x + ACROSS * j) * LINE + c);
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            const Vector own = *(const Vector*)(a + (y + DOWN * i) * LINE + c);
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j)
#pragma unroll
                for (int n = 0; n < VECTOR; ++n) s[i][j] += own.at[n] * row[j].at[n];
        }
    }
}

// s[i][j] += row y + DOWN i of a times row LAST + (x + 16 j) - (y + DOWN i) of b: pairs that lie as far apart
// share a row, of which a thread thus needs few
template <int WIDTH, int LINE, int DOWN, int LAST, int ROWS, int COLUMNS>
DEVICE void multiply_apart(const real* a, const real* b, int y, int x, real (&s)[ROWS][COLUMNS]) {
    constexpr int RATIO = ACROSS / DOWN;
#pragma unroll 1
    for (int c = 0; c < WIDTH; c += VECTOR) {
        Vector own[ROWS];
#pragma unroll
        for (int i = 0; i < ROWS; ++i) own[i] = *(const Vector*)(a + (y + DOWN * i) * LINE + c);
#pragma unroll
        for (int apart = 1 - ROWS; apart <= RATIO * (COLUMNS - 1); ++apart) {
            const Vector row = *(const Vector*)(b + (LAST + x - y + DOWN * apart) * LINE + c);
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) {
                const int i = RATIO * j - apart;
                if (i < 0 || i >= ROWS) continue;
#pragma unroll
                for (int n = 0; n < VECTOR; ++n) s[i][j] += own[i].at[n] * row.at[n];
            }
        }
    }
}

// sums[i] += row y + DOWN i of a, COUNT numbers, times the rows of b, 16 COLUMNS long
template <int COUNT, int LINE, int DOWN, int ROWS, int COLUMNS>
DEVICE void multiply_add_rows(const real* a, const real* b, int y, int x, real (&sums)[ROWS][COLUMNS]) {
    constexpr int GROUP = group(COLUMNS);
#pragma unroll 1
    for (int t = 0; t < COUNT; t += VECTOR) {
        Vector own[ROWS];
#pragma unroll
        for (int i = 0; i < ROWS; ++i) own[i] = *(const Vector*)(a + (y + DOWN * i) * LINE + t);
#pragma unroll
        for (int n = 0; n < VECTOR; ++n)
#pragma unroll
            for (int c = 0; c < COLUMNS; c += GROUP) {
                const real* place = b + (t + n) * ACROSS * COLUMNS + column_of(COLUMNS, x, c);
                real row[GROUP];
                if constexpr (GROUP == VECTOR) *(Vector*)row = *(const Vector*)place;
                else
#pragma unroll
                    for (int g = 0; g < GROUP; ++g) row[g] = place[g];
#pragma unroll
                for (int i = 0; i < ROWS; ++i)
#pragma unroll
                    for (int g = 0; g < GROUP; ++g) sums[i][c + g] += own[i].at[n] * row[g];
            }
    }
}
