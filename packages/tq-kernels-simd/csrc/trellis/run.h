/* Rows of a trellis code from coordinates, with the active level. */
#ifndef TQ_TRELLIS_RUN_H
#define TQ_TRELLIS_RUN_H

#include "plan.h"

/* What one row at a time is worked out in, in one allocation. */
typedef struct tq_trellis_scratch {
    uint16_t *history;
    int16_t *x, *tried, *levels; /* x: 2 * dim, the coordinates of a walk twice in a row, a circle for any start */
    uint8_t *symbols, *packed;
    void *memory;
} tq_trellis_scratch;

int tq_trellis_scratch_make(tq_trellis_scratch *of, const tq_codebook *book);
void tq_trellis_scratch_free(tq_trellis_scratch *of);

/* The packed row of the winning candidate of a row, `scaled` = 4096 z and v as the encode slots make them, with its sums A = <v, Q>
 * (at least B / 256) and B = <Q, Q>. */
void tq_trellis_row(const tq_plan *plan, const float *scaled, const int16_t *v, tq_trellis_scratch *scratch, uint8_t *out,
                    int64_t *dot, int64_t *square);

#endif
