/* rANS with 32-bit states and 16-bit words; one or four states take turns and share one stream of words. */
#include "coders.h"

#define LOW ((uint32_t)1 << 16)
#define MOST 4

/* Codes `count` symbols from the last to the first, into the end of `out` (of `room` bytes).
 * Returns the bytes written, or TOO_SHORT. The frequency of a symbol is in the lower half of `table`, the sum of those
 * before it in the upper half; all sum up to 1 << bits. */
EXPORT int64_t wfz_rans_encode(const uint16_t *symbols, int64_t count, const uint32_t *table, int bits, int states,
                               uint8_t *out, int64_t room) {
    uint32_t state[MOST] = {LOW, LOW, LOW, LOW};
    int64_t at = room;
    for (int64_t i = count - 1; i >= 0; i--) {
        uint32_t *x = &state[i % states], frequency = table[symbols[i]] & 0xffff, before = table[symbols[i]] >> 16;
        if ((uint64_t)*x >= (uint64_t)frequency << (32 - bits)) {
            if (at < 2) return TOO_SHORT;
            out[--at] = (uint8_t)(*x >> 8);
            out[--at] = (uint8_t)*x;
            *x >>= 16;
        }
        *x = ((*x / frequency) << bits) + *x % frequency + before;
    }
    if (at < 4 * states) return TOO_SHORT;
    for (int k = states - 1; k >= 0; k--)
        for (int byte = 3; byte >= 0; byte--) out[--at] = (uint8_t)(state[k] >> 8 * byte);
    return room - at;
}

/* One symbol. `slots` has for each of the 1 << bits places a symbol, its frequency and how far into it the place is, of
 * 16 bits each. */
INLINE uint16_t next_symbol(uint32_t *state, const uint64_t *slots, int bits) {
    uint64_t slot = slots[*state & (((uint32_t)1 << bits) - 1)];
    *state = (uint32_t)(slot >> 16 & 0xffff) * (*state >> bits) + (uint32_t)(slot >> 32 & 0xffff);
    return (uint16_t)slot;
}

INLINE uint32_t load16(const uint8_t *from) { return (uint32_t)from[0] | (uint32_t)from[1] << 8; }

/* Four symbols, one of each state; asks for 8 bytes at `data`. Returns where the next word is. */
INLINE const uint8_t *four(uint32_t *x, const uint64_t *slots, int bits, const uint8_t *data, uint16_t *out) {
    for (int k = 0; k < MOST; k++) {
        out[k] = next_symbol(&x[k], slots, bits);
        uint32_t more = x[k] < LOW;
        uint32_t filled = x[k] << 16 | load16(data);
        x[k] = more ? filled : x[k];
        data += 2 * more;
    }
    return data;
}

/* Decodes `count` symbols from `size` bytes, all of which must be used. Returns 0, TOO_SHORT or IMPOSSIBLE. */
EXPORT int wfz_rans_decode(const uint8_t *data, int64_t size, int64_t count, const uint64_t *slots, int bits, int states,
                           uint16_t *out) {
    const uint8_t *end = data + size;
    uint32_t x[MOST];
    int64_t i = 0;
    if ((states != 1 && states != MOST) || bits < 1 || bits > 16) return IMPOSSIBLE;
    if (size < 4 * states) return TOO_SHORT;
    for (int k = 0; k < states; k++, data += 4) {
        x[k] = load16(data) | load16(data + 2) << 16;
        if (x[k] < LOW) return IMPOSSIBLE;
    }
    if (states == MOST) {
        uint32_t a[MOST] = {x[0], x[1], x[2], x[3]};
        for (; i + MOST <= count && end - data >= 2 * MOST; i += MOST) data = four(a, slots, bits, data, out + i);
        memcpy(x, a, sizeof a);
    }
    for (; i < count; i++) {
        uint32_t *state = &x[i % states];
        out[i] = next_symbol(state, slots, bits);
        if (*state < LOW) {
            if (end - data < 2) return TOO_SHORT;
            *state = *state << 16 | load16(data);
            data += 2;
        }
    }
    for (int k = 0; k < states; k++)
        if (x[k] != LOW) return IMPOSSIBLE;
    return data == end ? 0 : IMPOSSIBLE;
}
