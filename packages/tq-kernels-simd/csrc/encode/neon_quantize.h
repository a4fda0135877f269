/* Codes of one row by compares: up to 5 bits (15 thresholds) they are cheaper than a table look-up for each lane. */
#ifndef TQ_ENCODE_NEON_QUANTIZE_H
#define TQ_ENCODE_NEON_QUANTIZE_H

#include <arm_neon.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "plan.h"

/* clamp(round_half_even(value), -32767, 32767): conversions saturate, only -32768 is left to be raised. */
static inline int16x8_t neon_clamped(float32x4_t low, float32x4_t high) {
    int16x8_t narrow = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(low)), vqmovn_s32(vcvtnq_s32_f32(high)));
    return vmaxq_s16(narrow, vdupq_n_s16(-32767));
}

static inline int16_t neon_clamped_one(float value) {
    int16_t narrow = vqmovns_s32(vcvtns_s32_f32(value));
    return narrow < -32767 ? -32767 : narrow;
}

typedef struct neon_sums {
    int64x2_t dot, square;
} neon_sums;

/* Two products of 32767^2 fit an int32, three do not: pairs are added before they are widened. */
static inline void neon_accumulate(neon_sums *sums, int16x8_t v, int16x8_t level) {
    int32x4_t dot = vmull_s16(vget_low_s16(v), vget_low_s16(level));
    int32x4_t square = vmull_s16(vget_low_s16(level), vget_low_s16(level));
    dot = vmlal_high_s16(dot, v, level);
    square = vmlal_high_s16(square, level, level);
    sums->dot = vpadalq_s32(sums->dot, dot);
    sums->square = vpadalq_s32(sums->square, square);
}

/* The coordinates that decide the codes of candidate t. */
static inline int16x8_t neon_tried(const float *scaled, const int16_t *v, float t) {
    if (t == 1.0f) return vld1q_s16(v);
    return neon_clamped(vmulq_n_f32(vld1q_f32(scaled), t), vmulq_n_f32(vld1q_f32(scaled + 4), t));
}

/* Codes and sums of the coordinates first..dim-1, one at a time. */
static inline void neon_quantize_each(const tq_codebook *book, const float *scaled, const int16_t *v, float t,
                                      uint8_t *codes, size_t first, int64_t *dot, int64_t *square) {
    int middle = 1 << (book->bits - 1);
    for (size_t j = first; j < book->dim; j++) {
        int value = t == 1.0f ? v[j] : neon_clamped_one(t * scaled[j]);
        int m = book->magnitudes[value < 0 ? -value : value];
        int level = value < 0 ? -book->levels[m] : book->levels[m];
        codes[j] = (uint8_t)(value < 0 ? middle - 1 - m : middle + m);
        *dot += (int64_t)v[j] * level;
        *square += (int64_t)level * level;
    }
}

/* For bits <= 5; levels are looked up as byte pairs 2m, 2m + 1 in a table of 32 bytes. */
static void neon_quantize_compares(const tq_codebook *book, const float *scaled, const int16_t *v, float t,
                                   uint8_t *codes, int64_t *dot, int64_t *square) {
    size_t half = (size_t)1 << (book->bits - 1), j = 0;
    int16_t padded[16] = {0};
    memcpy(padded, book->levels, half * sizeof *padded);
    uint8x16x2_t levels = {{vreinterpretq_u8_s16(vld1q_s16(padded)), vreinterpretq_u8_s16(vld1q_s16(padded + 8))}};
    neon_sums sums = {vdupq_n_s64(0), vdupq_n_s64(0)};
    for (; j + 8 <= book->dim; j += 8) {
        int16x8_t value = neon_tried(scaled + j, v + j, t), magnitude = vabsq_s16(value), m = vdupq_n_s16(0);
        for (size_t k = 0; k + 1 < half; k++) /* a true compare is -1 */
            m = vsubq_s16(m, vreinterpretq_s16_u16(vcgtq_s16(magnitude, vdupq_n_s16(book->thresholds[k]))));
        int16x8_t negative = vshrq_n_s16(value, 15);
        int16x8_t bytes = vaddq_s16(vmulq_n_s16(m, 0x0202), vdupq_n_s16(0x0100));
        int16x8_t level = vreinterpretq_s16_u8(vqtbl2q_u8(levels, vreinterpretq_u8_s16(bytes)));
        level = vsubq_s16(veorq_s16(level, negative), negative);
        int16x8_t code = vaddq_s16(veorq_s16(m, negative), vdupq_n_s16((int16_t)half)); /* ~m = -1 - m */
        vst1_u8(codes + j, vmovn_u16(vreinterpretq_u16_s16(code)));
        neon_accumulate(&sums, vld1q_s16(v + j), level);
    }
    *dot = vaddvq_s64(sums.dot);
    *square = vaddvq_s64(sums.square);
    neon_quantize_each(book, scaled, v, t, codes, j, dot, square);
}

#endif
