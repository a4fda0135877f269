/* Vectors of floats with AVX2, as attend/float_rows.h wants them. Private to csrc/attend/avx2*. */
#ifndef TQ_ATTEND_AVX2_FLOATS_H
#define TQ_ATTEND_AVX2_FLOATS_H

#include <immintrin.h>

#include "specialize.h"

typedef __m256 floats;
#define LANES 8
#define AT_ONCE 8

INLINE floats load_floats(const float *from) { return _mm256_load_ps(from); }
INLINE void store_floats(float *to, floats x) { _mm256_store_ps(to, x); }
INLINE floats each_float(const float *from) { return _mm256_broadcast_ss(from); }
INLINE floats times(floats x, floats y) { return _mm256_mul_ps(x, y); }
INLINE floats plus_product(floats x, floats y, floats z) { return _mm256_fmadd_ps(x, y, z); }
INLINE floats no_floats(void) { return _mm256_setzero_ps(); }

INLINE void sums_of_floats(const floats x[AT_ONCE], float *out) {
    floats a = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
    floats b = _mm256_hadd_ps(_mm256_hadd_ps(x[4], x[5]), _mm256_hadd_ps(x[6], x[7]));
    _mm256_storeu_ps(out, _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31)));
}

#endif
