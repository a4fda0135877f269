/* Levels and queries as signed bytes: vmull and vmlal_high put two products of 16 bytes in each 16-bit lane, and TQ_FOLD8
 * registers share the lane before vpadalq widens it: fold * 2 * 127 * TQ_LIMIT8 <= 32258 < 32768 (score.h). 32-bit lanes
 * hold a quarter of the at most TQ_SEGMENT products: 16384 * 127 * 127 < 2^31.
 *
 * Instructions of scan8's inner loop for 32 codes of 1, 2, 3 and 4 bits, counted and not timed (gcc 12.2, -O3, by
 * tests/isa/instructions.py): 8.9, 9.0, 16.8 and 12.1 here, 320, 320, 544 and 320 at the baseline. */
#include "score/neon_planes.h"
#include "score/neon_wide.h"

#include "levels.h"

INLINE int16x8_t products(uint8x16_t level, int8x16_t query) {
    int8x16_t x = vreinterpretq_s8_u8(level); /* at most 127 */
    return vmlal_high_s8(vmull_s8(vget_low_s8(x), vget_low_s8(query)), x, query);
}

INLINE int16x8_t more_products(int16x8_t narrow, uint8x16_t level, int8x16_t query) {
    int8x16_t x = vreinterpretq_s8_u8(level);
    return vmlal_high_s8(vmlal_s8(narrow, vget_low_s8(x), vget_low_s8(query)), x, query);
}

INLINE int32x4_t half_dot(int bits, const uint8x16_t *level, const int8x16_t *query, int32x4_t acc) {
    int phases = (int)TQ_PHASES(bits), fold = (int)TQ_FOLD8(bits);
    for (int p = 0; p < phases; p += fold) {
        int16x8_t narrow = products(level[p], query[p]);
        for (int f = 1; f < fold; f++) narrow = more_products(narrow, level[p + f], query[p + f]);
        acc = vpadalq_s16(acc, narrow);
    }
    return acc;
}

static void scan8(const tq_levels8 *levels, const int8_t *query, const tq_packed_rows *from, size_t chunks, int32_t *out) {
#define SCAN(bits) scan_bits(bits, half_dot, levels, query, from, chunks, out)
    TQ_FOR_WIDTH_TO_4(levels->bits, SCAN)
}

INLINE void expand_bits(int bits, const tq_levels8 *levels, const tq_packed_rows *from, size_t chunks, uint8_t *tile) {
    const tables t = tables_of(levels, bits);
    for (size_t r = 0; r < from->rows; r++) {
        const uint8_t *low = from->plane[0] + r * from->stride, *high = bits == 3 ? from->plane[1] + r * from->stride : low;
        for (size_t c = 0; c < chunks; c++) {
            uint8x16_t first[8], second[8];
            levels_of(bits, low + 32 * c, high + 16 * c, &t, first);
            levels_of(bits, low + 32 * c + 16, high + 16 * c + 8, &t, second);
            for (size_t p = 0; p < TQ_PHASES(bits); p++, tile += 32) {
                vst1q_u8(tile, first[p]);
                vst1q_u8(tile + 16, second[p]);
            }
        }
    }
}

static void expand8(const tq_levels8 *levels, const tq_packed_rows *from, size_t chunks, uint8_t *tile) {
#define EXPAND(bits) expand_bits(bits, levels, from, chunks, tile)
    TQ_FOR_WIDTH_TO_4(levels->bits, EXPAND)
}

