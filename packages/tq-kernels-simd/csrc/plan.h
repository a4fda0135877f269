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

/* Thresholds, levels and centroids in the forms that registers search and look up; what is beyond a codebook's size is 0.
 *
 * `tree` holds the thresholds as a binary search meets them: node 1 is the middle one, the children of node i are 2i and
 * 2i + 1, so that the nodes of step k, by the bits found so far, begin at 2^k. `_bytes` are the low and the high bytes.
 * Buckets are the values of |v| >> bucket_shift, 15 also what is above: `bucket_below` counts the thresholds below a bucket,
 * `bucket_tops` is the only one inside it, or 32767. bucket_shift is 0 where no shift leaves one threshold to a bucket. */
typedef struct tq_tables {
    int16_t tree[128], levels[128], bucket_tops[16];
    uint8_t tree_bytes[2][128], level_bytes[2][128], centroid_bytes[4][256];
    uint8_t bucket_top_bytes[2][16], bucket_below[16];
    int bucket_shift;
} tq_tables;

typedef struct tq_codebook {
    size_t dim, bits;
    const int16_t *thresholds; /* 2^(bits-1) - 1, ascending */
    const int16_t *levels;     /* the 2^(bits-1) positive levels, ascending, units of 1/4096 */
    const float *centroids;    /* 2^bits, ascending, indexed by code */
    const uint8_t *magnitudes; /* 32768: the number of thresholds below each |v| */
    const tq_tables *tables;   /* NULL in a codebook that has centroids alone */
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

/* Fill `plan` from the buffer; NULL, or what is wrong with it. Reads nothing outside `bytes`; behind them there is room for
 * TQ_PLAN_ROOM more, which take the tables of the codebook. */
#define TQ_PLAN_ROOM (sizeof(tq_tables) + 64)
const char *tq_plan_read(tq_plan *plan, void *buffer, size_t bytes);

/* The tables of a codebook whose arrays have been checked. */
void tq_tables_fill(tq_tables *tables, const tq_codebook *book);

#endif
