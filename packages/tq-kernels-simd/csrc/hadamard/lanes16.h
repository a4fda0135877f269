/* Sixteen float lanes of AVX-512: what passes.h needs to know of a register. */
#ifndef TQ_HADAMARD_LANES16_H
#define TQ_HADAMARD_LANES16_H

#include <immintrin.h>
#include <stdint.h>

#define LANES 16
#define LANE_STAGES 4
typedef __m512 lanes;

static inline lanes load(const float *x) { return _mm512_loadu_ps(x); }
static inline void store(float *x, lanes value) { _mm512_storeu_ps(x, value); }
static inline lanes broadcast(float value) { return _mm512_set1_ps(value); }
static inline lanes minus(lanes a, lanes b) { return _mm512_fnmadd_ps(b, _mm512_set1_ps(1.0f), a); }
static inline lanes flip(lanes value, const uint32_t *sign) {
    return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(value), _mm512_loadu_si512(sign)));
}

/* Stages h = 1, 2, 4, 8 inside a register, as in lanes8.h. */
static inline lanes lane_stage1(lanes x) {
    const lanes one = _mm512_setr_ps(1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1);
    return _mm512_fmadd_ps(x, one, _mm512_permute_ps(x, 0xB1));
}
static inline lanes lane_stage2(lanes x) {
    const lanes one = _mm512_setr_ps(1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1);
    return _mm512_fmadd_ps(x, one, _mm512_permute_ps(x, 0x4E));
}
static inline lanes lane_stage4(lanes x) {
    const lanes one = _mm512_setr_ps(1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1);
    return _mm512_fmadd_ps(x, one, _mm512_shuffle_f32x4(x, x, 0xB1));
}
static inline lanes lane_stage8(lanes x) {
    const lanes one = _mm512_setr_ps(1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1);
    return _mm512_fmadd_ps(x, one, _mm512_shuffle_f32x4(x, x, 0x4E));
}
static inline lanes lane_stages(lanes x) { return lane_stage8(lane_stage4(lane_stage2(lane_stage1(x)))); }

/* Only the stages below `width`, a power of two below LANES. */
static inline lanes lane_stages_below(lanes x, size_t width) {
    if (width > 1) x = lane_stage1(x);
    if (width > 2) x = lane_stage2(x);
    return width > 4 ? lane_stage4(x) : x;
}

#endif
