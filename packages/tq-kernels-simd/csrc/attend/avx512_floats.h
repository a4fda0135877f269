/* Vectors of floats with AVX-512, as attend/float_rows.h wants them. Private to csrc/attend/avx512*. */
#ifndef TQ_ATTEND_AVX512_FLOATS_H
#define TQ_ATTEND_AVX512_FLOATS_H

#include <immintrin.h>

#include "specialize.h"

typedef __m512 floats;
#define LANES 16
#define AT_ONCE 16

INLINE floats load_floats(const float *from) { return _mm512_load_ps(from); }
INLINE void store_floats(float *to, floats x) { _mm512_store_ps(to, x); }
INLINE floats each_float(const float *from) { return _mm512_set1_ps(*from); }
INLINE floats times(floats x, floats y) { return _mm512_mul_ps(x, y); }
INLINE floats plus_product(floats x, floats y, floats z) { return _mm512_fmadd_ps(x, y, z); }
INLINE floats no_floats(void) { return _mm512_setzero_ps(); }

INLINE floats sum_of_both(__m512i x, __m512i y) { return _mm512_add_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(y)); }

/* In each quarter, the sums of its lanes in four vectors. */
INLINE floats sums_of_quarters(const floats x[4]) {
    __m512i y[4];
    for (int i = 0; i < 4; i++) y[i] = _mm512_castps_si512(x[i]);
    __m512i a = _mm512_castps_si512(sum_of_both(_mm512_unpacklo_epi32(y[0], y[1]), _mm512_unpackhi_epi32(y[0], y[1])));
    __m512i b = _mm512_castps_si512(sum_of_both(_mm512_unpacklo_epi32(y[2], y[3]), _mm512_unpackhi_epi32(y[2], y[3])));
    return sum_of_both(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

INLINE void sums_of_floats(const floats x[AT_ONCE], float *out) {
    floats s[4];
    for (int i = 0; i < 4; i++) s[i] = sums_of_quarters(x + 4 * i);
    floats a = _mm512_add_ps(_mm512_shuffle_f32x4(s[0], s[1], 0x88), _mm512_shuffle_f32x4(s[0], s[1], 0xDD));
    floats b = _mm512_add_ps(_mm512_shuffle_f32x4(s[2], s[3], 0x88), _mm512_shuffle_f32x4(s[2], s[3], 0xDD));
    _mm512_storeu_ps(out, _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD)));
}

#endif
