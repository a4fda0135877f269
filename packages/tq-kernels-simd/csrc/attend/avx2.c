#include "attend/attend.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "attend/avx2_codes.h"
#include "attend/avx2_floats.h"
#include "attend/avx2_tiles.h"
#include "attend/avx2_windows.h"
#include "attend/avx2_words.h"
#include "attend/exponential.h"
#include "attend/float_rows.h"
#include "levels.h"

static inline __m256i broadcast4(const void *from) {
    int32_t four;
    memcpy(&four, from, 4);
    return _mm256_set1_epi32(four);
}

/* Sums of products of unsigned and signed bytes in fours: 2 * 127 * 127 fits in 16 bits, so that nothing saturates. */
static inline __m256i add_products(__m256i sum, __m256i from_0, __m256i centred) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(from_0, centred), _mm256_set1_epi16(1)));
}

static void dot_bytes(const uint8_t *tile, size_t quads, const int8_t *query, float slope, float offset, const float *scales,
                        float *logits) {
    const __m256 slope_f32x8 = _mm256_set1_ps(slope), offset_f32x8 = _mm256_set1_ps(offset);
    for (int part = 0; part < 2; part++) { /* four sums at a time: with eight, gcc 12 spills */
        __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
        const uint8_t *from = tile + 128 * part;
        for (size_t q = 0; q < quads; q++, from += 4 * TQ_TILE) {
            __m256i four = broadcast4(query + 4 * q);
            a = add_products(a, load(from), four);
            b = add_products(b, load(from + 32), four);
            c = add_products(c, load(from + 64), four);
            d = add_products(d, load(from + 96), four);
        }
        const __m256i sums[4] = {a, b, c, d};
        for (int v = 0; v < 4; v++) {
            __m256 dot = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[v]), slope_f32x8, offset_f32x8);
            _mm256_store_ps(logits + 32 * part + 8 * v, _mm256_mul_ps(dot, _mm256_load_ps(scales + 32 * part + 8 * v)));
        }
    }
}

static void dot_words(const int16_t *tile, size_t pairs, const int16_t *query, float slope, const float *scales, float *logits) {
    const __m256 slope_f32x8 = _mm256_set1_ps(slope);
    for (int part = 0; part < 2; part++) {
        __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
        const uint8_t *from = (const uint8_t *)tile + 128 * part;
        for (size_t p = 0; p < pairs; p++, from += 4 * TQ_TILE) {
            __m256i two = broadcast4(query + 2 * p);
            a = _mm256_add_epi32(a, _mm256_madd_epi16(load(from), two));
            b = _mm256_add_epi32(b, _mm256_madd_epi16(load(from + 32), two));
            c = _mm256_add_epi32(c, _mm256_madd_epi16(load(from + 64), two));
            d = _mm256_add_epi32(d, _mm256_madd_epi16(load(from + 96), two));
        }
        const __m256i sums[4] = {a, b, c, d};
        for (int v = 0; v < 4; v++) {
            __m256 dot = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[v]), slope_f32x8);
            _mm256_store_ps(logits + 32 * part + 8 * v, _mm256_mul_ps(dot, _mm256_load_ps(scales + 32 * part + 8 * v)));
        }
    }
}

static inline __m256 exponential(__m256 x) {
    const __m256 low = _mm256_set1_ps(EXP_LOW);
    __m256 live = _mm256_cmp_ps(x, low, _CMP_NLT_UQ); /* NaN stays */
    __m256 bound = _mm256_min_ps(_mm256_set1_ps(EXP_HIGH), _mm256_max_ps(low, x));
    __m256 n = _mm256_round_ps(_mm256_mul_ps(bound, _mm256_set1_ps(LOG2_E)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(LN2_HIGH), bound);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(LN2_LOW), r);
    __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(P4), r, _mm256_set1_ps(P3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(P2));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(P1));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(P0));
    p = _mm256_add_ps(_mm256_fmadd_ps(_mm256_mul_ps(p, r), r, r), _mm256_set1_ps(1));
    __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_and_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(power)), live);
}

static void exponentials(float *x, size_t count) {
    for (size_t i = 0; i < count; i += 8) _mm256_storeu_ps(x + i, exponential(_mm256_loadu_ps(x + i)));
}

