/* Norm and unit vector in float64, four lanes at a time; the tree of additions is the format's. */
#ifndef TQ_ENCODE_AVX2_NORM_H
#define TQ_ENCODE_AVX2_NORM_H

#include <immintrin.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

/* Value i absorbs value i + ceil(count / 2) until one is left. */
static double halved4(__m256d sums) {
    __m128d pair = _mm_add_pd(_mm256_castpd256_pd128(sums), _mm256_extractf128_pd(sums, 1));
    return sqrt(_mm_cvtsd_f64(_mm_add_sd(pair, _mm_unpackhi_pd(pair, pair))));
}

static double halving_tree(double *sums, size_t count) {
    while (count > 4) {
        size_t half = (count + 1) / 2, pairs = count - half, i = 0;
        for (; i + 4 <= pairs; i += 4)
            _mm256_storeu_pd(sums + i, _mm256_add_pd(_mm256_loadu_pd(sums + i), _mm256_loadu_pd(sums + i + half)));
        for (; i < pairs; i++) sums[i] += sums[i + half];
        count = half;
    }
    if (count == 4) return halved4(_mm256_loadu_pd(sums));
    if (count == 3) sums[0] += sums[2];
    return sqrt(count > 1 ? sums[0] + sums[1] : sums[0]);
}

/* Squares of four values and of the four at `other`, added. The square of a float32 is exact in float64, so that the fused
 * form rounds once, as the addition does. */
static inline __m256d pairs_f32(const float *at, const float *other) {
    __m256d a = _mm256_cvtps_pd(_mm_loadu_ps(at)), b = _mm256_cvtps_pd(_mm_loadu_ps(other));
    return _mm256_fmadd_pd(b, b, _mm256_mul_pd(a, a));
}
static inline __m256d pairs_f64(const double *at, const double *other) {
    __m256d a = _mm256_loadu_pd(at), b = _mm256_loadu_pd(other);
    return _mm256_add_pd(_mm256_mul_pd(a, a), _mm256_mul_pd(b, b));
}

/* `eighth` is three levels at once, the squaring included, for four values of the first eighth, `sixteenth` four. Other counts
 * square in the first level. */
#define DEFINE_NORM(name, type, pairs_of)                                                                            \
    static inline __m256d name##_eighth(const type *at, size_t part) {                                               \
        __m256d even0 = pairs_of(at, at + 4 * part), even1 = pairs_of(at + 2 * part, at + 6 * part);                 \
        __m256d odd0 = pairs_of(at + part, at + 5 * part), odd1 = pairs_of(at + 3 * part, at + 7 * part);            \
        return _mm256_add_pd(_mm256_add_pd(even0, even1), _mm256_add_pd(odd0, odd1));                                \
    }                                                                                                                \
    static inline __m256d name##_sixteenth(const type *at, size_t part) {                                            \
        return _mm256_add_pd(name##_eighth(at, 2 * part), name##_eighth(at + part, 2 * part));                       \
    }                                                                                                                \
    static double name(const type *x, size_t dim, double *scratch) {                                                 \
        size_t i = 0;                                                                                                \
        if (dim == 128) /* the usual size of a head, all in registers */                                             \
            return halved4(_mm256_add_pd(name##_sixteenth(x, 8), name##_sixteenth(x + 4, 8)));                       \
        if (dim % 32 == 0) {                                                                                         \
            size_t part = dim % 64 || dim > 1024 ? dim / 8 : dim / 16;                                                             \
            for (; i < part; i += 4)                                                                                 \
                _mm256_storeu_pd(scratch + i, dim % 64 || dim > 1024 ? name##_eighth(x + i, part) : name##_sixteenth(x + i, part));\
            return halving_tree(scratch, part);                                                                      \
        }                                                                                                            \
        size_t half = (dim + 1) / 2, pairs = dim - half;                                                             \
        for (; i + 4 <= pairs; i += 4) _mm256_storeu_pd(scratch + i, pairs_of(x + i, x + i + half));                 \
        for (; i < pairs; i++) scratch[i] = (double)x[i] * (double)x[i] + (double)x[i + half] * (double)x[i + half]; \
        if (half > pairs) scratch[pairs] = (double)x[pairs] * (double)x[pairs];                                      \
        return halving_tree(scratch, half);                                                                          \
    }
DEFINE_NORM(norm_f32, float, pairs_f32)
DEFINE_NORM(norm_f64, double, pairs_f64)
#undef DEFINE_NORM

static inline __m256 narrowed(__m256d low, __m256d high) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm256_cvtpd_ps(low)), _mm256_cvtpd_ps(high), 1);
}

static void unit_f32(const float *x, double inverse, size_t dim, float *out) {
    __m256d by = _mm256_set1_pd(inverse);
    size_t j = 0;
    for (; j + 8 <= dim; j += 8) {
        __m256d low = _mm256_cvtps_pd(_mm_loadu_ps(x + j)), high = _mm256_cvtps_pd(_mm_loadu_ps(x + j + 4));
        _mm256_storeu_ps(out + j, narrowed(_mm256_mul_pd(low, by), _mm256_mul_pd(high, by)));
    }
    for (; j < dim; j++) out[j] = (float)((double)x[j] * inverse);
}

static void unit_f64(const double *x, double inverse, size_t dim, float *out) {
    __m256d by = _mm256_set1_pd(inverse);
    size_t j = 0;
    for (; j + 8 <= dim; j += 8) {
        __m256d low = _mm256_loadu_pd(x + j), high = _mm256_loadu_pd(x + j + 4);
        _mm256_storeu_ps(out + j, narrowed(_mm256_mul_pd(low, by), _mm256_mul_pd(high, by)));
    }
    for (; j < dim; j++) out[j] = (float)(x[j] * inverse);
}

static void widen(const uint16_t *x, size_t dim, float *out) {
    size_t j = 0;
    for (; j + 8 <= dim; j += 8) _mm256_storeu_ps(out + j, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(x + j))));
    if (j == dim) return;
    uint16_t tail[8] = {0};
    memcpy(tail, x + j, (dim - j) * sizeof *tail);
    _mm256_storeu_ps(out + j, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)tail)));
}

#endif
