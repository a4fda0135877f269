/* What NEON and SDOT share in attention: integer tiles and what follows their sums. Private to csrc/attend/{neon,dotprod}.c. */
#ifndef TQ_ATTEND_NEON_TILES_H
#define TQ_ATTEND_NEON_TILES_H

#include <arm_neon.h>
#include <string.h>

#include "attend/attend.h"
#include "specialize.h"

/* Four sums to logits; product and sum are rounded each, as at the baseline. */
INLINE void store_logits(int32x4_t sums, float slope, float offset, const float *scales, float *logits) {
    float32x4_t dot = vaddq_f32(vmulq_n_f32(vcvtq_f32_s32(sums), slope), vdupq_n_f32(offset));
    vst1q_f32(logits, vmulq_f32(vld1q_f32(scales), dot));
}

INLINE void store_sums(int32x4_t totals, float step, float decay, float *sums) {
    float32x4_t old = vmulq_n_f32(vld1q_f32(sums), decay);
    vst1q_f32(sums, vaddq_f32(old, vmulq_n_f32(vcvtq_f32_s32(totals), step)));
}

/* Four bytes, four times. */
INLINE int8x16_t four_bytes(const void *from) {
    int32_t word;
    memcpy(&word, from, sizeof word);
    return vreinterpretq_s8_s32(vdupq_n_s32(word));
}

#endif
