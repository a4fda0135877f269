/* Tiles of words with AVX2, for avx2.c alone: the pieces of the side computed for 32 codes at a time. */
#ifndef TQ_ATTEND_AVX2_WORDS_H
#define TQ_ATTEND_AVX2_WORDS_H

#include "attend/avx2_tiles.h"

/* The low and the high bytes of 16 words, each in both halves of a register. */
typedef struct word_table {
    __m256i low, high;
} word_table;

static inline word_table split_words(const int16_t *words) {
    const __m256i all = _mm256_loadu_si256((const __m256i *)words);
    const __m256i low = _mm256_and_si256(all, _mm256_set1_epi16(255)), high = _mm256_srli_epi16(all, 8);
    __m256i bytes = _mm256_permute4x64_epi64(_mm256_packus_epi16(low, high), 0xD8); /* 16 low bytes, 16 high ones */
    return (word_table){_mm256_permute2x128_si256(bytes, bytes, 0x00), _mm256_permute2x128_si256(bytes, bytes, 0x11)};
}

/* The entries at 16 indices, given in the low bytes of words below 16 each; pshufb gives 0 where the top bit is set. */
static inline __m256i look_up(word_table table, __m256i index) {
    __m256i low = _mm256_shuffle_epi8(table.low, _mm256_or_si256(index, _mm256_set1_epi16((short)0x8000)));
    __m256i high = _mm256_shuffle_epi8(table.high, _mm256_or_si256(_mm256_slli_epi16(index, 8), _mm256_set1_epi16(0x80)));
    return _mm256_or_si256(low, high);
}

/* The words of 16 magnitudes; `sign` is -1 where they are negative. */
static inline __m256i piece_words(const tq_attend_side *side, word_table starts, word_table slopes, __m256i magnitude, __m256i sign) {
    __m256i piece = _mm256_srl_epi16(magnitude, _mm_cvtsi32_si128(side->shift));
    __m256i inside = _mm256_and_si256(magnitude, _mm256_set1_epi16((short)((1 << side->shift) - 1)));
    __m256i word = _mm256_add_epi16(look_up(starts, piece), _mm256_mullo_epi16(look_up(slopes, piece), inside));
    return _mm256_sub_epi16(_mm256_xor_si256(word, sign), sign);
}

static void words(const tq_attend_side *side, const uint8_t *const codes[8], size_t first, uint8_t *scratch, int16_t *tile) {
    const word_table starts = split_words(side->starts), slopes = split_words(side->slopes);
    const __m256i half = _mm256_set1_epi8((char)(1 << (side->book->bits - 1)));
    const __m256i order = _mm256_broadcastsi128_si256(_mm_set_epi8(15, 13, 14, 12, 11, 9, 10, 8, 7, 5, 6, 4, 3, 1, 2, 0));
    size_t whole = side->dim / 4 * 4;
    uint8_t *to = (uint8_t *)tile + 4 * first;
    for (int i = 0; i < 8; i++) /* rows of 8 bits are those of the store: fetch the tile ahead */
        for (size_t line = 0; line < side->dim; line += 64)
            _mm_prefetch((const char *)(codes[i] + TQ_TILE * side->dim + line), _MM_HINT_T1);
    transpose_dwords(codes, 0, whole, scratch);
    for (size_t j = 0; j < whole; j += 4, to += 8 * TQ_TILE) { /* bytes 0 and 2 are one pair, 1 and 3 the next */
        __m256i code = _mm256_sub_epi8(_mm256_shuffle_epi8(load(scratch + 8 * j), order), half);
        __m256i sign = _mm256_cmpgt_epi8(_mm256_setzero_si256(), code), magnitude = _mm256_xor_si256(code, sign);
        __m256i even = _mm256_and_si256(magnitude, _mm256_set1_epi16(255)), odd = _mm256_srli_epi16(magnitude, 8);
        __m256i even_sign = _mm256_srai_epi16(_mm256_slli_epi16(sign, 8), 8), odd_sign = _mm256_srai_epi16(sign, 8);
        store(to, piece_words(side, starts, slopes, even, even_sign));
        store(to + 4 * TQ_TILE, piece_words(side, starts, slopes, odd, odd_sign));
    }
    for (size_t j = whole; j < side->dim; j++) /* the last coordinates of odd dims, one by one */
        for (size_t t = 0; t < 8; t++) {
            int16_t *at = tile + (j / 2 * TQ_TILE + first + t) * 2;
            at[j % 2] = side->words[codes[t][j]];
            if (j + 1 == side->dim && j % 2 == 0) at[1] = 0;
        }
}

#endif
