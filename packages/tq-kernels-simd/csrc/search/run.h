/* The best rows of each query: a running threshold fused with the scan.
 *
 * Order: score descending (NaN below everything), ties to the lower row. The order is total and rows are distinct, so results do
 * not depend on the number of threads. */
#ifndef TQ_SEARCH_RUN_H
#define TQ_SEARCH_RUN_H

#include "score/run.h"

enum { TQ_AUTO = 3 }; /* an int8 scan that keeps tq_search_margin(k) rows, which are scored exactly and ordered anew */

typedef struct tq_search_job {
    const tq_plan *plan;
    const float *queries; /* rotated, count of them */
    size_t count;
    tq_stored_rows rows;
    const uint8_t *mask; /* NULL, or nonzero for eligible rows */
    size_t k;
    int accuracy, threads;
    float *scores;    /* (count, k), padded with -infinity */
    int64_t *indices; /* (count, k), padded with -1 */
} tq_search_job;

/* max(4k, k + 32) */
size_t tq_search_margin(size_t k);

/* 0, or -1 without memory. */
int tq_search(const tq_search_job *job);

#endif
