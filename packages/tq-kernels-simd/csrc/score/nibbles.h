/* The bytes of the byte shuffles by which levels look nibbles up; portable, private to csrc/score. */
#ifndef TQ_SCORE_NIBBLES_H
#define TQ_SCORE_NIBBLES_H

#include "score/score.h"
#include "specialize.h"

/* How many codes of up to 4 bits a nibble holds; of 3 bits it is looked up as one. */
#define TQ_IN_NIBBLE(bits) ((bits) < 3 ? 4 / (bits) : 1)

/* The level of code `k` of each nibble. */
INLINE void tq_nibble_levels(const tq_levels8 *levels, int bits, int k, uint8_t bytes[16]) {
    for (int i = 0; i < 16; i++) bytes[i] = levels->level[i >> k * bits & ((1 << bits) - 1)];
}

/* Of a nibble with the high bits of four 3-bit codes, those of the even (k = 0) or odd codes (k = 1), where they stand above
 * the codes' low bits in a byte of two nibbles. */
INLINE void tq_nibble_spread(int k, uint8_t bytes[16]) {
    for (int i = 0; i < 16; i++) bytes[i] = (uint8_t)((i >> k & 1) << 2 | (i >> k & 4) << 4);
}

#endif
