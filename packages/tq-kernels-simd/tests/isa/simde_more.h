/* The AVX-512 intrinsics that kernels use and SIMDe 0.7 lacks, lane by lane from Intel's description of each. One that is
 * missing here shows as "inlining failed ... target specific option mismatch" when the simde target is built. */
#ifndef TQ_SIMDE_MORE_H
#define TQ_SIMDE_MORE_H

#include <simde/x86/avx512.h>
#include <stdint.h>
#include <string.h>

static inline simde__m512 more_cvtepi32_ps(simde__m512i a) {
    int32_t in[16];
    float out[16];
    memcpy(in, &a, sizeof in);
    for (int i = 0; i < 16; i++) out[i] = (float)in[i];
    return simde_mm512_loadu_ps(out);
}

static inline simde__m512i more_cvtepu8_epi16(simde__m256i a) {
    uint8_t in[32];
    int16_t out[32];
    memcpy(in, &a, sizeof in);
    for (int i = 0; i < 32; i++) out[i] = in[i];
    return simde_mm512_loadu_si512(out);
}

static inline simde__m512i more_cvtepu8_epi32(simde__m128i a) {
    uint8_t in[16];
    int32_t out[16];
    memcpy(in, &a, sizeof in);
    for (int i = 0; i < 16; i++) out[i] = in[i];
    return simde_mm512_loadu_si512(out);
}

static inline simde__m512i more_cvtepu16_epi32(simde__m256i a) {
    uint16_t in[16];
    int32_t out[16];
    memcpy(in, &a, sizeof in);
    for (int i = 0; i < 16; i++) out[i] = in[i];
    return simde_mm512_loadu_si512(out);
}

static inline simde__m512i more_maskz_loadu_epi8(uint64_t mask, const void *from) {
    uint8_t out[64] = {0};
    for (int i = 0; i < 64; i++)
        if (mask >> i & 1) out[i] = ((const uint8_t *)from)[i];
    return simde_mm512_loadu_si512(out);
}

static inline simde__m512 more_permute_ps(simde__m512 a, int places) {
    float in[16], out[16];
    memcpy(in, &a, sizeof in);
    for (int i = 0; i < 16; i++) out[i] = in[i / 4 * 4 + (places >> i % 4 * 2 & 3)];
    return simde_mm512_loadu_ps(out);
}

static inline simde__m512 more_shuffle_f32x4(simde__m512 a, simde__m512 b, int places) {
    float in[2][16], out[16];
    memcpy(in[0], &a, sizeof in[0]);
    memcpy(in[1], &b, sizeof in[1]);
    for (int quarter = 0; quarter < 4; quarter++)
        memcpy(out + 4 * quarter, in[quarter / 2] + (places >> quarter * 2 & 3) * 4, 16);
    return simde_mm512_loadu_ps(out);
}

static inline int more_reduce_add_epi32(simde__m512i a) {
    uint32_t in[16], sum = 0;
    memcpy(in, &a, sizeof in);
    for (int i = 0; i < 16; i++) sum += in[i];
    return (int)sum;
}

static inline float more_cvtss_f32(simde__m512 a) {
    float first;
    memcpy(&first, &a, sizeof first);
    return first;
}

#define _mm512_cvtepi32_ps(a) more_cvtepi32_ps(a)
#define _mm512_cvtss_f32(a) more_cvtss_f32(a)
#define _mm512_cvtepu8_epi16(a) more_cvtepu8_epi16(a)
#define _mm512_cvtepu8_epi32(a) more_cvtepu8_epi32(a)
#define _mm512_cvtepu16_epi32(a) more_cvtepu16_epi32(a)
#define _mm512_maskz_loadu_epi8(mask, from) more_maskz_loadu_epi8(mask, from)
#define _mm512_permute_ps(a, places) more_permute_ps(a, places)
#define _mm512_shuffle_f32x4(a, b, places) more_shuffle_f32x4(a, b, places)
#define _mm512_reduce_add_epi32(a) more_reduce_add_epi32(a)

#endif
