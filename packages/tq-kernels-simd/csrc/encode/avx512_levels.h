/* Codes and levels of int16 coordinates, and the exact sums over them, 64 coordinates at a time. */
#ifndef TQ_ENCODE_AVX512_LEVELS_H
#define TQ_ENCODE_AVX512_LEVELS_H

#include <immintrin.h>
#include <stdint.h>

#include "plan.h"
#include "specialize.h"

/* Two registers of 32 words. Packing 64 numbers into them leaves, in lane k, numbers 4k.. of each of the four registers that
 * were packed: `woven` order, which `in_order64` ends for bytes. */
typedef struct words64 {
    __m512i first, second;
} words64;

/* What is beyond the mask reads as 0 and is not touched in memory. */
INLINE __m512i rounded16(const float *z, __m512 by, __mmask16 valid) {
    __m512 x = _mm512_mul_ps(_mm512_maskz_loadu_ps(valid, z), by);
    return _mm512_cvtps_epi32(_mm512_min_ps(_mm512_set1_ps(32767.0f), x)); /* too low, or no number: the lowest, which saturates */
}

/* clamp(round_half_even(z * by)) of the numbers that `valid` holds, in woven order. */
INLINE words64 coordinates64(const float *z, __m512 by, __mmask64 valid) {
    const __m512i lowest = _mm512_set1_epi16(-32767);
    __m512i a = rounded16(z, by, (__mmask16)valid), b = rounded16(z + 16, by, (__mmask16)(valid >> 16));
    __m512i c = rounded16(z + 32, by, (__mmask16)(valid >> 32)), d = rounded16(z + 48, by, (__mmask16)(valid >> 48));
    return (words64){_mm512_max_epi16(_mm512_packs_epi32(a, b), lowest), _mm512_max_epi16(_mm512_packs_epi32(c, d), lowest)};
}
INLINE words64 magnitudes64(words64 v) { return (words64){_mm512_abs_epi16(v.first), _mm512_abs_epi16(v.second)}; }

INLINE __m512i in_order64(__m512i bytes) {
    const __m512i from = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(from, bytes);
}
/* Thirty-two words of memory in the places that coordinates64 gives them. */
INLINE __m512i woven32(const int16_t *words, __mmask32 valid) {
    return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), _mm512_maskz_loadu_epi16(valid, words));
}

/* What a search keeps in registers. */
typedef struct search {
    const tq_tables *tables;
    __m512i root, below, tops, levels; /* root: the level when there is but one */
    __m128i shift;
} search;

INLINE search search_of(const tq_codebook *book, int bits, int bucketed) {
    const tq_tables *tables = book->tables;
    search of = {.tables = tables, .levels = _mm512_loadu_si512(tables->levels)};
    of.root = _mm512_set1_epi16(bits == 1 ? tables->levels[0] : tables->tree[1]);
    if (bucketed) {
        of.below = _mm512_castsi256_si512(_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)tables->bucket_below)));
        of.tops = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)tables->bucket_tops));
        of.shift = _mm_cvtsi32_si128(tables->bucket_shift);
    }
    return of;
}

/* Words at indices below `entries`, a power of two up to 128. */
INLINE __m512i found(const int16_t *table, __m512i index, int entries) {
    __m512i first = _mm512_loadu_si512(table);
    if (entries <= 32) return _mm512_permutexvar_epi16(index, first);
    __m512i low = _mm512_permutex2var_epi16(first, index, _mm512_loadu_si512(table + 32));
    if (entries == 64) return low;
    __m512i high = _mm512_permutex2var_epi16(_mm512_loadu_si512(table + 64), index, _mm512_loadu_si512(table + 96));
    return _mm512_mask_blend_epi16(_mm512_test_epi16_mask(index, _mm512_set1_epi16(64)), low, high);
}

/* The number of thresholds below each |v|. */
INLINE __m512i counts32(const search *of, __m512i w, int bits, int bucketed) {
    const __m512i one = _mm512_set1_epi16(1);
    if (bits == 1) return _mm512_setzero_si512();
    if (bucketed) {
        __m512i bucket = _mm512_min_epi16(_mm512_srl_epi16(w, of->shift), _mm512_set1_epi16(15));
        __m512i below = _mm512_permutexvar_epi16(bucket, of->below);
        __mmask32 above = _mm512_cmpgt_epi16_mask(w, _mm512_permutexvar_epi16(bucket, of->tops));
        return _mm512_mask_add_epi16(below, above, below, one);
    }
    __m512i m = _mm512_maskz_mov_epi16(_mm512_cmpgt_epi16_mask(w, of->root), one);
#define STEP(nodes)                                                                                      \
    if (nodes < 1 << (bits - 1)) { /* no loop, which gcc does not always unroll */                       \
        __m512i threshold = found(of->tables->tree + nodes, m, nodes);                                   \
        m = _mm512_add_epi16(m, m);                                                                      \
        m = _mm512_mask_add_epi16(m, _mm512_cmpgt_epi16_mask(w, threshold), m, one);                     \
    }
    STEP(2) STEP(4) STEP(8) STEP(16) STEP(32) STEP(64)
#undef STEP
    return m;
}
INLINE words64 counts64(const search *of, words64 w, int bits, int bucketed) {
    return (words64){counts32(of, w.first, bits, bucketed), counts32(of, w.second, bits, bucketed)};
}

INLINE __m512i levels32(const search *of, __m512i counts, int bits) {
    if (bits == 1) return of->root;
    if (bits <= 6) return _mm512_permutexvar_epi16(counts, of->levels);
    return found(of->tables->levels, counts, 1 << (bits - 1));
}

/* Codes of 64 coordinates in woven order, as bytes in natural order. */
INLINE __m512i codes64(words64 v, words64 counts, int bits) {
    const __m512i middle = _mm512_set1_epi8((char)(1u << (bits - 1))), below = _mm512_set1_epi8((char)((1u << (bits - 1)) - 1));
    __mmask64 negative = _mm512_movepi8_mask(_mm512_packs_epi16(v.first, v.second));
    __m512i m = _mm512_packus_epi16(counts.first, counts.second);
    return in_order64(_mm512_mask_sub_epi8(_mm512_add_epi8(m, middle), negative, below, m));
}

/* Sums of int32 lanes read as unsigned: the pairs added as one int64 lane, and the upper ones apart. */
typedef struct total {
    __m512i pairs, upper;
} total;
INLINE void add_pairs(total *to, __m512i sums) {
    to->pairs = _mm512_add_epi64(to->pairs, sums);
    to->upper = _mm512_add_epi64(to->upper, _mm512_srli_epi64(sums, 32));
}
INLINE int64_t total_of(const total *of) {
    int64_t lanes[8], sum = 0;
    _mm512_storeu_si512(lanes, _mm512_add_epi64(_mm512_sub_epi64(of->pairs, _mm512_slli_epi64(of->upper, 32)), of->upper));
    for (int i = 0; i < 8; i++) sum += lanes[i];
    return sum;
}
/* Four products to a lane: at most 4 * 32767^2 < 2^32. */
INLINE __m512i products(words64 a, words64 b) {
    return _mm512_dpwssd_epi32(_mm512_madd_epi16(a.first, b.first), a.second, b.second);
}

#endif
