#include "decode/decode.h"

#include <arm_neon.h>
#include <string.h>

#include "decode/neon.h"
#include "levels.h"

/* Each unpacker handles whole registers and returns how many codes it did. `shift` 0 stores its field, any other adds it to
 * what a lower plane has stored. */
static size_t unpack_nibbles(const uint8_t *packed, size_t dim, int shift, uint8_t *codes) {
    const int8x16_t up = vdupq_n_s8((int8_t)shift);
    size_t j = 0;
    for (; j + 32 <= dim; j += 32) {
        uint8x16_t bytes = vld1q_u8(packed + j / 2);
        uint8x16x2_t c = {{vshlq_u8(vandq_u8(bytes, vdupq_n_u8(15)), up), vshlq_u8(vshrq_n_u8(bytes, 4), up)}};
        if (shift) {
            uint8x16x2_t low = vld2q_u8(codes + j);
            for (int k = 0; k < 2; k++) c.val[k] = vorrq_u8(c.val[k], low.val[k]);
        }
        vst2q_u8(codes + j, c);
    }
    return j;
}

static size_t unpack_crumbs(const uint8_t *packed, size_t dim, int shift, uint8_t *codes) {
    const int8x16_t up = vdupq_n_s8((int8_t)shift);
    const uint8x16_t mask = vdupq_n_u8(3);
    size_t j = 0;
    for (; j + 64 <= dim; j += 64) {
        uint8x16_t bytes = vld1q_u8(packed + j / 4);
        uint8x16x4_t c = {{vandq_u8(bytes, mask), vandq_u8(vshrq_n_u8(bytes, 2), mask),
                           vandq_u8(vshrq_n_u8(bytes, 4), mask), vshrq_n_u8(bytes, 6)}};
        for (int k = 0; k < 4; k++) c.val[k] = vshlq_u8(c.val[k], up);
        if (shift) {
            uint8x16x4_t low = vld4q_u8(codes + j);
            for (int k = 0; k < 4; k++) c.val[k] = vorrq_u8(c.val[k], low.val[k]);
        }
        vst4q_u8(codes + j, c);
    }
    return j;
}

static size_t unpack_bits(const uint8_t *packed, size_t dim, int shift, uint8_t *codes) {
    const uint8x16_t place = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
    const uint8x16_t one = vdupq_n_u8((uint8_t)(1u << shift));
    size_t j = 0;
    for (; j + 16 <= dim; j += 16) {
        uint8x16_t bytes = vcombine_u8(vdup_n_u8(packed[j / 8]), vdup_n_u8(packed[j / 8 + 1]));
        uint8x16_t c = vandq_u8(vtstq_u8(bytes, place), one);
        vst1q_u8(codes + j, shift ? vorrq_u8(c, vld1q_u8(codes + j)) : c);
    }
    return j;
}

static void unpack(const uint8_t *packed, size_t dim, size_t bits, uint8_t *codes) {
    if (bits == 8) {
        memcpy(codes, packed, dim);
        return;
    }
    int shift = 0;
    for (int width = 4; width; width /= 2) {
        if (!(bits & (size_t)width)) continue;
        unsigned mask = (1u << width) - 1;
        size_t j = (width == 4 ? unpack_nibbles : width == 2 ? unpack_crumbs : unpack_bits)(packed, dim, shift, codes);
        for (; j < dim; j++) {
            size_t bit = j * (size_t)width;
            uint8_t part = (uint8_t)((packed[bit / 8] >> bit % 8 & mask) << shift);
            codes[j] = (uint8_t)(shift ? codes[j] | part : part);
        }
        packed += (dim * (size_t)width + 7) / 8;
        shift += width;
    }
}

/* Byte k of each of 64 (or fewer) floats as one table of bytes: four look-ups then give the four bytes of sixteen centroids,
 * which the interleaving store puts together. */
typedef struct byte_tables {
    uint8x16x4_t byte[4];
} byte_tables;

static byte_tables tables_of(const tq_codebook *book) {
    float padded[64] = {0};
    memcpy(padded, book->centroids, ((size_t)1 << book->bits) * sizeof *padded);
    byte_tables tables;
    for (int quarter = 0; quarter < 4; quarter++) {
        uint8x16x4_t part = vld4q_u8((const uint8_t *)(padded + 16 * quarter));
        for (int k = 0; k < 4; k++) tables.byte[k].val[quarter] = part.val[k];
    }
    return tables;
}

static size_t look_up(const tq_codebook *book, const uint8_t *codes, float *out) {
    byte_tables tables = tables_of(book);
    size_t j = 0;
    for (; j + 16 <= book->dim; j += 16) {
        uint8x16_t c = vld1q_u8(codes + j);
        uint8x16x4_t found;
        if (book->bits <= 4)
            for (int k = 0; k < 4; k++) found.val[k] = vqtbl1q_u8(tables.byte[k].val[0], c);
        else
            for (int k = 0; k < 4; k++) found.val[k] = vqtbl4q_u8(tables.byte[k], c);
        vst4q_u8((uint8_t *)(out + j), found);
    }
    return j;
}

void tq_decode_centroids_neon(const tq_codebook *book, const uint8_t *packed, uint8_t *codes, float *out) {
    unpack(packed, book->dim, book->bits, codes);
    size_t j = book->bits <= 6 ? look_up(book, codes, out) : 0; /* 128 floats are more than the registers hold */
    for (; j < book->dim; j++) out[j] = book->centroids[codes[j]];
}

void tq_decode_neon(tq_decode_slots *slots) {
    slots->unpack = unpack;
    slots->centroids = tq_decode_centroids_neon;
}
