/* Rows of a fractional width: codebooks in turn, mixed-radix words (docs/format.md, sections 4 and 5). The codebook of every slot
 * has `bits` TQ_MIXED; alignment and room as in encode.h and decode.h. */
#ifndef TQ_MIXED_ROWS_H
#define TQ_MIXED_ROWS_H

#include "plan.h"

typedef struct tq_mixed_slots {
    /* As the slot of encode.h; B is at least 1. */
    void (*quantize)(const tq_codebook *book, const float *scaled, const int16_t *v, float t, uint8_t *codes,
                     int64_t *dot, int64_t *square);
    /* The packed row of codes, each below the radix of its place: exactly tq_mixed_bytes bytes are written. */
    void (*pack)(const tq_codebook *book, const uint8_t *codes, uint8_t *out);
    /* The centroids of a packed row, dim floats; reads exactly tq_mixed_bytes bytes. A word that no encoder writes gives
     * some centroids. `codes` is not used. */
    void (*centroids)(const tq_codebook *book, const uint8_t *packed, uint8_t *codes, float *out);
} tq_mixed_slots;

#endif
