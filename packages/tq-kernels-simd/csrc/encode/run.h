/* Encoding rows with the active level (docs/format.md, sections 3 to 6): the one place where the steps are put together. */
#ifndef TQ_ENCODE_RUN_H
#define TQ_ENCODE_RUN_H

#include "plan.h"

typedef struct tq_encode_job {
    const tq_plan *plan;
    const void *x; /* (rows, dim) of dtype 'e', 'f' or 'd' */
    char dtype;
    uint8_t *packed;
    float *scales, *gammas; /* gammas NULL without a sketch */
} tq_encode_job;

/* Encode rows first..last-1; 0, or -1 without memory. A `tq_parallel` work function on a tq_encode_job. */
int tq_encode_rows(void *job, size_t first, size_t last);

/* Sign bits of 1..TQ_SKETCH_ROWS integer rows that begin `stride` apart; x and spare are scratch of TQ_PADDED(dim) floats,
 * `narrow` of rows * stride numbers. */
void tq_sketch_rows(const tq_sketch *sketch, const int32_t *residuals, size_t stride, size_t rows, float *x, float *spare,
                    int16_t *narrow, uint8_t *const *out);

#endif
