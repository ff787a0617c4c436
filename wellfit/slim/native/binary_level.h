/* The loops of binary.c for one instruction set: included once for each, with NAME(...) and LEVEL_... defined. */

/* --- signs of a row of floats, packed ----------------------------------------------------------------------- */

static void NAME(pack)(const float *x, int64_t n, uint64_t *words) {
    int64_t full = n / 64;
    for (int64_t w = 0; w < full; w++) {
        const float *at = x + 64 * w;
        uint64_t word = 0;
#if defined(LEVEL_AVX512)
        for (int i = 0; i < 4; i++)
            word |= (uint64_t)_mm512_cmp_ps_mask(_mm512_loadu_ps(at + 16 * i), _mm512_setzero_ps(), _CMP_GE_OQ) << 16 * i;
#elif defined(LEVEL_AVX2)
        for (int i = 0; i < 8; i++) {
            __m256 high = _mm256_cmp_ps(_mm256_loadu_ps(at + 8 * i), _mm256_setzero_ps(), _CMP_GE_OQ);
            word |= (uint64_t)(unsigned)_mm256_movemask_ps(high) << 8 * i;
        }
#else
        for (int i = 0; i < 64; i++) word |= (uint64_t)(at[i] >= 0) << i;
#endif
        words[w] = word;
    }
    if (n % 64) {
        uint64_t word = 0;
        for (int64_t i = 64 * full; i < n; i++) word |= (uint64_t)(x[i] >= 0) << (i - 64 * full);
        words[full] = word;
    }
}

/* --- mean of the absolute values ------------------------------------------------------------------------------ */

static float NAME(mean_absolute)(const float *x, int64_t n) {
    float lane[LANES] = {0}, rest[LANES];
    int64_t full = n / LANES * LANES;
    tail(x, n, rest);
#if defined(LEVEL_AVX512)
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < full; i += LANES) sum = _mm512_add_ps(sum, _mm512_abs_ps(_mm512_loadu_ps(x + i)));
    _mm512_storeu_ps(lane, _mm512_add_ps(sum, _mm512_abs_ps(_mm512_loadu_ps(rest))));
#elif defined(LEVEL_AVX2)
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 low = _mm256_setzero_ps(), high = _mm256_setzero_ps();
    for (int64_t i = 0; i < full; i += LANES) {
        low = _mm256_add_ps(low, _mm256_andnot_ps(sign, _mm256_loadu_ps(x + i)));
        high = _mm256_add_ps(high, _mm256_andnot_ps(sign, _mm256_loadu_ps(x + i + 8)));
    }
    _mm256_storeu_ps(lane, _mm256_add_ps(low, _mm256_andnot_ps(sign, _mm256_loadu_ps(rest))));
    _mm256_storeu_ps(lane + 8, _mm256_add_ps(high, _mm256_andnot_ps(sign, _mm256_loadu_ps(rest + 8))));
#else
    for (int64_t i = 0; i < full; i += LANES)
        for (int j = 0; j < LANES; j++) lane[j] += fabsf(x[i + j]);
    for (int j = 0; j < LANES; j++) lane[j] += fabsf(rest[j]);
#endif
    return ordered(lane) / (float)n;
}

/* --- sums of floats with signs: 8 rows at a time ---------------------------------------------------------------- */

/* Adds 16 inputs, negated where a row's bit is 0, to the sums of 8 rows. `bits` is the first of 8 neighbouring words,
 * `part` says which 16 bits of each word. */
#if defined(LEVEL_AVX512)
static INLINE void NAME(add16)(__m512 x, const uint64_t *bits, int part, __m512 sum[ROWS]) {
    __m512 negative = _mm512_sub_ps(_mm512_set1_ps(-0.0f), x);
    for (int r = 0; r < ROWS; r++) {
        __mmask16 positive = (__mmask16)(bits[r] >> 16 * part);
        sum[r] = _mm512_add_ps(sum[r], _mm512_mask_blend_ps(positive, negative, x));
    }
}
#elif defined(LEVEL_AVX2)
static INLINE __m256 NAME(flip)(unsigned bits) { /* the sign bit where a bit is 0 */
    const __m256i each = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i set = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)bits), each), each);
    return _mm256_andnot_ps(_mm256_castsi256_ps(set), _mm256_set1_ps(-0.0f));
}

static INLINE void NAME(add8)(__m256 x, const uint64_t *bits, int part, __m256 sum[4]) { /* 4 rows, 8 inputs */
    for (int r = 0; r < 4; r++)
        sum[r] = _mm256_add_ps(sum[r], _mm256_xor_ps(x, NAME(flip)((unsigned)(bits[r] >> 8 * part) & 255)));
}
#endif

