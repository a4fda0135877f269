/* The slots `pack` and `finish` of a level that encodes in steps. Included once by a level that defines `coordinates`,
 * `quantize` and `pack_plane`: bits shift..shift+width-1 of each code to `out`; it returns how many bytes those take. */
#ifndef TQ_ENCODE_STEPS_H
#define TQ_ENCODE_STEPS_H

#include <string.h>

#include "encode/encode.h"

static size_t pack_plane(const uint8_t *codes, size_t dim, int shift, int width, uint8_t *out);
static void coordinates(float *z, size_t dim, int16_t *v);
static void quantize(const tq_codebook *book, const float *scaled, const int16_t *v, float t, uint8_t *codes, int64_t *dot,
                     int64_t *square);

/* pack_plane of the codes from `first` on, a multiple of 8, one by one. */
static size_t pack_plane_from(size_t first, const uint8_t *codes, size_t dim, int shift, int width, uint8_t *out) {
    size_t bytes = (dim * (size_t)width + 7) / 8, start = first * (size_t)width / 8;
    unsigned mask = (1u << width) - 1;
    memset(out + start, 0, bytes - start);
    for (size_t j = first; j < dim; j++) {
        size_t bit = j * (size_t)width;
        out[bit / 8] |= (uint8_t)(((unsigned)codes[j] >> shift & mask) << bit % 8);
    }
    return bytes;
}

static void pack(const uint8_t *codes, size_t dim, size_t bits, uint8_t *out) {
    int shift = 0;
    for (int width = 8; width; width /= 2) { /* binary digits of bits, highest first: 3 = 2 + 1, 7 = 4 + 2 + 1 */
        if (!(bits & (size_t)width)) continue;
        out += pack_plane(codes, dim, shift, width, out);
        shift += width;
    }
}

static void finish(const tq_codebook *book, float *z, int16_t *v, uint8_t *codes, uint8_t *out, int64_t *dot,
                   int64_t *square) {
    int64_t unwanted;
    coordinates(z, book->dim, v);
    quantize(book, z, v, 1.0f, codes, dot, square ? square : &unwanted);
    pack(codes, book->dim, book->bits, out);
}

#endif
