/* Context mixing for weight matrices: what each weight is likely to be, from those before it. twin_mixing.py says the
 * same in Python, bit for bit; mixing.py says what the parts of a symbol are. */
#include "known.h"

#define FLAG_WEIGHT 5120 /* of each input, at the start */
#define VALUE_WEIGHT 2560

/* Codes whether a weight is not zero; gives the level of its column's density. */
INLINE int flag(model *m, const position *at, int bit, uint32_t *column_level, int kernels, int decoding) {
    const line *above = &m->lines[at->place];
    uint32_t overall = probability(m->order0, 32768);
    int32_t inputs[INPUTS] = {stretch(&m->t, overall),
                              density(&m->t, above->nonzeros, (uint64_t)at->row, overall),
                              density(&m->t, at->line.nonzeros, (uint64_t)at->place, overall),
                              density_near(m, at, overall)};
    uint32_t of_column = level(inputs[1], inputs[0]), of_row = level(inputs[2], inputs[0]);
    counter *counters[FLAGS] = {&m->flags[0][above->recent & 63],  &m->flags[1][around(m, at)],
                                &m->flags[2][of_column << 4 | of_row], &m->flags[3][counts(m, at)],
                                &m->flags[4][in_row(m, at)],      &m->flags[5][sizes(m, at)]};
    int given = 4, n = 6;
    if (kernels) {
        uint64_t passed = (uint64_t)(at->place - at->kernel_start), found = (uint64_t)at->in_kernel;
        uint64_t seen = (uint64_t)(at->row * m->kernel) + passed;
        inputs[given++] = density(&m->t, m->kernels[at->column], seen, overall);
        inputs[given++] = density(&m->t, found, passed, overall);
        counters[n++] = &m->flags[6][level(inputs[4], inputs[0]) << 4 | of_row];
        counters[n++] = &m->flags[7][(found < 15 ? found : 15) << 6 | (passed < 63 ? passed : 63)];
    }
    int age = bit_length((uint64_t)at->row);
    mixer *mixers[3] = {&m->flag_mixers[of_column], &m->flag_mixers[16 + of_row],
                        &m->flag_mixers[32 + (age < 15 ? age : 15)]};
    *column_level = of_column;
    bit = decide(&m->t, counters, n, inputs, given, overall, mixers, FLAG, bit, decoding);
    update(&m->t, &m->order0, bit, 1023, 32768);
    return bit;
}

/* One decision of a value: the sign (node 0, depth 0) or a bit of the magnitude. */
INLINE int value_bit(model *m, const uint32_t *contexts, uint32_t column_level, uint32_t node, uint32_t plain,
                     uint32_t depth, int bit, int decoding) {
    counter *counters[VALUES];
    int32_t inputs[INPUTS];
    for (uint32_t i = 0; i < VALUES; i++) {
        uint32_t hash = contexts[i] * 0x9e3779b1u + (i == 1 ? plain : node) * 0x85ebca6bu;
        hash = (hash ^ hash >> 15) * 0x2c1b3c6du;
        counters[i] = &m->values[i][hash >> (32 - TABLE_BITS)];
    }
    mixer *mixers[3] = {&m->value_mixers[depth], &m->value_mixers[32 + column_level + 16 * (depth == 0)],
                        &m->value_mixers[64 + (plain < 255 ? plain : 255)]};
    uint32_t parent = probability(*counters[0], 32768);
    return decide(&m->t, counters, VALUES, inputs, 0, parent, mixers, VALUE, bit, decoding);
}

/* What a value may depend on; see mixing.py. */
INLINE void value_contexts(const model *m, const position *at, uint32_t *contexts) {
    const line *above = &m->lines[at->place], *before = &at->line;
    uint32_t left = symbol_at(m, at, 0, 1), up = symbol_at(m, at, 1, 0);
    uint32_t lagged = m->lag ? symbol_at(m, at, 0, m->lag) : 0;
    contexts[0] = contexts[1] = 0;
    contexts[2] = before->last;
    contexts[3] = above->last;
    const line *both[2] = {above, before};
    for (int i = 0; i < 2; i++) {
        uint64_t n = both[i]->nonzeros;
        contexts[4 + i] = n ? (uint32_t)((uint64_t)both[i]->positives * 8 / n) << 6 |
                                  (uint32_t)bit_length((uint64_t)both[i]->magnitudes * 4 / n)
                            : 1023;
    }
    contexts[6] = (uint32_t)(40 + sign_of(m, left) + 3 * sign_of(m, up) + 9 * sign_of(m, lagged) +
                             27 * sign_of(m, symbol_at(m, at, 2, 0)));
    contexts[7] = (uint32_t)at->place;
    contexts[8] = (uint32_t)at->row;
    contexts[9] = left << 16 | up;
    contexts[10] = lagged << 16 | at->before_last;
    int32_t row_signs = 8, above_signs = 8;
    for (int64_t i = 1; i <= 3; i++) row_signs += sign_of(m, symbol_at(m, at, 0, i));
    for (int64_t i = -1; m->lag && i <= 1; i++) row_signs += sign_of(m, symbol_at(m, at, 0, m->lag + i));
    for (int64_t i = -2; i <= 2; i++) above_signs += sign_of(m, symbol_at(m, at, 1, i));
    contexts[11] = (uint32_t)(row_signs << 5 | above_signs);
}

