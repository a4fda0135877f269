/* Trellis codes (docs/format.md, section 10): the best path of integer metrics, and numbers from packed rows.
 *
 * `x` are doubled coordinates, clamped to int16, in the order of the walk. A history holds `nodes` metrics before the first
 * step, after the first, ... after the last; it is aligned to 64 bytes. Metrics are exact, so all levels find the same path. */
#ifndef TQ_TRELLIS_H
#define TQ_TRELLIS_H

#include "plan.h"

#define TQ_TRELLIS_BITS 4 /* bits a coordinate, at most */

typedef struct tq_trellis_slots {
    /* The history of `steps` steps from its first metrics, which the caller has set. */
    void (*forward)(const tq_codebook *book, const int16_t *x, size_t steps, uint16_t *history);
    /* The same for 32 nodes and more. */
    void (*forward_wide)(const tq_codebook *book, const int16_t *x, size_t steps, uint16_t *history);
    /* By the code's bits: symbols[step], step from steps - 1 down to stop, of the best path into `node`; returns the node before
     * `stop`. */
    unsigned (*backward[TQ_TRELLIS_BITS + 1])(const tq_codebook *book, const int16_t *x, size_t steps, size_t stop,
                                              const uint16_t *history, unsigned node, uint8_t *symbols);
    /* The doubled levels, or the centroids, of a packed row: dim numbers. Reads exactly tq_book_bytes(book) bytes; all at any
     * alignment. */
    void (*levels)(const tq_codebook *book, const uint8_t *packed, int16_t *out);
    void (*centroids)(const tq_codebook *book, const uint8_t *packed, float *out);
} tq_trellis_slots;

#endif
