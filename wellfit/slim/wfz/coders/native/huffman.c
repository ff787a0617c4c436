/* Huffman coding: writing codes, and reading them through a table; huffman.py makes codes and tables. */
#include "coders.h"

#define STREAMS 4

/* A stream: `bits` holds the next `held` bits (above them may be more, already right), the rest is at `at`. */
typedef struct {
    const uint8_t *at, *end;
    uint64_t bits;
    unsigned held;
} stream;

EXPORT int wfz_abi(void) { return WFZ_ABI; }

/* Codes `count` symbols; a code has its bits (first one lowest) in its lower half and its length in its upper half.
 * Returns the bytes written, or TOO_SHORT where `room` bytes are not enough. */
EXPORT int64_t wfz_huffman_encode(const uint16_t *symbols, int64_t count, const uint32_t *codes, uint8_t *out,
                                  int64_t room) {
    uint64_t bits = 0;
    unsigned held = 0;
    int64_t size = 0;
    for (int64_t i = 0; i < count; i++) {
        uint32_t code = codes[symbols[i]];
        bits |= (uint64_t)(code & 0xffff) << held;
        held += code >> 16;
        for (; held >= 8; held -= 8, bits >>= 8) {
            if (size == room) return TOO_SHORT;
            out[size++] = (uint8_t)bits;
        }
    }
    if (held) {
        if (size == room) return TOO_SHORT;
        out[size++] = (uint8_t)bits;
    }
    return size;
}

/* At least 56 bits; asks for 8 bytes. */
INLINE void refill(stream *s) {
    s->bits |= load64(s->at) << s->held;
    s->at += (63 - s->held) >> 3;
    s->held |= 56;
}

INLINE uint16_t next_symbol(stream *s, const uint32_t *table, uint64_t mask) {
    uint32_t entry = table[s->bits & mask];
    s->bits >>= entry >> 16;
    s->held -= entry >> 16;
    return (uint16_t)entry;
}

/* The streams side by side, as long as all have 8 bytes and a symbol for each of `each`; returns how many each gave. */
INLINE int64_t together(stream *streams, const uint32_t *table, uint64_t mask, uint16_t *const *out, int64_t count,
                        int each) {
    stream a = streams[0], b = streams[1], c = streams[2], d = streams[3];
    uint16_t *to_a = out[0], *to_b = out[1], *to_c = out[2], *to_d = out[3];
    int64_t done = 0;
    while (done + each <= count && a.end - a.at >= 8 && b.end - b.at >= 8 && c.end - c.at >= 8 && d.end - d.at >= 8) {
        refill(&a);
        refill(&b);
        refill(&c);
        refill(&d);
        for (int i = 0; i < each; i++, done++) {
            to_a[done] = next_symbol(&a, table, mask);
            to_b[done] = next_symbol(&b, table, mask);
            to_c[done] = next_symbol(&c, table, mask);
            to_d[done] = next_symbol(&d, table, mask);
        }
    }
    streams[0] = a, streams[1] = b, streams[2] = c, streams[3] = d;
    return done;
}

/* The rest of one stream, which must end with its last symbol's byte. */
static int finish(stream *s, const uint32_t *table, int bits, uint16_t *out, int64_t count) {
    uint64_t mask = ((uint64_t)1 << bits) - 1;
    int64_t i = 0;
    while (i + 3 <= count && s->end - s->at >= 8) {
        refill(s);
        for (int k = 0; k < 3; k++) out[i++] = next_symbol(s, table, mask);
    }
    if (s->held < 64) s->bits &= ((uint64_t)1 << s->held) - 1;
    for (; i < count; i++) {
        while (s->held < (unsigned)bits && s->at < s->end) {
            s->bits |= (uint64_t)*s->at++ << s->held;
            s->held += 8;
        }
        unsigned length = table[s->bits & mask] >> 16;
        if (length > s->held) return TOO_SHORT;
        out[i] = next_symbol(s, table, mask);
    }
    return s->at != s->end || s->held >= 8 || s->bits ? IMPOSSIBLE : 0;
}

/* Decodes 1 or 4 streams that lie one after the other in `data`; stream k gives the symbols from starts[k] to
 * starts[k + 1]. A table entry has a symbol in its lower half and its length, 1 to `bits`, in its upper half; `bits` is
 * at most 16. The sizes must fit the data. Returns 0, TOO_SHORT or IMPOSSIBLE. */
EXPORT int wfz_huffman_decode(const uint8_t *data, const int64_t *sizes, const int64_t *starts, int number,
                              const uint32_t *table, int bits, uint16_t *out) {
    stream streams[STREAMS];
    uint16_t *to[STREAMS];
    int64_t done = 0;
    if ((number != 1 && number != STREAMS) || bits < 1 || bits > 16) return IMPOSSIBLE;
    for (int k = 0; k < number; k++) {
        streams[k] = (stream){data, data + sizes[k], 0, 0};
        to[k] = out + starts[k];
        data += sizes[k];
    }
    if (number == STREAMS) {
        int64_t shortest = starts[1] - starts[0];
        for (int k = 1; k < STREAMS; k++)
            if (starts[k + 1] - starts[k] < shortest) shortest = starts[k + 1] - starts[k];
        uint64_t mask = ((uint64_t)1 << bits) - 1;
        if (bits <= 11)
            done = together(streams, table, mask, to, shortest, 5);
        else
            done = together(streams, table, mask, to, shortest, 3);
    }
    for (int k = 0; k < number; k++) {
        int status = finish(&streams[k], table, bits, to[k] + done, starts[k + 1] - starts[k] - done);
        if (status) return status;
    }
    return 0;
}
