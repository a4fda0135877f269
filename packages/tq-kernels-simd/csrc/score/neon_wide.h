/* NEON: the int16 arithmetic. Private to csrc/score/neon.c. */
#ifndef TQ_SCORE_NEON_WIDE_H
#define TQ_SCORE_NEON_WIDE_H

#include <string.h>

#include "score/neon_planes.h"

/* `width` bits of each of 32 coordinates from j on, one a byte, in the natural order. */
INLINE uint8x16x2_t plane_codes(const uint8_t *plane, size_t width, size_t j) {
    const uint8_t *at = plane + j * width / 8;
    if (width == 8) return (uint8x16x2_t){{vld1q_u8(at), vld1q_u8(at + 16)}};
    if (width == 4) {
        uint8x16_t x = vld1q_u8(at), even = vandq_u8(x, vdupq_n_u8(15)), odd = vshrq_n_u8(x, 4);
        return (uint8x16x2_t){{vzip1q_u8(even, odd), vzip2q_u8(even, odd)}};
    }
    if (width == 2) {
        uint8x16_t x = vcombine_u8(vld1_u8(at), vdup_n_u8(0)), twice = vzip1q_u8(x, x);
        const int8x16_t down = vreinterpretq_s8_u32(vdupq_n_u32(0xFAFCFE00)); /* 0, -2, -4, -6 */
        const uint8x16_t crumb = vdupq_n_u8(3);
        return (uint8x16x2_t){{vandq_u8(vshlq_u8(vzip1q_u8(twice, twice), down), crumb),
                               vandq_u8(vshlq_u8(vzip2q_u8(twice, twice), down), crumb)}};
    }
    uint32_t word;
    memcpy(&word, at, sizeof word);
    const uint8x16_t place = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201)), one = vdupq_n_u8(1);
    uint8x16_t x = vreinterpretq_u8_u32(vdupq_n_u32(word));
    const uint8x16_t spread = vcombine_u8(vdup_n_u8(0), vdup_n_u8(1));
    return (uint8x16x2_t){{vandq_u8(vtstq_u8(vqtbl1q_u8(x, spread), place), one),
                           vandq_u8(vtstq_u8(vqtbl1q_u8(x, vaddq_u8(spread, vdupq_n_u8(2))), place), one)}};
}

/* One byte of the levels of 16 codes. A look-up sees 64 entries; codes beyond them leave what others found. */
INLINE uint8x16_t entries(const uint8_t *table, size_t bits, uint8x16_t code) {
    if (bits <= 4) return vqtbl1q_u8(vld1q_u8(table), code);
    if (bits == 5) return vqtbl2q_u8((uint8x16x2_t){{vld1q_u8(table), vld1q_u8(table + 16)}}, code);
    uint8x16_t found = vdupq_n_u8(0);
    for (size_t first = 0; first < (size_t)1 << bits; first += 64) {
        const uint8_t *at = table + first;
        uint8x16x4_t part = {{vld1q_u8(at), vld1q_u8(at + 16), vld1q_u8(at + 32), vld1q_u8(at + 48)}};
        found = vqtbx4q_u8(found, part, vsubq_u8(code, vdupq_n_u8((uint8_t)first)));
    }
    return found;
}

INLINE void expand16_bits(size_t bits, const int16_t *level16, const tq_packed_rows *from, size_t length, int16_t *tile) {
    uint8_t low[256] = {0}, high[256] = {0};
    for (size_t c = 0; c < (size_t)1 << bits; c++) {
        low[c] = (uint8_t)level16[c];
        high[c] = (uint8_t)((uint16_t)level16[c] >> 8);
    }
    for (size_t r = 0; r < from->rows; r++)
        for (size_t j = 0; j < length; j += 32) {
            uint8x16x2_t code = {{vdupq_n_u8(0), vdupq_n_u8(0)}};
            int plane = 0, shift = 0;
            for (size_t width = 8; width; width /= 2) {
                if (!(bits & width)) continue;
                uint8x16x2_t part = plane_codes(from->plane[plane++] + r * from->stride, width, j);
                for (int k = 0; k < 2; k++)
                    code.val[k] = vorrq_u8(code.val[k], vshlq_u8(part.val[k], vdupq_n_s8((int8_t)shift)));
                shift += (int)width;
            }
            for (int k = 0; k < 2; k++, tile += 16) {
                uint8x16x2_t bytes = {{entries(low, bits, code.val[k]), entries(high, bits, code.val[k])}};
                vst2q_u8((uint8_t *)tile, bytes);
            }
        }
}

static void expand16(const int16_t *level16, size_t bits, const tq_packed_rows *from, size_t length, int16_t *tile) {
#define EXPAND16(width) expand16_bits(width, level16, from, length, tile)
    TQ_FOR_WIDTH_TO_8(bits, EXPAND16)
}

/* `rows` tile rows times `queries` queries. A 32-bit lane takes one product in eight: 128 * 4095^2 < 2^31 in TQ_SEGMENT16, after
 * which vpadalq widens it. */
INLINE void block16(int rows, int queries, const int16_t *row, const int16_t *query, size_t query_stride, size_t length,
                    int64_t *out, size_t stride) {
    int64x2_t total[2][4];
    for (int i = 0; i < queries; i++)
        for (int k = 0; k < rows; k++) total[i][k] = vdupq_n_s64(0);
    for (size_t start = 0; start < length; start += TQ_SEGMENT16) {
        size_t end = length - start < TQ_SEGMENT16 ? length : start + TQ_SEGMENT16;
        int32x4_t low[2][4], high[2][4];
        for (int i = 0; i < queries; i++)
            for (int k = 0; k < rows; k++) low[i][k] = high[i][k] = vdupq_n_s32(0);
        for (size_t j = start; j < end; j += 8) {
            int16x8_t asked[2];
            for (int i = 0; i < queries; i++) asked[i] = vld1q_s16(query + (size_t)i * query_stride + j);
            for (int k = 0; k < rows; k++) {
                int16x8_t x = vld1q_s16(row + (size_t)k * length + j);
                for (int i = 0; i < queries; i++) {
                    low[i][k] = vmlal_s16(low[i][k], vget_low_s16(x), vget_low_s16(asked[i]));
                    high[i][k] = vmlal_high_s16(high[i][k], x, asked[i]);
                }
            }
        }
        for (int i = 0; i < queries; i++)
            for (int k = 0; k < rows; k++) total[i][k] = vpadalq_s32(vpadalq_s32(total[i][k], low[i][k]), high[i][k]);
    }
    for (int i = 0; i < queries; i++)
        for (int k = 0; k < rows; k++) out[(size_t)i * stride + (size_t)k] += vaddvq_s64(total[i][k]);
}

static void dots16(const int16_t *tile, size_t rows, const int16_t *queries, size_t query_stride, size_t count, size_t length,
                   int64_t *out, size_t stride) {
    size_t r = 0;
    for (; r + 4 <= rows; r += 4) {
        const int16_t *row = tile + r * length;
        size_t q = 0;
        for (; q + 2 <= count; q += 2)
            block16(4, 2, row, queries + q * query_stride, query_stride, length, out + q * stride + r, stride);
        if (q < count) block16(4, 1, row, queries + q * query_stride, query_stride, length, out + q * stride + r, stride);
    }
    for (; r < rows; r++)
        for (size_t q = 0; q < count; q++)
            block16(1, 1, tile + r * length, queries + q * query_stride, query_stride, length, out + q * stride + r, stride);
}

#endif
