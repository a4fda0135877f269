#include "score/score.h"

#include <arm_neon.h>

#include "levels.h"

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

/* The integer slots stay portable: the compiler vectorises them, and no Arm hardware was at hand to measure better. */
void tq_score_neon(tq_score_slots *slots) { slots->dots32 = dots32; }
