/* The loops, for one instruction set and one type: included by level.h with R_, REAL, INTEGER, MASK, MAX, GROUP set. */

#define LANES (VBYTES / (int)sizeof(REAL))
#define STEP (2 * LANES)

typedef REAL R_(vec) __attribute__((vector_size(VBYTES)));
typedef REAL R_(loaded) __attribute__((vector_size(VBYTES), aligned(1), may_alias));
typedef INTEGER R_(ivec) __attribute__((vector_size(VBYTES)));

/* Sums over a contiguous piece of at most GROUP elements. `want` and `is_signed` are constants where it is called, so
 * that each use becomes a loop of its own. */
TARGET static INLINE void R_(fold)(const REAL *x, int64_t n, REAL lo, REAL hi, int is_signed, int want, sums *out) {
    const R_(ivec) keep = (R_(ivec)){0} + MASK;
    const R_(vec) none = {0}, least = none + lo, most = none + hi;
    double sum[LANES] = {0}, squares[LANES] = {0};
    R_(vec) absolute[2] = {none, none}, top[2] = {none - (REAL)INFINITY, none - (REAL)INFINITY};
    R_(ivec) low[2] = {{0}, {0}}, high[2] = {{0}, {0}};
    int64_t i = 0, body = n - n % STEP;
    while (i < body) {
        int64_t stop = body - i > CHUNK ? i + CHUNK : body;
        R_(vec) s[2] = {none, none}, q[2] = {none, none};
        for (; i < stop; i += STEP) {
            for (int j = 0; j < 2; j++) {
                R_(vec) v = *(const R_(loaded) *)(x + i + j * LANES), a = (R_(vec))((R_(ivec))v & keep);
                s[j] += v;
                q[j] += v * v;
                absolute[j] = MAX(a, absolute[j]);
                if (want & TOP) top[j] = MAX(v, top[j]);
                if (want & LOW) low[j] -= (is_signed ? v : a) <= least;
                if (want & HIGH) high[j] -= a >= most;
            }
        }
        s[0] += s[1];
        q[0] += q[1];
        for (int l = 0; l < LANES; l++) sum[l] += (double)s[0][l], squares[l] += (double)q[0][l];
    }
    REAL sizes[LANES], tops[LANES];
    absolute[0] = MAX(absolute[1], absolute[0]);
    top[0] = MAX(top[1], top[0]);
    low[0] += low[1];
    high[0] += high[1];
    memcpy(sizes, absolute, sizeof sizes);
    memcpy(tops, top, sizeof tops);
    for (int h = LANES / 2; h > 0; h /= 2) { /* by halves: a chain of additions would take longer than a short piece */
        for (int l = 0; l < h; l++) {
            sum[l] += sum[l + h];
            squares[l] += squares[l + h];
            sizes[l] = sizes[l] > sizes[l + h] ? sizes[l] : sizes[l + h];
            if (want & TOP) tops[l] = tops[l] > tops[l + h] ? tops[l] : tops[l + h];
        }
    }
    sums r = {sum[0], squares[0], (double)sizes[0], (double)tops[0], 0, 0};
    for (int l = 0; l < LANES; l++) {
        if (want & LOW) r.low += low[0][l];
        if (want & HIGH) r.high += high[0][l];
    }
    for (; i < n; i++) {
        double v = x[i], a = fabs(v);
        sums one = {v, v * v, a, v, (want & LOW) && (is_signed ? v : a) <= lo, (want & HIGH) && a >= hi};
        merge(&r, &one);
    }
    *out = r;
}

/* fold, for one of the ways to call it; sums of floats whose squares leave the range of float are made in double. */
TARGET static void R_(measure)(const REAL *x, int64_t n, REAL lo, REAL hi, int is_signed, int want, sums *total) {
    sums r;
    if (want == TOP)
        R_(fold)(x, n, lo, hi, 0, TOP, &r);
    else if (want == LOW && is_signed)
        R_(fold)(x, n, lo, hi, 1, LOW, &r);
    else if (want == LOW)
        R_(fold)(x, n, lo, hi, 0, LOW, &r);
    else if (is_signed)
        R_(fold)(x, n, lo, hi, 1, LOW | HIGH, &r);
    else
        R_(fold)(x, n, lo, hi, 0, LOW | HIGH, &r);
#if IS_FLOAT
    if (r.absolute > HUGE_VALUE || (r.absolute < TINY_VALUE && r.absolute > 0)) {
        double wide[CHUNK];
        r.sum = r.squares = 0;
        for (int64_t i = 0; i < n; i += CHUNK) {
            int64_t m = n - i < CHUNK ? n - i : CHUNK;
            sums part;
            for (int64_t j = 0; j < m; j++) wide[j] = (double)x[i + j];
            D_(fold)(wide, m, 0, 0, 0, TOP, &part);
            r.sum += part.sum;
            r.squares += part.squares;
        }
    }
#endif
    merge(total, &r);
}

