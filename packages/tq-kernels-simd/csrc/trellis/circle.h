/* Windows of a packed row, which is a circle of bits; private to the levels' sources. */
#ifndef TQ_TRELLIS_CIRCLE_H
#define TQ_TRELLIS_CIRCLE_H

#include <string.h>

#include "trellis/trellis.h"

/* 64 bits: they hold the windows of 8 coordinates. */
static inline uint64_t tq_circle_bits(const uint8_t *packed) {
    uint64_t run;
    memcpy(&run, packed, sizeof run);
    return run;
}

/* The last bits of a row of `bits` bits, those from byte `at` on, of which there are at most 63, and the row's first ones behind
 * them, which they are followed by on the circle: up to 64 of those, as many as there are. */
typedef unsigned __int128 tq_circle_end;

static inline tq_circle_end tq_circle_seam(const uint8_t *packed, size_t bits, size_t at) {
    size_t bytes = (bits + 7) / 8, left = bits - 8 * at;
    uint64_t end = 0, start = 0;
    if (bytes >= 8) { /* a copy whose length is not known when compiling is a call */
        start = tq_circle_bits(packed);
        end = tq_circle_bits(packed + bytes - 8) >> (64 - 8 * (bytes - at));
    } else {
        memcpy(&start, packed, bytes);
        memcpy(&end, packed + at, bytes - at);
    }
    return (end & ((UINT64_C(1) << left) - 1)) | (tq_circle_end)start << left;
}

/* Runs of 8 coordinates that are read before the seam. */
static inline size_t tq_circle_runs(const tq_codebook *book, size_t bits) {
    size_t all = book->dim * bits, runs = all < 64 ? 0 : (all / 8 - 8) / bits + 1;
    return runs < book->dim / 8 ? runs : book->dim / 8;
}

/* Calls LOOK_UP(j, window) for all coordinates of a row; `bits` constant makes it straight code. */
#define TQ_EACH_WINDOW(book, packed, bits, LOOK_UP)                                                               \
    do {                                                                                                          \
        size_t mask = ((size_t)1 << (book)->window) - 1, seam = 8 * tq_circle_runs(book, bits), j = 0;            \
        for (; j < seam; j += 8) {                                                                                \
            uint64_t run = tq_circle_bits((packed) + j / 8 * (bits));                                             \
            for (size_t i = 0; i < 8; i++) LOOK_UP(j + i, run >> i * (bits) & mask);                              \
        }                                                                                                         \
        tq_circle_end end = 0;                                                                                    \
        if (j < (book)->dim) end = tq_circle_seam(packed, (book)->dim * (bits), j / 8 * (bits));                  \
        for (; j < (book)->dim; j++, end >>= (bits)) LOOK_UP(j, (size_t)end & mask);                              \
    } while (0)

/* The slot `centroids` of AVX2, for the rows that a higher level leaves to it. */
void tq_trellis_centroids_avx2(const tq_codebook *book, const uint8_t *packed, float *out);

#endif
