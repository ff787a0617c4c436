/* One binary decision: counters give probabilities, mixers weigh them, all in whole numbers. `>>` of negative numbers
 * rounds down, as every compiler has it and as twin_mixing.py does. */
#ifndef WELLFIT_MIXER_H
#define WELLFIT_MIXER_H

#include "range_coder.h"

#define INPUTS 16
#define REACH 2815 /* of stretched probabilities; see logistic.py */
#define FINE 2048
#define ONE 256        /* a stretched probability of 1 / (1 + 1/e) */
#define SURE 400       /* errors up to this teach the mixers nothing: speed on sparse tensors */
#define FIRST 28       /* a counter's first steps are 16 / 28, 16 / 44, ... of the way */
#define HEAVIEST (1 << 19)
#define SLOW 4096 /* mixers learn more slowly until they have seen so much */

enum { FLAG = 0, VALUE = 1 };
static const uint32_t LIMITS[2] = {255, 127}; /* counters slow down until they have seen so much */
static const int32_t FAST[2] = {32, 32}, STEADY[2] = {4, 8}; /* mixers, at first and in the long run */

/* A probability of 22 bits, and below it in 10 bits how often it was updated. */
typedef uint32_t counter;

typedef struct {
    int32_t weights[INPUTS]; /* 65536 is 1 */
    int32_t seen;
} mixer;

typedef struct {
    range_coder coder;
    const uint16_t *squash;
    const int16_t *stretch;
    uint32_t steps[1024];    /* of counters, by how much they have seen */
    int32_t rates[2][SLOW];  /* of mixers: flags, values */
} tables;

static void prepare(tables *t) {
    for (int32_t i = 0; i < 1024; i++) t->steps[i] = 65536 * 16 / (16 * (uint32_t)i + FIRST);
    for (int kind = 0; kind < 2; kind++)
        for (int32_t i = 0; i < SLOW; i++)
            t->rates[kind][i] = STEADY[kind] * 16 + (FAST[kind] - STEADY[kind]) * 16 * 200 / (200 + i);
}

INLINE int32_t clipped(int64_t x) { return x > REACH ? REACH : x < -REACH ? -REACH : (int32_t)x; }

INLINE int32_t squash(const tables *t, int32_t x) { return t->squash[x + REACH]; }

INLINE int32_t stretch(const tables *t, uint32_t p) {
    uint32_t less = p > 32768 ? 65536 - p : p;
    int32_t x = less < FINE ? t->stretch[less] : t->stretch[FINE + (less >> 4)];
    return p > 32768 ? -x : x;
}

/* The probability of a counter as 16 bits, never 0; that of its parent where it has seen nothing. */
INLINE uint32_t probability(counter c, uint32_t parent) {
    uint32_t p = c & 1023 ? c >> 16 : parent;
    return p ? p : 1;
}

INLINE void update(const tables *t, counter *c, int bit, uint32_t limit, uint32_t parent) {
    uint32_t seen = *c & 1023, p = seen ? *c >> 10 : parent << 6;
    uint64_t step = t->steps[seen];
    if (bit)
        p += (uint32_t)(((1u << 22) - 1 - p) * step >> 16);
    else
        p -= (uint32_t)(p * step >> 16);
    *c = p << 10 | (seen < limit ? seen + 1 : seen);
}

INLINE int32_t weighed(const mixer *m, const int32_t *inputs, int n) {
    int64_t sum = 0;
    for (int i = 0; i < n; i++) sum += (int64_t)m->weights[i] * inputs[i];
    return clipped(sum >> 16);
}

INLINE void teach(mixer *m, const int32_t *inputs, int n, int32_t error, const int32_t *rates) {
    int32_t step = error * rates[m->seen] >> 8;
    m->seen += m->seen < SLOW - 1;
    for (int i = 0; i < n; i++) {
        int32_t w = m->weights[i] + ((inputs[i] * step + (1 << 15)) >> 16);
        m->weights[i] = w > HEAVIEST ? HEAVIEST : w < -HEAVIEST ? -HEAVIEST : w;
    }
}

/* Codes a bit. `inputs` has `given` stretched probabilities already; those of the counters follow, and a constant. */
INLINE int decide(tables *t, counter *const *counters, int n, int32_t *inputs, int given, uint32_t parent,
                  mixer *const *mixers, int kind, int bit, int decoding) {
    int32_t x[3], mean = 0;
    for (int i = 0; i < n; i++) inputs[given++] = stretch(t, probability(*counters[i], parent));
    inputs[given++] = ONE;
    for (int i = 0; i < 3; i++) mean += x[i] = weighed(mixers[i], inputs, given);
    /* Rounded down for negative sums too. */
    int32_t p = squash(t, (mean + 3 * REACH) / 3 - REACH);
    bit = code_bit(&t->coder, (uint32_t)p, bit, decoding);
    int32_t error = (bit ? 65536 : 0) - p;
    if (error > SURE || error < -SURE)
        for (int i = 0; i < 3; i++)
            teach(mixers[i], inputs, given, (bit ? 65536 : 0) - squash(t, x[i]), t->rates[kind]);
    for (int i = 0; i < n; i++) update(t, counters[i], bit, LIMITS[kind], parent);
    return bit;
}

#endif
