#include "encode/encode.h"

#include "encode/avx2_levels.h"
#include "encode/avx2_norm.h"
#include "encode/avx2_pack.h"
#include "levels.h"

static void coordinates(float *z, size_t dim, int16_t *v) {
    const __m256 one = _mm256_set1_ps(1.0f), unit = _mm256_set1_ps(4096.0f);
    for (size_t j = 0; j < dim; j += 16) {
        _mm256_storeu_ps(z + j, _mm256_mul_ps(_mm256_loadu_ps(z + j), unit));
        _mm256_storeu_ps(z + j + 8, _mm256_mul_ps(_mm256_loadu_ps(z + j + 8), unit));
        _mm256_storeu_si256((__m256i *)(v + j), in_order16(coordinates16(z + j, one)));
    }
}

/* Sums of a row so far. A step of 32 coordinates adds two pairs of products to each 32-bit lane: at most 4 * 32767^2 < 2^32.
 * A trial's product is negative where v < 0 and its own coordinate is 0 (then v = -1): BIAS keeps the lanes positive. */
typedef struct sums {
    total dot, square;
} sums;
#define BIAS 131072

INLINE __m256i products(words32 a, words32 b) {
    return _mm256_add_epi32(_mm256_madd_epi16(a.first, b.first), _mm256_madd_epi16(a.second, b.second));
}

/* 0xFFFF in lanes that hold one of the first `count` coordinates, `first` being that of lane 0, in the order of
 * coordinates16 or in natural order. */
INLINE __m256i valid16(size_t count, int first, int in_order) {
    __m256i lane = in_order ? _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
                            : _mm256_setr_epi16(0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15);
    return _mm256_cmpgt_epi16(_mm256_set1_epi16((short)((int)count - first)), lane);
}
INLINE words32 valid32(words32 of, size_t count, int in_order) {
    return (words32){_mm256_and_si256(of.first, valid16(count, 0, in_order)),
                     _mm256_and_si256(of.second, valid16(count, 16, in_order))};
}

INLINE words32 coordinates32(const float *z, __m256 by) { return (words32){coordinates16(z, by), coordinates16(z + 16, by)}; }
INLINE words32 magnitudes32(words32 v) { return (words32){_mm256_abs_epi16(v.first), _mm256_abs_epi16(v.second)}; }

/* Codes of 32 coordinates in the order of coordinates16, as bytes in natural order. */
INLINE __m256i codes32(const search *of, words32 v, __m256i counts) {
    __m256i negative = _mm256_cmpgt_epi8(_mm256_setzero_si256(), _mm256_packs_epi16(v.first, v.second));
    __m256i bytes = _mm256_add_epi8(_mm256_xor_si256(counts, negative), of->middle);
    return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

/* One step of the fused path: the codes of coordinates z[0..31], of which `count` exist. */
INLINE __m256i fused32(const search *of, const float *z, int bits, int bucketed, size_t count, int squared, sums *to) {
    words32 v = coordinates32(z, _mm256_set1_ps(4096.0f)), w = magnitudes32(v);
    __m256i counts = counts32(of, w, bits, bucketed), codes = codes32(of, v, counts);
    words32 level = levels32(of, counts, bits);
    if (count < 32) {
        level = valid32(level, count, 0);
        codes = _mm256_and_si256(codes, first_bytes(count));
    }
    add_pairs(&to->dot, products(w, level));
    if (squared) add_pairs(&to->square, products(level, level));
    return codes;
}

INLINE void fused(const tq_codebook *book, const float *z, uint8_t *out, int bits, int bucketed, int64_t *dot,
                  int64_t *square) {
    const size_t dim = book->dim;
    const search of = search_of(book, bits, bucketed);
    sums sum = {0};
    size_t j = 0;
    for (; j + 32 <= dim; j += 32)
        store_row32(out, dim, j, fused32(&of, z + j, bits, bucketed, 32, square != NULL, &sum), bits);
    if (j < dim) {
        planes to = planes_of(out, dim, (size_t)bits);
        store_codes32(&to, fused32(&of, z + j, bits, bucketed, dim - j, square != NULL, &sum), j, dim - j);
    }
    *dot = total_of(&sum.dot);
    if (square) *square = total_of(&sum.square);
}

/* Codes of candidate t. */
INLINE void trial(const tq_codebook *book, const float *scaled, const int16_t *v, float t, uint8_t *codes, int bits,
                  int bucketed, int64_t *dot, int64_t *square) {
    const search of = search_of(book, bits, bucketed);
    sums sum = {0};
    const __m256 by = _mm256_set1_ps(t);
    int64_t steps = 0;
    for (size_t j = 0; j < book->dim; j += 32, steps++) {
        words32 value = coordinates32(scaled + j, by);
        __m256i counts = counts32(&of, magnitudes32(value), bits, bucketed);
        words32 level = levels32(&of, counts, bits);
        level = (words32){in_order16(level.first), in_order16(level.second)};
        _mm256_storeu_si256((__m256i *)(codes + j), codes32(&of, value, counts));
        __m256i sign0 = in_order16(_mm256_srai_epi16(value.first, 15)), sign1 = in_order16(_mm256_srai_epi16(value.second, 15));
        __m256i v0 = _mm256_loadu_si256((const __m256i *)(v + j)), v1 = _mm256_loadu_si256((const __m256i *)(v + j + 16));
        words32 turned = {_mm256_sub_epi16(_mm256_xor_si256(v0, sign0), sign0),
                          _mm256_sub_epi16(_mm256_xor_si256(v1, sign1), sign1)};
        if (book->dim - j < 32) level = valid32(level, book->dim - j, 1);
        add_pairs(&sum.dot, _mm256_add_epi32(products(turned, level), _mm256_set1_epi32(BIAS)));
        add_pairs(&sum.square, products(level, level));
    }
    *dot = total_of(&sum.dot) - steps * 8 * BIAS;
    *square = total_of(&sum.square);
}

#include "encode/by_width.h"

void tq_encode_avx2(tq_encode_slots *slots) {
    *slots = (tq_encode_slots){widen, norm_f32, norm_f64, unit_f32, unit_f64, coordinates, quantize, pack, finish};
}
