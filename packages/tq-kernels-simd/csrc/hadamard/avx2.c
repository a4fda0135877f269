#include "hadamard/hadamard.h"

#include "hadamard/lanes8.h"
#include "hadamard/passes.h"
#include "levels.h"

typedef float f32x4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef float f32x8 __attribute__((vector_size(32), aligned(4), may_alias));

#define VECTOR f32x4
#define ORDER(name) name##_f32x4
#define PLUS(a, b) (VECTOR)_mm_fmadd_ps(b, _mm_set1_ps(1.0f), a)
#define MINUS(a, b) (VECTOR)_mm_fnmadd_ps(b, _mm_set1_ps(1.0f), a)
#include "hadamard/orders.h"
#undef VECTOR
#undef ORDER
#undef PLUS
#undef MINUS
#define VECTOR f32x8
#define ORDER(name) name##_f32x8
#define PLUS(a, b) (VECTOR)_mm256_fmadd_ps(b, _mm256_set1_ps(1.0f), a)
#define MINUS(a, b) (VECTOR)_mm256_fnmadd_ps(b, _mm256_set1_ps(1.0f), a)
#include "hadamard/orders.h"

#include "hadamard/rounds.h"

static void small_order(const tq_rotation *rotation, const float *x, float *out, size_t width, int transpose, const float *scale) {
    if (rotation->order == 12) (width < 8 ? order12_f32x4 : order12_f32x8)(x, out, width, transpose, scale);
    else (width < 8 ? order20_f32x4 : order20_f32x8)(x, out, width, transpose, scale);
}

void tq_hadamard_avx2(tq_hadamard_slots *slots) {
    *slots = (tq_hadamard_slots){forward,      forward_rows, forward_into,    inverse,
                                 inverse_rows, inverse_into, copy_past_cache, settle};
}
