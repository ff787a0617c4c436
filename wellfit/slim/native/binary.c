/* Products with weights of one bit: the kernel behind BinaryLinear and BinaryConv2d.
 *
 * Plain C for GCC and Clang, without Python and without threads of its own; loaded with ctypes, which lets other
 * threads run meanwhile. The loops live in binary_level.h, which is compiled for every instruction set; the best one
 * that the processor has is chosen when the first function is called. wellfit/slim/native/twin.py says the same in
 * torch, and gives the same bits: every float sum has one order, whatever the instruction set (see `ordered` below),
 * and this file is compiled with -ffp-contract=off, so that no product and sum become one rounding.
 *
 * Signs lie in words of 64 bits, bit i of word w is input 64 w + i, 1 is +1 and 0 is -1; bits behind the last input
 * are 0. Weights lie in tiles, so that one vector holds a word of several rows and no sum across a vector is needed:
 * - for products of signs with signs, 8 rows of 64-bit words: tile[t][w][r] is word w of row 8 t + r;
 * - for sums of floats with signs, 16 rows of 32-bit words: tile[t][w][r] is word w of row 16 t + r.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define WB_ABI 1
#define ROWS 8   /* of a tile of 64-bit words */
#define LANES 16 /* of a tile of 32-bit words, and of a sum of absolute values */
#define INLINE inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))

/* What a product needs to know of its weights. */
typedef struct {
    const void *tiles; /* uint64 [ceil(rows / 8)][words][8], or uint32 [ceil(rows / 16)][words][16] */
    int64_t rows, inputs, words;
    const float *scale; /* [rows], and zeros up to the end of the last tile */
    const float *bias;  /* the same */
} wb_weights;

/* A convolution over signs packed along the channels: activations [batch][height][width][channel words]. */
typedef struct {
    int64_t batch, height, width, channel_words, channels;
    int64_t out_height, out_width;
    int64_t kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x;
} wb_conv;

/* The order of a sum of absolute values: lane l adds the numbers l, l + 16, l + 32, ...; then the lanes are added by
 * halves: 8 + 8, 4 + 4, 2 + 2, 1 + 1. */
static INLINE float ordered(const float lane[LANES]) {
    float s[LANES];
    memcpy(s, lane, sizeof s);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) s[i] = s[i] + s[i + half];
    return s[0];
}

/* The last, partly filled 16 inputs of a row, with zeros behind them. */
static INLINE void tail(const float *x, int64_t inputs, float out[LANES]) {
    int64_t from = inputs / LANES * LANES;
    memset(out, 0, LANES * sizeof(float));
    memcpy(out, x + from, (size_t)(inputs - from) * sizeof(float));
}

/* A sum of floats with signs goes by look-up (as in Park et al., BiQGEMM, 2020): four inputs have 16 sums, one for each
 * pattern of signs, and 16 entries are one vector. table[g][p] = (+-x0 +-x1) + (+-x2 +-x3) for inputs 4 g ... 4 g + 3,
 * where bit i of p is the sign of x_i. Then a row adds the entries of its patterns in the order: four sums, over the
 * g that leave 0, 1, 2, 3 when divided by 4; (s0 + s1) + (s2 + s3). */
static void look_up(const float *x, int64_t inputs, int64_t words, float *table) {
    for (int64_t g = 0; g < words * 8; g++) {
        float four[4] = {0, 0, 0, 0};
        for (int64_t i = 0; i < 4 && 4 * g + i < inputs; i++) four[i] = x[4 * g + i];
        float low[4] = {-four[0] - four[1], four[0] - four[1], -four[0] + four[1], four[0] + four[1]};
        float high[4] = {-four[2] - four[3], four[2] - four[3], -four[2] + four[3], four[2] + four[3]};
        for (int p = 0; p < 16; p++) table[16 * g + p] = low[p & 3] + high[p >> 2];
    }
}

typedef struct {
    void (*pack)(const float *x, int64_t n, uint64_t *words);
    float (*mean_absolute)(const float *x, int64_t n);
    void (*add)(const float *table, const wb_weights *w, int64_t tile, float y[LANES]);
    void (*multiply)(const uint64_t *signs, const wb_weights *w, const float *more, float beta, float *y);
} functions;

#define NAME(function) function##_scalar
#define LEVEL_SCALAR 1
#include "binary_level.h"
#undef NAME
#undef LEVEL_SCALAR

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,popcnt")
#define NAME(function) function##_avx2
#define LEVEL_AVX2 1
#include "binary_level.h"
#undef NAME
#undef LEVEL_AVX2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq,popcnt")
#define NAME(function) function##_avx512
#define LEVEL_AVX512 1
#include "binary_level.h"
#undef NAME
#undef LEVEL_AVX512
#pragma GCC pop_options
#endif

static int level = -1;

static int best_level(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vpopcntdq"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt")) return 1;
#endif
    return 0;
}

static const functions *active(void) {
    if (level < 0) level = best_level();
#if defined(__x86_64__)
    if (level == 2) return &table_avx512;
    if (level == 1) return &table_avx2;
#endif
    return &table_scalar;
}

/* --- the interface -------------------------------------------------------------------------------------------- */

EXPORT int wb_abi(void) { return WB_ABI; }

