/* What the levels share that multiply trellis codes where they look them up; portable, private to csrc/attend. */
#ifndef TQ_ATTEND_WINDOWS_H
#define TQ_ATTEND_WINDOWS_H

#include "attend/attend.h"

/* TQ_ATTEND_FEW query rows, those of them that are none standing in for the first: all of them find the same sums. */
static inline void tq_attend_four(const float *const *weights, size_t rows, const float *decays, float *const *sums,
                                  const float *four[TQ_ATTEND_FEW], float keep[TQ_ATTEND_FEW], float *to[TQ_ATTEND_FEW]) {
    for (size_t r = 0; r < TQ_ATTEND_FEW; r++) {
        const size_t row = r < rows ? r : 0;
        four[r] = weights[row], keep[r] = decays[row], to[r] = sums[row];
    }
}

/* The slots of AVX2, for the codes that a higher level leaves to them. */
void tq_dot_windows_avx2(const tq_attend_side *side, const uint8_t *packed, size_t tokens, const float *const *queries, size_t rows,
                         const float *scales, float *const *logits);
void tq_weigh_windows_avx2(const tq_attend_side *side, const uint8_t *packed, size_t tokens, const float *const *weights,
                           size_t rows, const float *decays, float *const *sums);

#endif
