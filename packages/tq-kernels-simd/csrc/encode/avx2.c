#include "encode/encode.h"

#include <string.h>

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
    __m256i dot, square;
} sums;
#define BIAS 131072

INLINE void add_step(sums *to, __m256i w0, __m256i w1, __m256i level0, __m256i level1, int bias) {
    __m256i dot = _mm256_add_epi32(_mm256_madd_epi16(w0, level0), _mm256_madd_epi16(w1, level1));
    __m256i square = _mm256_add_epi32(_mm256_madd_epi16(level0, level0), _mm256_madd_epi16(level1, level1));
    if (bias) dot = _mm256_add_epi32(dot, _mm256_set1_epi32(BIAS));
    to->dot = widened(to->dot, dot);
    to->square = widened(to->square, square);
}

/* 0xFFFF in lanes that hold one of the first `count` coordinates, `first` being that of lane 0, in the order of
 * coordinates16 or in natural order. */
INLINE __m256i valid16(size_t count, int first, int in_order) {
    __m256i lane = in_order ? _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
                            : _mm256_setr_epi16(0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15);
    return _mm256_cmpgt_epi16(_mm256_set1_epi16((short)((int)count - first)), lane);
}

/* Codes of 32 coordinates in the order of coordinates16, as bytes in natural order. */
INLINE __m256i codes32(const small_book *book, __m256i v0, __m256i v1, __m256i counts0, __m256i counts1) {
    const __m256i low = _mm256_set1_epi16(0x00FF);
    __m256i signed0 = _mm256_xor_si256(counts0, _mm256_srai_epi16(v0, 15));
    __m256i signed1 = _mm256_xor_si256(counts1, _mm256_srai_epi16(v1, 15));
    __m256i bytes = _mm256_packus_epi16(_mm256_and_si256(signed0, low), _mm256_and_si256(signed1, low));
    bytes = _mm256_add_epi8(bytes, book->middle);
    return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

/* One step of the fused path: the codes of coordinates z[0..31], of which `count` exist. */
INLINE __m256i fused32(const small_book *book, const float *z, int bits, size_t count, sums *to) {
    const __m256 unit = _mm256_set1_ps(4096.0f);
    __m256i v0 = coordinates16(z, unit), v1 = coordinates16(z + 16, unit);
    __m256i w0 = _mm256_abs_epi16(v0), w1 = _mm256_abs_epi16(v1);
    __m256i counts0 = counts16(book, w0, bits), counts1 = counts16(book, w1, bits);
    __m256i level0 = levels16(book, counts0), level1 = levels16(book, counts1);
    __m256i codes = codes32(book, v0, v1, counts0, counts1);
    if (count < 32) {
        level0 = _mm256_and_si256(level0, valid16(count, 0, 0));
        level1 = _mm256_and_si256(level1, valid16(count, 16, 0));
        codes = _mm256_and_si256(codes, first_bytes(count));
    }
    add_step(to, w0, w1, level0, level1, 0);
    return codes;
}

INLINE void fused(const tq_codebook *book, const float *z, uint8_t *out, int bits, int64_t *dot, int64_t *square) {
    const size_t dim = book->dim;
    small_book small = small_book_of(book, bits);
    sums total = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    int width = bits == 3 ? 2 : bits;
    uint8_t *upper = out + (dim * (size_t)width + 7) / 8; /* the sign plane of 3 bits */
    const __m256i mask = _mm256_set1_epi8((char)((1 << width) - 1));
    size_t j = 0;
    for (; j + 32 <= dim; j += 32) {
        __m256i codes = fused32(&small, z + j, bits, 32, &total);
        store_plane32(out + j * (size_t)width / 8, _mm256_and_si256(codes, mask), width);
        if (bits == 3) store_plane32(upper + j / 8, _mm256_srli_epi16(codes, 2), 1);
    }
    if (j < dim) {
        planes of = planes_of(out, dim, (size_t)bits);
        store_codes32(&of, fused32(&small, z + j, bits, dim - j, &total), j, dim - j);
    }
    *dot = total_of(total.dot);
    *square = total_of(total.square);
}

/* Codes of candidate t for at most 4 bits. */
INLINE void trial(const tq_codebook *book, const float *scaled, const int16_t *v, float t, uint8_t *codes, int bits,
                  int64_t *dot, int64_t *square) {
    small_book small = small_book_of(book, bits);
    sums total = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    const __m256 by = _mm256_set1_ps(t);
    int64_t steps = 0;
    for (size_t j = 0; j < book->dim; j += 32, steps++) {
        __m256i value0 = coordinates16(scaled + j, by), value1 = coordinates16(scaled + j + 16, by);
        __m256i counts0 = counts16(&small, _mm256_abs_epi16(value0), bits);
        __m256i counts1 = counts16(&small, _mm256_abs_epi16(value1), bits);
        __m256i level0 = in_order16(levels16(&small, counts0)), level1 = in_order16(levels16(&small, counts1));
        _mm256_storeu_si256((__m256i *)(codes + j), codes32(&small, value0, value1, counts0, counts1));
        __m256i sign0 = in_order16(_mm256_srai_epi16(value0, 15)), sign1 = in_order16(_mm256_srai_epi16(value1, 15));
        __m256i v0 = _mm256_loadu_si256((const __m256i *)(v + j)), v1 = _mm256_loadu_si256((const __m256i *)(v + j + 16));
        v0 = _mm256_sub_epi16(_mm256_xor_si256(v0, sign0), sign0);
        v1 = _mm256_sub_epi16(_mm256_xor_si256(v1, sign1), sign1);
        if (book->dim - j < 32) {
            level0 = _mm256_and_si256(level0, valid16(book->dim - j, 0, 1));
            level1 = _mm256_and_si256(level1, valid16(book->dim - j, 16, 1));
        }
        add_step(&total, v0, v1, level0, level1, 1);
    }
    *dot = total_of(total.dot) - steps * 8 * BIAS;
    *square = total_of(total.square);
}

/* Codes of candidate t by the table of magnitudes: for more than 4 bits. */
static void trial_by_table(const tq_codebook *book, const float *scaled, const int16_t *v, float t, uint8_t *codes,
                           int64_t *dot, int64_t *square) {
    sums total = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    const __m256 by = _mm256_set1_ps(t);
    const __m256i middle = _mm256_set1_epi8((char)(1u << (book->bits - 1)));
    int64_t steps = 0;
    for (size_t j = 0; j < book->dim; j += 32, steps++) {
        _Alignas(32) int16_t value[32], level[32];
        _Alignas(32) uint8_t counts[32];
        size_t count = book->dim - j < 32 ? book->dim - j : 32;
        __m256i value0 = in_order16(coordinates16(scaled + j, by)), value1 = in_order16(coordinates16(scaled + j + 16, by));
        _mm256_store_si256((__m256i *)value, _mm256_abs_epi16(value0));
        _mm256_store_si256((__m256i *)(value + 16), _mm256_abs_epi16(value1));
        if (count < 32) memset(level, 0, sizeof level);
        for (size_t k = 0; k < count; k++) {
            uint8_t m = book->magnitudes[value[k]];
            counts[k] = m;
            level[k] = book->levels[m];
        }
        __m256i sign0 = _mm256_srai_epi16(value0, 15), sign1 = _mm256_srai_epi16(value1, 15);
        __m256i signs = in_order16(_mm256_packs_epi16(sign0, sign1));
        __m256i bytes = _mm256_xor_si256(_mm256_load_si256((const __m256i *)counts), signs);
        _mm256_storeu_si256((__m256i *)(codes + j), _mm256_add_epi8(bytes, middle));
        __m256i v0 = _mm256_loadu_si256((const __m256i *)(v + j)), v1 = _mm256_loadu_si256((const __m256i *)(v + j + 16));
        v0 = _mm256_sub_epi16(_mm256_xor_si256(v0, sign0), sign0);
        v1 = _mm256_sub_epi16(_mm256_xor_si256(v1, sign1), sign1);
        add_step(&total, v0, v1, _mm256_load_si256((const __m256i *)level), _mm256_load_si256((const __m256i *)(level + 16)), 1);
    }
    *dot = total_of(total.dot) - steps * 8 * BIAS;
    *square = total_of(total.square);
}

static void quantize(const tq_codebook *book, const float *scaled, const int16_t *v, float t, uint8_t *codes, int64_t *dot,
                     int64_t *square) {
    if (book->bits == 1) trial(book, scaled, v, t, codes, 1, dot, square);
    else if (book->bits == 2) trial(book, scaled, v, t, codes, 2, dot, square);
    else if (book->bits == 3) trial(book, scaled, v, t, codes, 3, dot, square);
    else if (book->bits == 4) trial(book, scaled, v, t, codes, 4, dot, square);
    else trial_by_table(book, scaled, v, t, codes, dot, square);
}

static void finish(const tq_codebook *book, float *z, int16_t *v, uint8_t *codes, uint8_t *out, int64_t *dot,
                   int64_t *square) {
    if (book->bits == 1) fused(book, z, out, 1, dot, square);
    else if (book->bits == 2) fused(book, z, out, 2, dot, square);
    else if (book->bits == 3) fused(book, z, out, 3, dot, square);
    else if (book->bits == 4) fused(book, z, out, 4, dot, square);
    else {
        coordinates(z, book->dim, v);
        trial_by_table(book, z, v, 1.0f, codes, dot, square);
        pack(codes, book->dim, book->bits, out);
    }
}

void tq_encode_avx2(tq_encode_slots *slots) {
    *slots = (tq_encode_slots){widen, norm_f32, norm_f64, unit_f32, unit_f64, coordinates, quantize, pack, finish};
}
