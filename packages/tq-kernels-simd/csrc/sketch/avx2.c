#include <immintrin.h>
#include <string.h>

#include "levels.h"
#include "sketch/sketch.h"

static int64_t sum_of_64(__m256i x) {
    __m128i half = _mm_add_epi64(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    return _mm_cvtsi128_si64(half) + _mm_extract_epi64(half, 1);
}

static __m256i widened(__m256i x) {
    return _mm256_add_epi64(_mm256_cvtepi32_epi64(_mm256_castsi256_si128(x)), _mm256_cvtepi32_epi64(_mm256_extracti128_si256(x, 1)));
}

/* The largest |r_j|. */
static uint32_t largest(const int32_t *r, size_t dim) {
    uint32_t found = 0;
    for (size_t j = 0; j < dim; j++) {
        uint32_t size = r[j] < 0 ? 0u - (uint32_t)r[j] : (uint32_t)r[j];
        found = size > found ? size : found;
    }
    return found;
}

static int64_t dot64(const int16_t *row, const int32_t *r, size_t from, size_t dim) {
    int64_t sum = 0;
    for (size_t j = from; j < dim; j++) sum += (int64_t)row[j] * r[j];
    return sum;
}

/* sum S_j r_j for |r| < 2^15: 32-bit lanes are widened after `steps` products of two, before they can overflow. */
static int64_t dot16(const int16_t *row, const int32_t *r, size_t dim, size_t steps) {
    __m256i total = _mm256_setzero_si256();
    size_t j = 0, whole = dim / 16 * 16;
    while (j < whole) {
        size_t end = whole - j > 16 * steps ? j + 16 * steps : whole;
        __m256i sum = _mm256_setzero_si256();
        for (; j < end; j += 16) {
            __m256i low = _mm256_loadu_si256((const __m256i *)(r + j)), high = _mm256_loadu_si256((const __m256i *)(r + j + 8));
            __m256i narrow = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xD8);
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_loadu_si256((const __m256i *)(row + j)), narrow));
        }
        total = _mm256_add_epi64(total, widened(sum));
    }
    return sum_of_64(total) + dot64(row, r, whole, dim);
}

static void signs(const tq_sketch *sketch, const int32_t *r, uint8_t *out) {
    uint32_t size = largest(r, sketch->dim);
    size_t steps = size ? 0x7FFFFFFFu / (2u * 32768u * (size < 32768 ? size : 32767u)) : sketch->dim;
    for (size_t i = 0; i < sketch->projections; i += 8) {
        unsigned bits = 0;
        for (size_t k = i; k < i + 8 && k < sketch->projections; k++) {
            const int16_t *row = sketch->matrix + k * sketch->dim;
            int64_t sum = size < 32768 ? dot16(row, r, sketch->dim, steps ? steps : 1) : dot64(row, r, 0, sketch->dim);
            if (sum >= 0) bits |= 1u << (k - i);
        }
        out[i / 8] = (uint8_t)bits;
    }
}

/* Two rows of the matrix against four rows of the input: eight sums, six loads. */
static void dots_2_4(const int16_t *const matrix[2], const int16_t *const r[4], size_t whole, size_t steps, int64_t dots[2][4]) {
    __m256i totals[2][4];
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 4; k++) totals[i][k] = _mm256_setzero_si256();
    for (size_t j = 0; j < whole;) {
        const size_t end = whole - j > 16 * steps ? j + 16 * steps : whole;
        __m256i sums[2][4];
        for (int i = 0; i < 2; i++)
            for (int k = 0; k < 4; k++) sums[i][k] = _mm256_setzero_si256();
        for (; j < end; j += 16) {
            const __m256i s0 = _mm256_loadu_si256((const __m256i *)(matrix[0] + j)), s1 = _mm256_loadu_si256((const __m256i *)(matrix[1] + j));
            for (int k = 0; k < 4; k++) {
                const __m256i x = _mm256_loadu_si256((const __m256i *)(r[k] + j));
                sums[0][k] = _mm256_add_epi32(sums[0][k], _mm256_madd_epi16(s0, x));
                sums[1][k] = _mm256_add_epi32(sums[1][k], _mm256_madd_epi16(s1, x));
            }
        }
        for (int i = 0; i < 2; i++)
            for (int k = 0; k < 4; k++) totals[i][k] = _mm256_add_epi64(totals[i][k], widened(sums[i][k]));
    }
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 4; k++) dots[i][k] = sum_of_64(totals[i][k]);
}

