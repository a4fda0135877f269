/* The best rows seen so far: an unordered buffer that is cut back to `keep` rows when it is full. */
#ifndef TQ_SEARCH_BEST_H
#define TQ_SEARCH_BEST_H

#include <stddef.h>
#include <stdint.h>

typedef struct tq_found {
    float score;
    int64_t row;
} tq_found;

typedef struct tq_best {
    tq_found *found; /* room for `capacity` */
    size_t keep, capacity, count;
    float threshold;  /* once keep rows are known, a later row must score above it */
    int has_threshold;
} tq_best;

/* Twice `keep` and some, so that cutting back is rare. */
size_t tq_best_capacity(size_t keep);
void tq_best_start(tq_best *best, tq_found *room, size_t keep);
void tq_best_add(tq_best *best, float score, int64_t row);
/* Offer rows first.. with these scores, in ascending order of rows; `mask` (NULL: all) belongs to row first. */
void tq_best_offer(tq_best *best, const float *scores, size_t count, int64_t first, const uint8_t *mask);
/* Keep the best `keep` rows, best first. */
void tq_best_sort(tq_best *best);

#endif
