/* The slots `dot_codes` and `weigh_codes` over what a level does with registers: one copy of the code for each width of codes,
 * and query rows in fours, which share what was looked up, then by two and one. Included once by a level that defines
 *
 *   HALF                        tokens in a register of a transposed plane; a step takes two registers
 *   PLANE(bytes)                bytes that HALF rows of a plane of so many take when transposed
 *   code_table, table_of(book)  the centroids in registers
 *   transpose_dwords            a plane of the rows of HALF tokens to `out`, dword k of all of them at 4 * HALF * k
 *
 * and, with `bits` and `rows` (4, 2 or 1) constant, dot_step and weigh_block, declared here. */
#ifndef TQ_ATTEND_CODE_ROWS_H
#define TQ_ATTEND_CODE_ROWS_H

#include "attend/codes.h"

/* The logits of 2 * HALF tokens whose planes, transposed, lie at `low` and `third`, those of the second half `half` beyond. */
INLINE void dot_step(code_table table, const uint8_t *low, const uint8_t *third, size_t half, size_t dwords, const int bits,
                     const float *const *queries, const int rows, const float *scales, float *const *logits);
/* The decayed sums of 64 coordinates from `at` on, with those of all tokens times their weights added. */
INLINE void weigh_block(code_table table, tq_attend_block block, size_t tokens, const int bits, const float *const *weights,
                        const int rows, const float *decays, float *const *sums, size_t at);

INLINE void dot_width(const tq_attend_side *side, const uint8_t *packed, size_t tokens, uint8_t *scratch, const int bits,
                      const float *const *queries, size_t rows, const float *scales, float *const *logits) {
    const code_table table = table_of(side->book);
    const size_t dim = side->dim, bytes = (dim * TQ_WIDTH(bits) + 7) / 8, high_bytes = bits == 3 ? (dim + 7) / 8 : 0;
    const size_t dwords = (bytes + 3) / 4, high_at = PLANE(bytes), half = high_at + PLANE(high_bytes);
    for (size_t t = 0; t < tokens; t += 2 * HALF) {
        for (size_t h = 0; h < 2; h++) {
            const uint8_t *at[HALF];
            tq_attend_rows(side, packed, t + HALF * h, tokens, HALF, at);
            transpose_dwords(at, 0, bytes, scratch + h * half);
            if (bits == 3) transpose_dwords(at, bytes, high_bytes, scratch + h * half + high_at);
        }
        size_t r = 0;
        for (int step = 4; step; step /= 2)
            for (; r + (size_t)step <= rows; r += (size_t)step) {
                float *to[4];
                for (int i = 0; i < step; i++) to[i] = logits[r + (size_t)i] + t;
#define DOT(n) dot_step(table, scratch, scratch + high_at, half, dwords, bits, queries + r, n, scales + t, to)
                if (step == 4) DOT(4);
                else if (step == 2) DOT(2);
                else DOT(1);
            }
    }
}

static void dot_codes(const tq_attend_side *side, const uint8_t *packed, size_t tokens, uint8_t *scratch,
                      const float *const *queries, size_t rows, const float *scales, float *const *logits) {
#define DOT_WIDTH(bits) dot_width(side, packed, tokens, scratch, bits, queries, rows, scales, logits)
    TQ_FOR_WIDTH_TO_4(side->book->bits, DOT_WIDTH)
}

INLINE void weigh_width(const tq_attend_side *side, const uint8_t *packed, size_t tokens, const int bits,
                        const float *const *weights, size_t rows, const float *decays, float *const *sums) {
    const code_table table = table_of(side->book);
    uint8_t spare[TQ_TILE * 64];
    for (size_t j = 0; j < side->dim; j += 64) {
        const tq_attend_block block = tq_attend_block_of(side, packed, tokens, j, spare);
        size_t r = 0;
        for (size_t step = 4; step; step /= 2)
            for (; r + step <= rows; r += step) {
#define WEIGH(n) weigh_block(table, block, tokens, bits, weights + r, n, decays + r, sums + r, j)
                if (step == 4) WEIGH(4);
                else if (step == 2) WEIGH(2);
                else WEIGH(1);
            }
    }
}

static void weigh_codes(const tq_attend_side *side, const uint8_t *packed, size_t tokens, const float *const *weights, size_t rows,
                        const float *decays, float *const *sums) {
#define WEIGH_WIDTH(bits) weigh_width(side, packed, tokens, bits, weights, rows, decays, sums)
    TQ_FOR_WIDTH_TO_4(side->book->bits, WEIGH_WIDTH)
}

#endif
