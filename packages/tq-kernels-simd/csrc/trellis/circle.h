/* Windows of a packed row, which is a circle of bits; private to the levels' sources. */
#ifndef TQ_TRELLIS_CIRCLE_H
#define TQ_TRELLIS_CIRCLE_H

#include <string.h>

#include "trellis/trellis.h"

/* A copy of the row in which its first bits follow its last ones, and then 8 bytes that may be read. */
static inline void tq_circle_open(const tq_codebook *book, const uint8_t *packed, uint8_t *circle) {
    size_t bits = book->dim * book->bits, whole = bits / 8;
    uint64_t tail = 0;
    memcpy(circle, packed, whole);
    if (bits % 8) tail = packed[whole] & ((1u << bits % 8) - 1);
    tail |= (uint64_t)(packed[0] | packed[1] << 8) << bits % 8;
    memcpy(circle + whole, &tail, sizeof tail);
}

/* 64 bits from bit 8 * byte on: they hold the windows of 8 coordinates. */
static inline uint64_t tq_circle_bits(const uint8_t *circle, size_t byte) {
    uint64_t bits;
    memcpy(&bits, circle + byte, sizeof bits);
    return bits;
}

/* Calls LOOK_UP(j, window) for all coordinates of an open circle; `bits` constant makes it straight code. */
#define TQ_EACH_WINDOW(book, circle, bits, LOOK_UP)                                        \
    do {                                                                                   \
        size_t mask = ((size_t)1 << (book)->window) - 1, whole = (book)->dim / 8 * 8, j = 0; \
        for (; j < whole; j += 8) {                                                        \
            uint64_t run = tq_circle_bits(circle, j / 8 * (bits));                         \
            for (size_t i = 0; i < 8; i++) LOOK_UP(j + i, run >> i * (bits) & mask);       \
        }                                                                                  \
        uint64_t run = j < (book)->dim ? tq_circle_bits(circle, j / 8 * (bits)) : 0;       \
        for (size_t i = 0; j + i < (book)->dim; i++) LOOK_UP(j + i, run >> i * (bits) & mask); \
    } while (0)

/* Calls LOOK_UP(j, window) for pairs of neighbours, j even, with the bits of both; the last coordinates by LAST(j, window). */
#define TQ_EACH_PAIR(book, circle, bits, LOOK_UP, LAST)                                                      \
    do {                                                                                                     \
        size_t mask = ((size_t)1 << ((book)->window + (bits))) - 1, whole = (book)->dim / 8 * 8, j = 0;      \
        for (; j < whole; j += 8) {                                                                          \
            uint64_t run = tq_circle_bits(circle, j / 8 * (bits));                                           \
            for (size_t i = 0; i < 8; i += 2) LOOK_UP(j + i, run >> i * (bits) & mask);                      \
        }                                                                                                    \
        uint64_t run = j < (book)->dim ? tq_circle_bits(circle, j / 8 * (bits)) : 0;                         \
        for (size_t i = 0; j + i < (book)->dim; i++) LAST(j + i, run >> i * (bits) & mask >> (bits));        \
    } while (0)

#endif
