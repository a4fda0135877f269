/* SDOT multiplies bytes and adds four neighbours to a 32-bit lane: nothing is kept small or widened. Levels are at most 127, so
 * that they are the same as signed bytes; lanes as in neon.c hold at most 16384 * 127 * 127 < 2^31.
 *
 * Instructions for 32 codes, counted as in neon.c: 6.3, 6.4, 12.8 and 7.8 at 1, 2, 3 and 4 bits. */
#include "score/neon_planes.h"

#include "levels.h"

INLINE int32x4_t half_dot(int bits, const uint8x16_t *level, const int8x16_t *query, int32x4_t acc) {
    for (int p = 0; p < (int)TQ_PHASES(bits); p++) acc = vdotq_s32(acc, vreinterpretq_s8_u8(level[p]), query[p]);
    return acc;
}

static void scan8(const tq_levels8 *levels, const int8_t *query, const tq_packed_rows *from, size_t chunks, int32_t *out) {
#define SCAN(bits) scan_bits(bits, half_dot, levels, query, from, chunks, out)
    TQ_FOR_WIDTH_TO_4(levels->bits, SCAN)
}

/* Four tile rows times `queries` (2 or 4). */
INLINE void block(int queries, const uint8_t *row, const int8_t *query, size_t query_stride, size_t length, int32_t *out,
                  size_t stride) {
    int32x4_t sum[4][4];
    for (int i = 0; i < queries; i++)
        for (int k = 0; k < 4; k++) sum[i][k] = vdupq_n_s32(0);
    for (size_t j = 0; j < length; j += 16) {
        int8x16_t asked[4];
        for (int i = 0; i < queries; i++) asked[i] = vld1q_s8(query + (size_t)i * query_stride + j);
        for (int k = 0; k < 4; k++) {
            int8x16_t x = vreinterpretq_s8_u8(vld1q_u8(row + (size_t)k * length + j));
            for (int i = 0; i < queries; i++) sum[i][k] = vdotq_s32(sum[i][k], x, asked[i]);
        }
    }
    for (int i = 0; i < queries; i++)
        vst1q_s32(out + (size_t)i * stride, sums_of(sum[i][0], sum[i][1], sum[i][2], sum[i][3]));
}

static void dots8(const uint8_t *tile, size_t rows, const int8_t *queries, size_t query_stride, size_t count, size_t length,
                  size_t fold, int32_t *out, size_t stride) {
    (void)fold;
    for (size_t r = 0; r < rows; r += 4) {
        size_t q = 0;
        for (; q + 4 <= count; q += 4)
            block(4, tile + r * length, queries + q * query_stride, query_stride, length, out + q * stride + r, stride);
        if (q < count) block(2, tile + r * length, queries + q * query_stride, query_stride, length, out + q * stride + r, stride);
    }
}

void tq_score_dotprod(tq_score_slots *slots) {
    slots->scan8 = scan8;
    slots->dots8 = dots8;
}
