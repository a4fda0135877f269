/* Rounds of signs, transform and permutation over the passes of a level. Included once, after passes.h and orders.h; the
 * level defines `small_order`, the matrices of order 12 and 20 over groups of `width` by the widest vector that fits, and
 * `joined_order12`, for widths above the lanes, which does the stage h = width / 2, too. */
#ifndef TQ_HADAMARD_ROUNDS_H
#define TQ_HADAMARD_ROUNDS_H

#include <math.h>

#include "hadamard/hadamard.h"

static void small_order(const tq_rotation *rotation, const float *x, float *out, size_t width, int transpose,
                        const float *scale);
static void joined_order12(const float *x, float *out, size_t width, int transpose, const float *scale);

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

/* The transform of one round, after `sign` and without permutations, from `in` to `out`, which may be the same, by way of x;
 * when order is 12 or 20 x is neither of them. `scale` multiplies the result and is NULL when order is 0. */
static void transform(const tq_rotation *rotation, const float *in, const uint32_t *sign, float *x, float *out,
                      int transpose, const float *scale) {
    size_t dim = rotation->dim, start = 0;
    if (rotation->order) {
        if (rotation->order == 1) {
            stages(in, sign, x, out, dim, dim, scale);
            return;
        }
        size_t width = rotation->order == 12 ? dim / 12 : dim / 20; /* divisors that the compiler knows */
        if (rotation->order == 12 && width == 16 * LANES) { /* blocks of 8 registers are cheaper than of 16 */
            stages(in, sign, x, x, width / 2, dim, NULL);
            joined_order12(x, out, width, transpose, scale);
            return;
        }
        stages(in, sign, x, x, width, dim, NULL);
        small_order(rotation, x, out, width, transpose, scale);
        return;
    }
    for (size_t block = (size_t)1 << 20; block; block >>= 1) {
        if (!(dim & block)) continue;
        const uint32_t *flips = sign ? sign + start : NULL;
        float root = (float)(1.0 / sqrt((double)block));
        if (block >= LANES) stages(in + start, flips, x + start, out + start, block, block, &root);
        else short_block(in + start, flips, out + start, block, root);
        start += block;
    }
}

/* The rounds of one row whose order is not 0, from `in` to `out` by way of x and scratch. */
static void forward_plain(const tq_rotation *rotation, const float *in, float *x, float *scratch, float *out) {
    float *by = rotation->order == 1 ? x : scratch;
    size_t dim = rotation->dim, rounds = rotation->rounds;
    for (size_t r = 0; r < rounds; r++) {
        int is_last = r + 1 == rounds;
        transform(rotation, r ? x : in, rotation->signs + r * dim, by, is_last ? out : x, 0,
                  is_last ? &rotation->factor : NULL);
    }
}

/* As forward_plain, with permutations between the rounds: x and spare are taken in turn. */
static void forward_permuted(const tq_rotation *rotation, const float *in, float *x, float *spare, float *out) {
    size_t dim = rotation->dim, rounds = rotation->rounds;
    const float *at = in;
    for (size_t r = 0; r < rounds; r++) {
        transform(rotation, at, rotation->signs + r * dim, x, x, 0, NULL);
        at = x;
        if (r + 1 == rounds) break;
        const int32_t *from = rotation->permutations + r * dim;
        for (size_t i = 0; i < dim; i++) spare[i] = x[from[i]];
        at = spare;
        spare = x;
        x = (float *)at;
    }
    for (size_t j = 0; j < dim; j++) out[j] = at[j] * rotation->factor;
}

static void forward_to(const tq_rotation *rotation, const float *in, float *x, float *scratch, float *out) {
    if (rotation->order && rotation->rounds) forward_plain(rotation, in, x, scratch, out);
    else forward_permuted(rotation, in, x, scratch, out);
}

/* The rounds backwards, but for the last signs: from `in` to x or scratch, whichever is returned. */
static const float *unturned(const tq_rotation *rotation, const float *in, float *x, float *scratch) {
    size_t dim = rotation->dim, rounds = rotation->rounds;
    const float *at = in;
    for (size_t r = rounds; r-- > 0;) {
        const uint32_t *sign = r + 1 < rounds ? rotation->signs + (r + 1) * dim : NULL;
        if (sign && rotation->order == 0) {
            const int32_t *to = rotation->permutations + r * dim;
            for (size_t i = 0; i < dim; i++) scratch[to[i]] = flip_one(at[i], sign[i]);
            float *swap = x;
            x = scratch;
            scratch = swap;
            at = x;
            sign = NULL;
        }
        transform(rotation, at, sign, rotation->order > 1 ? scratch : x, x, 1, NULL);
        at = x;
    }
    return at;
}

