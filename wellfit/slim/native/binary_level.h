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

/* --- sums of floats with signs: 16 rows at a time, see look_up --------------------------------------------------- */

static void NAME(add)(const float *table, const wb_weights *w, int64_t tile, float y[LANES]) {
    const uint32_t *at = (const uint32_t *)w->tiles + tile * w->words * LANES;
    float sums[4][LANES];
#if defined(LEVEL_AVX512)
    __m512 sum[4];
    for (int k = 0; k < 4; k++) sum[k] = _mm512_setzero_ps();
    for (int64_t word = 0; word < w->words; word++, at += LANES, table += 8 * 16) {
        __m512i patterns = _mm512_loadu_si512(at);
        for (int k = 0; k < 8; k++) { /* the look-up heeds the lowest four bits only */
            sum[k % 4] = _mm512_add_ps(sum[k % 4], _mm512_permutexvar_ps(patterns, _mm512_load_ps(table + 16 * k)));
            patterns = _mm512_srli_epi32(patterns, 4);
        }
    }
    for (int k = 0; k < 4; k++) _mm512_storeu_ps(sums[k], sum[k]);
#elif defined(LEVEL_AVX2)
    for (int half = 0; half < LANES; half += 8) {
        const float *entries = table;
        __m256 sum[4];
        for (int k = 0; k < 4; k++) sum[k] = _mm256_setzero_ps();
        for (int64_t word = 0; word < w->words; word++, entries += 8 * 16) {
            __m256i patterns = _mm256_loadu_si256((const __m256i *)(at + word * LANES + half));
            for (int k = 0; k < 8; k++) { /* a look-up heeds three bits, the fourth chooses between two of them */
                __m256 low = _mm256_permutevar8x32_ps(_mm256_load_ps(entries + 16 * k), patterns);
                __m256 high = _mm256_permutevar8x32_ps(_mm256_load_ps(entries + 16 * k + 8), patterns);
                __m256 fourth = _mm256_castsi256_ps(_mm256_slli_epi32(patterns, 28));
                sum[k % 4] = _mm256_add_ps(sum[k % 4], _mm256_blendv_ps(low, high, fourth));
                patterns = _mm256_srli_epi32(patterns, 4);
            }
        }
        for (int k = 0; k < 4; k++) _mm256_storeu_ps(sums[k] + half, sum[k]);
    }
#else
    memset(sums, 0, sizeof sums);
    for (int64_t word = 0; word < w->words; word++, at += LANES, table += 8 * 16)
        for (int k = 0; k < 8; k++)
            for (int r = 0; r < LANES; r++) sums[k % 4][r] += table[16 * k + (at[r] >> 4 * k & 15)];
#endif
    for (int r = 0; r < LANES; r++) {
        float sum4 = (sums[0][r] + sums[1][r]) + (sums[2][r] + sums[3][r]);
        y[r] = sum4 * w->scale[tile * LANES + r] + w->bias[tile * LANES + r];
    }
}

/* --- signs with signs: 8 rows at a time -------------------------------------------------------------------------- */

static INLINE void NAME(count)(const uint64_t *signs, const uint64_t *at, int64_t words, int64_t differ[ROWS]) {
#if defined(LEVEL_AVX512)
    __m512i sum = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int64_t k = 0; k < words; k++) {
        __m512i mine = _mm512_set1_epi64((long long)signs[k]);
        sum = _mm512_add_epi64(sum, _mm512_popcnt_epi64(_mm512_xor_si512(mine, _mm512_loadu_si512(at + k * ROWS))));
    }
    _mm512_storeu_si512(differ, sum);
#elif defined(LEVEL_AVX2)
    /* Mula's popcount: two look-ups of 4 bits each, summed over the bytes of a word by vpsadbw. */
    const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2,
                                           2, 3, 2, 3, 3, 4);
    const __m256i nibble = _mm256_set1_epi8(15), none = _mm256_setzero_si256();
    __m256i sum[2] = {none, none};
    for (int64_t k = 0; k < words; k++) {
        __m256i mine = _mm256_set1_epi64x((long long)signs[k]);
        for (int half = 0; half < 2; half++) {
            __m256i a = _mm256_xor_si256(mine, _mm256_loadu_si256((const __m256i *)(at + k * ROWS + 4 * half)));
            __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(a, nibble));
            __m256i high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(a, 4), nibble));
            sum[half] = _mm256_add_epi64(sum[half], _mm256_sad_epu8(_mm256_add_epi8(low, high), none));
        }
    }
    _mm256_storeu_si256((__m256i *)differ, sum[0]);
    _mm256_storeu_si256((__m256i *)(differ + 4), sum[1]);
#else
    for (int r = 0; r < ROWS; r++) differ[r] = 0;
    for (int64_t k = 0; k < words; k++)
        for (int r = 0; r < ROWS; r++) differ[r] += __builtin_popcountll(signs[k] ^ at[k * ROWS + r]);
#endif
}

/* y[r] = (products of +1 less those of -1, plus more[r]) * beta * scale + bias, for the rows of all tiles. */
static void NAME(multiply)(const uint64_t *signs, const wb_weights *w, const float *restrict more, float beta,
                           float *restrict y) {
    const uint64_t *at = w->tiles;
    int64_t words = w->words, inputs = w->inputs, tiles = (w->rows + ROWS - 1) / ROWS;
    const float *restrict scale = w->scale, *restrict bias = w->bias;
    for (int64_t tile = 0; tile < tiles; tile++, at += words * ROWS) {
        int64_t differ[ROWS], row = tile * ROWS;
        float dot[ROWS];
        NAME(count)(signs, at, words, differ);
        for (int r = 0; r < ROWS; r++) dot[r] = (float)(inputs - 2 * differ[r]);
        if (more)
            for (int r = 0; r < ROWS; r++) dot[r] += more[row + r];
        for (int r = 0; r < ROWS; r++) y[row + r] = dot[r] * beta * scale[row + r] + bias[row + r];
    }
}

static const functions NAME(table) = {NAME(pack), NAME(mean_absolute), NAME(add), NAME(multiply)};
