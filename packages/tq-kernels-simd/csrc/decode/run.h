/* Decoding rows with the active level. */
#ifndef TQ_DECODE_RUN_H
#define TQ_DECODE_RUN_H

#include "plan.h"

typedef struct tq_decode_job {
    const tq_plan *plan;
    const uint8_t *packed;
    size_t stride; /* bytes from one packed row to the next */
    const float *scales;
    float *out;
} tq_decode_job;

/* Decode rows first..last-1 of codes without a sketch; 0, or -1 without memory. */
int tq_decode_rows(void *job, size_t first, size_t last);

/* The centroids of a packed row of a codebook of any kind, dim floats, as the slots of decode and trellis: codes is scratch of
 * TQ_PADDED(dim) bytes. */
void tq_row_centroids(const tq_codebook *book, const uint8_t *packed, uint8_t *codes, float *out);

#endif
