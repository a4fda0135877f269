#include "baseline.h"
#include "specialize.h"
#include "trellis/circle.h"

static int clamped(int value) { return value > 32767 ? 32767 : value < -32768 ? -32768 : value; }

/* The squared difference in units of 1/2048, at most 32768. */
static unsigned branch_metric(int x, int level) {
    int e = clamped(x - level);
    return (unsigned)(e * e + 16384) >> 15;
}

static unsigned least_of(const uint16_t *metrics, size_t nodes) {
    unsigned least = UINT16_MAX;
    for (size_t n = 0; n < nodes; n++) least = metrics[n] < least ? metrics[n] : least;
    return least;
}

static void forward(const tq_codebook *book, const int16_t *x, size_t steps, uint16_t *history) {
    size_t nodes = book->nodes, size = nodes << book->bits;
    for (size_t step = 0; step < steps; step++) {
        const uint16_t *before = history + step * nodes;
        uint16_t *after = history + (step + 1) * nodes;
        unsigned least = least_of(before, nodes);
        for (size_t n = 0; n < nodes; n++) after[n] = UINT16_MAX;
        for (size_t first = 0; first < size; first += nodes)
            for (size_t n = 0; n < nodes; n++) {
                unsigned cost = before[(first + n) >> book->bits] + branch_metric(x[step], book->levels[first + n]);
                after[n] = cost < after[n] ? (uint16_t)cost : after[n];
            }
        for (size_t n = 0; n < nodes; n++) after[n] = (uint16_t)(after[n] - least);
    }
}

static unsigned backward(const tq_codebook *book, const int16_t *x, size_t steps, size_t stop, const uint16_t *history,
                         unsigned node, uint8_t *symbols) {
    size_t nodes = book->nodes, size = nodes << book->bits;
    for (size_t step = steps; step-- > stop;) {
        const uint16_t *before = history + step * nodes;
        unsigned best = UINT32_MAX;
        size_t chosen = node;
        for (size_t window = node; window < size; window += nodes) {
            unsigned cost = before[window >> book->bits] + branch_metric(x[step], book->levels[window]);
            cost = cost < UINT16_MAX ? cost : UINT16_MAX;
            chosen = cost < best ? window : chosen;
            best = cost < best ? cost : best;
        }
        symbols[step] = (uint8_t)(chosen & ((1u << book->bits) - 1));
        node = (unsigned)(chosen >> book->bits);
    }
    return node;
}

#define LEVEL(j, window) out[j] = book->levels[window]
#define CENTROID(j, window) out[j] = book->centroids[window]

static void levels(const tq_codebook *book, const uint8_t *packed, int16_t *out) {
#define EACH_LEVEL(bits) TQ_EACH_WINDOW(book, packed, bits, LEVEL)
    TQ_FOR_WIDTH_TO_4(book->bits, EACH_LEVEL)
}

static void centroids(const tq_codebook *book, const uint8_t *packed, float *out) {
#define EACH_CENTROID(bits) TQ_EACH_WINDOW(book, packed, bits, CENTROID)
    TQ_FOR_WIDTH_TO_4(book->bits, EACH_CENTROID)
}

const tq_trellis_slots tq_trellis_baseline = {
    forward, forward, {NULL, backward, backward, backward, backward}, levels, centroids};