/* Four tile rows times two queries: eight sums of 32 bits and eight of 16 in registers. */
INLINE void dots_fold(size_t fold, const uint8_t *tile, size_t rows, const int8_t *queries, size_t query_stride, size_t count,
                      size_t length, int32_t *out, size_t stride) {
    for (size_t r = 0; r < rows; r += 4)
        for (size_t q = 0; q < count; q += 2) {
            const uint8_t *row = tile + r * length;
            const int8_t *query = queries + q * query_stride;
            int32x4_t sum[2][4];
            for (int k = 0; k < 4; k++) sum[0][k] = sum[1][k] = vdupq_n_s32(0);
            for (size_t j = 0; j < length; j += 16 * fold) {
                int16x8_t narrow[2][4];
                for (size_t f = 0; f < 16 * fold; f += 16) {
                    int8x16_t first = vld1q_s8(query + j + f), second = vld1q_s8(query + query_stride + j + f);
                    for (int k = 0; k < 4; k++) {
                        uint8x16_t x = vld1q_u8(row + (size_t)k * length + j + f);
                        narrow[0][k] = f ? more_products(narrow[0][k], x, first) : products(x, first);
                        narrow[1][k] = f ? more_products(narrow[1][k], x, second) : products(x, second);
                    }
                }
                for (int i = 0; i < 2; i++)
                    for (int k = 0; k < 4; k++) sum[i][k] = vpadalq_s16(sum[i][k], narrow[i][k]);
            }
            for (size_t i = 0; i < 2; i++)
                vst1q_s32(out + (q + i) * stride + r, sums_of(sum[i][0], sum[i][1], sum[i][2], sum[i][3]));
        }
}

static void dots8(const uint8_t *tile, size_t rows, const int8_t *queries, size_t query_stride, size_t count, size_t length,
                  size_t fold, int32_t *out, size_t stride) {
    if (fold == 1) dots_fold(1, tile, rows, queries, query_stride, count, length, out, stride);
    else if (fold == 2) dots_fold(2, tile, rows, queries, query_stride, count, length, out, stride);
    else dots_fold(4, tile, rows, queries, query_stride, count, length, out, stride); /* 8 is a multiple of 4 */
}

static void finish(const int32_t *sums, uint32_t minus, float factor, const float *weight, size_t rows, int add, float *out) {
    const uint32x4_t less = vdupq_n_u32(minus);
    size_t r = 0;
    for (; r + 4 <= rows; r += 4) {
        uint32x4_t whole = vsubq_u32(vshlq_n_u32(vreinterpretq_u32_s32(vld1q_s32(sums + r)), 1), less);
        float32x4_t value = vmulq_n_f32(vcvtq_f32_s32(vreinterpretq_s32_u32(whole)), factor);
        value = vmulq_f32(value, vld1q_f32(weight + r));
        vst1q_f32(out + r, add ? vaddq_f32(vld1q_f32(out + r), value) : value);
    }
    for (; r < rows; r++) {
        float value = ((float)(int32_t)(2u * (uint32_t)sums[r] - minus) * factor) * weight[r];
        out[r] = add ? out[r] + value : value;
    }
}

/* The eight partial sums of the baseline, in two registers, added in its order: the same float32 result. */
static void dots32(const float *row, const float *queries, size_t query_stride, size_t count, size_t length, double *out) {
    for (size_t q = 0; q < count; q++) {
        const float *query = queries + q * query_stride;
        float32x4_t low = vdupq_n_f32(0), high = vdupq_n_f32(0);
        for (size_t j = 0; j < length; j += 8) {
            low = vaddq_f32(low, vmulq_f32(vld1q_f32(query + j), vld1q_f32(row + j)));
            high = vaddq_f32(high, vmulq_f32(vld1q_f32(query + j + 4), vld1q_f32(row + j + 4)));
        }
        float32x4_t pairs = vaddq_f32(low, high); /* lanes 0 + 4, 1 + 5, 2 + 6, 3 + 7 */
        float even = vgetq_lane_f32(pairs, 0) + vgetq_lane_f32(pairs, 2);
        float odd = vgetq_lane_f32(pairs, 1) + vgetq_lane_f32(pairs, 3);
        out[q] += (double)(even + odd);
    }
}

void tq_score_neon(tq_score_slots *slots) {
    slots->scan8 = scan8;
    slots->expand8 = expand8;
    slots->dots8 = dots8;
    slots->finish = finish;
    slots->expand16 = expand16;
    slots->dots16 = dots16;
    slots->dots32 = dots32;
}
