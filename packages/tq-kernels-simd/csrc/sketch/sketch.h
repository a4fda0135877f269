/* The sign sketch of integer rows (docs/format.md, section 6). Buffers as in encode.h. */
#ifndef TQ_SKETCH_H
#define TQ_SKETCH_H

#include "plan.h"

/* Rows that share each number of the matrix, which is larger than the cache where it matters. */
#define TQ_SKETCH_ROWS 16

typedef struct tq_sketch_slots {
    /* r_j = v_j - round_half_even(factor * Q_j) with Q_j the signed level of the code; returns sum r_j^2, exactly. */
    int64_t (*residual)(const tq_codebook *book, const uint8_t *codes, const int16_t *v, double factor, int32_t *r);
    /* Gaussian: bit i set where sum_j S_ij r_j >= 0, exactly, for any int32 r. Writes ceil(projections / 8) bytes. */
    void (*signs)(const tq_sketch *sketch, const int32_t *r, uint8_t *out);
    /* The same for 1..TQ_SKETCH_ROWS rows that begin `stride` numbers apart, each to its own `out`; `narrow` has room for
     * rows * stride numbers. */
    void (*signs_of_rows)(const tq_sketch *sketch, const int32_t *r, size_t stride, size_t rows, int16_t *narrow,
                          uint8_t *const *out);
    /* Gaussian: out_i = sum_j S_ij x_j / 2048 within rounding, for dim floats x. */
    void (*project)(const tq_sketch *sketch, const float *x, float *out);
} tq_sketch_slots;

#endif
