/* Windows looked up with AVX2, eight at a time; private to the sources of that level.
 *
 * They are looked up one by one: a gather of eight takes half as long again as the eight loads, which are what the time goes
 * into. A load that fills all lanes and a blend cost less than a move into a lane, and one store less than eight. */
#ifndef TQ_TRELLIS_AVX2_WINDOWS_H
#define TQ_TRELLIS_AVX2_WINDOWS_H

#include <immintrin.h>

#include "specialize.h"
#include "trellis/circle.h"

/* Where the windows of a code are looked up, one by one or (in_pairs) two at a time; `bits` and `in_pairs` are constants. */
typedef struct window_table {
    const float *entries;
    size_t mask;
    int bits, in_pairs;
} window_table;

INLINE window_table window_table_of(const tq_codebook *book, const int bits, const int in_pairs) {
    const size_t window = book->window + (in_pairs ? (size_t)bits : 0);
    return (window_table){in_pairs ? book->pairs : book->centroids, ((size_t)1 << window) - 1, bits, in_pairs};
}

/* Window i of a run: a rotation does not overwrite the run, so that one operation does what a shift takes two for. */
INLINE size_t window_at(window_table table, uint64_t run, int i) {
    const int by = i * table.bits;
    return (by ? run >> by | run << (64 - by) : run) & table.mask;
}

/* The centroids of the eight coordinates of a run. */
INLINE __m256 eight_windows(window_table table, uint64_t run) {
    if (table.in_pairs) {
        __m256d x[4];
        for (int i = 0; i < 4; i++)
            x[i] = _mm256_broadcast_sd((const double *)(const void *)(table.entries + 2 * window_at(table, run, 2 * i)));
        return _mm256_castpd_ps(_mm256_blend_pd(_mm256_blend_pd(x[0], x[1], 2), _mm256_blend_pd(x[2], x[3], 8), 12));
    }
    __m256 x[8];
    for (int i = 0; i < 8; i++) x[i] = _mm256_broadcast_ss(table.entries + window_at(table, run, i));
    __m256 low = _mm256_blend_ps(_mm256_blend_ps(x[0], x[1], 2), _mm256_blend_ps(x[2], x[3], 8), 12);
    __m256 high = _mm256_blend_ps(_mm256_blend_ps(x[4], x[5], 32), _mm256_blend_ps(x[6], x[7], 128), 192);
    return _mm256_blend_ps(low, high, 240);
}

#endif
