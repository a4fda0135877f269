/* Rows of codes looked up in registers where they are multiplied, with AVX-512, for avx512.c alone: as avx2_codes.h does it,
 * but all 16 entries of a table lie in one register. */
#ifndef TQ_ATTEND_AVX512_CODES_H
#define TQ_ATTEND_AVX512_CODES_H

#include <immintrin.h>

#include "attend/codes.h"

#define HALF 16 /* code_rows.h says what this file defines for it */
#define PLANE(bytes) (((bytes) + 3) / 4 * 64)
typedef __m512 code_table;

/* The centroids of the codes in the lowest bits of `x`; of three bits, the third is bit 2 of `third`. */
INLINE __m512 look_up(code_table table, __m512i x, __m512i third, const int bits) {
    if (bits == 3) { /* bits 0 and 1 of x, above them those of third */
        const __m512i two = _mm512_set1_epi32(3);
        x = _mm512_ternarylogic_epi32(two, x, third, 0xCA);
    }
    return _mm512_permutexvar_ps(x, table);
}

static inline code_table table_of(const tq_codebook *book) {
    float entries[16];
    tq_attend_entries(book, entries);
    return _mm512_loadu_ps(entries);
}

/* A plane of 16 rows to `out`: dword k of the 16 tokens at 64 * k. */
static inline void transpose_dwords(const uint8_t *const rows[HALF], size_t at, size_t bytes, uint8_t *out) {
    for (size_t b = 0; b < bytes; b += 64) {
        const size_t left = bytes - b < 64 ? bytes - b : 64;
        const __mmask64 mask = ~(uint64_t)0 >> (64 - left);
        __m512i r[16], s[16];
        for (int i = 0; i < 16; i++) r[i] = _mm512_maskz_loadu_epi8(mask, rows[i] + at + b);
        for (int i = 0; i < 16; i += 2) {
            s[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
            s[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
        }
        for (int i = 0; i < 16; i += 4) { /* r[i + k]: in quarter m, dword 4m + k of rows i..i+3 */
            r[i] = _mm512_unpacklo_epi64(s[i], s[i + 2]);
            r[i + 1] = _mm512_unpackhi_epi64(s[i], s[i + 2]);
            r[i + 2] = _mm512_unpacklo_epi64(s[i + 1], s[i + 3]);
            r[i + 3] = _mm512_unpackhi_epi64(s[i + 1], s[i + 3]);
        }
        for (int k = 0; k < 4; k++) {
            __m512i a = _mm512_shuffle_i32x4(r[k], r[k + 4], 0x88), b2 = _mm512_shuffle_i32x4(r[k + 8], r[k + 12], 0x88);
            __m512i c = _mm512_shuffle_i32x4(r[k], r[k + 4], 0xDD), d = _mm512_shuffle_i32x4(r[k + 8], r[k + 12], 0xDD);
            s[k] = _mm512_shuffle_i32x4(a, b2, 0x88);
            s[k + 8] = _mm512_shuffle_i32x4(a, b2, 0xDD);
            s[k + 4] = _mm512_shuffle_i32x4(c, d, 0x88);
            s[k + 12] = _mm512_shuffle_i32x4(c, d, 0xDD);
        }
        for (size_t k = 0; k < 16 && 4 * k < left; k++, out += 64) _mm512_store_si512(out, s[k]);
    }
}

INLINE void dot_step(code_table table, const uint8_t *low, const uint8_t *third, size_t half, size_t dwords, const int bits,
                   const float *const *queries, const int rows, const float *scales, float *const *logits) {
    const int width = TQ_WIDTH(bits), phases = 32 / width;
    __m512 sums[4][2];
    for (int r = 0; r < rows; r++) sums[r][0] = sums[r][1] = _mm512_setzero_ps();
    size_t j = 0;
    for (size_t k = 0; k < dwords; k++) {
        __m512i x[2], y[2];
        for (int h = 0; h < 2; h++) {
            x[h] = _mm512_load_si512(low + (size_t)h * half + 64 * k);
            y[h] = _mm512_setzero_si512();
            if (bits != 3) continue;
            y[h] = _mm512_load_si512(third + (size_t)h * half + 64 * (k / 2)); /* of its 32 bits, those of this dword are 16 */
            y[h] = k % 2 ? _mm512_srli_epi32(y[h], 14) : _mm512_slli_epi32(y[h], 2);
        }
        for (int p = 0; p < phases; p++, j++) {
            __m512 found[2];
            for (int h = 0; h < 2; h++) {
                found[h] = look_up(table, x[h], y[h], bits);
                x[h] = _mm512_srli_epi32(x[h], width);
                if (bits == 3) y[h] = _mm512_srli_epi32(y[h], 1);
            }
            for (int r = 0; r < rows; r++) {
                __m512 q = _mm512_set1_ps(queries[r][j]);
                sums[r][0] = _mm512_fmadd_ps(q, found[0], sums[r][0]);
                sums[r][1] = _mm512_fmadd_ps(q, found[1], sums[r][1]);
            }
        }
    }
    for (int r = 0; r < rows; r++)
        for (int h = 0; h < 2; h++)
            _mm512_store_ps(logits[r] + 16 * h, _mm512_mul_ps(sums[r][h], _mm512_load_ps(scales + 16 * h)));
}

/* The codes of 64 coordinates, eight a dword, twice. */
INLINE __m512i eight_a_dword(const uint8_t *from, const int width) {
    if (width == 4) return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)from));
    if (width == 2) return _mm512_cvtepu16_epi32(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)from)));
    return _mm512_cvtepu8_epi32(_mm_broadcastq_epi64(_mm_loadl_epi64((const __m128i *)from)));
}

/* 64 coordinates of all tokens, for `rows` sums: two phases a register. */
INLINE void weigh_block(code_table table, tq_attend_block block, size_t tokens, const int bits, const float *const *weights,
                     const int rows, const float *decays, float *const *sums, size_t at) {
    const int width = TQ_WIDTH(bits);
    __m512i shifts[4], thirds[4];
    for (int v = 0; v < 4; v++) {
        const __m512i phase = _mm512_inserti64x4(_mm512_set1_epi32(2 * v), _mm256_set1_epi32(2 * v + 1), 1);
        shifts[v] = _mm512_slli_epi32(phase, width / 2); /* times 1, 2 or 4 */
        thirds[v] = phase;
    }
    __m512 sum[4][4];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < 4; v++)
            sum[r][v] = _mm512_mul_ps(_mm512_load_ps(sums[r] + at + 16 * v), _mm512_set1_ps(decays[r]));
    for (size_t t = 0; t < tokens; t++, block.low += block.step, block.third += block.step) {
        const __m512i x = eight_a_dword(block.low, width);
        const __m512i y = bits == 3 ? _mm512_slli_epi32(eight_a_dword(block.third, 1), 2) : x;
        __m512 found[4];
        for (int v = 0; v < 4; v++)
            found[v] = look_up(table, _mm512_srlv_epi32(x, shifts[v]), bits == 3 ? _mm512_srlv_epi32(y, thirds[v]) : y, bits);
        for (int r = 0; r < rows; r++) {
            const __m512 weight = _mm512_set1_ps(weights[r][t]);
            for (int v = 0; v < 4; v++) sum[r][v] = _mm512_fmadd_ps(weight, found[v], sum[r][v]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < 4; v++) _mm512_store_ps(sums[r] + at + 16 * v, sum[r][v]);
}

#include "attend/code_rows.h"

#endif
