/* Four lanes a register. Every butterfly stays one addition and one subtraction of float32 in the format's order of
 * stages; inside a register a - b is computed as -b + a, which is the same number. */
#include "hadamard/hadamard.h"

#include <arm_neon.h>
#include <string.h>

#include "hadamard/in_place.h"
#include "hadamard/neon_orders.h"
#include "levels.h"

static inline float32x4_t flipped(float32x4_t value, uint32x4_t sign) {
    return vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(value), sign));
}

static void signs(float *x, const uint32_t *sign, size_t dim) {
    size_t j = 0;
    for (; j + 4 <= dim; j += 4) vst1q_f32(x + j, flipped(vld1q_f32(x + j), vld1q_u32(sign + j)));
    for (; j < dim; j++) {
        uint32_t bits;
        memcpy(&bits, x + j, 4);
        bits ^= sign[j];
        memcpy(x + j, &bits, 4);
    }
}

static void scaled(const float *x, float factor, size_t dim, float *out) {
    size_t j = 0;
    for (; j + 4 <= dim; j += 4) vst1q_f32(out + j, vmulq_n_f32(vld1q_f32(x + j), factor));
    for (; j < dim; j++) out[j] = x[j] * factor;
}

/* Stage h = 1 inside a register: (a, b, c, d) -> (a + b, a - b, c + d, c - d). */
static inline float32x4_t pairs(float32x4_t x) {
    uint32x4_t odd = vreinterpretq_u32_u64(vdupq_n_u64(0x8000000000000000));
    return vaddq_f32(flipped(x, odd), vrev64q_f32(x));
}

/* Stages h = 1 and 2 inside a register. */
static inline float32x4_t quads(float32x4_t x) {
    uint32x4_t high = vcombine_u32(vdup_n_u32(0), vdup_n_u32(0x80000000));
    x = pairs(x);
    return vaddq_f32(flipped(x, high), vextq_f32(x, x, 2));
}

static inline void butterfly(float32x4_t *a, float32x4_t *b) {
    float32x4_t sum = vaddq_f32(*a, *b);
    *b = vsubq_f32(*a, *b);
    *a = sum;
}

/* Two stages over four registers, three over eight; written out so that they stay registers. */
static inline void four(float32x4_t r[4]) {
    butterfly(r, r + 1), butterfly(r + 2, r + 3);
    butterfly(r, r + 2), butterfly(r + 1, r + 3);
}

static inline void eight(float32x4_t r[8]) {
    four(r), four(r + 4);
    butterfly(r, r + 4), butterfly(r + 1, r + 5), butterfly(r + 2, r + 6), butterfly(r + 3, r + 7);
}

/* Stages h = 1..16 of each 32 floats. */
static void pass32(float *x, size_t count) {
    for (size_t start = 0; start < count; start += 32) {
        float32x4_t r[8];
        for (int k = 0; k < 8; k++) r[k] = quads(vld1q_f32(x + start + 4 * k));
        eight(r);
        for (int k = 0; k < 8; k++) vst1q_f32(x + start + 4 * k, r[k]);
    }
}

/* Stages h, 2h and 4h; h is a multiple of 4. */
static void pass8(float *x, size_t h, size_t count) {
    for (size_t start = 0; start < count; start += 8 * h)
        for (size_t i = start; i < start + h; i += 4) {
            float32x4_t r[8];
            for (size_t k = 0; k < 8; k++) r[k] = vld1q_f32(x + i + k * h);
            eight(r);
            for (size_t k = 0; k < 8; k++) vst1q_f32(x + i + k * h, r[k]);
        }
}

/* Stages h and 2h. */
static void pass4(float *x, size_t h, size_t count) {
    for (size_t start = 0; start < count; start += 4 * h)
        for (size_t i = start; i < start + h; i += 4) {
            float32x4_t r[4];
            for (size_t k = 0; k < 4; k++) r[k] = vld1q_f32(x + i + k * h);
            four(r);
            for (size_t k = 0; k < 4; k++) vst1q_f32(x + i + k * h, r[k]);
        }
}

static void pass2(float *x, size_t h, size_t count) {
    for (size_t start = 0; start < count; start += 2 * h)
        for (size_t i = start; i < start + h; i += 4) {
            float32x4_t a = vld1q_f32(x + i), b = vld1q_f32(x + i + h);
            butterfly(&a, &b);
            vst1q_f32(x + i, a);
            vst1q_f32(x + i + h, b);
        }
}

/* Stage h = 1 where the transform has no other; count is even and perhaps no multiple of 4. */
static void pairs_only(float *x, size_t count) {
    size_t i = 0;
    for (; i + 4 <= count; i += 4) vst1q_f32(x + i, pairs(vld1q_f32(x + i)));
    if (i == count) return;
    float a = x[i], b = x[i + 1];
    x[i] = a + b;
    x[i + 1] = a - b;
}

static void butterflies(float *x, size_t size, size_t count) {
    size_t h = 4;
    if (size < 4) {
        if (size == 2) pairs_only(x, count);
        return;
    }
    if (size >= 32) {
        pass32(x, count);
        h = 32;
    } else {
        for (size_t i = 0; i < count; i += 4) vst1q_f32(x + i, quads(vld1q_f32(x + i)));
    }
    for (; 8 * h <= size; h *= 8) pass8(x, h, count);
    if (4 * h <= size) pass4(x, h, count);
    else if (2 * h <= size) pass2(x, h, count);
}

/* copy_past_cache and settle stay those of the baseline: Arm has no store that is known to pass the cache. */
void tq_hadamard_neon(tq_hadamard_slots *slots) {
    slots->forward = forward;
    slots->forward_rows = forward_rows;
    slots->forward_into = forward_into;
    slots->inverse = inverse;
    slots->inverse_rows = inverse_rows;
    slots->inverse_into = inverse_into;
}
