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

/* In each quarter, the sums of its lanes in four vectors. */
INLINE floats sums_of_quarters(const floats x[4]) {
    floats a = _mm512_add_ps(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));
    floats b = _mm512_add_ps(_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3]));
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xEE));
}

INLINE void sums_of_floats(const floats x[AT_ONCE], float *out) {
    floats s[4];
    for (int i = 0; i < 4; i++) s[i] = sums_of_quarters(x + 4 * i);
    floats a = _mm512_add_ps(_mm512_shuffle_f32x4(s[0], s[1], 0x88), _mm512_shuffle_f32x4(s[0], s[1], 0xDD));
    floats b = _mm512_add_ps(_mm512_shuffle_f32x4(s[2], s[3], 0x88), _mm512_shuffle_f32x4(s[2], s[3], 0xDD));
    _mm512_storeu_ps(out, _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD)));
}

#endif
