/* Codes and levels of int16 coordinates, and the exact sums over them, 32 coordinates at a time. */
#ifndef TQ_ENCODE_AVX2_LEVELS_H
#define TQ_ENCODE_AVX2_LEVELS_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "plan.h"

#define INLINE static inline __attribute__((always_inline))

/* round_half_even of 8 numbers times `by` as int32; what is above 32767 becomes 32767, what is below the int32 range, or no
 * number, becomes its lowest value, which saturates with the others when packed. */
INLINE __m256i rounded8(const float *z, __m256 by) {
    return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_set1_ps(32767.0f), _mm256_mul_ps(_mm256_loadu_ps(z), by)));
}

/* clamp(round_half_even(z * by)) of 16 numbers, coordinates 0-3, 8-11, 4-7, 12-15. */
INLINE __m256i coordinates16(const float *z, __m256 by) {
    return _mm256_max_epi16(_mm256_packs_epi32(rounded8(z, by), rounded8(z + 8, by)), _mm256_set1_epi16(-32767));
}
INLINE __m256i in_order16(__m256i v) { return _mm256_permute4x64_epi64(v, 0xD8); }

/* Thresholds and levels of at most 4 bits in registers. */
typedef struct small_book {
    __m256i threshold[7], levels; /* levels: eight int16 in each half */
    __m256i middle;
} small_book;

INLINE small_book small_book_of(const tq_codebook *book, int bits) {
    small_book of;
    int half = 1 << (bits - 1);
    int64_t few = 0; /* by way of a register: 16 bytes read from what was stored in pieces would wait for them */
    for (int m = 0; m + 1 < half; m++) of.threshold[m] = _mm256_set1_epi16(book->thresholds[m]);
    if (bits < 4) memcpy(&few, book->levels, (size_t)half * 2);
    of.levels = _mm256_broadcastsi128_si256(bits < 4 ? _mm_cvtsi64_si128(few)
                                                     : _mm_loadu_si128((const __m128i *)book->levels));
    of.middle = _mm256_set1_epi8((char)half);
    return of;
}

/* The number of thresholds below each |v|, in both bytes of its lane. */
INLINE __m256i counts16(const small_book *book, __m256i magnitude, int bits) {
    __m256i m = _mm256_setzero_si256();
    for (int k = 0; k + 1 < 1 << (bits - 1); k++)
        m = _mm256_sub_epi8(m, _mm256_cmpgt_epi16(magnitude, book->threshold[k]));
    return m;
}
INLINE __m256i levels16(const small_book *book, __m256i counts) {
    return _mm256_shuffle_epi8(book->levels, _mm256_add_epi8(_mm256_add_epi8(counts, counts), _mm256_set1_epi16(0x0100)));
}

/* Sums of int32 lanes read as unsigned, in int64 lanes. */
INLINE __m256i widened(__m256i total, __m256i sums) {
    __m256i low = _mm256_and_si256(sums, _mm256_set1_epi64x(0xFFFFFFFF)), high = _mm256_srli_epi64(sums, 32);
    return _mm256_add_epi64(total, _mm256_add_epi64(low, high));
}
INLINE int64_t total_of(__m256i sums) {
    __m128i pair = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    return _mm_cvtsi128_si64(pair) + _mm_extract_epi64(pair, 1);
}

#endif
