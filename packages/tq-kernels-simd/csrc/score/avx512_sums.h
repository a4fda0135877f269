/* Sums of lanes with AVX-512. Private to csrc/score/avx512*.c. */
#ifndef TQ_SCORE_AVX512_SUMS_H
#define TQ_SCORE_AVX512_SUMS_H

#include <immintrin.h>

#include "specialize.h"

INLINE __m256i halves(__m512i x) { return _mm256_add_epi32(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1)); }

/* Four vectors of 32-bit lanes to their four sums. */
INLINE __m128i sums_of_256(__m256i a, __m256i b, __m256i c, __m256i d) {
    __m256i pairs = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    return _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
}

INLINE __m128i sums_of(__m512i a, __m512i b, __m512i c, __m512i d) {
    return sums_of_256(halves(a), halves(b), halves(c), halves(d));
}

#endif