/* 0 plain C, 1 AVX2, 2 AVX-512 with VPOPCNTDQ. */
EXPORT int wb_level(void) {
    active();
    return level;
}

/* Ask for a level; the result is the one in force, which is never above what the processor has. */
EXPORT int wb_set_level(int wanted) {
    int best = best_level();
    level = wanted < 0 || wanted > best ? best : wanted;
    return level;
}

/* Signs of `rows` rows of n floats: a bit is 1 where x >= 0 (so for 0 and -0, not for NaN). */
EXPORT int wb_pack(const float *x, int64_t rows, int64_t n, uint64_t *words) {
    const functions *use = active();
    int64_t stride = (n + 63) / 64;
    for (int64_t i = 0; i < rows; i++) use->pack(x + i * n, n, words + i * stride);
    return 0;
}

/* y[b][r] = scale[r] * sum_i sign[r][i] x[b][i] + bias[r] for samples first .. last - 1. Returns 1 where there is no
 * memory. */
EXPORT int wb_weights_only(const float *x, const wb_weights *w, int64_t first, int64_t last, float *y) {
    const functions *use = active();
    int64_t tiles = (w->rows + LANES - 1) / LANES;
    float *table = aligned_alloc(64, (size_t)(w->words * 8 + 1) * LANES * sizeof(float)), sixteen[LANES];
    if (!table) return 1;
    for (int64_t b = first; b < last; b++) {
        look_up(x + b * w->inputs, w->inputs, w->words, table);
        for (int64_t tile = 0; tile < tiles; tile++) {
            int64_t row = tile * LANES, left = w->rows - row;
            use->add(table, w, tile, sixteen);
            memcpy(y + b * w->rows + row, sixteen, (size_t)(left < LANES ? left : LANES) * sizeof(float));
        }
    }
    free(table);
    return 0;
}

/* y[b][r] = scale[r] * beta[b] * sum_i sign[r][i] sign(x[b][i]) + bias[r] for samples first .. last - 1, where beta is
 * the mean of |x[b]| if `with_beta`, else 1. Returns 1 where there is no memory. */
EXPORT int wb_both(const float *x, const wb_weights *w, int64_t first, int64_t last, int with_beta, float *y) {
    const functions *use = active();
    int64_t padded = (w->rows + ROWS - 1) / ROWS * ROWS;
    uint64_t *signs = malloc((size_t)w->words * sizeof(uint64_t));
    float *row = malloc((size_t)padded * sizeof(float));
    for (int64_t b = first; signs && row && b < last; b++) {
        const float *sample = x + b * w->inputs;
        use->pack(sample, w->inputs, signs);
        use->multiply(signs, w, 0, with_beta ? use->mean_absolute(sample, w->inputs) : 1.0f, row);
        memcpy(y + b * w->rows, row, (size_t)w->rows * sizeof(float));
    }
    int failed = !signs || !row;
    free(signs);
    free(row);
    return failed;
}

/* The signs under the kernel at one place, tap by tap; taps in the padding are all 0. */
static void gather(const uint64_t *signs, const wb_conv *c, int64_t top, int64_t left, uint64_t *out) {
    size_t size = (size_t)c->channel_words * sizeof(uint64_t);
    for (int64_t i = 0; i < c->kernel_y; i++)
        for (int64_t j = 0; j < c->kernel_x; j++, out += c->channel_words) {
            int64_t v = top + i * c->dilation_y, u = left + j * c->dilation_x;
            if (v < 0 || v >= c->height || u < 0 || u >= c->width)
                memset(out, 0, size);
            else
                memcpy(out, signs + (v * c->width + u) * c->channel_words, size);
        }
}

/* A convolution of signs with signs, for images first .. last - 1.
 *
 * signs: [batch][height][width][channel words]; weights in tiles of kernel_y * kernel_x * channel words.
 * missing: [out_height][out_width][tiles * 8], the sum of the weights' signs over taps that lie in the padding. Such a
 * tap was counted with the sign -1, but a padded zero takes no part: adding `missing` undoes it.
 * beta: [batch][out_height][out_width], or null for 1. y: [batch][rows][out_height][out_width].
 * Returns 1 where there is no memory. */
EXPORT int wb_conv_both(const uint64_t *signs, const wb_conv *c, const wb_weights *w, const float *missing,
                        const float *beta, int64_t first, int64_t last, float *y) {
    const functions *use = active();
    int64_t padded = (w->rows + ROWS - 1) / ROWS * ROWS, places = c->out_height * c->out_width;
    int64_t image = c->height * c->width * c->channel_words;
    uint64_t *patch = malloc((size_t)w->words * sizeof(uint64_t));
    float *row = malloc((size_t)padded * sizeof(float));
    for (int64_t b = first; patch && row && b < last; b++)
        for (int64_t place = 0; place < places; place++) {
            int64_t top = place / c->out_width * c->stride_y - c->pad_y;
            int64_t left = place % c->out_width * c->stride_x - c->pad_x;
            gather(signs + b * image, c, top, left, patch);
            use->multiply(patch, w, missing + place * padded, beta ? beta[b * places + place] : 1.0f, row);
            for (int64_t r = 0; r < w->rows; r++) y[(b * w->rows + r) * places + place] = row[r];
        }
    int failed = !patch || !row;
    free(patch);
    free(row);
    return failed;
}
