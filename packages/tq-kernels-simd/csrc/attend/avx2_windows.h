/* Rows of trellis codes looked up where they are multiplied, with AVX2, for avx2.c alone: while loads look windows up, the
 * products of four query rows pass through units that would idle, and no tile is written and read again. */
#ifndef TQ_ATTEND_AVX2_WINDOWS_H
#define TQ_ATTEND_AVX2_WINDOWS_H

#include "attend/avx2_floats.h"
#include "attend/windows.h"
#include "trellis/avx2_windows.h"

#define FEW TQ_ATTEND_FEW

/* Two tokens for four query rows: the sums of row r at out[2 * r]. */
INLINE void dot_windows_of_two(const tq_attend_side *side, const uint8_t *first, const uint8_t *second, const int bits,
                               const int in_pairs, const float *const queries[FEW], float *out) {
    const window_table table = window_table_of(side->book, bits, in_pairs);
    const size_t dim = side->dim, seam = 8 * tq_circle_runs(side->book, (size_t)bits), all = dim * (size_t)bits;
    floats sums[2 * FEW];
    for (int i = 0; i < 2 * FEW; i++) sums[i] = no_floats();
#define ADD_EIGHT(run, other)                                                       \
    do {                                                                            \
        floats x = eight_windows(table, run), y = eight_windows(table, other);      \
        for (int r = 0; r < FEW; r++) {                                             \
            floats q = load_floats(queries[r] + j);                                 \
            sums[2 * r] = plus_product(q, x, sums[2 * r]);                          \
            sums[2 * r + 1] = plus_product(q, y, sums[2 * r + 1]);                  \
        }                                                                           \
    } while (0)
    size_t j = 0, at = 0;
    for (; j < seam; j += 8, at += (size_t)bits) ADD_EIGHT(tq_circle_bits(first + at), tq_circle_bits(second + at));
    if (j < dim) {
        tq_circle_end end = tq_circle_seam(first, all, at), other = tq_circle_seam(second, all, at);
        for (; j < dim; j += 8, end >>= 8 * bits, other >>= 8 * bits) ADD_EIGHT((uint64_t)end, (uint64_t)other);
    }
    sums_of_floats(sums, out);
}

INLINE void dot_windows_bits(const tq_attend_side *side, const uint8_t *packed, size_t tokens, const int bits, const int in_pairs,
                             const float *const queries[FEW], size_t rows, const float *scales, float *const *logits) {
    for (size_t t = 0; t < tokens; t += 2) {
        const uint8_t *first = packed + t * side->row_bytes, *second = t + 1 < tokens ? first + side->row_bytes : first;
        float found[2 * FEW];
        dot_windows_of_two(side, first, second, bits, in_pairs, queries, found);
        for (size_t r = 0; r < rows; r++) {
            logits[r][t] = found[2 * r] * scales[t];
            logits[r][t + 1] = found[2 * r + 1] * scales[t + 1];
        }
    }
}

void tq_dot_windows_avx2(const tq_attend_side *side, const uint8_t *packed, size_t tokens, const float *const *queries, size_t rows,
                        const float *scales, float *const *logits) {
    const float *four[FEW];
    for (size_t r = 0; r < FEW; r++) four[r] = queries[r < rows ? r : 0];
#define DOT_WINDOWS(bits)                                                                                            \
    side->book->pairs ? dot_windows_bits(side, packed, tokens, bits, 1, four, rows, scales, logits)                  \
                      : dot_windows_bits(side, packed, tokens, bits, 0, four, rows, scales, logits)
    TQ_FOR_WIDTH_TO_4(side->book->bits, DOT_WINDOWS)
}

/* Where the two runs of sixteen coordinates lie, of each token `step` bytes behind those of the one before. */
typedef struct run_pairs {
    const uint8_t *first, *second;
    size_t step;
} run_pairs;

/* Those from coordinate j on: in the rows, or behind the seam, copied to `spare`. */
INLINE run_pairs run_pairs_of(const tq_attend_side *side, const uint8_t *packed, size_t tokens, size_t j, const int bits,
                              uint64_t spare[2 * TQ_TILE]) {
    const size_t seam = 8 * tq_circle_runs(side->book, (size_t)bits), at = j / 8 * (size_t)bits;
    if (j + 16 <= seam) return (run_pairs){packed + at, packed + at + bits, side->row_bytes};
    for (size_t t = 0; t < tokens; t++, packed += side->row_bytes) {
        tq_circle_end end = seam < side->dim ? tq_circle_seam(packed, side->dim * (size_t)bits, seam / 8 * (size_t)bits) : 0;
        for (size_t h = 0; h < 2; h++) {
            const size_t of = j + 8 * h;
            spare[2 * t + h] = of < seam ? tq_circle_bits(packed + of / 8 * (size_t)bits)
                               : of < side->dim ? (uint64_t)(end >> (of - seam) * (size_t)bits) : 0;
        }
    }
    return (run_pairs){(const uint8_t *)spare, (const uint8_t *)(spare + 1), 2 * sizeof *spare};
}

INLINE void weigh_windows_bits(const tq_attend_side *side, const uint8_t *packed, size_t tokens, const int bits, const int in_pairs,
                               const float *const weights[FEW], const float decays[FEW], float *const sums[FEW]) {
    const window_table table = window_table_of(side->book, bits, in_pairs);
    uint64_t spare[2 * TQ_TILE];
    for (size_t j = 0; j < side->dim; j += 16) {
        run_pairs from = run_pairs_of(side, packed, tokens, j, bits, spare);
        floats sum[FEW][2];
        for (int r = 0; r < FEW; r++)
            for (int h = 0; h < 2; h++) sum[r][h] = times(load_floats(sums[r] + j + 8 * h), each_float(decays + r));
        for (size_t t = 0; t < tokens; t++, from.first += from.step, from.second += from.step) {
            floats x = eight_windows(table, tq_circle_bits(from.first)), y = eight_windows(table, tq_circle_bits(from.second));
            for (int r = 0; r < FEW; r++) {
                floats weight = each_float(weights[r] + t);
                sum[r][0] = plus_product(weight, x, sum[r][0]);
                sum[r][1] = plus_product(weight, y, sum[r][1]);
            }
        }
        for (int r = 0; r < FEW; r++)
            for (int h = 0; h < 2; h++) store_floats(sums[r] + j + 8 * h, sum[r][h]);
    }
}

void tq_weigh_windows_avx2(const tq_attend_side *side, const uint8_t *packed, size_t tokens, const float *const *weights, size_t rows,
                          const float *decays, float *const *sums) {
    const float *four[FEW];
    float keep[FEW], *to[FEW];
    tq_attend_four(weights, rows, decays, sums, four, keep, to);
#define WEIGH_WINDOWS(bits)                                                                        \
    side->book->pairs ? weigh_windows_bits(side, packed, tokens, bits, 1, four, keep, to)          \
                      : weigh_windows_bits(side, packed, tokens, bits, 0, four, keep, to)
    TQ_FOR_WIDTH_TO_4(side->book->bits, WEIGH_WINDOWS)
}

#endif
