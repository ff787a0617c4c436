/* A binary range coder with carry (as in LZMA), probabilities of 16 bits. The end is written in as few bytes as can be,
 * and there is only one way to write it, so that the decoder notices data that end too soon or too late. */
#ifndef WELLFIT_RANGE_CODER_H
#define WELLFIT_RANGE_CODER_H

#include "coders.h"

#define BOTTOM ((uint32_t)1 << 24)
#define LAST 4 /* so many zeros at the end are left out */

typedef struct {
    uint64_t low;
    uint32_t range, code;
    const uint8_t *data; /* of the decoder */
    uint8_t *out;        /* of the encoder */
    int64_t at, size;    /* bytes read or written, and all that there are or that there is room for */
    int64_t pending;     /* bytes of 255 that a carry may still change, */
    int held;            /* and the byte before them; -1 at the start */
    int failed;
} range_coder;

INLINE void put(range_coder *c, int byte) {
    if (c->at < c->size)
        c->out[c->at++] = (uint8_t)byte;
    else
        c->failed = 1;
}

static void shift_out(range_coder *c) {
    if (c->low < 0xff000000u || c->low >> 32) {
        int carry = (int)(c->low >> 32);
        if (c->held >= 0) put(c, c->held + carry);
        for (; c->pending; c->pending--) put(c, 255 + carry);
        c->held = (int)(c->low >> 24 & 255);
    } else {
        c->pending++;
    }
    c->low = (c->low & 0xffffff) << 8;
}

INLINE uint32_t next_byte(range_coder *c) {
    if (c->at >= c->size + LAST) c->failed = 1;
    uint32_t byte = c->at < c->size ? c->data[c->at] : 0;
    c->at++;
    return byte;
}

static void start_decoding(range_coder *c) {
    for (int i = 0; i < 4; i++) c->code = c->code << 8 | next_byte(c);
}

/* A bit that is 1 with probability p / 65536; the decoder ignores the one that it is given. */
INLINE int code_bit(range_coder *c, uint32_t p, int bit, int decoding) {
    uint32_t bound = (uint32_t)((uint64_t)c->range * p >> 16);
    if (decoding) bit = c->code < bound;
    if (bit) {
        c->range = bound;
    } else {
        c->low += bound;
        c->code -= bound;
        c->range -= bound;
    }
    while (c->range < BOTTOM) {
        c->range <<= 8;
        if (decoding) {
            c->low = (c->low & 0xffffff) << 8;
            c->code = c->code << 8 | next_byte(c);
        } else {
            shift_out(c);
        }
    }
    return bit;
}

/* The number of the final range that ends in most zeros. */
static uint64_t last_number(const range_coder *c) {
    for (int zeros = 32;; zeros--) {
        uint64_t number = (c->low + c->range - 1) >> zeros << zeros;
        if (number >= c->low) return number;
    }
}

/* Returns the bytes written, or TOO_SHORT. */
static int64_t end_encoding(range_coder *c) {
    c->low = last_number(c);
    for (int i = 0; i < 5; i++) shift_out(c);
    for (int i = 0; i < LAST && c->at && !c->out[c->at - 1]; i++) c->at--;
    return c->failed ? TOO_SHORT : c->at;
}

/* Returns 0, or IMPOSSIBLE where an encoder would have ended otherwise. */
static int64_t end_decoding(range_coder *c) {
    c->low &= 0xffffffff;
    if (c->size > c->at || (uint32_t)last_number(c) != (uint32_t)(c->low + c->code)) return IMPOSSIBLE;
    return c->size == c->at - LAST || (c->size && c->data[c->size - 1]) ? 0 : IMPOSSIBLE;
}

#endif
