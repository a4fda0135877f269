/* Rounds of signs, transform and permutation over the passes of a level. Included once, after passes.h and orders.h; the
 * level defines `small_order`, the matrices of order 12 and 20 over groups of `width` by the widest vector that fits. */
#ifndef TQ_HADAMARD_ROUNDS_H
#define TQ_HADAMARD_ROUNDS_H

#include <math.h>

#include "hadamard/hadamard.h"

static void small_order(float *x, const tq_rotation *rotation, size_t width, int transpose, const float *scale);

static inline float flip_one(float value, uint32_t sign) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    bits ^= sign;
    memcpy(&value, &bits, 4);
    return value;
}

/* The last blocks, too short for a register. */
static void short_block(const float *in, const uint32_t *sign, float *out, size_t block, float scale) {
    float x[LANES];
    for (size_t i = 0; i < block; i++) x[i] = sign ? flip_one(in[i], sign[i]) : in[i];
    for (size_t h = 1; h < block; h *= 2)
        for (size_t i = 0; i < block; i++) {
            if (i & h) continue;
            float difference = x[i] - x[i + h];
            x[i] += x[i + h];
            x[i + h] = difference;
        }
    for (size_t i = 0; i < block; i++) out[i] = x[i] * scale;
}

/* The transform of one round without permutations; `scale` multiplies its result and is NULL when order is 0. */
static void transform(const tq_rotation *rotation, const float *in, const uint32_t *sign, float *out, int transpose,
                      const float *scale) {
    size_t dim = rotation->dim, start = 0;
    if (rotation->order) {
        size_t width = dim / rotation->order;
        stages(in, sign, out, width, dim, rotation->order == 1 ? scale : NULL);
        if (rotation->order > 1) small_order(out, rotation, width, transpose, scale);
        return;
    }
    for (size_t block = (size_t)1 << 20; block; block >>= 1) {
        if (!(dim & block)) continue;
        const uint32_t *flips = sign ? sign + start : NULL;
        float root = (float)(1.0 / sqrt((double)block));
        if (block >= LANES) stages(in + start, flips, out + start, block, block, &root);
        else short_block(in + start, flips, out + start, block, root);
        start += block;
    }
}

static void forward(const tq_rotation *rotation, float *x, float *scratch) {
    size_t dim = rotation->dim, rounds = rotation->rounds;
    float *at = x, *spare = scratch;
    for (size_t r = 0; r < rounds; r++) {
        int is_last = r + 1 == rounds;
        transform(rotation, at, rotation->signs + r * dim, at, 0, is_last && rotation->order ? &rotation->factor : NULL);
        if (rotation->order || is_last) continue;
        const int32_t *from = rotation->permutations + r * dim;
        for (size_t i = 0; i < dim; i++) spare[i] = at[from[i]];
        float *swap = at;
        at = spare;
        spare = swap;
    }
    if (rounds && rotation->order) return;
    for (size_t j = 0; j < dim; j++) x[j] = at[j] * rotation->factor;
}

/* The rounds backwards, but for the last signs; returns x or scratch, where the result lies. */
static float *unturned(const tq_rotation *rotation, float *x, float *scratch) {
    size_t dim = rotation->dim, rounds = rotation->rounds;
    float *at = x, *spare = scratch;
    for (size_t r = rounds; r-- > 0;) {
        const uint32_t *sign = r + 1 < rounds ? rotation->signs + (r + 1) * dim : NULL;
        if (sign && rotation->order == 0) {
            const int32_t *to = rotation->permutations + r * dim;
            for (size_t i = 0; i < dim; i++) spare[to[i]] = flip_one(at[i], sign[i]);
            float *swap = at;
            at = spare;
            spare = swap;
            sign = NULL;
        }
        transform(rotation, at, sign, at, 1, NULL);
    }
    return at;
}

static void inverse_to(const tq_rotation *rotation, float *x, float *scratch, float scale, float *out) {
    const float *at = unturned(rotation, x, scratch);
    const uint32_t *sign = rotation->signs;
    float factor = rotation->inverse_factor;
    size_t dim = rotation->dim, j = 0;
    if (rotation->rounds)
        for (; j + LANES <= dim; j += LANES)
            store(out + j, (flip(load(at + j), sign + j) * broadcast(factor)) * broadcast(scale));
    for (; j < dim; j++) out[j] = ((rotation->rounds ? flip_one(at[j], sign[j]) : at[j]) * factor) * scale;
}

static void inverse(const tq_rotation *rotation, float *x, float *scratch) {
    inverse_to(rotation, x, scratch, 1.0f, x);
}

#endif