static void cap(float *logits, float limit) {
    const __m256 two = _mm256_set1_ps(2 * limit), pitch = _mm256_set1_ps(2 / limit), one = _mm256_set1_ps(1);
    for (int t = 0; t < TQ_TILE; t += 8) {
        __m256 e = exponential(_mm256_mul_ps(_mm256_load_ps(logits + t), pitch));
        _mm256_store_ps(logits + t, _mm256_sub_ps(_mm256_set1_ps(limit), _mm256_div_ps(two, _mm256_add_ps(e, one))));
    }
}

static inline float greatest(__m256 x) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_shuffle_ps(half, half, 1)));
}

static inline float total(__m256 x) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
}

static float soften(float *logits, float *maximum) {
    __m256 x[8], high = _mm256_set1_ps(*maximum), sum = _mm256_setzero_ps();
    for (int v = 0; v < 8; v++) {
        x[v] = _mm256_load_ps(logits + 8 * v);
        high = _mm256_max_ps(x[v], high); /* the second operand where one is NaN */
    }
    *maximum = greatest(high);
    __m256 base = _mm256_set1_ps(*maximum == -INFINITY ? 0 : *maximum);
    for (int v = 0; v < 8; v++) {
        __m256 weight = exponential(_mm256_sub_ps(x[v], base));
        sum = _mm256_add_ps(sum, weight);
        _mm256_store_ps(logits + 8 * v, weight);
    }
    return total(sum);
}

/* 64 products of weight and scale in 127ths of the greatest, as bytes in order; returns what a 127th is. */
static float round_weights(const float *weights, const float *scales, uint8_t *bytes) {
    __m256 product[8], high = _mm256_setzero_ps();
    for (int v = 0; v < 8; v++) {
        product[v] = _mm256_mul_ps(_mm256_load_ps(weights + 8 * v), _mm256_load_ps(scales + 8 * v));
        high = _mm256_max_ps(product[v], high);
    }
    float highest = greatest(high), unit = highest > 0 ? 127 / highest : 0;
    if (!(unit <= 3e38f)) unit = highest = 0; /* weights so small that they count for nothing */
    const __m256 unit_f32x8 = _mm256_set1_ps(unit);
    const __m256i order = _mm256_set_epi32(7, 3, 6, 2, 5, 1, 4, 0); /* undo the halves of packing */
    for (int v = 0; v < 8; v += 4) {
        __m256i q[4];
        for (int i = 0; i < 4; i++) q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(product[v + i], unit_f32x8));
        __m256i all = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
        store(bytes + 8 * v, _mm256_permutevar8x32_epi32(all, order));
    }
    return highest / 127;
}

static void weigh_bytes(const int8_t *tile, size_t padded, const uint8_t *bytes, float step, float decay, float *sums) {
    const __m256 step_f32x8 = _mm256_set1_ps(step), keep = _mm256_set1_ps(decay);
    for (size_t j = 0; j < padded; j += 32) {
        __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
        const uint8_t *from = (const uint8_t *)tile + 4 * j;
        for (int t = 0; t < TQ_TILE; t += 4, from += 4 * padded) {
            __m256i four = broadcast4(bytes + t);
            a = add_products(a, four, load(from));
            b = add_products(b, four, load(from + 32));
            c = add_products(c, four, load(from + 64));
            d = add_products(d, four, load(from + 96));
        }
        const __m256i totals[4] = {a, b, c, d};
        for (size_t v = 0; v < 4; v++) {
            __m256 old = _mm256_mul_ps(_mm256_load_ps(sums + j + 8 * v), keep);
            _mm256_store_ps(sums + j + 8 * v, _mm256_fmadd_ps(_mm256_cvtepi32_ps(totals[v]), step_f32x8, old));
        }
    }
}

void tq_attend_avx2(tq_attend_slots *slots) {
    *slots = (tq_attend_slots){
        keys, values, words, dot_bytes, dot_words, dot_floats, dot_codes, weigh_codes,
        tq_dot_windows_avx2, tq_weigh_windows_avx2, cap, soften, round_weights, weigh_bytes, weigh_floats, exponentials,
    };
}
