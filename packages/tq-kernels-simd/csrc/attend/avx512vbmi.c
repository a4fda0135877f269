#include "attend/attend.h"
#include "attend/avx512_floats.h"
#include "attend/codes.h"
#include "attend/windows.h"
#include "levels.h"
#include "trellis/avx512vbmi_windows.h"

/* Rows of trellis codes of windows of up to 10 bits, as attend/avx2_windows.h does it for all. */
#define FEW TQ_ATTEND_FEW
#define TOKENS 16 /* whose sums are kept in memory, 4 KiB, from one block of 64 coordinates to the next */

/* 64 coordinates of tokens t and t + 1, or twice the last one. */
INLINE void look_up_two(const tq_attend_side *side, const uint8_t *packed, size_t t, size_t tokens, const window_place *place,
                        const int blocks, floats x[2][4]) {
    const uint8_t *row = packed + t * side->row_bytes, *const rows[2] = {row, t + 1 < tokens ? row + side->row_bytes : row};
    const window_place *const places[2] = {place, place};
    if (place->at == 0) { /* once a row */
        tq_attend_ahead(side, rows[0]);
        tq_attend_ahead(side, rows[1]);
    }
    windows_of_64(side->book->planes, rows, places, blocks, x);
}

INLINE void dot_some(const tq_attend_side *side, const uint8_t *packed, size_t tokens, const int blocks,
                     const float *const queries[FEW], floats sums[TOKENS][FEW]) {
    for (size_t j = 0; j < side->dim; j += 64) {
        const window_place place = window_place_of(side->book, j);
        for (size_t t = 0; t < tokens; t += 2) { /* of an odd number, the last one twice */
            floats x[2][4];
            look_up_two(side, packed, t, tokens, &place, blocks, x);
            for (int r = 0; r < FEW; r++) {
                floats a = j ? sums[t][r] : no_floats(), b = j ? sums[t + 1][r] : no_floats();
                for (int v = 0; v < 4; v++) {
                    floats q = load_floats(queries[r] + j + 16 * v);
                    a = plus_product(q, x[0][v], a);
                    b = plus_product(q, x[1][v], b);
                }
                sums[t][r] = a;
                sums[t + 1][r] = b;
            }
        }
    }
}

INLINE void dot_blocks(const tq_attend_side *side, const uint8_t *packed, size_t tokens, const int blocks,
                       const float *const queries[FEW], size_t rows, const float *scales, float *const *logits) {
    floats sums[TOKENS][FEW];
    for (size_t t = 0; t < tokens; t += TOKENS) {
        const size_t some = tokens - t < TOKENS ? tokens - t : TOKENS;
        dot_some(side, packed + t * side->row_bytes, some, blocks, queries, sums);
        for (size_t i = (some + 1) / 2 * 2; i % 4; i++)
            for (int r = 0; r < FEW; r++) sums[i][r] = no_floats();
        for (size_t i = 0; i < some; i += 4) {
            float found[4][FEW];
            sums_of_floats(sums[i], found[0]);
            for (size_t r = 0; r < rows; r++)
                for (size_t k = 0; k < 4; k++) logits[r][t + i + k] = found[k][r] * scales[t + i + k];
        }
    }
}

static void dot_windows(const tq_attend_side *side, const uint8_t *packed, size_t tokens, const float *const *queries, size_t rows,
                        const float *scales, float *const *logits) {
    if (!permutes(side->book)) {
        tq_dot_windows_avx2(side, packed, tokens, queries, rows, scales, logits);
        return;
    }
    const float *four[FEW];
    for (size_t r = 0; r < FEW; r++) four[r] = queries[r < rows ? r : 0];
#define DOT(blocks) dot_blocks(side, packed, tokens, blocks, four, rows, scales, logits)
    FOR_BLOCKS(side->book, DOT);
}

INLINE void weigh_blocks(const tq_attend_side *side, const uint8_t *packed, size_t tokens, const int blocks,
                         const float *const weights[FEW], const float decays[FEW], float *const sums[FEW]) {
    for (size_t j = 0; j < side->dim; j += 64) {
        const window_place place = window_place_of(side->book, j);
        floats sum[FEW][4];
        for (int r = 0; r < FEW; r++)
            for (int v = 0; v < 4; v++) sum[r][v] = times(load_floats(sums[r] + j + 16 * v), each_float(decays + r));
        for (size_t t = 0; t < tokens; t += 2) {
            floats x[2][4];
            look_up_two(side, packed, t, tokens, &place, blocks, x);
            for (int r = 0; r < FEW; r++) {
                floats weight = each_float(weights[r] + t), next = t + 1 < tokens ? each_float(weights[r] + t + 1) : no_floats();
                for (int v = 0; v < 4; v++) sum[r][v] = plus_product(weight, x[0][v], sum[r][v]);
                for (int v = 0; v < 4; v++) sum[r][v] = plus_product(next, x[1][v], sum[r][v]);
            }
        }
        for (int r = 0; r < FEW; r++)
            for (int v = 0; v < 4; v++) store_floats(sums[r] + j + 16 * v, sum[r][v]);
    }
}

static void weigh_windows(const tq_attend_side *side, const uint8_t *packed, size_t tokens, const float *const *weights, size_t rows,
                          const float *decays, float *const *sums) {
    if (!permutes(side->book)) {
        tq_weigh_windows_avx2(side, packed, tokens, weights, rows, decays, sums);
        return;
    }
    const float *four[FEW];
    float keep[FEW], *to[FEW];
    tq_attend_four(weights, rows, decays, sums, four, keep, to);
#define WEIGH(blocks) weigh_blocks(side, packed, tokens, blocks, four, keep, to)
    FOR_BLOCKS(side->book, WEIGH);
}

void tq_attend_avx512vbmi(tq_attend_slots *slots) {
    slots->dot_windows = dot_windows;
    slots->weigh_windows = weigh_windows;
}
