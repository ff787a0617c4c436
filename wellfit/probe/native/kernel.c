/* The fused statistics kernel: everything the probe wants to know of a tensor in one pass over its memory.
 *
 * Plain C for GCC and Clang, without Python and without allocation; loaded with ctypes. The loops live in lanes.h
 * (once for float, once for double) and level.h, which are compiled for every instruction set; the best one that the
 * processor has is chosen when the first function is called. wellfit/probe/native/twin.py says the same in torch.
 */
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define WF_ABI 3
#define BLOCK 256  /* a summary of a large tensor looks at runs of this many elements */
#define RUN 16     /* a snapshot takes runs of this many elements: one cache line of float */
#define ROWS 128   /* rows that are added up in float before they are carried over to double */
#define CHUNK 512  /* elements that are added up in float before they are carried over to double */
#define LONG 128   /* from this many elements in a row, a unit is read along its own memory */
#define HUGE_VALUE 1e15  /* squares of larger floats may overflow, */
#define TINY_VALUE 1e-15 /* squares of smaller ones underflow: such blocks are added up again in double */
#define INLINE inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))

enum { F32 = 0, F64 = 1, BF16 = 2, F16 = 3 };
enum { LOW = 1, HIGH = 2, TOP = 4 };

typedef struct {
    const void *data;
    int64_t n;
    int32_t dtype, mode;
    double lo, hi;
    int64_t cap;
    uint64_t seed;
} wf_tensor;

typedef struct {
    double sum, squares, absolute, top;
    int64_t low, high;
} sums;

/* A tensor's memory as (outer, units, inner), and the rows of it to look at. */
typedef struct {
    const void *data;
    int dtype;
    int64_t outer, units, inner, rows;
    uint64_t seed;
    double *top, *absolute, *sum, *squares;
} plane;

/* Jittered runs of `block` elements out of n, one in each of `parts` equal strata. */
typedef struct {
    const void *data;
    int dtype;
    int64_t n, parts, block;
    uint64_t seed;
} sample;

static const int64_t SIZE[4] = {4, 8, 2, 2};

