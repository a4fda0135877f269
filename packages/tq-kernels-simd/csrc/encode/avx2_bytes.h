/* Look-ups of bytes in tables of up to 128, 32 at a time, shared by encode and decode. */
#ifndef TQ_ENCODE_AVX2_BYTES_H
#define TQ_ENCODE_AVX2_BYTES_H

#include <immintrin.h>
#include <stdint.h>

#include "specialize.h"

INLINE __m256i table16(const void *table) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table));
}

/* Bytes at 32 indices below `entries`, which is 128 at most. A look-up sees the low four bits of an index; the blends see the
 * bit that is shifted to the top of its byte. */
INLINE __m256i found16(const uint8_t *table, __m256i index) { return _mm256_shuffle_epi8(table16(table), index); }
INLINE __m256i found32(const uint8_t *table, __m256i index) {
    return _mm256_blendv_epi8(found16(table, index), found16(table + 16, index), _mm256_slli_epi16(index, 3));
}
INLINE __m256i found64(const uint8_t *table, __m256i index) {
    return _mm256_blendv_epi8(found32(table, index), found32(table + 32, index), _mm256_slli_epi16(index, 2));
}
INLINE __m256i found(const uint8_t *table, __m256i index, int entries) {
    if (entries <= 16) return found16(table, index);
    if (entries == 32) return found32(table, index);
    if (entries == 64) return found64(table, index);
    return _mm256_blendv_epi8(found64(table, index), found64(table + 64, index), _mm256_slli_epi16(index, 1));
}

/* Thirty-two words, in the places of the bytes that packing two registers of 16 interleaves. */
typedef struct words32 {
    __m256i first, second;
} words32;
INLINE words32 joined(__m256i low, __m256i high) {
    return (words32){_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)};
}

#endif
