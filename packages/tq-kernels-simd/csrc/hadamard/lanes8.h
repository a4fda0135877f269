/* Eight float lanes of AVX2: what passes.h needs to know of a register. */
#ifndef TQ_HADAMARD_LANES8_H
#define TQ_HADAMARD_LANES8_H

#include <immintrin.h>
#include <stdint.h>

#define LANES 8
#define LANE_STAGES 3
typedef __m256 lanes;

static inline lanes load(const float *x) { return _mm256_loadu_ps(x); }
static inline void store(float *x, lanes value) { _mm256_storeu_ps(x, value); }
static inline lanes broadcast(float value) { return _mm256_set1_ps(value); }
static inline lanes minus(lanes a, lanes b) { return _mm256_fnmadd_ps(b, _mm256_set1_ps(1.0f), a); }
static inline lanes flip(lanes value, const uint32_t *sign) {
    return _mm256_xor_ps(value, _mm256_castsi256_ps(_mm256_loadu_si256((const __m256i *)sign)));
}

/* Stages h = 1, 2, 4 inside a register: partner + x where the index is the lower one, partner - x where it is the upper.
 * The product with 1 or -1 is exact, so that the fused operation rounds once, as one addition. */
static inline lanes lane_stage1(lanes x) {
    return _mm256_fmadd_ps(x, _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1), _mm256_permute_ps(x, 0xB1));
}
static inline lanes lane_stage2(lanes x) {
    return _mm256_fmadd_ps(x, _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1), _mm256_permute_ps(x, 0x4E));
}
static inline lanes lane_stage4(lanes x) {
    return _mm256_fmadd_ps(x, _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1), _mm256_permute2f128_ps(x, x, 1));
}
static inline lanes lane_stages(lanes x) { return lane_stage4(lane_stage2(lane_stage1(x))); }

/* Only the stages below `width`, a power of two below LANES. */
static inline lanes lane_stages_below(lanes x, size_t width) {
    if (width > 1) x = lane_stage1(x);
    return width > 2 ? lane_stage2(x) : x;
}

#endif
