/* Inner products of rotated queries with packed rows, in the rotated domain; scales and constants are applied by run.c.
 *
 * Three arithmetics. Integer results are exact, so every level gives the same ones bit for bit.
 *
 * int8 (up to 4 bits): codes become small unsigned levels u ("u7": at most 127, less where that lets 16-bit sums be kept
 * longer), the query signed bytes q in -127..127. A row is read in chunks of `lanes` (32 or 64) bytes of its widest plane, w bits a code,
 * hence 8 / w phases: byte i of phase p of chunk c is coordinate (c * lanes + i) * (8 / w) + p. Queries are stored in that order
 * (TQ_PHASES(bits) * lanes bytes a chunk), zero beyond dim, so that whatever is read there counts nothing.
 * int16 (all widths): levels and queries of at most TQ_MAX16 = 4095 in the natural order, zero beyond dim.
 * float32: decoded centroids, padded with finite numbers, queries padded with zeros.
 *
 * Every slot may read up to TQ_OVERREAD bytes beyond the last row's last byte; run.c sees to it that they exist. Packed rows
 * have any alignment; levels, tiles and queries are aligned to 64 bytes. */
#ifndef TQ_SCORE_H
#define TQ_SCORE_H

#include "plan.h"

#define TQ_OVERREAD 64
#define TQ_MAX16 4095
#define TQ_SEGMENT 65536 /* coordinates a call at most: 65536 * 127 * 127 < 2^31 */
#define TQ_SEGMENT16 1024 /* int16: coordinates after which 32-bit lanes are widened: 64 * 2 * 4095^2 < 2^31 with 16 a step */
#define TQ_WINDOW8_BITS 7 /* of windows that scan_windows and expand_windows take */
#define TQ_FINE_DIM 4096 /* for levels of 12 bits: 4096 * 2 * 2047 * 127 < 2^31 */
#define TQ_PHASES(bits) ((size_t)((bits) == 1 ? 8 : (bits) == 4 ? 2 : 4))

typedef struct tq_levels8 {
    size_t bits;        /* 1..4 */
    size_t lanes;       /* bytes of a chunk: 32, or 64 where the level has it and little of the last chunk is wasted */
    uint8_t level[16];  /* by code, repeated to fill 16 entries */
    const tq_codebook *trellis; /* whose planes have the levels instead; else NULL. dim * bits are whole bytes */
    int middle;         /* level[c] + level[~c]: centroid(c) is about step * (2 level[c] - middle) */
    float step;
} tq_levels8;

/* The largest u of each width, and how many chunks' phases may be added in 16 bits: fold * 2 * 127 * limit < 32768. */
#define TQ_LIMIT8(bits) ((bits) == 1 ? 1 : (bits) == 2 ? 31 : (bits) == 3 ? 63 : 127)
#define TQ_FOLD8(bits) ((size_t)((bits) == 1 ? 8 : (bits) == 2 ? 4 : (bits) == 3 ? 2 : 1))

/* The first plane of a row and, for 3 bits (low 2, high 1) and 5..8 bits, where the others begin; all at one stride. */
typedef struct tq_packed_rows {
    const uint8_t *plane[3]; /* of the first row; unused ones NULL */
    size_t stride, rows;
} tq_packed_rows;

typedef struct tq_score_slots {
    size_t lanes; /* the most that the level takes: 32 or 64 */
    /* out[r] = sum u q over `chunks` chunks, at most TQ_SEGMENT coordinates. */
    void (*scan8)(const tq_levels8 *levels, const int8_t *query, const tq_packed_rows *from, size_t chunks, int32_t *out);
    /* tile[r * length ...] = the levels of a row, length = chunks * phases * lanes bytes. */
    void (*expand8)(const tq_levels8 *levels, const tq_packed_rows *from, size_t chunks, uint8_t *tile);
    /* out[q * stride + r] = sum u q of `rows` (a multiple of 4) tile rows and `count` (even) queries, `length` bytes each, a
     * multiple of 32 * fold; fold as TQ_FOLD8. A query is `query_stride` bytes from the next. */
    void (*dots8)(const uint8_t *tile, size_t rows, const int8_t *queries, size_t query_stride, size_t count, size_t length,
                  size_t fold, int32_t *out, size_t stride);
    /* The same for trellis codes; queries are in the natural order, `length` (dim, up to a multiple of 64) bytes with zeros
     * behind dim. Tiles hold anything there, and levels up to 255, which dots_bytes takes; its counts are as those of dots8.
     * expand_long takes windows of any length; of up to 3 bits, what it does with `low` is not prescribed. */
    void (*scan_windows)(const tq_levels8 *levels, const int8_t *query, const uint8_t *packed, size_t stride, size_t rows, int32_t *out);
    void (*expand_windows)(const tq_levels8 *levels, const uint8_t *packed, size_t stride, size_t rows, size_t length, uint8_t *tile);
    void (*expand_long)(const tq_levels8 *levels, const uint8_t *packed, size_t stride, size_t rows, size_t length, uint8_t *high,
                        uint8_t *low);
    void (*dots_bytes)(const uint8_t *tile, size_t rows, const int8_t *queries, size_t query_stride, size_t count, size_t length,
                       int32_t *out, size_t stride);
    /* out[r] (+)= (float(2 sums[r] - minus) * factor) * weight[r], the difference modulo 2^32, each step rounded to float32. */
    void (*finish)(const int32_t *sums, uint32_t minus, float factor, const float *weight, size_t rows, int add, float *out);
    /* tile[r * length + j] = level16[code of coordinate j], j < length, a multiple of 32; planes as packed. */
    void (*expand16)(const int16_t *level16, size_t bits, const tq_packed_rows *from, size_t length, int16_t *tile);
    /* out[q * stride + r] += sum level * query, exactly. */
    void (*dots16)(const int16_t *tile, size_t rows, const int16_t *queries, size_t query_stride, size_t count, size_t length,
                   int64_t *out, size_t stride);
    /* out[q] += sum row_j query_qj for `length` (a multiple of 64, at most 4096) floats; queries query_stride floats apart. */
    void (*dots32)(const float *row, const float *queries, size_t query_stride, size_t count, size_t length, double *out);
} tq_score_slots;

#endif
