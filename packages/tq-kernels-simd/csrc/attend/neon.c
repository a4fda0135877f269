/* The integer tiles with NEON; the float slots stay with the baseline, which the compiler vectorises. */
#include "attend/neon_tiles.h"
#include "levels.h"

/* Dword k of a plane of four rows: bytes 4k..4k+3 of the first, of the second and so on. Nothing beyond it is read. */
INLINE uint8x16_t dwords(const uint8_t *const rows[4], size_t at) {
    uint32_t words[4];
    for (int i = 0; i < 4; i++) memcpy(&words[i], rows[i] + at, sizeof *words);
    return vreinterpretq_u8_u32(vld1q_u32(words));
}

/* The single bits of the same coordinates, bits p of a byte those of phase p: even bytes take a low nibble, odd ones a high. */
INLINE uint8x16_t third_bits(const uint8_t *const rows[4], size_t at) {
    uint16_t words[4];
    for (int i = 0; i < 4; i++) memcpy(&words[i], rows[i] + at, sizeof *words);
    uint8x16_t x = vcombine_u8(vreinterpret_u8_u16(vld1_u16(words)), vdup_n_u8(0));
    return vshlq_u8(vzip1q_u8(x, x), vreinterpretq_s8_u16(vdupq_n_u16(0xFC00))); /* by 0 and -4 */
}

/* The bytes of side->bytes for every dword of four rows: phase p of dword k goes to tile + (k * phases + p) * step. For values
 * the four tokens of a coordinate are put together first. */