static void NAME(add)(const float *x, const wb_weights *w, int64_t tile, float sums[ROWS]) {
    const uint64_t *bits = w->tiles + tile * w->words * ROWS;
    int64_t parts = w->inputs / LANES;
    float rest[LANES], lane[ROWS][LANES];
    tail(x, w->inputs, rest);
#if defined(LEVEL_AVX512)
    __m512 sum[ROWS];
    for (int r = 0; r < ROWS; r++) sum[r] = _mm512_setzero_ps();
    int64_t whole = parts / 4;
    for (int64_t word = 0; word < whole; word++)
        for (int part = 0; part < 4; part++)
            NAME(add16)(_mm512_loadu_ps(x + 64 * word + 16 * part), bits + word * ROWS, part, sum);
    for (int64_t p = 4 * whole; p < parts; p++)
        NAME(add16)(_mm512_loadu_ps(x + LANES * p), bits + p / 4 * ROWS, (int)(p % 4), sum);
    if (w->inputs % LANES) NAME(add16)(_mm512_loadu_ps(rest), bits + parts / 4 * ROWS, (int)(parts % 4), sum);
    for (int r = 0; r < ROWS; r++) _mm512_storeu_ps(lane[r], sum[r]);
#elif defined(LEVEL_AVX2)
    for (int half = 0; half < 2; half++) { /* 4 rows at a time: 8 sums and what they need fit into 16 registers */
        const uint64_t *four = bits + 4 * half;
        __m256 low[4], high[4];
        for (int r = 0; r < 4; r++) low[r] = high[r] = _mm256_setzero_ps();
        for (int64_t p = 0; p < parts; p++) {
            const uint64_t *at = four + p / 4 * ROWS;
            NAME(add8)(_mm256_loadu_ps(x + LANES * p), at, (int)(p % 4) * 2, low);
            NAME(add8)(_mm256_loadu_ps(x + LANES * p + 8), at, (int)(p % 4) * 2 + 1, high);
        }
        if (w->inputs % LANES) {
            const uint64_t *at = four + parts / 4 * ROWS;
            NAME(add8)(_mm256_loadu_ps(rest), at, (int)(parts % 4) * 2, low);
            NAME(add8)(_mm256_loadu_ps(rest + 8), at, (int)(parts % 4) * 2 + 1, high);
        }
        for (int r = 0; r < 4; r++) {
            _mm256_storeu_ps(lane[4 * half + r], low[r]);
            _mm256_storeu_ps(lane[4 * half + r] + 8, high[r]);
        }
    }
#else
    memset(lane, 0, sizeof lane);
    for (int64_t p = 0; p <= parts; p++) {
        const float *at = p < parts ? x + LANES * p : rest;
        if (p == parts && w->inputs % LANES == 0) break;
        for (int r = 0; r < ROWS; r++) {
            uint64_t word = bits[p / 4 * ROWS + r] >> p % 4 * LANES;
            for (int j = 0; j < LANES; j++) lane[r][j] += word >> j & 1 ? at[j] : -at[j];
        }
    }
#endif
    for (int r = 0; r < ROWS; r++) sums[r] = ordered(lane[r]);
}

/* --- how many signs differ: 8 rows at a time --------------------------------------------------------------------- */

static void NAME(differ)(const uint64_t *signs, const uint64_t *tile, int64_t words, int64_t counts[ROWS]) {
#if defined(LEVEL_AVX512)
    __m512i even = _mm512_setzero_si512(), odd = _mm512_setzero_si512();
    int64_t w = 0;
    for (; w + 1 < words; w += 2) {
        __m512i a = _mm512_xor_si512(_mm512_set1_epi64((long long)signs[w]), _mm512_loadu_si512(tile + w * ROWS));
        __m512i b = _mm512_xor_si512(_mm512_set1_epi64((long long)signs[w + 1]), _mm512_loadu_si512(tile + (w + 1) * ROWS));
        even = _mm512_add_epi64(even, _mm512_popcnt_epi64(a));
        odd = _mm512_add_epi64(odd, _mm512_popcnt_epi64(b));
    }
    if (w < words) {
        __m512i a = _mm512_xor_si512(_mm512_set1_epi64((long long)signs[w]), _mm512_loadu_si512(tile + w * ROWS));
        even = _mm512_add_epi64(even, _mm512_popcnt_epi64(a));
    }
    _mm512_storeu_si512(counts, _mm512_add_epi64(even, odd));
#elif defined(LEVEL_AVX2)
    /* Mula's popcount: two look-ups of 4 bits each, summed over the bytes of a word by vpsadbw. */
    const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2,
                                           2, 3, 2, 3, 3, 4);
    const __m256i nibble = _mm256_set1_epi8(15), none = _mm256_setzero_si256();
    __m256i sum[2] = {none, none};
    for (int64_t w = 0; w < words; w++) {
        __m256i mine = _mm256_set1_epi64x((long long)signs[w]);
        for (int half = 0; half < 2; half++) {
            __m256i a = _mm256_xor_si256(mine, _mm256_loadu_si256((const __m256i *)(tile + w * ROWS + 4 * half)));
            __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(a, nibble));
            __m256i high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(a, 4), nibble));
            sum[half] = _mm256_add_epi64(sum[half], _mm256_sad_epu8(_mm256_add_epi8(low, high), none));
        }
    }
    _mm256_storeu_si256((__m256i *)counts, sum[0]);
    _mm256_storeu_si256((__m256i *)(counts + 4), sum[1]);
#else
    memset(counts, 0, ROWS * sizeof(int64_t));
    for (int64_t w = 0; w < words; w++)
        for (int r = 0; r < ROWS; r++) counts[r] += __builtin_popcountll(signs[w] ^ tile[w * ROWS + r]);
#endif
}

static const functions NAME(table) = {NAME(pack), NAME(mean_absolute), NAME(add), NAME(differ)};
