/* The slots `dot_floats` and `weigh_floats` over a level's vectors: query rows are taken in fours, which share what was loaded of
 * the tile, then by two and one, and as many sums stay in registers as hide the latency of their additions. Included once by a
 * level that defines
 *
 *   floats, LANES          a vector of so many floats
 *   AT_ONCE                sums in registers, a multiple of 4 and at least LANES / 2
 *   load_floats, store_floats, each_float, times, plus_product, no_floats
 *                          aligned moves, a broadcast from memory, x * y, x * y + z, zeros
 *   sums_of_floats         the sums of the lanes of AT_ONCE vectors, in their order, to memory at any address */
#ifndef TQ_ATTEND_FLOAT_ROWS_H
#define TQ_ATTEND_FLOAT_ROWS_H

#include <string.h>

#include "attend/attend.h"
#include "specialize.h"

/* AT_ONCE / rows tokens from the tile's first on: row r's sums at out + r * AT_ONCE / rows. */
INLINE void dot_group(const float *tile, size_t padded, size_t dim, const float *const *queries, const int rows, float *out) {
    const int tokens = AT_ONCE / rows;
    floats sums[AT_ONCE];
    for (int i = 0; i < AT_ONCE; i++) sums[i] = no_floats();
    for (size_t j = 0; j < dim; j += LANES) {
        floats x[AT_ONCE];
        for (int t = 0; t < tokens; t++) x[t] = load_floats(tile + (size_t)t * padded + j);
        for (int r = 0; r < rows; r++) {
            floats q = load_floats(queries[r] + j);
            for (int t = 0; t < tokens; t++) sums[r * tokens + t] = plus_product(q, x[t], sums[r * tokens + t]);
        }
    }
    sums_of_floats(sums, out);
}

INLINE void dot_some(const float *tile, size_t padded, size_t dim, size_t tokens, const float *const *queries, const int rows,
                     const float *scales, float *const *logits) {
    const size_t step = AT_ONCE / (size_t)rows;
    for (size_t t = 0; t < tokens; t += step) { /* a tile has room for all its tokens */
        float found[AT_ONCE];
        dot_group(tile + t * padded, padded, dim, queries, rows, found);
        for (int r = 0; r < rows; r++) memcpy(logits[r] + t, found + (size_t)r * step, step * sizeof *found);
    }
    for (int r = 0; r < rows; r++)
        for (size_t t = 0; t < tokens; t++) logits[r][t] *= scales[t];
}

/* Calls STEP(n, r) for query rows r.., n of them, of `rows`. */
#define IN_FOURS(rows, STEP)                                  \
    do {                                                      \
        size_t r = 0;                                         \
        for (; r + 4 <= (rows); r += 4) STEP(4, r);           \
        if (r + 2 <= (rows)) {                                \
            STEP(2, r);                                       \
            r += 2;                                           \
        }                                                     \
        if (r < (rows)) STEP(1, r);                           \
    } while (0)

static void dot_floats(const float *tile, size_t padded, size_t dim, size_t tokens, const float *const *queries, size_t rows,
                       const float *scales, float *const *logits) {
#define DOT_SOME(n, r) dot_some(tile, padded, dim, tokens, queries + (r), n, scales, logits + (r))
    IN_FOURS(rows, DOT_SOME);
}

/* `wide` vectors of each row's sums from `at` on. */
INLINE void weigh_part(const float *tile, size_t padded, size_t tokens, const float *const *weights, const int rows, const int wide,
                       const float *decays, float *const *sums, size_t at) {
    floats sum[4][64 / LANES];
    for (int r = 0; r < rows; r++) {
        floats keep = each_float(decays + r);
        for (int v = 0; v < wide; v++) sum[r][v] = times(load_floats(sums[r] + at + LANES * v), keep);
    }
    for (size_t t = 0; t < tokens; t++) {
        const float *from = tile + t * padded + at;
        floats x[64 / LANES];
        for (int v = 0; v < wide; v++) x[v] = load_floats(from + LANES * v);
        for (int r = 0; r < rows; r++) {
            floats weight = each_float(weights[r] + t);
            for (int v = 0; v < wide; v++) sum[r][v] = plus_product(weight, x[v], sum[r][v]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < wide; v++) store_floats(sums[r] + at + LANES * v, sum[r][v]);
}

INLINE void weigh_some(const float *tile, size_t padded, size_t tokens, const float *const *weights, const int rows,
                       const float *decays, float *const *sums) {
    const int most = AT_ONCE / rows, wide = most < 64 / LANES ? most : 64 / LANES;
    for (size_t j = 0; j < padded; j += (size_t)wide * LANES) weigh_part(tile, padded, tokens, weights, rows, wide, decays, sums, j);
}

static void weigh_floats(const float *tile, size_t padded, size_t tokens, const float *const *weights, size_t rows,
                         const float *decays, float *const *sums) {
#define WEIGH_SOME(n, r) weigh_some(tile, padded, tokens, weights + (r), n, decays + (r), sums + (r))
    IN_FOURS(rows, WEIGH_SOME);
}

#endif
