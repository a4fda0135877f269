#include "decode/decode.h"

#include "baseline.h"

static void unpack(const uint8_t *packed, size_t dim, size_t bits, uint8_t *codes) {
    int shift = 0;
    for (int width = 8; width; width /= 2) {
        if (!(bits & (size_t)width)) continue;
        unsigned mask = (1u << width) - 1;
        for (size_t j = 0; j < dim; j++) {
            size_t bit = j * (size_t)width;
            uint8_t part = (uint8_t)((packed[bit / 8] >> bit % 8 & mask) << shift);
            codes[j] = (uint8_t)(shift ? codes[j] | part : part);
        }
        packed += (dim * (size_t)width + 7) / 8;
        shift += width;
    }
}

static void centroids(const tq_codebook *book, const uint8_t *packed, uint8_t *codes, float *out) {
    unpack(packed, book->dim, book->bits, codes);
    for (size_t j = 0; j < book->dim; j++) out[j] = book->centroids[codes[j]];
}

const tq_decode_slots tq_decode_baseline = {unpack, centroids};
