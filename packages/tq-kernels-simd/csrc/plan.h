/* A plan: everything that decides codes, in one buffer made by Python (plan.py) and checked here once, when its capsule is made.
 * All pointers lie inside that buffer; sizes are those of the header, verified against its length. A plan that passes
 * has values in the ranges that the kernels rely on (finite factors, ascending tables, true permutations), whoever made it. */
#ifndef TQ_PLAN_H
#define TQ_PLAN_H

#include <stddef.h>
#include <stdint.h>

typedef struct tq_rotation {
    size_t dim, rounds, order; /* order: 1, 12 or 20 for dim = order * 2^k, 0 for blocks with permutations */
    const uint32_t *signs;     /* rounds * dim: 0x80000000 where a coordinate is negated, else 0 */
    const int32_t *permutations; /* (rounds - 1) * dim indices, each checked to lie in 0..dim-1; NULL unless order is 0 */
    float factor, inverse_factor;
} tq_rotation;

enum { TQ_PLAIN, TQ_MSE, TQ_NORM, TQ_UNBIASED };
enum { TQ_NO_SKETCH, TQ_GAUSSIAN, TQ_HADAMARD };

/* Of a coordinate on its own or, where window > 0, of a trellis (docs/format.md, section 10): then `levels` and `centroids`
 * have 2^window entries, indexed by window, and there are neither thresholds nor magnitudes. */
typedef struct tq_codebook {
    size_t dim, bits;
    size_t window, nodes;      /* trellis: nodes = 2^(window - bits), a multiple of 8 */
    const int16_t *thresholds; /* 2^(bits-1) - 1, ascending */
    const int16_t *levels;     /* the 2^(bits-1) positive levels, ascending, units of 1/4096; trellis: doubled, none 0 */
    const float *centroids;    /* 2^bits, ascending, indexed by code */
    const uint8_t *magnitudes; /* 32768: the number of thresholds below each |v| */
} tq_codebook;

typedef struct tq_sketch {
    int kind;
    size_t dim, projections;
    const int16_t *matrix; /* gaussian: projections * dim, row-major, units of 1/2048 */
    tq_rotation rotation;  /* hadamard: projections = dim */
    double constant;
} tq_sketch;

typedef struct tq_plan {
    tq_rotation rotation;
    tq_codebook book; /* bits 0 in the plan of a bare rotation or sketch */
    tq_sketch sketch;
    int rule, strict;
    size_t candidates;
    const float *candidate; /* in the order of trial, the first 1, all within 0.5..2 */
    size_t stage_bytes, row_bytes;
} tq_plan;

/* Bytes of one packed row of codes: byte-aligned planes of 1, 2, 4 and 8 bits, low bits first. */
size_t tq_row_bytes(size_t dim, size_t bits);

/* The same for a codebook of any kind; rows of a trellis are one stream of dim * bits bits. */
size_t tq_book_bytes(const tq_codebook *book);

/* Fill `plan` from the buffer; NULL, or what is wrong with it. Reads nothing outside `bytes`. */
const char *tq_plan_read(tq_plan *plan, const void *buffer, size_t bytes);

#endif
