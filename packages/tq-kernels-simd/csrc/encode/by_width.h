/* The slots `quantize` and `finish` of a level that has one copy of `trial` and of `fused` for each width. Included once, after
 * both: their `bucketed`, whether the buckets of four bits serve, is a constant, too. */
#ifndef TQ_ENCODE_BY_WIDTH_H
#define TQ_ENCODE_BY_WIDTH_H

#include "encode/encode.h"
#include "specialize.h"

static void quantize(const tq_codebook *book, const float *scaled, const int16_t *v, float t, uint8_t *codes, int64_t *dot,
                     int64_t *square) {
#define TRIAL(bits)                                                                                        \
    if ((bits) == 4 && book->tables->bucket_shift) trial(book, scaled, v, t, codes, bits, 1, dot, square); \
    else trial(book, scaled, v, t, codes, bits, 0, dot, square)
    TQ_FOR_WIDTH_TO_8(book->bits, TRIAL)
}

static void finish(const tq_codebook *book, float *z, int16_t *v, uint8_t *codes, uint8_t *out, int64_t *dot,
                   int64_t *square) {
    (void)v, (void)codes;
#define FUSED(bits)                                                                           \
    if ((bits) == 4 && book->tables->bucket_shift) fused(book, z, out, bits, 1, dot, square); \
    else fused(book, z, out, bits, 0, dot, square)
    TQ_FOR_WIDTH_TO_8(book->bits, FUSED)
}

#endif
