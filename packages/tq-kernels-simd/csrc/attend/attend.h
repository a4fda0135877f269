/* Softmax attention over one tile of packed tokens at a time, online: for every query row a running maximum, the sum of the
 * weights below it, and the weighted sum of the values' centroids, not normalised and still rotated.
 *
 * A side (keys or values) is held in one of four kinds of tile, all of TQ_TILE tokens:
 *   codes   the packed rows themselves, of at most 4 bits: no tile is made. Keys are looked up where they meet a query, values
 *           where they are added; sums of values stand in the order of tq_attend_place until all is added
 *   floats  row-major centroids of TQ_FLOAT_TOKENS tokens at a time, `padded` floats a token, zeros behind dim;
 *   bytes   at most 4 bits, dims that are multiples of 32: the multiply-add of bytes wants four numbers side by side.
 *           keys    tile[quad][token][4]: four coordinates of a token, 0..127, centroid ~ base + step * byte
 *           values  tile[token / 4][position][4]: one coordinate of four tokens, -127..127, centroid ~ step * byte
 *   words   keys of 5 bits and more: tile[pair][token][2], two coordinates of a token, centroid ~ step * word; an odd dim ends in 0.
 * Positions of tiles of bytes are coordinates in the order of tq_attend_coordinate, in which the packed bytes fall apart by
 * themselves: queries are permuted once, and results once at the end. All levels share these layouts.
 *
 * Tiles, queries, weights and sums are aligned to 64 bytes and have room up to `padded`, a multiple of 64; packed rows lie
 * at any alignment, and exactly tokens * row_bytes bytes are read. No two buffers overlap. */
#ifndef TQ_ATTEND_H
#define TQ_ATTEND_H

#include "plan.h"

#define TQ_TILE 64
#define TQ_FLOAT_TOKENS 32 /* 16 KiB of floats at dim 128: half of a first-level cache */
#define TQ_ATTEND_FEW 4    /* query rows for which windows of a trellis are looked up where they are multiplied */

enum { TQ_FLOATS, TQ_BYTES, TQ_WORDS, TQ_CODES };

typedef struct tq_attend_side {
    const tq_codebook *book;
    size_t dim, padded, row_bytes;
    int kind;
    uint8_t bytes[16];  /* of each code; two's complement for values */
    int16_t words[256]; /* of each code: +-(starts[m >> shift] + slopes[m >> shift] * (m mod 2^shift)), m counted from 0 outwards */
    int16_t starts[16], slopes[16];
    int shift;
    float step, base;
} tq_attend_side;

typedef struct tq_attend_slots {
    /* Tiles of bytes of rows 0..tokens-1, 1 <= tokens <= TQ_TILE; what the tile holds beyond them is not prescribed.
     * `scratch` has 8 * padded bytes, everywhere. */
    void (*keys)(const tq_attend_side *side, const uint8_t *packed, size_t tokens, uint8_t *scratch, uint8_t *tile);
    void (*values)(const tq_attend_side *side, const uint8_t *packed, size_t tokens, uint8_t *scratch, int8_t *tile);
    /* Tokens first..first+7 of a tile of words from their codes, a row of dim bytes each, at any alignment. */
    void (*words)(const tq_attend_side *side, const uint8_t *const codes[8], size_t first, uint8_t *scratch, int16_t *tile);
    /* logits[t] = scales[t] * (slope * sum_j tile_tj * query_j + offset), the sum exact in int32; all TQ_TILE tokens. */
    void (*dot_bytes)(const uint8_t *tile, size_t quads, const int8_t *query, float slope, float offset,
                        const float *scales, float *logits);
    /* logits[t] = scales[t] * slope * sum_j tile_tj * query_j for words; the query is such that int32 holds the sum. */
    void (*dot_words)(const int16_t *tile, size_t pairs, const int16_t *query, float slope, const float *scales, float *logits);
    /* For each query row, logits[t] = scales[t] * sum_j tile_tj * query_j in float32 for t < tokens, in any order; queries end in
     * zeros. Logits behind `tokens` hold anything up to a multiple of 16; the tile has room for as many tokens. */
    void (*dot_floats)(const float *tile, size_t padded, size_t dim, size_t tokens, const float *const *queries, size_t rows,
                       const float *scales, float *const *logits);
    /* The same for packed rows of codes, and its counterpart for values: sums_j = decay * sums_j + sum_t weights_t * centroid_tj
     * for each row, j a place. Queries are in the order of coordinates. Logits from `tokens` on hold anything, weights there
     * are not read. `scratch` has 16 * padded bytes. Both NULL where a level has no such thing: its sides are floats then. */
    void (*dot_codes)(const tq_attend_side *side, const uint8_t *packed, size_t tokens, uint8_t *scratch,
                      const float *const *queries, size_t rows, const float *scales, float *const *logits);
    void (*weigh_codes)(const tq_attend_side *side, const uint8_t *packed, size_t tokens, const float *const *weights, size_t rows,
                        const float *decays, float *const *sums);
    /* The same for rows of a trellis code and 1..TQ_ATTEND_FEW query rows, sums in the order of coordinates. Logits behind `tokens`
     * hold anything up to an even number. NULL where a tile of floats is as good. */
    void (*dot_windows)(const tq_attend_side *side, const uint8_t *packed, size_t tokens, const float *const *queries, size_t rows,
                        const float *scales, float *const *logits);
    void (*weigh_windows)(const tq_attend_side *side, const uint8_t *packed, size_t tokens, const float *const *weights,
                          size_t rows, const float *decays, float *const *sums);
    /* Each of TQ_TILE logits x becomes cap * tanh(x / cap), within cap * 4e-7. */
    void (*cap)(float *logits, float cap);
    /* *maximum becomes the maximum of itself and TQ_TILE logits, each logit exp(logit - *maximum); returns their sum. With a
     * maximum of -infinity everything is 0. */
    float (*soften)(float *logits, float *maximum);
    /* bytes_t = weights_t * scales_t of TQ_TILE tokens, none negative, in 127ths of the greatest; returns what a 127th is. */
    float (*round)(const float *weights, const float *scales, uint8_t *bytes);
    /* sums_j = decay * sums_j + step * sum_t bytes_t * tile_tj, the inner sum exact in int32. */
    void (*weigh_bytes)(const int8_t *tile, size_t padded, const uint8_t *bytes, float step, float decay, float *sums);
    /* For each query row, sums_j = decay * sums_j + sum_t weights_t * tile_tj in float32, j < padded and tokens <= TQ_TILE. */
    void (*weigh_floats)(const float *tile, size_t padded, size_t tokens, const float *const *weights, size_t rows,
                         const float *decays, float *const *sums);
    /* x_i = exp(x_i) for a multiple of 8 numbers: relative error at most 2e-7 for -87 <= x <= 88, 0 below about -87.34, the value at
     * 88 above; exp(0) = 1. */
    void (*exponentials)(float *x, size_t count);
} tq_attend_slots;

/* The coordinate at a position of a tile of bytes. */
size_t tq_attend_coordinate(size_t bits, size_t position);

/* The place of a coordinate among the sums of a side of codes, below `padded`: of 64, coordinate 8i + p is number 8p + i. */
static inline size_t tq_attend_place(size_t coordinate) {
    return coordinate / 64 * 64 + coordinate % 8 * 8 + coordinate / 8 % 8;
}

#endif