static uint64_t mixed(uint64_t seed, int64_t index) { /* splitmix64 */
    uint64_t z = seed + ((uint64_t)index + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* n elements in `parts` strata: the first `more` of them have each + 1 elements, the others have `each`. */
typedef struct {
    int64_t each, more;
    uint64_t seed;
} strata;

static strata divided(int64_t n, int64_t parts, uint64_t seed) {
    strata s = {n / parts, n % parts, seed};
    return s;
}

/* Begin and length of stratum i, and a pseudo-random offset in it. */
static void stratum(const strata *s, int64_t i, int64_t *begin, int64_t *length, int64_t *offset) {
    uint64_t random = mixed(s->seed, i);
    *begin = i * s->each + (i < s->more ? i : s->more);
    *length = s->each + (i < s->more);
    if (s->each < UINT32_MAX)
        *offset = (int64_t)((random >> 33) * (uint64_t)*length >> 31);
    else
        *offset = (int64_t)((random >> 1) % (uint64_t)*length);
}

static int64_t sampled(int64_t n, int64_t limit, int64_t run, int64_t *block) {
    *block = limit < run ? limit : run;
    return limit <= 0 || n <= limit ? 0 : limit / *block;
}

static void merge(sums *into, const sums *from) {
    into->sum += from->sum;
    into->squares += from->squares;
    if (from->absolute > into->absolute) into->absolute = from->absolute;
    if (from->top > into->top) into->top = from->top;
    into->low += from->low;
    into->high += from->high;
}

static float half(uint16_t h) { /* exact, also where denormals are flushed to zero */
    uint32_t exponent = (h >> 10) & 31, mantissa = h & 1023, bits;
    float value;
    if (exponent == 0) {
        value = (float)mantissa * 5.9604644775390625e-8f;
        return h & 0x8000 ? -value : value;
    }
    bits = ((uint32_t)(h & 0x8000) << 16) | ((exponent == 31 ? 255 : exponent + 112) << 23) | (mantissa << 13);
    memcpy(&value, &bits, 4);
    return value;
}

static float float_below(double x) {
    float f = (float)x;
    return (double)f > x ? nextafterf(f, -INFINITY) : f;
}

static float float_above(double x) {
    float f = (float)x;
    return (double)f < x ? nextafterf(f, INFINITY) : f;
}

typedef struct {
    void (*summary)(const wf_tensor *, double *);
    void (*units)(const plane *);
    void (*take)(const sample *, float *);
    void (*change)(const sample *now, const sample *gradient, const float *before, double *out);
} functions;

/* --- the instruction sets ------------------------------------------------------------------------------------- */

#define BLEND(V, I, a, b) ((V)(((I)(a) & ((a) > (b))) | ((I)(b) & ~((a) > (b)))))

#define L_(x) x##_scalar
#define F_(x) x##_f_scalar
#define D_(x) x##_d_scalar
#define TARGET
#define VBYTES 16
#if defined(__x86_64__)
#define MAXF(a, b) ((F_(vec))_mm_max_ps((__m128)(a), (__m128)(b)))
#define MAXD(a, b) ((D_(vec))_mm_max_pd((__m128d)(a), (__m128d)(b)))
#else
#define MAXF(a, b) BLEND(F_(vec), F_(ivec), a, b)
#define MAXD(a, b) BLEND(D_(vec), D_(ivec), a, b)
#endif
#include "level.h"

#if defined(__x86_64__)
#define L_(x) x##_avx2
#define F_(x) x##_f_avx2
#define D_(x) x##_d_avx2
#define TARGET __attribute__((target("avx2,fma,f16c")))
#define VBYTES 32
#define MAXF(a, b) ((F_(vec))_mm256_max_ps((__m256)(a), (__m256)(b)))
#define MAXD(a, b) ((D_(vec))_mm256_max_pd((__m256d)(a), (__m256d)(b)))
#define HALVES 8
#define WIDEN(to, from) _mm256_storeu_ps(to, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from))))
#include "level.h"

#define L_(x) x##_avx512
#define F_(x) x##_f_avx512
#define D_(x) x##_d_avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define VBYTES 64
#define MAXF(a, b) ((F_(vec))_mm512_max_ps((__m512)(a), (__m512)(b)))
#define MAXD(a, b) ((D_(vec))_mm512_max_pd((__m512d)(a), (__m512d)(b)))
#define HALVES 16
#define WIDEN(to, from) _mm512_storeu_ps(to, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(from))))
#include "level.h"
#elif defined(__aarch64__)
#define L_(x) x##_neon
#define F_(x) x##_f_neon
#define D_(x) x##_d_neon
#define TARGET
#define VBYTES 16
#define MAXF(a, b) ((F_(vec))vmaxq_f32((float32x4_t)(a), (float32x4_t)(b)))
#define MAXD(a, b) ((D_(vec))vmaxq_f64((float64x2_t)(a), (float64x2_t)(b)))
#define HALVES 4
#define WIDEN(to, from) vst1q_f32(to, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *)(from)))))
#include "level.h"
#endif

/* --- choosing one --------------------------------------------------------------------------------------------- */

static int best_level(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return 2;
    return avx2;
#elif defined(__aarch64__)
    return 3;
#else
    return 0;
#endif
}

static int level = -1;

static const functions *active(void) {
    if (level < 0) level = best_level();
#if defined(__x86_64__)
    if (level == 2) return &table_avx512;
    if (level == 1) return &table_avx2;
#elif defined(__aarch64__)
    if (level == 3) return &table_neon;
#endif
    return &table_scalar;
}

/* --- the interface -------------------------------------------------------------------------------------------- */

EXPORT int wf_abi(void) { return WF_ABI; }

/* 0 plain C, 1 AVX2, 2 AVX-512, 3 NEON. */
EXPORT int wf_level(void) {
    active();
    return level;
}

/* Ask for a level; the result is the one in force, which is never above what the processor has. */
EXPORT int wf_set_level(int wanted) {
    int best = best_level();
    level = wanted < 0 || wanted > best ? best : best == 3 && wanted > 0 ? 3 : wanted;
    return level;
}

/* Per tensor 6 doubles: count looked at, sum, sum of squares, absolute maximum, number low, number high. */
EXPORT int wf_summary(const wf_tensor *t, int64_t k, double *out) {
    const functions *use = active();
    for (int64_t i = 0; i < k; i++) use->summary(t + i, out + 6 * i);
    return 0;
}

/* Per unit of (outer, units, inner): maximum, absolute maximum, sum, sum of squares; all 0 where nothing was seen. */
EXPORT int wf_units(const void *data, int dtype, int64_t outer, int64_t units, int64_t inner, int64_t max_rows,
                    uint64_t seed, double *unit_max, double *unit_amax, double *unit_sum, double *unit_sumsq) {
    int64_t rows = max_rows > 0 && outer > max_rows ? max_rows : outer;
    int empty = rows <= 0 || inner <= 0;
    plane p = {data, dtype, outer, units, inner, rows, seed, unit_max, unit_amax, unit_sum, unit_sumsq};
    for (int64_t u = 0; u < units; u++) {
        unit_max[u] = empty ? 0 : -INFINITY;
        unit_amax[u] = unit_sum[u] = unit_sumsq[u] = 0;
    }
    if (empty) return 0;
    active()->units(&p);
    for (int64_t u = 0; u < units; u++) /* only a NaN makes a sum of squares NaN; comparisons have dropped it */
        if (unit_sumsq[u] != unit_sumsq[u]) unit_max[u] = unit_amax[u] = unit_sumsq[u];
    return 0;
}

static sample positions(const wf_tensor *t, int64_t per_tensor) {
    sample s = {t->data, t->dtype, t->n, 0, 0, t->seed};
    s.parts = sampled(t->n, per_tensor, RUN, &s.block);
    if (s.parts == 0) s.block = t->n; /* everything, as one run */
    return s;
}

static int64_t slots(const sample *s) { /* float64 is kept bit for bit, in the room of two floats */
    return (s->parts ? s->parts * s->block : s->n) * (s->dtype == F64 ? 2 : 1);
}

/* Copy up to per_tensor elements of each tensor; those of tensor i begin at buffer[offsets[i]]. */
EXPORT int wf_take(const wf_tensor *t, int64_t k, int64_t per_tensor, float *buffer, int64_t *offsets) {
    const functions *use = active();
    offsets[0] = 0;
    for (int64_t i = 0; i < k; i++) {
        sample s = positions(t + i, per_tensor);
        use->take(&s, buffer + offsets[i]);
        offsets[i + 1] = offsets[i] + slots(&s);
    }
    return 0;
}

/* What became of the elements that wf_take copied. Per tensor 7 doubles: count, sum, sum of squares and absolute
 * maximum of the difference, number unchanged, number unchanged though their gradient is not 0, sum of squares of the
 * elements now. All 0 for a tensor whose size changed in between. */
EXPORT int wf_change(const wf_tensor *now, const wf_tensor *gradient, int64_t k, int64_t per_tensor,
                     const float *before, const int64_t *offsets, double *out) {
    const functions *use = active();
    for (int64_t i = 0; i < k; i++) {
        sample s = positions(now + i, per_tensor), g = s;
        int has_gradient = gradient && gradient[i].data && gradient[i].n == now[i].n;
        memset(out + 7 * i, 0, 7 * sizeof(double));
        if (slots(&s) != offsets[i + 1] - offsets[i]) continue;
        if (has_gradient) g.data = gradient[i].data, g.dtype = gradient[i].dtype;
        use->change(&s, has_gradient ? &g : 0, before + offsets[i], out + 7 * i);
    }
    return 0;
}

/* Count for how many updates each unit has stayed at or below a level; returns how many have for `limit` or more. */
EXPORT int64_t wf_unit_age(const double *unit_max, int64_t units, double level_, int32_t *age, int32_t limit) {
    int64_t dead = 0;
    for (int64_t u = 0; u < units; u++) {
        age[u] = unit_max[u] > level_ ? 0 : age[u] + (age[u] < INT32_MAX);
        dead += age[u] >= limit;
    }
    return dead;
}

/* Over units, from their sums over n elements each: out = sum of variances, sum of squares, number of units that do not
   vary, smallest and largest sum of squares of the units that are not all 0 (both 0 if there are none). */
EXPORT int wf_moments(const double *sum, const double *sumsq, int64_t units, double n, double *out) {
    double variance = 0, square = 0, flat = 0, least = 0, most = 0;
    for (int64_t u = 0; u < units; u++) {
        double mean = sum[u] / n, q = sumsq[u] / n, v = q - mean * mean;
        variance += v > 0 ? v : v <= 0 ? 0 : v;
        square += sumsq[u];
        flat += v <= 1e-12 * (q > 1e-300 ? q : 1e-300);
        if (sumsq[u] > 0) {
            least = least == 0 || sumsq[u] < least ? sumsq[u] : least;
            most = sumsq[u] > most ? sumsq[u] : most;
        }
    }
    out[0] = variance, out[1] = square, out[2] = flat, out[3] = least, out[4] = most;
    return 0;
}

/* Index of the first element that is NaN or infinite, -1 if there is none. */
