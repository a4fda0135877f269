/* AVX2: 32 bytes of the widest plane to levels, one vector a phase (score.h). Private to csrc/score/avx2*.c. */
#ifndef TQ_SCORE_AVX2_PLANES_H
#define TQ_SCORE_AVX2_PLANES_H

#include <immintrin.h>

#include "score/nibbles.h"

/* Tables of a byte shuffle, the same in both halves of a vector. */
typedef struct tables {
    __m256i level[4]; /* by nibble: of its low code, and (1 and 2 bits) of the codes above */
    __m256i spread[2]; /* 3 bits: the high bits of even and of odd codes, moved above the codes' low bits */
} tables;

INLINE __m256i both(const uint8_t *sixteen) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)sixteen));
}

INLINE tables tables_of(const tq_levels8 *levels, int bits) {
    tables made;
    uint8_t bytes[16];
    for (int k = 0; k < TQ_IN_NIBBLE(bits); k++) {
        tq_nibble_levels(levels, bits, k, bytes);
        made.level[k] = both(bytes);
    }
    for (int k = 0; k < 2; k++) {
        tq_nibble_spread(k, bytes);
        made.spread[k] = both(bytes);
    }
    return made;
}

/* The levels of a chunk, phase by phase; `high` is the second plane of 3 bits. */
INLINE void levels_of(int bits, const uint8_t *low, const uint8_t *high, const tables *t, __m256i *out) {
    const __m256i nibble = _mm256_set1_epi8(15);
    __m256i x = _mm256_loadu_si256((const __m256i *)low);
    if (bits == 3) {
        /* the nibble of byte i / 2 that belongs to byte i */
        __m256i y = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)high));
        y = _mm256_and_si256(_mm256_or_si256(y, _mm256_slli_epi16(y, 4)), nibble);
        const __m256i pairs = _mm256_set1_epi8(0x33);
        __m256i even = _mm256_or_si256(_mm256_and_si256(x, pairs), _mm256_shuffle_epi8(t->spread[0], y));
        __m256i odd = _mm256_and_si256(_mm256_srli_epi16(x, 2), pairs);
        odd = _mm256_or_si256(odd, _mm256_shuffle_epi8(t->spread[1], y));
        /* each nibble's top bit is 0, so a shuffle may see what the shift brought in from the neighbour */
        out[0] = _mm256_shuffle_epi8(t->level[0], even);
        out[1] = _mm256_shuffle_epi8(t->level[0], odd);
        out[2] = _mm256_shuffle_epi8(t->level[0], _mm256_srli_epi16(even, 4));
        out[3] = _mm256_shuffle_epi8(t->level[0], _mm256_srli_epi16(odd, 4));
        return;
    }
    const int codes = TQ_IN_NIBBLE(bits);
    __m256i first = _mm256_and_si256(x, nibble), second = _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble);
    for (int k = 0; k < codes; k++) {
        out[k] = _mm256_shuffle_epi8(t->level[k], first);
        out[codes + k] = _mm256_shuffle_epi8(t->level[k], second);
    }
}

/* Four vectors of 32-bit lanes to their four sums. */
INLINE __m128i sums_of(__m256i a, __m256i b, __m256i c, __m256i d) {
    __m256i pairs = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    return _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
}

#endif
