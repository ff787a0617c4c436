/* Everything for one instruction set: included by kernel.c with L_, F_, D_, TARGET, VBYTES, MAXF, MAXD set, and WIDEN
 * with HALVES where the processor converts that many float16 at once. */

/* n elements of any dtype as float. The types of `to` and of the stored float32 may be unaligned. */
TARGET static void F_(convert)(float *to, const void *from, int dtype, int64_t n) {
    const char *p = from;
    int64_t i = 0;
    if (dtype == F32) {
        memcpy(to, p, (size_t)n * 4);
    } else if (dtype == BF16) {
        for (; i < n; i++) {
            uint16_t stored;
            uint32_t bits;
            memcpy(&stored, p + 2 * i, 2);
            bits = (uint32_t)stored << 16;
            memcpy(to + i, &bits, 4);
        }
    } else if (dtype == F16) {
#ifdef WIDEN
        for (; i + HALVES <= n; i += HALVES) WIDEN(to + i, p + 2 * i);
#endif
        for (; i < n; i++) {
            uint16_t stored;
            memcpy(&stored, p + 2 * i, 2);
            to[i] = half(stored);
        }
    }
}

/* n elements of any dtype as double. */
TARGET static void D_(convert)(double *to, const void *from, int dtype, int64_t n) {
    const char *p = from;
    if (dtype == F64) {
        memcpy(to, p, (size_t)n * 8);
        return;
    }
    for (int64_t i = 0; i < n; i += BLOCK) {
        float narrow[BLOCK];
        int64_t m = n - i < BLOCK ? n - i : BLOCK;
        F_(convert)(narrow, p + i * SIZE[dtype], dtype, m);
        for (int64_t j = 0; j < m; j++) to[i + j] = (double)narrow[j];
    }
}

#define R_ D_
#define REAL double
#define INTEGER int64_t
#define MASK 0x7fffffffffffffff
#define MAX MAXD
#define GROUP 2048
#define STORED F64
#define BELOW(x) (x)
#define ABOVE(x) (x)
#define IS_FLOAT 0
#include "lanes.h"

#define R_ F_
#define REAL float
#define INTEGER int32_t
#define MASK 0x7fffffff
#define MAX MAXF
#define GROUP 4096
#define STORED F32
#define BELOW float_below
#define ABOVE float_above
#define IS_FLOAT 1
#include "lanes.h"

TARGET static void L_(summary)(const wf_tensor *t, double *out) {
    if (t->dtype == F64)
        D_(summary)(t, out);
    else
        F_(summary)(t, out);
}

TARGET static void L_(units)(const plane *p) {
    if (p->dtype == F64)
        D_(units)(p);
    else
        F_(units)(p);
}

TARGET static void L_(take)(const sample *s, float *to) {
    if (s->parts == 0 && s->dtype == F64)
        memcpy(to, s->data, (size_t)s->n * 8);
    else if (s->parts == 0)
        F_(convert)(to, s->data, s->dtype, s->n);
    else if (s->dtype != F64)
        F_(gather)(to, s, 0, s->parts);
    else
        for (int64_t i = 0; i < s->parts; i++) {
            double run[RUN];
            D_(gather)(run, s, i, 1);
            memcpy(to + 2 * i * s->block, run, (size_t)s->block * 8);
        }
}

/* Elements [first, first + n) of a sample's order, as double; first and n are multiples of the run, or parts is 0. */
TARGET static void L_(piece)(double *to, const sample *s, int64_t first, int64_t n) {
    if (s->parts)
        D_(gather)(to, s, first / s->block, n / s->block);
    else
        D_(convert)(to, (const char *)s->data + first * SIZE[s->dtype], s->dtype, n);
}

TARGET static void L_(change)(const sample *now, const sample *gradient, const float *before, double *out) {
    double x[BLOCK], old[BLOCK], slope[BLOCK];
    int64_t count = now->parts ? now->parts * now->block : now->n, same = 0, stuck = 0;
    int64_t fit = now->parts ? BLOCK / now->block * now->block : BLOCK;
    sums difference = {0, 0, 0, -INFINITY, 0, 0}, weight = difference;
    for (int64_t i = 0; i < count; i += fit) {
        int64_t m = count - i < fit ? count - i : fit;
        L_(piece)(x, now, i, m);
        D_(convert)(old, before + i * (now->dtype == F64 ? 2 : 1), now->dtype == F64 ? F64 : F32, m);
        D_(measure)(x, m, 0, 0, 0, TOP, &weight);
        for (int64_t j = 0; j < m; j++) same += x[j] == old[j];
        if (gradient) {
            L_(piece)(slope, gradient, i, m);
            for (int64_t j = 0; j < m; j++) stuck += (x[j] == old[j]) & (slope[j] != 0);
        }
        for (int64_t j = 0; j < m; j++) x[j] -= old[j];
        D_(measure)(x, m, 0, 0, 0, TOP, &difference);
    }
    out[0] = (double)count;
    out[1] = difference.sum;
    out[2] = difference.squares;
    out[3] = difference.squares != difference.squares ? difference.squares : difference.absolute;
    out[4] = (double)same;
    out[5] = (double)stuck;
    out[6] = weight.squares;
}

static const functions L_(table) = {L_(summary), L_(units), L_(take), L_(change)};

#undef L_
#undef F_
#undef D_
#undef TARGET
#undef VBYTES
#undef MAXF
#undef MAXD
#undef HALVES
#undef WIDEN
