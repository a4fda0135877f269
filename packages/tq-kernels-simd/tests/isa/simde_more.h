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

/* Two halves of the instruction that AVX2 has, for its rounding. */
static inline simde__m512i more_cvtps_epi32(simde__m512 a) {
    float in[16];
    int32_t out[16];
    memcpy(in, &a, sizeof in);
    for (int i = 0; i < 16; i += 8) _mm256_storeu_si256((__m256i *)(out + i), _mm256_cvtps_epi32(_mm256_loadu_ps(in + i)));
    return simde_mm512_loadu_si512(out);
}

static inline simde__mmask32 more_cmpgt_epi16_mask(simde__m512i a, simde__m512i b) {
    int16_t in[2][32];
    simde__mmask32 mask = 0;
    memcpy(in[0], &a, sizeof in[0]);
    memcpy(in[1], &b, sizeof in[1]);
    for (int i = 0; i < 32; i++) mask |= (simde__mmask32)(in[0][i] > in[1][i]) << i;
    return mask;
}

static inline simde__m128i more_cvtepi32_epi8(simde__m512i a) {
    int32_t in[16];
    uint8_t out[16];
    memcpy(in, &a, sizeof in);
    for (int i = 0; i < 16; i++) out[i] = (uint8_t)in[i];
    return simde_mm_loadu_si128(out);
}

static inline simde__m512 more_i32gather_ps(simde__m512i at, const float *table) {
    int32_t in[16];
    float out[16];
    memcpy(in, &at, sizeof in);
    for (int i = 0; i < 16; i++) out[i] = table[in[i]];
    return simde_mm512_loadu_ps(out);
}

static inline simde__m512i more_mask_sub_epi16(simde__m512i other, simde__mmask32 mask, simde__m512i a, simde__m512i b) {
    int16_t in[2][32], out[32];
    memcpy(in[0], &a, sizeof in[0]);
    memcpy(in[1], &b, sizeof in[1]);
    memcpy(out, &other, sizeof out);
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1) out[i] = (int16_t)(in[0][i] - in[1][i]);
    return simde_mm512_loadu_si512(out);
}

/* Memory outside the mask is not touched, as by the instructions. */
static inline void more_mask_storeu_ps(void *to, simde__mmask16 mask, simde__m512 a) {
    float in[16];
    memcpy(in, &a, sizeof in);
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1) memcpy((float *)to + i, in + i, sizeof *in);
}

static inline simde__m512 more_maskz_loadu_ps(simde__mmask16 mask, const void *from) {
    float out[16] = {0};
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1) memcpy(out + i, (const float *)from + i, sizeof *out);
    return simde_mm512_loadu_ps(out);
}

static inline simde__m512i more_maskz_loadu_epi16(simde__mmask32 mask, const void *from) {
    int16_t out[32] = {0};
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1) memcpy(out + i, (const int16_t *)from + i, sizeof *out);
    return simde_mm512_loadu_si512(out);
}

#undef _mm512_madd_epi16 /* SIMDe 0.7 gives this name to the masked form */
#define _mm512_madd_epi16(a, b) simde_mm512_madd_epi16(a, b)
#define _mm512_cmpgt_epi16_mask(a, b) more_cmpgt_epi16_mask(a, b)
#define _mm512_cvtepi32_epi8(a) more_cvtepi32_epi8(a)
#define _mm512_cvtepu8_epi32(a) more_cvtepu8_epi32(a)
#define _mm512_cvtps_epi32(a) more_cvtps_epi32(a)
#define _mm512_i32gather_ps(at, table, scale) more_i32gather_ps(at, table)
#define _mm512_mask_storeu_ps(to, mask, a) more_mask_storeu_ps(to, mask, a)
#define _mm512_mask_sub_epi16(other, mask, a, b) more_mask_sub_epi16(other, mask, a, b)
#define _mm512_maskz_loadu_epi16(mask, from) more_maskz_loadu_epi16(mask, from)
#define _mm512_maskz_loadu_ps(mask, from) more_maskz_loadu_ps(mask, from)
#define _mm512_cvtepi32_ps(a) more_cvtepi32_ps(a)
#define _mm512_cvtss_f32(a) more_cvtss_f32(a)
#define _mm512_cvtepu8_epi16(a) more_cvtepu8_epi16(a)
#define _mm512_cvtepu16_epi32(a) more_cvtepu16_epi32(a)
#define _mm512_maskz_loadu_epi8(mask, from) more_maskz_loadu_epi8(mask, from)
#define _mm512_permute_ps(a, places) more_permute_ps(a, places)
#define _mm512_shuffle_f32x4(a, b, places) more_shuffle_f32x4(a, b, places)
#define _mm512_reduce_add_epi32(a) more_reduce_add_epi32(a)

#endif
