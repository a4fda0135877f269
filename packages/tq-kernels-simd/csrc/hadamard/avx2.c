#include "hadamard/hadamard.h"

#include "hadamard/avx2_orders.h"
#include "hadamard/lanes8.h"
#include "hadamard/passes.h"
#include "levels.h"

#include "hadamard/rounds.h"

static void small_order(const tq_rotation *rotation, const float *x, float *out, size_t width, int transpose, const float *scale) {
    if (rotation->order == 20) (width < 8 ? order20_f32x4 : order20_f32x8)(x, out, width, transpose, scale);
    else if (width < 8) order12_f32x4(x, out, width, 0, transpose, scale);
    else order12_f32x8(x, out, width, 0, transpose, scale);
}

static void joined_order12(const float *x, float *out, size_t width, int transpose, const float *scale) {
    order12_f32x8(x, out, width, 1, transpose, scale);
}

void tq_hadamard_avx2(tq_hadamard_slots *slots) {
    *slots = (tq_hadamard_slots){forward,      forward_rows, forward_into,    inverse,
                                 inverse_rows, inverse_into, copy_past_cache, settle};
}
