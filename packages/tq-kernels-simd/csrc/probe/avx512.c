#include "probe/probe.h"

#include <immintrin.h>

#include "levels.h"

static double fma_steps(size_t steps, float *sink) {
    const __m512 by = _mm512_set1_ps(0.999f), plus = _mm512_set1_ps(0.5f);
    /* different starts, or the compiler makes one chain of all */
    __m512 s0 = _mm512_set1_ps(0), s1 = _mm512_set1_ps(1), s2 = _mm512_set1_ps(2);
    __m512 s3 = _mm512_set1_ps(3), s4 = _mm512_set1_ps(4), s5 = _mm512_set1_ps(5);
    __m512 s6 = _mm512_set1_ps(6), s7 = _mm512_set1_ps(7), s8 = _mm512_set1_ps(8), s9 = _mm512_set1_ps(9);
    for (size_t i = 0; i < steps; i++) {
        s0 = _mm512_fmadd_ps(s0, by, plus), s1 = _mm512_fmadd_ps(s1, by, plus), s2 = _mm512_fmadd_ps(s2, by, plus);
        s3 = _mm512_fmadd_ps(s3, by, plus), s4 = _mm512_fmadd_ps(s4, by, plus), s5 = _mm512_fmadd_ps(s5, by, plus);
        s6 = _mm512_fmadd_ps(s6, by, plus), s7 = _mm512_fmadd_ps(s7, by, plus), s8 = _mm512_fmadd_ps(s8, by, plus);
        s9 = _mm512_fmadd_ps(s9, by, plus);
    }
    *sink = _mm512_cvtss_f32(((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7)) + (s8 + s9));
    return 2.0 * 10 * 16 * (double)steps;
}

void tq_probe_avx512(tq_probe_slots *slots) { slots->fma = fma_steps; }
