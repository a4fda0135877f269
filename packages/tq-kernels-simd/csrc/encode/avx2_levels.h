/* Codes and levels of int16 coordinates, and the exact sums over them, 32 coordinates at a time. */
#ifndef TQ_ENCODE_AVX2_LEVELS_H
#define TQ_ENCODE_AVX2_LEVELS_H

#include <immintrin.h>
#include <stdint.h>

#include "encode/avx2_bytes.h"
#include "plan.h"

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

/* What a search keeps in registers. */
typedef struct search {
    const tq_tables *tables;
    __m256i root, below, top_low, top_high, level_low, level_high; /* root: the level when there is but one */
    __m128i shift;
    __m256i middle;
} search;

INLINE search search_of(const tq_codebook *book, int bits, int bucketed) {
    const tq_tables *tables = book->tables;
    search of = {.tables = tables, .middle = _mm256_set1_epi8((char)(1u << (bits - 1)))};
    of.root = _mm256_set1_epi16(bits == 1 ? tables->levels[0] : tables->tree[1]);
    of.level_low = table16(tables->level_bytes[0]);
    of.level_high = table16(tables->level_bytes[1]);
    if (bits == 3) {
        of.top_low = _mm256_set1_epi16(tables->tree[2]);
        of.top_high = _mm256_set1_epi16(tables->tree[3]);
    }
    if (bucketed) {
        of.below = table16(tables->bucket_below);
        of.top_low = table16(tables->bucket_top_bytes[0]);
        of.top_high = table16(tables->bucket_top_bytes[1]);
        of.shift = _mm_cvtsi32_si128(tables->bucket_shift);
    }
    return of;
}

/* -1 in the bytes whose coordinate exceeds its threshold. */
INLINE __m256i above(words32 w, __m256i threshold0, __m256i threshold1) {
    return _mm256_packs_epi16(_mm256_cmpgt_epi16(w.first, threshold0), _mm256_cmpgt_epi16(w.second, threshold1));
}

/* One step down the tree: the bit that the node m of `nodes` decides. */
INLINE __m256i step32(const search *of, words32 w, __m256i m, int nodes) {
    words32 threshold = joined(found(of->tables->tree_bytes[0] + nodes, m, nodes),
                               found(of->tables->tree_bytes[1] + nodes, m, nodes));
    return _mm256_sub_epi8(_mm256_add_epi8(m, m), above(w, threshold.first, threshold.second));
}

/* The number of thresholds below each of 32 |v|, as bytes. */
INLINE __m256i counts32(const search *of, words32 w, int bits, int bucketed) {
    const __m256i zero = _mm256_setzero_si256();
    if (bits == 1) return zero;
    if (bucketed) {
        __m256i bucket = _mm256_packus_epi16(_mm256_srl_epi16(w.first, of->shift), _mm256_srl_epi16(w.second, of->shift));
        bucket = _mm256_min_epu8(bucket, _mm256_set1_epi8(15));
        words32 top = joined(_mm256_shuffle_epi8(of->top_low, bucket), _mm256_shuffle_epi8(of->top_high, bucket));
        return _mm256_sub_epi8(_mm256_shuffle_epi8(of->below, bucket), above(w, top.first, top.second));
    }
    __m256i m = _mm256_sub_epi8(zero, above(w, of->root, of->root));
    if (bits == 3) { /* three comparisons are fewer than a look-up and two */
        m = _mm256_sub_epi8(m, above(w, of->top_low, of->top_low));
        return _mm256_sub_epi8(m, above(w, of->top_high, of->top_high));
    }
#define STEP(nodes) \
    if (bits > 2 && nodes < 1 << (bits - 1)) m = step32(of, w, m, nodes); /* no loop, which gcc does not always unroll */
    STEP(2) STEP(4) STEP(8) STEP(16) STEP(32) STEP(64)
#undef STEP
    return m;
}

INLINE words32 levels32(const search *of, __m256i counts, int bits) {
    if (bits == 1) return (words32){of->root, of->root};
    if (bits <= 5) return joined(_mm256_shuffle_epi8(of->level_low, counts), _mm256_shuffle_epi8(of->level_high, counts));
    return joined(found(of->tables->level_bytes[0], counts, 1 << (bits - 1)),
                  found(of->tables->level_bytes[1], counts, 1 << (bits - 1)));
}

/* Sums of int32 lanes read as unsigned: the pairs added as one int64 lane, and the upper ones apart. */
typedef struct total {
    __m256i pairs, upper;
} total;
INLINE void add_pairs(total *to, __m256i sums) {
    to->pairs = _mm256_add_epi64(to->pairs, sums);
    to->upper = _mm256_add_epi64(to->upper, _mm256_srli_epi64(sums, 32));
}
INLINE int64_t total_of(const total *of) {
    __m256i lower = _mm256_sub_epi64(of->pairs, _mm256_slli_epi64(of->upper, 32)), sums = _mm256_add_epi64(lower, of->upper);
    __m128i pair = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    return _mm_cvtsi128_si64(pair) + _mm_extract_epi64(pair, 1);
}

#endif