/* As `signs`, but the matrix is read once for all rows: it does not fit in L1 and, from dim 768 on, hardly in L2. */
static void signs_of_rows(const tq_sketch *sketch, const int32_t *r, size_t stride, size_t rows, int16_t *narrow,
                          uint8_t *const *out) {
    const size_t dim = sketch->dim, whole = dim / 16 * 16;
    uint32_t size = 1;
    for (size_t i = 0; i < rows; i++) {
        const uint32_t own = largest(r + i * stride, dim);
        size = own > size ? own : size;
    }
    if (size > 32767 || rows == 1 || !sketch->greatest) {
        for (size_t i = 0; i < rows; i++) signs(sketch, r + i * stride, out[i]);
        return;
    }
    const int16_t *at[TQ_SKETCH_ROWS];
    for (size_t i = 0; i < TQ_SKETCH_ROWS; i++) { /* the last row stands in for those that are not there */
        at[i] = narrow + (i < rows ? i : rows - 1) * stride;
        for (size_t j = 0; i < rows && j < dim; j++) narrow[i * stride + j] = (int16_t)r[i * stride + j];
    }
    for (size_t i = 0; i < rows; i++) memset(out[i], 0, (sketch->projections + 7) / 8);
    const uint32_t product = 2u * (uint32_t)sketch->greatest * size; /* at most 2 * 32767 * 32767 */
    const size_t steps = 0x7FFFFFFFu / product;
    for (size_t i = 0; i < sketch->projections; i += 2) {
        const size_t second = i + 1 < sketch->projections ? i + 1 : i;
        const int16_t *const matrix[2] = {sketch->matrix + i * dim, sketch->matrix + second * dim};
        for (size_t first = 0; first < rows; first += 4) {
            int64_t dots[2][4];
            dots_2_4(matrix, at + first, whole, steps, dots);
            for (size_t k = 0; k < 4 && first + k < rows; k++)
                for (size_t m = i; m <= second; m++) {
                    const int64_t sum = dots[m - i][k] + dot64(sketch->matrix + m * dim, r + (first + k) * stride, whole, dim);
                    if (sum >= 0) out[first + k][m / 8] |= (uint8_t)(1u << m % 8);
                }
        }
    }
}

static void project(const tq_sketch *sketch, const float *x, float *out) {
    size_t dim = sketch->dim, whole = dim / 16 * 16;
    for (size_t i = 0; i < sketch->projections; i++) {
        const int16_t *row = sketch->matrix + i * dim;
        double total = 0;
        for (size_t start = 0; start < whole; start += 4096) { /* float32 sums no longer than that */
            size_t end = whole - start > 4096 ? start + 4096 : whole;
            __m256 a = _mm256_setzero_ps(), b = a;
            for (size_t j = start; j < end; j += 16) {
                __m256i low = _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)(row + j))),
                        high = _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)(row + j + 8)));
                a = _mm256_fmadd_ps(_mm256_cvtepi32_ps(low), _mm256_loadu_ps(x + j), a);
                b = _mm256_fmadd_ps(_mm256_cvtepi32_ps(high), _mm256_loadu_ps(x + j + 8), b);
            }
            float lanes[8];
            _mm256_storeu_ps(lanes, _mm256_add_ps(a, b));
            for (int k = 0; k < 8; k++) total += (double)lanes[k];
        }
        for (size_t j = whole; j < dim; j++) total += (double)row[j] * (double)x[j];
        out[i] = (float)(total * (1.0 / 2048.0));
    }
}

void tq_sketch_avx2(tq_sketch_slots *slots) {
    slots->signs = signs;
    slots->signs_of_rows = signs_of_rows;
    slots->project = project;
}
