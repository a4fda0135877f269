/* The sign sketch of integer rows (docs/format.md, section 6). Buffers as in encode.h. */
#ifndef TQ_SKETCH_H
#define TQ_SKETCH_H

#include "plan.h"

typedef struct tq_sketch_slots {
    /* r_j = v_j - round_half_even(factor * Q_j) with Q_j the signed level of the code; returns sum r_j^2, exactly. */
    int64_t (*residual)(const tq_codebook *book, const uint8_t *codes, const int16_t *v, double factor, int32_t *r);
    /* Gaussian: bit i set where sum_j S_ij r_j >= 0, exactly, for any int32 r. Writes ceil(projections / 8) bytes. */
    void (*signs)(const tq_sketch *sketch, const int32_t *r, uint8_t *out);
    /* Gaussian: out_i = sum_j S_ij x_j / 2048 within rounding, for dim floats x. */
    void (*project)(const tq_sketch *sketch, const float *x, float *out);
} tq_sketch_slots;

#endif
