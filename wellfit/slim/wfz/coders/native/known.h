/* What is known at a place of a matrix: the state of the mixing coder, and what its contexts are made of. */
#ifndef WELLFIT_KNOWN_H
#define WELLFIT_KNOWN_H

#include "mixer.h"

#define TABLE_BITS 14 /* of the hashed tables of values */
#define FLAG_TABLE 1024
#define FLAGS 8
#define VALUES 12
#define SETS 320

/* What is known of a column: weights above (nonzeros, their magnitudes, how many are positive, the last one). */
typedef struct {
    int64_t magnitudes;
    uint32_t nonzeros, positives;
    uint16_t last;
    uint8_t recent; /* whether the last 8 are nonzero; the last one is lowest */
} line;

typedef struct {
    tables t;
    int64_t rows, columns, kernel, width, lag; /* width: columns * kernel */
    int64_t negatives, positives;              /* values of either sign */
    int depth;                                 /* bits of a magnitude */
    uint16_t *symbols;
    line *lines;
    uint32_t *kernels; /* nonzeros so far in each column's kernels */
    counter order0;
    counter flags[FLAGS][FLAG_TABLE];
    counter values[VALUES][1 << TABLE_BITS];
    mixer flag_mixers[SETS], value_mixers[SETS];
} model;

/* Where in the matrix we are, and what was in this row. */
typedef struct {
    int64_t row, column, place, at; /* place: in the row; at: of all */
    line line;                      /* of the row */
    uint16_t before_last;
    uint32_t recent;
    int64_t kernel_start, in_kernel;
} position;

INLINE int bit_length(uint64_t x) {
#if defined(__GNUC__)
    return x ? 64 - __builtin_clzll(x) : 0;
#else
    int bits = 0;
    for (; x; x >>= 1) bits++;
    return bits;
#endif
}

/* The symbol `back` rows up and `left` places to the left; 0 outside. */
INLINE uint32_t symbol_at(const model *m, const position *at, int64_t back, int64_t left) {
    int64_t place = at->place - left;
    if (back > at->row || place < 0 || place >= m->width) return 0;
    return m->symbols[at->at - back * m->width - left];
}

INLINE uint32_t nonzero(const model *m, const position *at, int64_t back, int64_t left) {
    return symbol_at(m, at, back, left) != 0;
}

/* The share of nonzeros among `n`, drawn towards the overall one, stretched. */
INLINE int32_t density(const tables *t, uint64_t nonzeros, uint64_t n, uint32_t overall) {
    uint64_t p = (nonzeros * (65536 * 16) + overall * 24) / (n * 16 + 24);
    return stretch(t, p < 1 ? 1 : p > 65535 ? 65535 : (uint32_t)p);
}

/* How a density compares with the overall one: 0 to 12. */
INLINE uint32_t level(int32_t density, int32_t overall) {
    int32_t difference = density - overall;
    if (difference < -832) difference = -832;
    if (difference > 831) difference = 831;
    return (uint32_t)(difference + 832) >> 7;
}

/* -1, 0 or 1. */
INLINE int32_t sign_of(const model *m, uint32_t symbol) {
    return symbol ? (int64_t)symbol - 1 < m->negatives ? -1 : 1 : 0;
}

/* 0 for zero, then the bits of the magnitude and one more: 1 to 7. */
INLINE uint32_t size_of(const model *m, uint32_t symbol) {
    if (!symbol) return 0;
    int64_t value = (int64_t)symbol - 1 - m->negatives;
    int bits = bit_length((uint64_t)(value < 0 ? -1 - value : value));
    return 1 + (uint32_t)(bits < 6 ? bits : 6);
}

/* The share of nonzeros so far in the columns beside this one and a lag away. */
INLINE int32_t density_near(const model *m, const position *at, uint32_t overall) {
    const int64_t reach[4] = {1, -1, m->lag, -m->lag};
    uint64_t nonzeros = 0, weights = 0;
    for (int i = 0; i < (m->lag ? 4 : 2); i++) {
        int64_t other = at->place - reach[i];
        if (other < 0 || other >= m->width) continue;
        nonzeros += m->lines[other].nonzeros;
        weights += (uint64_t)(at->row + (reach[i] > 0));
    }
    return density(&m->t, nonzeros, weights, overall);
}

/* Which neighbours are not zero. */
INLINE uint32_t around(const model *m, const position *at) {
    uint32_t sides = nonzero(m, at, 1, 0) | nonzero(m, at, 1, 1) << 1 | nonzero(m, at, 1, -1) << 2 |
                     (at->recent & 3) << 3 | nonzero(m, at, 2, 0) << 5;
    if (!m->lag) return sides | (at->recent >> 2 & 1) << 6;
    return sides | nonzero(m, at, 0, m->lag) << 6 | nonzero(m, at, 1, m->lag) << 7 | nonzero(m, at, 1, -m->lag) << 8;
}

/* Which weights before this one in the row, beside it and a lag away, are not zero. */
INLINE uint32_t in_row(const model *m, const position *at) {
    if (!m->lag) return at->recent & 63;
    return (at->recent & 3) | nonzero(m, at, 0, m->lag - 1) << 2 | nonzero(m, at, 0, m->lag) << 3 |
           nonzero(m, at, 0, m->lag + 1) << 4 | nonzero(m, at, 0, 2 * m->lag) << 5 | 64;
}

/* Bits of the numbers of nonzeros in column and row, and whether the nearest weights are some. */
INLINE uint32_t counts(const model *m, const position *at) {
    int many = bit_length(m->lines[at->place].nonzeros), along = bit_length(at->line.nonzeros);
    uint32_t both = (uint32_t)(many < 15 ? many : 15) << 4 | (uint32_t)(along < 15 ? along : 15);
    return both << 2 | (at->recent & 1) | nonzero(m, at, 1, 0) << 1;
}

INLINE uint32_t sizes(const model *m, const position *at) {
    return size_of(m, symbol_at(m, at, 0, 1)) << 6 | size_of(m, symbol_at(m, at, 1, 0)) << 3 |
           size_of(m, symbol_at(m, at, 0, m->lag ? m->lag : 2));
}

#endif
