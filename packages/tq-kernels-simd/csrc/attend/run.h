/* Attention of the query rows of all lanes with the active level. */
#ifndef TQ_ATTEND_RUN_H
#define TQ_ATTEND_RUN_H

#include "attend/side.h"

/* Query rows that share the tiles of a lane: their sums (32 rows of 128 floats are 16 KiB) and two integer tiles fit in L1. */
#define TQ_ATTEND_ROWS 32

/* One side of the packed tokens: lane l starts l * lane_bytes behind `packed`, its rows follow each other; likewise scales. */
typedef struct tq_attend_store {
    tq_attend_side side;
    const uint8_t *packed, *scales;
    ptrdiff_t lane_bytes, scale_lane_bytes;
    int half; /* scales are float16 */
} tq_attend_store;

typedef struct tq_attend_job {
    tq_attend_store keys, values;
    const float *queries;        /* (lanes, groups, count, key dim), rotated */
    float *out, *maxima, *sums;  /* (lanes, groups, count[, value dim]) */
    size_t lanes, groups, count, tokens;
    const int64_t *limits;       /* (count, 2): query i sees tokens limits[i][0] <= t < limits[i][1]; or NULL */
    const uint8_t *mask;         /* (count, tokens), rows mask_stride apart, nonzero where a token is seen; or NULL */
    ptrdiff_t mask_stride;
    float scale, cap;            /* of the logits; cap 0 is none */
    int threads;
} tq_attend_job;

/* Bytes that tq_attend allocates for this job, all threads together; only the sides' shapes and the sizes are read. */
size_t tq_attend_workspace(const tq_attend_job *job);

/* 0, or -1 without memory. Deterministic for a number of threads, and within rounding of any other number. */
int tq_attend(const tq_attend_job *job);

#endif
