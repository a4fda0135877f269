#include "probe/probe.h"

#include <immintrin.h>

#include "levels.h"

static double fma_steps(size_t steps, float *sink) {
    const __m256 by = _mm256_set1_ps(0.999f), plus = _mm256_set1_ps(0.5f);
    /* different starts, or the compiler makes one chain of all */
    __m256 s0 = _mm256_set1_ps(0), s1 = _mm256_set1_ps(1), s2 = _mm256_set1_ps(2);
    __m256 s3 = _mm256_set1_ps(3), s4 = _mm256_set1_ps(4), s5 = _mm256_set1_ps(5);
    __m256 s6 = _mm256_set1_ps(6), s7 = _mm256_set1_ps(7), s8 = _mm256_set1_ps(8), s9 = _mm256_set1_ps(9);
    for (size_t i = 0; i < steps; i++) { /* ten chains: two units with a latency of four or five */
        s0 = _mm256_fmadd_ps(s0, by, plus), s1 = _mm256_fmadd_ps(s1, by, plus), s2 = _mm256_fmadd_ps(s2, by, plus);
        s3 = _mm256_fmadd_ps(s3, by, plus), s4 = _mm256_fmadd_ps(s4, by, plus), s5 = _mm256_fmadd_ps(s5, by, plus);
        s6 = _mm256_fmadd_ps(s6, by, plus), s7 = _mm256_fmadd_ps(s7, by, plus), s8 = _mm256_fmadd_ps(s8, by, plus);
        s9 = _mm256_fmadd_ps(s9, by, plus);
    }
    *sink = _mm256_cvtss_f32(((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7)) + (s8 + s9));
    return 2.0 * 10 * 8 * (double)steps;
}

static uint64_t read_all(const void *start, size_t bytes) {
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (const char *at = start, *end = at + bytes; at < end; at += 128) {
        a = _mm256_xor_si256(a, _mm256_load_si256((const __m256i *)at));
        b = _mm256_xor_si256(b, _mm256_load_si256((const __m256i *)(at + 32)));
        c = _mm256_xor_si256(c, _mm256_load_si256((const __m256i *)(at + 64)));
        d = _mm256_xor_si256(d, _mm256_load_si256((const __m256i *)(at + 96)));
    }
    __m256i all = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
    __m128i half = _mm_xor_si128(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
    return (uint64_t)(_mm_cvtsi128_si64(half) ^ _mm_extract_epi64(half, 1));
}

void tq_probe_avx2(tq_probe_slots *slots) { *slots = (tq_probe_slots){fma_steps, read_all}; }