INLINE void expand(int bits, int is_values, const tq_attend_side *side, const uint8_t *const rows[4], size_t step, uint8_t *tile) {
    static const uint8_t turned[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
    const uint8x16_t order = vld1q_u8(turned), table = vld1q_u8(side->bytes);
    const int width = bits == 3 ? 2 : bits;
    const uint8x16_t mask = vdupq_n_u8((uint8_t)((1 << width) - 1));
    const size_t bytes = side->dim * (size_t)width / 8;
    for (size_t k = 0; k < bytes; k += 4) {
        uint8x16_t x = dwords(rows, k), y = vdupq_n_u8(0);
        if (bits == 3) y = third_bits(rows, bytes + k / 2);
        if (is_values) {
            x = vqtbl1q_u8(x, order);
            y = vqtbl1q_u8(y, order);
        }
        for (int p = 0; p < 8 / width; p++, tile += step) {
            uint8x16_t code = vandq_u8(vshlq_u8(x, vdupq_n_s8((int8_t)(-p * width))), mask);
            if (bits == 3) {
                uint8x16_t third = vshlq_u8(y, vdupq_n_s8((int8_t)(2 - p)));
                code = vorrq_u8(code, vandq_u8(third, vdupq_n_u8(4)));
            }
            vst1q_u8(tile, vqtbl1q_u8(table, code));
        }
    }
}

/* Rows t..t+3, the last one standing in for those behind it. */
INLINE void row_pointers(const tq_attend_side *side, const uint8_t *packed, size_t t, size_t tokens, const uint8_t *rows[4]) {
    for (size_t i = 0; i < 4; i++) rows[i] = packed + (t + i < tokens ? t + i : tokens - 1) * side->row_bytes;
}

static void keys(const tq_attend_side *side, const uint8_t *packed, size_t tokens, uint8_t *scratch, uint8_t *tile) {
    (void)scratch;
    for (size_t t = 0; t < tokens; t += 4) {
        const uint8_t *rows[4];
        row_pointers(side, packed, t, tokens, rows);
        uint8_t *to = tile + 4 * t;
#define EXPAND_KEYS(bits) expand(bits, 0, side, rows, 4 * TQ_TILE, to)
        TQ_FOR_WIDTH_TO_4(side->book->bits, EXPAND_KEYS)
    }
}

static void values(const tq_attend_side *side, const uint8_t *packed, size_t tokens, uint8_t *scratch, int8_t *tile) {
    (void)scratch;
    for (size_t t = 0; t < tokens; t += 4) {
        const uint8_t *rows[4];
        row_pointers(side, packed, t, tokens, rows);
        uint8_t *to = (uint8_t *)tile + t * side->padded;
#define EXPAND_VALUES(bits) expand(bits, 1, side, rows, 16, to)
        TQ_FOR_WIDTH_TO_4(side->book->bits, EXPAND_VALUES)
    }
}

/* Sixteen sums of four products each: `pairs` times two registers of four fours, `step` bytes apart, with two fours of `by`.
 * One factor is at most 127 and the other at least -128, so that two products fit a 16-bit lane: 2 * 127 * 128 < 32768. */
INLINE void sums_of_fours(const uint8_t *from, size_t step, size_t pairs, const void *by, int32x4_t out[4]) {
    int32x4_t sum[8];
    for (int v = 0; v < 8; v++) sum[v] = vdupq_n_s32(0);
    for (size_t i = 0; i < pairs; i++, from += 2 * step) {
        int8x16_t first = four_bytes((const char *)by + 8 * i), second = four_bytes((const char *)by + 8 * i + 4);
        for (int v = 0; v < 4; v++) {
            int8x16_t x = vreinterpretq_s8_u8(vld1q_u8(from + 16 * v)), y = vreinterpretq_s8_u8(vld1q_u8(from + step + 16 * v));
            int16x8_t low = vmlal_s8(vmull_s8(vget_low_s8(x), vget_low_s8(first)), vget_low_s8(y), vget_low_s8(second));
            sum[2 * v] = vpadalq_s16(sum[2 * v], low);
            sum[2 * v + 1] = vpadalq_s16(sum[2 * v + 1], vmlal_high_s8(vmull_high_s8(x, first), y, second));
        }
    }
    for (int v = 0; v < 4; v++) out[v] = vpaddq_s32(sum[2 * v], sum[2 * v + 1]);
}

static void dot_bytes(const uint8_t *tile, size_t quads, const int8_t *query, float slope, float offset, const float *scales,
                      float *logits) {
    for (size_t t = 0; t < TQ_TILE; t += 16) { /* dims are multiples of 32, quads of 8 */
        int32x4_t sums[4];
        sums_of_fours(tile + 4 * t, 4 * TQ_TILE, quads / 2, query, sums);
        for (size_t v = 0; v < 4; v++) store_logits(sums[v], slope, offset, scales + t + 4 * v, logits + t + 4 * v);
    }
}

static void weigh_bytes(const int8_t *tile, size_t padded, const uint8_t *bytes, float step, float decay, float *sums) {
    for (size_t j = 0; j < padded; j += 16) {
        int32x4_t totals[4];
        sums_of_fours((const uint8_t *)tile + 4 * j, 4 * padded, TQ_TILE / 8, bytes, totals);
        for (size_t v = 0; v < 4; v++) store_sums(totals[v], step, decay, sums + j + 4 * v);
    }
}

/* Lanes may wrap where nobody filled the tile; elsewhere whole sums fit, and so do sums modulo 2^32. */
static void dot_words(const int16_t *tile, size_t pairs, const int16_t *query, float slope, const float *scales, float *logits) {
    for (size_t t = 0; t < TQ_TILE; t += 16) {
        int32x4_t sum[8];
        for (int v = 0; v < 8; v++) sum[v] = vdupq_n_s32(0);
        const int16_t *from = tile + 2 * t;
        for (size_t p = 0; p < pairs; p++, from += 2 * TQ_TILE) {
            int16x8_t two = vreinterpretq_s16_s8(four_bytes(query + 2 * p));
            for (int v = 0; v < 4; v++) {
                int16x8_t x = vld1q_s16(from + 8 * v);
                sum[2 * v] = vmlal_s16(sum[2 * v], vget_low_s16(x), vget_low_s16(two));
                sum[2 * v + 1] = vmlal_high_s16(sum[2 * v + 1], x, two);
            }
        }
        for (size_t v = 0; v < 4; v++) {
            float32x4_t dot = vmulq_n_f32(vcvtq_f32_s32(vpaddq_s32(sum[2 * v], sum[2 * v + 1])), slope);
            vst1q_f32(logits + t + 4 * v, vmulq_f32(vld1q_f32(scales + t + 4 * v), dot));
        }
    }
}

void tq_attend_neon(tq_attend_slots *slots) {
    slots->keys = keys;
    slots->values = values;
    slots->dot_bytes = dot_bytes;
    slots->dot_words = dot_words;
    slots->weigh_bytes = weigh_bytes;
}
