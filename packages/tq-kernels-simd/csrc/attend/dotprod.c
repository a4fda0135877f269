/* Tiles of bytes hold fours of factors, just what SDOT adds up. Keys and weights are at most 127, the same as signed bytes. */
#include "attend/neon_tiles.h"
#include "levels.h"

static void dot_bytes(const uint8_t *tile, size_t quads, const int8_t *query, float slope, float offset, const float *scales,
                      float *logits) {
    for (size_t t = 0; t < TQ_TILE; t += 32) {
        int32x4_t sum[8];
        for (int v = 0; v < 8; v++) sum[v] = vdupq_n_s32(0);
        const uint8_t *from = tile + 4 * t;
        for (size_t q = 0; q < quads; q++, from += 4 * TQ_TILE) {
            int8x16_t four = four_bytes(query + 4 * q);
            for (int v = 0; v < 8; v++) sum[v] = vdotq_s32(sum[v], vreinterpretq_s8_u8(vld1q_u8(from + 16 * v)), four);
        }
        for (size_t v = 0; v < 8; v++) store_logits(sum[v], slope, offset, scales + t + 4 * v, logits + t + 4 * v);
    }
}

static void weigh_bytes(const int8_t *tile, size_t padded, const uint8_t *bytes, float step, float decay, float *sums) {
    for (size_t j = 0; j < padded; j += 32) {
        int32x4_t sum[8];
        for (int v = 0; v < 8; v++) sum[v] = vdupq_n_s32(0);
        const int8_t *from = tile + 4 * j;
        for (size_t t = 0; t < TQ_TILE; t += 4, from += 4 * padded) {
            int8x16_t four = four_bytes(bytes + t);
            for (int v = 0; v < 8; v++) sum[v] = vdotq_s32(sum[v], vld1q_s8(from + 16 * v), four);
        }
        for (size_t v = 0; v < 8; v++) store_sums(sum[v], step, decay, sums + j + 4 * v);
    }
}

void tq_attend_dotprod(tq_attend_slots *slots) {
    slots->dot_bytes = dot_bytes;
    slots->weigh_bytes = weigh_bytes;
}
