/* Weighted sums of packed rows in the rotated domain, with the slots of attention: rows are looked up where they are added. */
#ifndef TQ_COMBINE_RUN_H
#define TQ_COMBINE_RUN_H

#include "plan.h"

typedef struct tq_combine_job {
    const tq_codebook *book; /* what the codes stand for; its dim is that of the sums */
    const uint8_t *packed;   /* the codes of row r begin r * stride behind */
    size_t stride, rows;
    const float *scales;  /* (rows) */
    const float *weights; /* (sums, rows) */
    float *out;           /* (sums, dim): sum_r weights * scales * centroids */
} tq_combine_job;

/* Sums first..last-1; 0, or -1 without memory. A `tq_parallel` work function on a tq_combine_job. A sum does not depend on
 * those beside it. */
int tq_combine_sums(void *job, size_t first, size_t last);

#endif
