#include "hadamard/hadamard.h"

#include "hadamard/avx2_orders.h"
#include "hadamard/lanes16.h"
#include "hadamard/passes.h"
#include "levels.h"

typedef float f32x16 __attribute__((vector_size(64), aligned(4), may_alias));

#define VECTOR f32x16
#define ORDER(name) name##_f32x16
#define PLUS(a, b) (VECTOR)_mm512_fmadd_ps(b, _mm512_set1_ps(1.0f), a)
#define MINUS(a, b) (VECTOR)_mm512_fnmadd_ps(b, _mm512_set1_ps(1.0f), a)
#define PLUS_TWICE(a, b) (VECTOR)_mm512_fmadd_ps(b, _mm512_set1_ps(2.0f), a)
#define NEITHER(a, b) (VECTOR)_mm512_fnmsub_ps(a, _mm512_set1_ps(1.0f), b)
#include "hadamard/orders.h"

#include "hadamard/rounds.h"

static void small_order(const tq_rotation *rotation, const float *x, float *out, size_t width, int transpose, const float *scale) {
    if (rotation->order == 20)
        (width < 8 ? order20_f32x4 : width < 16 ? order20_f32x8 : order20_f32x16)(x, out, width, transpose, scale);
    else if (width < 8) order12_f32x4(x, out, width, 0, transpose, scale);
    else if (width < 16) order12_f32x8(x, out, width, 0, transpose, scale);
    else order12_f32x16(x, out, width, 0, transpose, scale);
}

static void joined_order12(const float *x, float *out, size_t width, int transpose, const float *scale) {
    order12_f32x16(x, out, width, 1, transpose, scale);
}

void tq_hadamard_avx512(tq_hadamard_slots *slots) {
    *slots = (tq_hadamard_slots){forward,      forward_rows, forward_into,    inverse,
                                 inverse_rows, inverse_into, copy_past_cache, settle};
}
