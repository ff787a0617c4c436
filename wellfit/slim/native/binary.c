/* Products with weights of one bit: the kernel behind BinaryLinear and BinaryConv2d.
 *
 * Plain C for GCC and Clang, without Python and without threads of its own; loaded with ctypes, which lets other
 * threads run meanwhile. The loops live in binary_level.h, which is compiled for every instruction set; the best one
 * that the processor has is chosen when the first function is called. wellfit/slim/native/twin.py says the same in
 * torch, and gives the same bits: every float sum has one order, whatever the instruction set (see `ordered` below),
 * and this file is compiled with -ffp-contract=off, so that no product and sum become one rounding.
 *
 * Signs lie in words of 64 bits, bit i of word w is input 64 w + i, 1 is +1 and 0 is -1; bits behind the last input
 * are 0. Weights lie in tiles: tile[t][w][r] is word w of row 8 t + r, so that one vector holds a word of 8 rows, and
 * no sum across a vector is needed.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define WB_ABI 1
#define ROWS 8
#define LANES 16
#define INLINE inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))

/* What a product needs to know of its weights. */
typedef struct {
    const uint64_t *tiles; /* [ceil(rows / 8)][words][8] */
    int64_t rows, inputs, words;
    const float *scale; /* [rows] */
    const float *bias;  /* [rows], or null */
} wb_weights;

/* A convolution over signs packed along the channels: activations [batch][height][width][channel words]. */
typedef struct {
    int64_t batch, height, width, channel_words, channels;
    int64_t out_height, out_width;
    int64_t kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x;
} wb_conv;

/* The order of every float sum of n numbers: lane l adds the numbers l, l + 16, l + 32, ...; then the lanes are added
 * by halves: 8 + 8, 4 + 4, 2 + 2, 1 + 1. */
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

typedef struct {
    void (*pack)(const float *x, int64_t n, uint64_t *words);
    float (*mean_absolute)(const float *x, int64_t n);
    void (*add)(const float *x, const wb_weights *w, int64_t tile, float sums[ROWS]);
    void (*differ)(const uint64_t *signs, const uint64_t *tile, int64_t words, int64_t counts[ROWS]);
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

/* (count of +1 products minus count of -1 products) * beta * scale + bias, rounded after each step. */
static INLINE float scaled(int64_t dot, float beta, const wb_weights *w, int64_t row) {
    float y = (float)dot * beta;
    y = y * w->scale[row];
    return w->bias ? y + w->bias[row] : y;
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

/* y[b][r] = scale[r] * sum_i sign[r][i] x[b][i] + bias[r] for the rows of tiles first .. last - 1. */
EXPORT int wb_weights_only(const float *x, int64_t batch, const wb_weights *w, int64_t first, int64_t last, float *y) {
    const functions *use = active();
    float sums[ROWS];
    for (int64_t tile = first; tile < last; tile++)
        for (int64_t b = 0; b < batch; b++) {
            use->add(x + b * w->inputs, w, tile, sums);
            for (int64_t r = 0; r < ROWS && tile * ROWS + r < w->rows; r++) {
                int64_t row = tile * ROWS + r;
                float value = sums[r] * w->scale[row];
                y[b * w->rows + row] = w->bias ? value + w->bias[row] : value;
            }
        }
    return 0;
}

/* y[b][r] = scale[r] * beta[b] * sum_i sign[r][i] sign(x[b][i]) + bias[r] for samples first .. last - 1, where beta is
 * the mean of |x[b]| if `with_beta`, else 1. Returns 1 where there is no memory. */
EXPORT int wb_both(const float *x, const wb_weights *w, int64_t first, int64_t last, int with_beta, float *y) {
    const functions *use = active();
    int64_t tiles = (w->rows + ROWS - 1) / ROWS, counts[ROWS];
    uint64_t few[64], *signs = w->words <= 64 ? few : malloc((size_t)w->words * sizeof(uint64_t));
    if (!signs) return 1;
    for (int64_t b = first; b < last; b++) {
        const float *sample = x + b * w->inputs;
        float beta = with_beta ? use->mean_absolute(sample, w->inputs) : 1.0f;
        use->pack(sample, w->inputs, signs);
        for (int64_t tile = 0; tile < tiles; tile++) {
            use->differ(signs, w->tiles + tile * w->words * ROWS, w->words, counts);
            for (int64_t r = 0; r < ROWS && tile * ROWS + r < w->rows; r++)
                y[b * w->rows + tile * ROWS + r] = scaled(w->inputs - 2 * counts[r], beta, w, tile * ROWS + r);
        }
    }
    if (signs != few) free(signs);
    return 0;
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
 * missing: [rows][out_height][out_width], the sum of the weights' signs over taps that lie in the padding. Such a tap
 * was counted with the sign -1, but a padded zero takes no part: adding `missing` undoes it.
 * beta: [batch][out_height][out_width], or null for 1. y: [batch][rows][out_height][out_width].
 * Returns 1 where there is no memory. */
EXPORT int wb_conv_both(const uint64_t *signs, const wb_conv *c, const wb_weights *w, const float *missing,
                        const float *beta, int64_t first, int64_t last, float *y) {
    const functions *use = active();
    int64_t tiles = (w->rows + ROWS - 1) / ROWS, counts[ROWS], places = c->out_height * c->out_width;
    int64_t image = c->height * c->width * c->channel_words;
    uint64_t *patch = malloc((size_t)w->words * sizeof(uint64_t));
    if (!patch) return 1;
    for (int64_t b = first; b < last; b++)
        for (int64_t place = 0; place < places; place++) {
            int64_t top = place / c->out_width * c->stride_y - c->pad_y;
            int64_t left = place % c->out_width * c->stride_x - c->pad_x;
            gather(signs + b * image, c, top, left, patch);
            float mean = beta ? beta[b * places + place] : 1.0f;
            for (int64_t tile = 0; tile < tiles; tile++) {
                use->differ(patch, w->tiles + tile * w->words * ROWS, w->words, counts);
                for (int64_t r = 0; r < ROWS && tile * ROWS + r < w->rows; r++) {
                    int64_t row = tile * ROWS + r;
                    int64_t dot = w->inputs - 2 * counts[r] + (int64_t)missing[row * places + place];
                    y[(b * w->rows + row) * places + place] = scaled(dot, mean, w, row);
                }
            }
        }
    free(patch);
    return 0;
}
