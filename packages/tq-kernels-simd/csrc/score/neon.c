#include "score/score.h"

#include <arm_neon.h>

#include "decode/neon.h"
#include "levels.h"

/* The eight partial sums of the baseline, in two registers, added in its order: the same float32 result. */
static void exact(const tq_codebook *book, const float *query, const uint8_t *packed, size_t stride, size_t rows,
                  uint8_t *codes, float *row, float *out) {
    for (size_t r = 0; r < rows; r++) {
        tq_decode_centroids_neon(book, packed + r * stride, codes, row);
        float32x4_t low = vdupq_n_f32(0), high = vdupq_n_f32(0);
        size_t j = 0;
        for (; j + 8 <= book->dim; j += 8) {
            low = vaddq_f32(low, vmulq_f32(vld1q_f32(query + j), vld1q_f32(row + j)));
            high = vaddq_f32(high, vmulq_f32(vld1q_f32(query + j + 4), vld1q_f32(row + j + 4)));
        }
        float lanes[8];
        vst1q_f32(lanes, low);
        vst1q_f32(lanes + 4, high);
        for (; j < book->dim; j++) lanes[j % 8] += query[j] * row[j];
        out[r] = ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
    }
}

void tq_score_neon(tq_score_slots *slots) { slots->exact = exact; }
