/* What a search or a batch of scores needs to know about its queries, made once and then only read, by any thread. */
#ifndef TQ_SCORE_QUERY_H
#define TQ_SCORE_QUERY_H

#include "score/score.h"

enum { TQ_EXACT, TQ_INT16, TQ_INT8 };

/* One summand of a score: codes of one codebook at one place of the packed row, with the queries projected for it.
 * score = row factor * factor_q * <query_q, centroids>; the first stage's row factor is the scale, the sketch's is gamma. */
typedef struct tq_part {
    tq_codebook book;  /* of a sketch: one bit, centroids -1 and 1 */
    size_t offset;     /* of the part in a packed row */
    int method;        /* TQ_EXACT, TQ_INT16 or TQ_INT8: what this width runs at the accuracy asked for */
    size_t length;     /* of a query in elements, padded */
    void *queries;     /* count (padded to even) of float, int16_t or int8_t */
    double *factors;   /* per query */
    int32_t *sums;     /* per query: the sum of its int8 values */
    tq_levels8 levels8;
    int16_t *levels16; /* by code, 256 of them */
} tq_part;

typedef struct tq_queries {
    size_t count;
    int parts, is_sketch; /* is_sketch: the only part is a sketch, with gamma as its row factor */
    tq_part part[2];
    float centroids[2];   /* those of a sketch */
    void *memory;
} tq_queries;

/* Prepare `count` queries: rotated ones (count, dim) for a plan with a codebook, unrotated ones for a bare sketch. 0, or -1 without
 * memory. `accuracy`: TQ_EXACT; TQ_INT16 (exact beyond 5 bits, where 16 bits would not be near-exact); TQ_INT8 (int16 beyond 4).
 * Trellis codes are exact, but for TQ_INT8 where tq_scans_in_integers. */
int tq_queries_make(tq_queries *made, const tq_plan *plan, const float *queries, size_t count, int accuracy);
void tq_queries_free(tq_queries *made);

/* Whether a scan at TQ_INT8 computes in integers: not for fractional widths, nor for trellis codes whose rows
 * are no whole bytes or of more than TQ_FINE_DIM coordinates. */
int tq_scans_in_integers(const tq_codebook *book);

/* The levels (not the lanes) of a codebook of up to 4 bits that fit its centroids best, weighted by how often a Gaussian meets them. */
void tq_levels8_make(const tq_codebook *book, tq_levels8 *levels);

#endif