/* Codes a symbol that is not 0: its sign, then its magnitude from the highest bit on. */
INLINE uint32_t value(model *m, position *at, uint32_t symbol, uint32_t column_level, int decoding) {
    uint32_t contexts[VALUES];
    value_contexts(m, at, contexts);
    int64_t signed_value = (int64_t)symbol - 1 - m->negatives;
    int negative = m->negatives > 0;
    if (m->negatives && m->positives)
        negative = value_bit(m, contexts, column_level, 0, 0, 0, signed_value < 0, decoding);
    int64_t side = negative ? m->negatives : m->positives, magnitude = negative ? -1 - signed_value : signed_value;
    int64_t known = 0;
    for (int depth = 0; depth < m->depth; depth++) {
        int place = m->depth - 1 - depth;
        uint32_t plain = (uint32_t)(known >> (place + 1)) | (uint32_t)1 << depth;
        if ((known | (int64_t)1 << place) >= side) continue;
        int bit = value_bit(m, contexts, column_level, plain * 2 + (uint32_t)negative, plain, (uint32_t)depth + 1,
                            magnitude >> place & 1, decoding);
        known |= (int64_t)bit << place;
    }
    line *both[2] = {&m->lines[at->place], &at->line};
    symbol = (uint32_t)(1 + m->negatives + (negative ? -1 - known : known));
    at->before_last = at->line.last;
    for (int i = 0; i < 2; i++) {
        both[i]->nonzeros++;
        both[i]->positives += !negative;
        both[i]->magnitudes += known;
        both[i]->last = (uint16_t)symbol;
    }
    at->in_kernel++;
    m->kernels[at->column]++;
    return symbol;
}

INLINE void matrix(model *m, int kernels, int decoding) {
    position at = {0};
    for (; at.row < m->rows; at.row++) {
        at.line = (line){0};
        at.before_last = 0;
        at.recent = 0;
        at.place = 0;
        for (at.column = 0; at.column < m->columns; at.column++) {
            at.kernel_start = at.place;
            at.in_kernel = 0;
            for (int64_t k = 0; k < m->kernel; k++, at.place++, at.at++) {
                uint32_t symbol = decoding ? 0 : m->symbols[at.at], column_level;
                int bit = flag(m, &at, symbol != 0, &column_level, kernels, decoding);
                if (bit) symbol = value(m, &at, symbol, column_level, decoding);
                if (decoding) m->symbols[at.at] = (uint16_t)symbol;
                at.recent = at.recent << 1 | (uint32_t)bit;
                m->lines[at.place].recent = (uint8_t)(m->lines[at.place].recent << 1 | bit);
            }
        }
        if (m->t.coder.failed) return;
    }
}

/* One copy of the loop for each: what is constant in it makes it faster. */
static void encode_flat(model *m) { matrix(m, 0, 0); }
static void encode_kernels(model *m) { matrix(m, 1, 0); }
static void decode_flat(model *m) { matrix(m, 0, 1); }
static void decode_kernels(model *m) { matrix(m, 1, 1); }

/* Bytes of zeroed memory, aligned to 8, that the functions below need. */
EXPORT int64_t wfz_mixing_room(int64_t columns, int64_t kernel) {
    return (int64_t)sizeof(model) + columns * kernel * (int64_t)sizeof(line) + columns * (int64_t)sizeof(uint32_t);
}

static model *prepared(void *room, const int64_t *shape, int64_t alphabet, int64_t negatives, int64_t lag,
                       const uint16_t *squash, const int16_t *stretch) {
    model *m = room;
    m->rows = shape[0], m->columns = shape[1], m->kernel = shape[2], m->width = shape[1] * shape[2];
    m->lag = lag;
    m->negatives = negatives;
    m->positives = alphabet - 1 - negatives;
    m->depth = bit_length((uint64_t)(m->negatives > m->positives ? m->negatives : m->positives) - 1);
    m->lines = (line *)(m + 1);
    m->kernels = (uint32_t *)(m->lines + m->width);
    m->t.squash = squash, m->t.stretch = stretch;
    prepare(&m->t);
    for (int i = 0; i < SETS; i++)
        for (int k = 0; k < INPUTS; k++) {
            m->flag_mixers[i].weights[k] = FLAG_WEIGHT;
            m->value_mixers[i].weights[k] = VALUE_WEIGHT;
        }
    m->t.coder.range = 0xffffffff;
    m->t.coder.held = -1;
    return m;
}

/* Codes rows x columns x kernel symbols, of which `negatives` come before the first positive one (0 not counted).
 * Returns the bytes written to `out`, or TOO_SHORT. */
EXPORT int64_t wfz_mixing_encode(const uint16_t *symbols, const int64_t *shape, int64_t alphabet, int64_t negatives,
                                 int64_t lag, const uint16_t *squash, const int16_t *stretch, void *room, uint8_t *out,
                                 int64_t size) {
    model *m = prepared(room, shape, alphabet, negatives, lag, squash, stretch);
    m->symbols = (uint16_t *)symbols; /* not written to while encoding */
    m->t.coder.out = out;
    m->t.coder.size = size;
    (m->kernel > 1 ? encode_kernels : encode_flat)(m);
    return end_encoding(&m->t.coder);
}

/* The symbols of `size` bytes. Returns 0, TOO_SHORT or IMPOSSIBLE. */
EXPORT int64_t wfz_mixing_decode(const uint8_t *data, int64_t size, uint16_t *symbols, const int64_t *shape,
                                 int64_t alphabet, int64_t negatives, int64_t lag, const uint16_t *squash,
                                 const int16_t *stretch, void *room) {
    model *m = prepared(room, shape, alphabet, negatives, lag, squash, stretch);
    m->symbols = symbols;
    m->t.coder.data = data;
    m->t.coder.size = size;
    start_decoding(&m->t.coder);
    (m->kernel > 1 ? decode_kernels : decode_flat)(m);
    return m->t.coder.failed ? TOO_SHORT : end_decoding(&m->t.coder);
}