/* Append `count` runs of a sample, from run `first` on. A run that reaches the end of its stratum goes on at the
 * stratum's beginning: so every element has the same chance to be looked at. */
TARGET static void R_(gather)(REAL *to, const sample *s, int64_t first, int64_t count) {
    const char *from = s->data;
    int64_t size = SIZE[s->dtype];
    strata parts = divided(s->n, s->parts, s->seed);
    for (int64_t i = first; i < first + count; i++, to += s->block) {
        int64_t begin, length, offset, here;
        stratum(&parts, i, &begin, &length, &offset);
        here = length - offset < s->block ? length - offset : s->block;
        R_(convert)(to, from + (begin + offset) * size, s->dtype, here);
        if (here < s->block) R_(convert)(to + here, from + begin * size, s->dtype, s->block - here);
    }
}

TARGET static void R_(summary)(const wf_tensor *t, double *out) {
    REAL buffer[GROUP], lo = BELOW(t->lo), hi = ABOVE(t->hi);
    int want = t->hi < INFINITY ? LOW | HIGH : LOW, is_signed = t->mode == 1;
    sums total = {0, 0, 0, -INFINITY, 0, 0};
    sample s = {t->data, t->dtype, t->n, 0, 0, t->seed};
    int64_t count = t->n > 0 ? t->n : 0;
    s.parts = sampled(t->n, t->cap, BLOCK, &s.block);
    if (s.parts) {
        int64_t fit = GROUP / s.block;
        for (int64_t i = 0; i < s.parts; i += fit) {
            int64_t m = s.parts - i < fit ? s.parts - i : fit;
            R_(gather)(buffer, &s, i, m);
            R_(measure)(buffer, m * s.block, lo, hi, is_signed, want, &total);
        }
        count = s.parts * s.block;
    } else {
        for (int64_t i = 0; i < count; i += GROUP) {
            const char *from = (const char *)t->data + i * SIZE[t->dtype];
            int64_t m = count - i < GROUP ? count - i : GROUP;
            if (t->dtype != STORED) R_(convert)(buffer, from, t->dtype, m);
            R_(measure)(t->dtype == STORED ? (const REAL *)from : buffer, m, lo, hi, is_signed, want, &total);
        }
    }
    out[0] = (double)count;
    out[1] = total.sum;
    out[2] = total.squares;
    out[3] = total.squares != total.squares ? total.squares : total.absolute; /* NaN: comparisons have dropped it */
    out[4] = (double)total.low;
    out[5] = (double)total.high;
}

/* Units with long runs of their own: each run is read along memory. */
TARGET static void R_(along)(const plane *p) {
    REAL buffer[GROUP];
    int64_t size = SIZE[p->dtype];
    strata parts = divided(p->outer, p->rows, p->seed);
    for (int64_t r = 0; r < p->rows; r++) {
        int64_t begin, length, offset;
        stratum(&parts, r, &begin, &length, &offset);
        const char *from = (const char *)p->data + (begin + offset) * p->units * p->inner * size;
        for (int64_t u = 0; u < p->units; u++) {
            sums total = {p->sum[u], p->squares[u], p->absolute[u], p->top[u], 0, 0};
            for (int64_t i = 0; i < p->inner; i += GROUP) {
                int64_t m = p->inner - i < GROUP ? p->inner - i : GROUP;
                const char *piece = from + (u * p->inner + i) * size;
                if (p->dtype != STORED) R_(convert)(buffer, piece, p->dtype, m);
                R_(measure)(p->dtype == STORED ? (const REAL *)piece : buffer, m, 0, 0, 0, TOP, &total);
            }
            p->sum[u] = total.sum;
            p->squares[u] = total.squares;
            p->absolute[u] = total.absolute;
            p->top[u] = total.top;
        }
    }
}

