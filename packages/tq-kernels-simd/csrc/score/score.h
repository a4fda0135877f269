/* Inner products of rotated queries with packed rows, in the rotated domain; scales and 1/dim are applied by run.c. */
#ifndef TQ_SCORE_H
#define TQ_SCORE_H

#include "plan.h"

typedef struct tq_score_slots {
    /* out[r] = sum_j query_j * centroid(code_rj) for `rows` rows, `stride` bytes apart. Reads only the stage bytes of each
     * row; `codes` and `row` are scratch of TQ_PADDED(dim) bytes and floats. `query` is aligned and padded with zeros. */
    void (*exact)(const tq_codebook *book, const float *query, const uint8_t *packed, size_t stride, size_t rows,
                  uint8_t *codes, float *row, float *out);
} tq_score_slots;

#endif
