#include "search/best.h"

#include <math.h>
#include <stdlib.h>

static int is_before(const tq_found *a, const tq_found *b) {
    float x = isnan(a->score) ? -INFINITY : a->score, y = isnan(b->score) ? -INFINITY : b->score;
    return x != y ? x > y : a->row < b->row;
}

static int compare(const void *a, const void *b) { return is_before(b, a) - is_before(a, b); }

static void swap(tq_found *a, tq_found *b) {
    tq_found held = *a;
    *a = *b;
    *b = held;
}

/* Move the `keep` best to the front: quickselect with the median of three, over a total order. */
static void select_best(tq_found *found, size_t count, size_t keep) {
    size_t low = 0, high = count; /* the boundary lies in low..high */
    while (high - low > 16) {
        tq_found *first = found + low, *middle = found + low + (high - low) / 2, *last = found + high - 1;
        if (is_before(middle, first)) swap(middle, first);
        if (is_before(last, first)) swap(last, first);
        if (is_before(last, middle)) swap(last, middle);
        tq_found pivot = *middle;
        size_t i = low, j = high - 1;
        while (i <= j) {
            while (is_before(&found[i], &pivot)) i++;
            while (is_before(&pivot, &found[j])) j--;
            if (i > j) break;
            swap(&found[i++], &found[j]);
            if (j == 0) break;
            j--;
        }
        if (keep <= j) high = j + 1;
        else if (keep >= i) low = i;
        else return;
    }
    qsort(found + low, high - low, sizeof *found, compare);
}

size_t tq_best_capacity(size_t keep) { return 2 * keep + 64; }

void tq_best_start(tq_best *best, tq_found *room, size_t keep) {
    *best = (tq_best){room, keep, tq_best_capacity(keep), 0, -INFINITY, 0};
}

static void cut(tq_best *best) {
    select_best(best->found, best->count, best->keep);
    best->count = best->keep;
    const tq_found *worst = best->found;
    for (size_t i = 1; i < best->keep; i++)
        if (is_before(worst, &best->found[i])) worst = &best->found[i];
    best->threshold = isnan(worst->score) ? -INFINITY : worst->score;
    best->has_threshold = 1;
}

void tq_best_add(tq_best *best, float score, int64_t row) {
    best->found[best->count++] = (tq_found){score, row};
    if (best->count == best->capacity) cut(best);
}

#define GROUP 32

static void offer_some(tq_best *best, const float *scores, size_t count, int64_t first, const uint8_t *mask) {
    for (size_t i = 0; i < count; i++)
        if ((!best->has_threshold || scores[i] > best->threshold) && (!mask || mask[i]))
            tq_best_add(best, scores[i], first + (int64_t)i);
}

void tq_best_offer(tq_best *best, const float *scores, size_t count, int64_t first, const uint8_t *mask) {
    size_t i = 0;
    for (; i + GROUP <= count; i += GROUP) {
        int above = !best->has_threshold;
        float threshold = best->threshold;
        for (size_t j = 0; j < GROUP; j++) above |= scores[i + j] > threshold;
        if (above) offer_some(best, scores + i, GROUP, first + (int64_t)i, mask ? mask + i : NULL);
    }
    offer_some(best, scores + i, count - i, first + (int64_t)i, mask ? mask + i : NULL);
}

void tq_best_sort(tq_best *best) {
    if (best->count > best->keep) cut(best);
    qsort(best->found, best->count, sizeof *best->found, compare);
}