/* STEP neighbouring columns down `count` rows; row r begins at x[rows[r] * stride]. Writes STEP numbers each. */
TARGET static INLINE void R_(tile)(const REAL *x, int64_t stride, const int64_t *rows, int64_t count, double *sum,
                                   double *squares, double *top, double *absolute) {
    const R_(ivec) keep = (R_(ivec)){0} + MASK;
    const R_(vec) none = {0}, lowest = none - (REAL)INFINITY;
    R_(vec) s[2] = {none, none}, q[2] = {none, none}, t[2] = {lowest, lowest}, a[2] = {none, none};
    for (int64_t r = 0; r < count; r++) {
        const REAL *row = x + rows[r] * stride;
        for (int j = 0; j < 2; j++) {
            R_(vec) v = *(const R_(loaded) *)(row + j * LANES), size = (R_(vec))((R_(ivec))v & keep);
            s[j] += v;
            q[j] += v * v;
            t[j] = MAX(v, t[j]);
            a[j] = MAX(size, a[j]);
        }
    }
    for (int l = 0; l < STEP; l++) {
        sum[l] = (double)s[l / LANES][l % LANES];
        squares[l] = (double)q[l / LANES][l % LANES];
        top[l] = (double)t[l / LANES][l % LANES];
        absolute[l] = (double)a[l / LANES][l % LANES];
    }
#if IS_FLOAT
    for (int l = 0; l < STEP; l++) {
        if (!(absolute[l] > HUGE_VALUE || (absolute[l] < TINY_VALUE && absolute[l] > 0))) continue;
        sum[l] = squares[l] = 0;
        for (int64_t r = 0; r < count; r++) {
            double v = (double)x[rows[r] * stride + l];
            sum[l] += v;
            squares[l] += v * v;
        }
    }
#endif
}

/* Add the sums of columns [column, column + width) to the units that they belong to. */
TARGET static INLINE void R_(assign)(const plane *p, int64_t column, int64_t width, const double *sum,
                                     const double *squares, const double *top, const double *absolute) {
    int64_t unit = column / p->inner, left = p->inner - column % p->inner;
    if (p->inner == 1) {
        for (int64_t l = 0; l < width; l++) {
            p->sum[unit + l] += sum[l];
            p->squares[unit + l] += squares[l];
            p->top[unit + l] = top[l] > p->top[unit + l] ? top[l] : p->top[unit + l];
            p->absolute[unit + l] = absolute[l] > p->absolute[unit + l] ? absolute[l] : p->absolute[unit + l];
        }
        return;
    }
    for (int64_t l = 0; l < width; unit++, left = p->inner) {
        sums here = {p->sum[unit], p->squares[unit], p->absolute[unit], p->top[unit], 0, 0};
        for (int64_t stop = width - l < left ? width : l + left; l < stop; l++) {
            sums one = {sum[l], squares[l], absolute[l], top[l], 0, 0};
            merge(&here, &one);
        }
        p->sum[unit] = here.sum;
        p->squares[unit] = here.squares;
        p->absolute[unit] = here.absolute;
        p->top[unit] = here.top;
    }
}

/* Units with short runs or none: ROWS rows at a time, STEP columns of them in registers. */
TARGET static void R_(down)(const plane *p) {
    REAL buffer[ROWS * STEP];
    double sum[STEP], squares[STEP], top[STEP], absolute[STEP];
    int64_t columns = p->units * p->inner, size = SIZE[p->dtype], rows[ROWS], packed[ROWS];
    strata parts = divided(p->outer, p->rows, p->seed);
    memset(buffer, 0, sizeof buffer);
    for (int64_t r = 0; r < ROWS; r++) packed[r] = r;
    for (int64_t first = 0; first < p->rows; first += ROWS) {
        int64_t count = p->rows - first < ROWS ? p->rows - first : ROWS;
        for (int64_t r = 0; r < count; r++) {
            int64_t begin, length, offset;
            stratum(&parts, first + r, &begin, &length, &offset);
            rows[r] = begin + offset;
        }
        for (int64_t c = 0; c < columns; c += STEP) {
            int64_t width = columns - c < STEP ? columns - c : STEP;
            const char *from = (const char *)p->data + c * size;
            if (p->dtype == STORED && width == STEP) {
                R_(tile)((const REAL *)from, columns, rows, count, sum, squares, top, absolute);
            } else {
                for (int64_t r = 0; r < count; r++)
                    R_(convert)(buffer + r * STEP, from + rows[r] * columns * size, p->dtype, width);
                R_(tile)(buffer, STEP, packed, count, sum, squares, top, absolute);
            }
            R_(assign)(p, c, width, sum, squares, top, absolute);
        }
    }
}

TARGET static void R_(units)(const plane *p) {
    if (p->inner >= LONG)
        R_(along)(p);
    else
        R_(down)(p);
}

#undef LANES
#undef STEP
#undef R_
#undef REAL
#undef INTEGER
#undef MASK
#undef MAX
#undef GROUP
#undef STORED
#undef BELOW
#undef ABOVE
#undef IS_FLOAT