/* The last signs and factors: ((x with signs) * inverse_factor) * scale. */
static void ended(const tq_rotation *rotation, const float *at, float scale, float *out) {
    const uint32_t *sign = rotation->signs;
    float factor = rotation->inverse_factor;
    size_t dim = rotation->dim, j = 0;
    if (rotation->rounds)
        for (; j + LANES <= dim; j += LANES)
            store(out + j, (flip(load(at + j), sign + j) * broadcast(factor)) * broadcast(scale));
    for (; j < dim; j++) out[j] = ((rotation->rounds ? flip_one(at[j], sign[j]) : at[j]) * factor) * scale;
}

static void forward(const tq_rotation *rotation, float *x, float *scratch) {
    forward_to(rotation, x, x, scratch, x);
}

static void inverse(const tq_rotation *rotation, float *x, float *scratch) {
    ended(rotation, unturned(rotation, x, x, scratch), 1.0f, x);
}

/* One round of each row that is a single block, the usual size of a head: 0 where rows are none. */
static int block_rows(size_t dim, float *x, size_t rows, const uint32_t *sign, const float *scale) {
    if (dim == 8 * LANES)
        for (size_t row = 0; row < rows; row++) block8(x + row * dim, sign, x + row * dim, scale);
    else if (dim == 16 * LANES)
        for (size_t row = 0; row < rows; row++) block16(x + row * dim, sign, x + row * dim, scale);
    else return 0;
    return 1;
}

/* Round by round over all rows: a round waits for the one before it, and another row's work fills the wait. */
static void forward_rows(const tq_rotation *rotation, float *x, size_t rows, float *scratch) {
    size_t dim = rotation->dim, rounds = rotation->rounds, stride = TQ_PADDED(dim);
    if (!rounds || !rotation->order) {
        for (size_t row = 0; row < rows; row++) forward(rotation, x + row * stride, scratch);
        return;
    }
    for (size_t r = 0; r < rounds; r++) {
        const uint32_t *sign = rotation->signs + r * dim;
        const float *scale = r + 1 == rounds ? &rotation->factor : NULL;
        if (rotation->order == 1 && block_rows(dim, x, rows, sign, scale)) continue;
        for (size_t row = 0; row < rows; row++)
            transform(rotation, x + row * stride, sign, rotation->order > 1 ? scratch : x + row * stride, x + row * stride,
                      0, scale);
    }
}

static void inverse_rows(const tq_rotation *rotation, float *x, size_t rows, float *scratch, const float *scales,
                         float *out) {
    size_t dim = rotation->dim, rounds = rotation->rounds, stride = TQ_PADDED(dim);
    if (rotation->order)
        for (size_t r = rounds; r-- > 0;) {
            const uint32_t *sign = r + 1 < rounds ? rotation->signs + (r + 1) * dim : NULL;
            if (rotation->order == 1 && block_rows(dim, x, rows, sign, NULL)) continue;
            for (size_t row = 0; row < rows; row++)
                transform(rotation, x + row * stride, sign, rotation->order > 1 ? scratch : x + row * stride,
                          x + row * stride, 1, NULL);
        }
    for (size_t row = 0; row < rows; row++) {
        const float *at = x + row * stride;
        if (!rotation->order) at = unturned(rotation, at, x + row * stride, scratch);
        ended(rotation, at, scales[row], out + row * dim);
    }
}

/* Rows below 64 numbers go through a copy, because their last register may reach beyond them; those of order 12 or 20 come out
 * through one, because their last pass writes 12 or 20 places in turn, which memory that is not in the cache does slowly. */
static void forward_into(const tq_rotation *rotation, const float *in, float *x, float *scratch, float *out) {
    size_t bytes = rotation->dim * sizeof *x;
    if (rotation->dim < 64) in = memcpy(x, in, bytes);
    if (rotation->dim >= 64 && rotation->order <= 1) {
        forward_to(rotation, in, x, scratch, out);
        return;
    }
    forward_to(rotation, in, x, scratch, x);
    if (out != x) memcpy(out, x, bytes);
}

static void inverse_into(const tq_rotation *rotation, const float *in, float *x, float *scratch, float *out) {
    if (rotation->dim < 64) in = memcpy(x, in, rotation->dim * sizeof *x);
    ended(rotation, unturned(rotation, in, x, scratch), 1.0f, out);
}

/* Past the cache in pieces of 16 bytes, which numpy's arrays are aligned to. */
static void copy_past_cache(const float *x, float *out, size_t count) {
    size_t j = 0;
    if ((uintptr_t)out % 16 == 0)
        for (; j + 4 <= count; j += 4) _mm_stream_ps(out + j, _mm_loadu_ps(x + j));
    for (; j < count; j++) out[j] = x[j];
}

static void settle(void) { _mm_sfence(); }

#endif
