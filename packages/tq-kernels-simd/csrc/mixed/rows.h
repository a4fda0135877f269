/* The slots in portable C, compiled once for each instruction set that includes this file: the loops over 16 lanes are for the
 * compiler's vectors. */
#ifndef TQ_MIXED_PORTABLE_H
#define TQ_MIXED_PORTABLE_H

#include <math.h>
#include <string.h>

#include "mixed/mixed.h"

#define LANES TQ_MIXED_LANES

static inline int16_t clamped(float value) {
    float rounded = rintf(value);
    rounded = rounded > -32767.0f ? rounded : -32767.0f; /* also what is no number, from infinite rows under a strict plan */
    return (int16_t)(int32_t)(rounded > 32767.0f ? 32767.0f : rounded);
}

/* Codes and signed levels of LANES coordinates. No sum here leaves 16 bits: levels ascend from 0 and fit. */
static inline void levels_of(const tq_mixed *it, const int16_t *value, uint8_t *codes, int16_t *levels) {
    int16_t m[LANES], level[LANES], size[LANES];
    for (int i = 0; i < LANES; i++) size[i] = (int16_t)(value[i] < 0 ? -value[i] : value[i]);
    for (int i = 0; i < LANES; i++) m[i] = 0, level[i] = it->levels[i];
    for (int k = 0; k < TQ_MIXED_THRESHOLDS; k++)
        for (int i = 0; i < LANES; i++) {
            int16_t above = (int16_t)-(size[i] > it->thresholds[k * LANES + i]);
            int16_t step = (int16_t)(it->levels[(k + 1) * LANES + i] - it->levels[k * LANES + i]);
            m[i] = (int16_t)(m[i] - above);
            level[i] = (int16_t)(level[i] + (above & step));
        }
    for (int i = 0; i < LANES; i++) {
        int16_t sign = (int16_t)(value[i] >> 15);
        levels[i] = (int16_t)((level[i] ^ sign) - sign);
        codes[i] = (uint8_t)(it->above[i] + (sign & it->even[i] ? -1 : 0) + ((m[i] ^ sign) - sign));
    }
}

static void quantize(const tq_codebook *book, const float *scaled, const int16_t *v, float t, uint8_t *codes,
                     int64_t *dot, int64_t *square) {
    int64_t a = 0, b = 0;
    for (size_t j = 0; j < book->dim; j += LANES) {
        size_t count = book->dim - j < LANES ? book->dim - j : LANES;
        int16_t value[LANES], levels[LANES];
        if (t == 1.0f) memcpy(value, v + j, sizeof value);
        else
            for (int i = 0; i < LANES; i++) value[i] = clamped(t * scaled[j + i]);
        levels_of(&book->mixed, value, codes + j, levels);
        for (size_t i = count; i < LANES; i++) levels[i] = 0; /* what lies beyond the row counts nothing */
        int64_t dots = 0, squares = 0;
        for (int i = 0; i < LANES; i++) {
            dots += (int32_t)v[j + i] * levels[i];
            squares += (int32_t)levels[i] * levels[i];
        }
        a += dots;
        b += squares;
    }
    *dot = a;
    *square = b > 0 ? b : 1; /* a zero row, where no number of levels is even */
}

static void pack(const tq_codebook *book, const uint8_t *codes, uint8_t *out) {
    const tq_mixed *it = &book->mixed;
    size_t left = book->dim % it->places, words = book->dim / it->places + (left > 0), bytes = tq_mixed_bytes(book);
    uint64_t held = 0;
    unsigned filled = 0;
    for (size_t g = 0; g < words; g++) {
        size_t digits = left && g + 1 == words ? left : it->places;
        uint32_t word = 0;
        for (size_t p = digits; p--;) word = word * it->radix[p] + codes[g * it->places + p];
        held |= (uint64_t)word << filled;
        filled += it->word_bits; /* the last word's high bits are 0, and bytes end where they should */
        for (; filled >= 8 && bytes; filled -= 8, held >>= 8, bytes--) *out++ = (uint8_t)held;
    }
    for (; bytes; bytes--, held >>= 8) *out++ = (uint8_t)held;
}

/* 32 bits from byte `at`, zeros beyond the row. */
static inline uint32_t bits_at(const uint8_t *packed, size_t at, size_t bytes) {
    uint32_t found = 0;
    if (at + 4 <= bytes) {
        for (int i = 0; i < 4; i++) found |= (uint32_t)packed[at + (size_t)i] << 8 * i;
        return found;
    }
    for (size_t i = 0; at + i < bytes; i++) found |= (uint32_t)packed[at + i] << 8 * i;
    return found;
}

static void centroids(const tq_codebook *book, const uint8_t *packed, uint8_t *codes, float *out) {
    (void)codes;
    const tq_mixed *it = &book->mixed;
    size_t bytes = tq_mixed_bytes(book), whole = book->dim / it->places, left = book->dim % it->places;
    uint32_t mask = (UINT32_C(1) << it->word_bits) - 1;
    for (size_t g = 0, bit = 0; g < whole + (left > 0); g++, bit += it->word_bits) {
        uint32_t word = bits_at(packed, bit / 8, bytes) >> bit % 8 & mask, high = 0;
        if (it->places == 4) { /* word / low, exactly: word < 2^13 and low < 2^7 */
            high = word * it->inverse >> 20;
            word -= high * it->low;
        }
        float found[4];
        memcpy(found, it->pairs + 2 * word, 8);
        if (it->places == 4) memcpy(found + 2, it->pairs + 2 * (it->low + high), 8);
        if (g < whole) memcpy(out + g * it->places, found, it->places == 4 ? 16 : 8);
        else memcpy(out + g * it->places, found, left * sizeof *out);
    }
}

#endif
