/* Packed codes to numbers (docs/format.md, section 5). */
#ifndef TQ_DECODE_H
#define TQ_DECODE_H

#include "plan.h"

typedef struct tq_decode_slots {
    /* The dim codes of a packed row, one a byte. Reads exactly tq_row_bytes(dim, bits) bytes, at any alignment; `codes` is
     * aligned to 64 bytes and has room up to TQ_PADDED(dim). */
    void (*unpack)(const uint8_t *packed, size_t dim, size_t bits, uint8_t *codes);
    /* The centroids of a packed row, dim floats; bounds and alignment as `unpack`, `codes` is scratch. */
    void (*centroids)(const tq_codebook *book, const uint8_t *packed, uint8_t *codes, float *out);
} tq_decode_slots;

#endif
