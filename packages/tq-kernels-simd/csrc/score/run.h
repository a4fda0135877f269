/* Scores of a block of rows with the active level. */
#ifndef TQ_SCORE_RUN_H
#define TQ_SCORE_RUN_H

#include "score/query.h"

#define TQ_BLOCK 256 /* rows at once at most */
#define TQ_QUERY_BLOCK 32 /* queries for which a tile of rows is decoded once */

/* Packed rows with their numbers, as the caller stored them: float32 ('f') or float16 ('e'). */
typedef struct tq_stored_rows {
    const uint8_t *packed;
    size_t stride, count;
    const void *scales, *gammas;
    char scale_format, gamma_format;
} tq_stored_rows;

/* Scratch of one thread. */
typedef struct tq_score_scratch {
    void *memory;
    float *row, *factors; /* a decoded row; the row factors of a block */
    uint8_t *codes, *tile, *tail;
    int32_t *sums, *lows; /* lows: of the second plane of a tile */
    int64_t *wide;
    double *products;
    size_t tail_bytes;
} tq_score_scratch;

int tq_score_scratch_make(tq_score_scratch *of, const tq_queries *queries, size_t stride);
void tq_score_scratch_free(tq_score_scratch *of);

/* out[(q - first_query) * out_stride + i] = the score of row first + i, i < count <= TQ_BLOCK, for `query_count` <= TQ_QUERY_BLOCK
 * queries from first_query (even). Reads nothing outside the rows. */
void tq_score_block(const tq_queries *queries, size_t first_query, size_t query_count, const tq_stored_rows *rows, size_t first,
                    size_t count, float *out, size_t out_stride, tq_score_scratch *scratch);

#endif
