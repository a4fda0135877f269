#include "encode/encode.h"

#include <string.h>

#include "encode/avx512_levels.h"
#include "levels.h"

static __mmask64 first64(size_t count) { return count < 64 ? ((__mmask64)1 << count) - 1 : ~(__mmask64)0; }

/* `width` bits of each of 64 codes, already shifted and, but for a width of 1, masked: 8 * width bytes are stored. */
INLINE void store_plane64(uint8_t *out, __m512i part, int width) {
    if (width == 8) _mm512_storeu_si512(out, part);
    if (width == 4)
        _mm256_storeu_si256((__m256i *)out, _mm512_cvtepi16_epi8(_mm512_maddubs_epi16(part, _mm512_set1_epi16(0x1001))));
    if (width == 2) {
        __m512i pairs = _mm512_maddubs_epi16(part, _mm512_set1_epi16(0x0401));
        __m512i fours = _mm512_madd_epi16(pairs, _mm512_set1_epi32(0x00100001));
        _mm_storeu_si128((__m128i *)out, _mm512_cvtepi32_epi8(fours));
    }
    if (width == 1) {
        uint64_t bits = _mm512_movepi8_mask(part);
        memcpy(out, &bits, 8);
    }
}

/* Codes j..j+63 of a row of dim codes, of which `count` exist; the others are 0. */
INLINE void store_row64(uint8_t *out, size_t dim, size_t j, size_t count, __m512i codes, int bits) {
    int shift = 0;
    for (int width = 8; width; width /= 2) {
        if (!(bits & width)) continue;
        __m512i part = width == 1 ? _mm512_slli_epi16(codes, 7 - shift) : shift ? _mm512_srli_epi16(codes, shift) : codes;
        if (width != 1 && width != bits) part = _mm512_and_si512(part, _mm512_set1_epi8((char)((1u << width) - 1)));
        uint8_t *to = out + j * (size_t)width / 8, local[64];
        store_plane64(count < 64 ? local : to, part, width);
        if (count < 64) memcpy(to, local, (count * (size_t)width + 7) / 8);
        out += (dim * (size_t)width + 7) / 8;
        shift += width;
    }
}

typedef struct sums {
    total dot, square;
} sums;

/* Codes, packed, of coordinates j..j+63, of which `count` exist. The others count as v = 0. */
INLINE void fused64(const search *of, const float *z, uint8_t *out, size_t dim, size_t j, size_t count, int bits, int bucketed,
                    int squared, sums *to) {
    const __mmask64 valid = first64(count);
    words64 v = coordinates64(z + j, _mm512_set1_ps(4096.0f), valid), w = magnitudes64(v);
    words64 counts = counts64(of, w, bits, bucketed);
    words64 level = {levels32(of, counts.first, bits), levels32(of, counts.second, bits)};
    __m512i codes = codes64(v, counts, bits);
    if (count < 64) codes = _mm512_maskz_mov_epi8(valid, codes);
    store_row64(out, dim, j, count, codes, bits);
    add_pairs(&to->dot, products(w, level));
    if (squared) add_pairs(&to->square, products(level, level));
}

/* B counts the level of v = 0, the lowest, for each coordinate beyond dim. */
static int64_t beyond(const tq_codebook *book) {
    int64_t level = book->levels[0];
    return (int64_t)(-book->dim % 64) * level * level;
}

INLINE void fused(const tq_codebook *book, const float *z, uint8_t *out, int bits, int bucketed, int64_t *dot,
                  int64_t *square) {
    const size_t dim = book->dim;
    const search of = search_of(book, bits, bucketed);
    sums sum = {{_mm512_setzero_si512(), _mm512_setzero_si512()}, {_mm512_setzero_si512(), _mm512_setzero_si512()}};
    size_t j = 0;
    for (; j + 64 <= dim; j += 64) fused64(&of, z, out, dim, j, 64, bits, bucketed, square != NULL, &sum);
    if (j < dim) fused64(&of, z, out, dim, j, dim - j, bits, bucketed, square != NULL, &sum);
    *dot = total_of(&sum.dot);
    if (square) *square = total_of(&sum.square) - beyond(book);
}

/* A trial's product is negative where v < 0 and its own coordinate is 0 (then v = -1): BIAS keeps the lanes positive. */
#define BIAS 131072

/* Codes of candidate t. */
INLINE void trial(const tq_codebook *book, const float *scaled, const int16_t *v, float t, uint8_t *codes, int bits,
                  int bucketed, int64_t *dot, int64_t *square) {
    const search of = search_of(book, bits, bucketed);
    sums sum = {{_mm512_setzero_si512(), _mm512_setzero_si512()}, {_mm512_setzero_si512(), _mm512_setzero_si512()}};
    int64_t steps = 0;
    for (size_t j = 0; j < book->dim; j += 64, steps++) {
        const __mmask64 valid = first64(book->dim - j);
        words64 value = coordinates64(scaled + j, _mm512_set1_ps(t), valid);
        words64 counts = counts64(&of, magnitudes64(value), bits, bucketed);
        words64 level = {levels32(&of, counts.first, bits), levels32(&of, counts.second, bits)};
        words64 turned = {woven32(v + j, (__mmask32)valid), woven32(v + j + 32, (__mmask32)(valid >> 32))};
        const __m512i zero = _mm512_setzero_si512();
        turned.first = _mm512_mask_sub_epi16(turned.first, _mm512_movepi16_mask(value.first), zero, turned.first);
        turned.second = _mm512_mask_sub_epi16(turned.second, _mm512_movepi16_mask(value.second), zero, turned.second);
        _mm512_storeu_si512(codes + j, codes64(value, counts, bits));
        add_pairs(&sum.dot, _mm512_add_epi32(products(turned, level), _mm512_set1_epi32(BIAS)));
        add_pairs(&sum.square, products(level, level));
    }
    *dot = total_of(&sum.dot) - steps * 16 * BIAS;
    *square = total_of(&sum.square) - beyond(book);
}

#include "encode/by_width.h"

void tq_encode_avx512(tq_encode_slots *slots) {
    slots->quantize = quantize;
    slots->finish = finish;
}
