/* NEON: bytes of the widest plane to levels, one register a phase (score.h). Private to csrc/score/{neon,dotprod}.c. */
#ifndef TQ_SCORE_NEON_PLANES_H
#define TQ_SCORE_NEON_PLANES_H

#include <arm_neon.h>

#include "score/nibbles.h"

typedef struct tables {
    uint8x16_t level[4];  /* by nibble: of its low code, and (1 and 2 bits) of the codes above */
    uint8x16_t spread[2]; /* 3 bits: the high bits of even and of odd codes, moved above the codes' low bits */
} tables;

INLINE tables tables_of(const tq_levels8 *levels, int bits) {
    tables made;
    uint8_t bytes[16];
    for (int k = 0; k < 4; k++) { /* those beyond are looked up by nobody */
        tq_nibble_levels(levels, bits, k < TQ_IN_NIBBLE(bits) ? k : 0, bytes);
        made.level[k] = vld1q_u8(bytes);
    }
    for (int k = 0; k < 2; k++) {
        tq_nibble_spread(k, bytes);
        made.spread[k] = vld1q_u8(bytes);
    }
    return made;
}

/* The levels of 16 bytes by phase; `nibbles` are, for 3 bits, the high bits of each byte's four codes. */
INLINE void levels_of_half(int bits, uint8x16_t x, uint8x16_t nibbles, const tables *t, uint8x16_t *out) {
    const uint8x16_t nibble = vdupq_n_u8(15);
    if (bits == 3) {
        const uint8x16_t pairs = vdupq_n_u8(0x33);
        uint8x16_t even = vbslq_u8(pairs, x, vqtbl1q_u8(t->spread[0], nibbles));
        uint8x16_t odd = vbslq_u8(pairs, vshrq_n_u8(x, 2), vqtbl1q_u8(t->spread[1], nibbles));
        /* a look-up beyond 15 is 0, so that what lies above each index has to go */
        out[0] = vqtbl1q_u8(t->level[0], vandq_u8(even, nibble));
        out[1] = vqtbl1q_u8(t->level[0], vandq_u8(odd, nibble));
        out[2] = vqtbl1q_u8(t->level[0], vshrq_n_u8(even, 4));
        out[3] = vqtbl1q_u8(t->level[0], vshrq_n_u8(odd, 4));
        return;
    }
    const int codes = TQ_IN_NIBBLE(bits);
    uint8x16_t first = vandq_u8(x, nibble), second = vshrq_n_u8(x, 4);
    for (int k = 0; k < codes; k++) {
        out[k] = vqtbl1q_u8(t->level[k], first);
        out[codes + k] = vqtbl1q_u8(t->level[k], second);
    }
}

/* The levels of 16 bytes at `low`; `high` is the second plane of 3 bits, half as many bytes. */
INLINE void levels_of(int bits, const uint8_t *low, const uint8_t *high, const tables *t, uint8x16_t *out) {
    uint8x16_t nibbles = vdupq_n_u8(0);
    if (bits == 3) {
        uint8x16_t y = vcombine_u8(vld1_u8(high), vdup_n_u8(0));
        nibbles = vzip1q_u8(vandq_u8(y, vdupq_n_u8(15)), vshrq_n_u8(y, 4)); /* that of byte i / 2 which belongs to byte i */
    }
    levels_of_half(bits, vld1q_u8(low), nibbles, t, out);
}

/* Four registers of 32-bit lanes to their four sums. */
INLINE int32x4_t sums_of(int32x4_t a, int32x4_t b, int32x4_t c, int32x4_t d) {
    return vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
}

/* acc + the products of a register of levels a phase with a query's. */
typedef int32x4_t (*half_dot_of)(int bits, const uint8x16_t *level, const int8x16_t *query, int32x4_t acc);

typedef struct four_rows {
    const uint8_t *low[4], *high[4];
    int32x4_t sum[4];
} four_rows;

/* Four rows times half a chunk: the query is loaded once for them, and by halves so that all stays in 32 registers. */
INLINE void scan_half(int bits, half_dot_of dot, const tables *t, const int8_t *query, size_t at, four_rows *rows) {
    int8x16_t asked[8];
    uint8x16_t level[8];
    for (int p = 0; p < (int)TQ_PHASES(bits); p++) asked[p] = vld1q_s8(query + 32 * p);
    levels_of(bits, rows->low[0] + at, rows->high[0] + at / 2, t, level);
    rows->sum[0] = dot(bits, level, asked, rows->sum[0]);
    levels_of(bits, rows->low[1] + at, rows->high[1] + at / 2, t, level);
    rows->sum[1] = dot(bits, level, asked, rows->sum[1]);
    levels_of(bits, rows->low[2] + at, rows->high[2] + at / 2, t, level);
    rows->sum[2] = dot(bits, level, asked, rows->sum[2]);
    levels_of(bits, rows->low[3] + at, rows->high[3] + at / 2, t, level);
    rows->sum[3] = dot(bits, level, asked, rows->sum[3]);
}

/* The slot scan8 for one width, with either level's way of multiplying; all of it becomes one loop. */
INLINE void scan_bits(int bits, half_dot_of dot, const tq_levels8 *levels, const int8_t *query, const tq_packed_rows *from,
                      size_t chunks, int32_t *out) {
    const tables t = tables_of(levels, bits);
    const size_t stride = from->stride, step = 32 * TQ_PHASES(bits);
    for (size_t r = 0; r < from->rows; r += 4) {
        /* where fewer than four rows are left, the last one takes the place of those that are not there */
        size_t left = from->rows - r, last = left < 4 ? left - 1 : 3;
        four_rows rows;
        for (size_t k = 0; k < 4; k++) {
            size_t row = r + (k < last ? k : last);
            rows.low[k] = from->plane[0] + row * stride;
            rows.high[k] = bits == 3 ? from->plane[1] + row * stride : rows.low[k];
            rows.sum[k] = vdupq_n_s32(0);
        }
        for (size_t c = 0; c < chunks; c++) {
            scan_half(bits, dot, &t, query + c * step, 32 * c, &rows);
            scan_half(bits, dot, &t, query + c * step + 16, 32 * c + 16, &rows);
        }
        int32_t four[4];
        vst1q_s32(four, sums_of(rows.sum[0], rows.sum[1], rows.sum[2], rows.sum[3]));
        for (size_t k = 0; k <= last; k++) out[r + k] = four[k];
    }
}

#endif
