/* Rows of codes looked up in registers where they are multiplied, with AVX2, for avx2.c alone. Query rows are taken in fours,
 * which share what was looked up: four rows times two registers of numbers are eight sums, as many as hide the latency of
 * their additions. Everything about a width of codes is a constant in the functions marked INLINE. */
#ifndef TQ_ATTEND_AVX2_CODES_H
#define TQ_ATTEND_AVX2_CODES_H

#include "attend/avx2_tiles.h"
#include "attend/codes.h"

#define HALF 8 /* code_rows.h says what this file defines for it */
#define PLANE(bytes) (((bytes) + 31) / 32 * 256)

/* Indices are the low three bits of a dword: what lies above them need not be cleared. */
typedef struct code_table {
    __m256 low, high;
} code_table;

static inline code_table table_of(const tq_codebook *book) {
    float entries[16];
    tq_attend_entries(book, entries);
    return (code_table){_mm256_loadu_ps(entries), _mm256_loadu_ps(entries + 8)};
}

/* The centroids of the codes in the lowest bits of `x`; of three bits, the third is bit 2 of `third`. */
INLINE __m256 look_up_codes(code_table table, __m256i x, __m256i third, const int bits) {
    if (bits == 3) {
        const __m256i two = _mm256_set1_epi32(3);
        x = _mm256_or_si256(_mm256_and_si256(x, two), _mm256_andnot_si256(two, third));
    }
    __m256 low = _mm256_permutevar8x32_ps(table.low, x);
    if (bits < 4) return low;
    return _mm256_blendv_ps(low, _mm256_permutevar8x32_ps(table.high, x), _mm256_castsi256_ps(_mm256_slli_epi32(x, 28)));
}

INLINE void dot_step(code_table table, const uint8_t *low, const uint8_t *third, size_t half, size_t dwords, const int bits,
                   const float *const *queries, const int rows, const float *scales, float *const *logits) {
    const int width = TQ_WIDTH(bits), phases = 32 / width;
    __m256 sums[4][2];
    for (int r = 0; r < rows; r++) sums[r][0] = sums[r][1] = _mm256_setzero_ps();
    size_t j = 0;
    for (size_t k = 0; k < dwords; k++) {
        __m256i x[2], y[2];
        for (int h = 0; h < 2; h++) {
            x[h] = load(low + (size_t)h * half + 32 * k);
            y[h] = _mm256_setzero_si256();
            if (bits != 3) continue;
            y[h] = load(third + (size_t)h * half + 32 * (k / 2)); /* of its 32 bits, those of this dword are 16 */
            y[h] = k % 2 ? _mm256_srli_epi32(y[h], 14) : _mm256_slli_epi32(y[h], 2);
        }
        for (int p = 0; p < phases; p++, j++) {
            __m256 found[2];
            for (int h = 0; h < 2; h++) {
                found[h] = look_up_codes(table, x[h], y[h], bits);
                x[h] = _mm256_srli_epi32(x[h], width);
                if (bits == 3) y[h] = _mm256_srli_epi32(y[h], 1);
            }
            for (int r = 0; r < rows; r++) {
                __m256 q = _mm256_broadcast_ss(queries[r] + j);
                sums[r][0] = _mm256_fmadd_ps(q, found[0], sums[r][0]);
                sums[r][1] = _mm256_fmadd_ps(q, found[1], sums[r][1]);
            }
        }
    }
    for (int r = 0; r < rows; r++)
        for (int h = 0; h < 2; h++)
            _mm256_store_ps(logits[r] + 8 * h, _mm256_mul_ps(sums[r][h], _mm256_load_ps(scales + 8 * h)));
}

/* The codes of 64 coordinates, eight a dword. */
INLINE __m256i eight_a_dword(const uint8_t *from, const int width) {
    if (width == 4) return _mm256_loadu_si256((const __m256i *)from);
    if (width == 2) return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from));
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)from));
}

/* Two phases of 64 coordinates of all tokens, for `rows` sums. */
INLINE void weigh_pair(code_table table, tq_attend_block block, size_t tokens, const int bits, const int phase,
                       const float *const *weights, const int rows, const float *decays, float *const *sums, size_t at) {
    const int width = TQ_WIDTH(bits);
    __m256 sum[4][2];
    for (int r = 0; r < rows; r++)
        for (int h = 0; h < 2; h++)
            sum[r][h] = _mm256_mul_ps(_mm256_load_ps(sums[r] + at + 8 * h), _mm256_set1_ps(decays[r]));
    for (size_t t = 0; t < tokens; t++, block.low += block.step, block.third += block.step) {
        __m256i x = _mm256_srli_epi32(eight_a_dword(block.low, width), phase * width), y = _mm256_setzero_si256();
        if (bits == 3) y = _mm256_srli_epi32(_mm256_slli_epi32(eight_a_dword(block.third, 1), 2), phase);
        __m256 first = look_up_codes(table, x, y, bits);
        __m256 second = look_up_codes(table, _mm256_srli_epi32(x, width), _mm256_srli_epi32(y, 1), bits);
        for (int r = 0; r < rows; r++) {
            __m256 weight = _mm256_broadcast_ss(weights[r] + t);
            sum[r][0] = _mm256_fmadd_ps(weight, first, sum[r][0]);
            sum[r][1] = _mm256_fmadd_ps(weight, second, sum[r][1]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int h = 0; h < 2; h++) _mm256_store_ps(sums[r] + at + 8 * h, sum[r][h]);
}

INLINE void weigh_block(code_table table, tq_attend_block block, size_t tokens, const int bits, const float *const *weights,
                        const int rows, const float *decays, float *const *sums, size_t at) {
#define PAIR(phase) weigh_pair(table, block, tokens, bits, phase, weights, rows, decays, sums, at + 8 * (phase))
    PAIR(0), PAIR(2), PAIR(4), PAIR(6);
}

#include "attend/code_rows.h"

#endif
