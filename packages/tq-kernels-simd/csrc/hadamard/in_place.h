/* The slots of a level that turns a row in place, round by round. Included once by a level that defines the five functions
 * declared here; every result is a single float32 operation each, in the order of docs/format.md, section 2. */
#ifndef TQ_HADAMARD_IN_PLACE_H
#define TQ_HADAMARD_IN_PLACE_H

#include <math.h>
#include <string.h>

#include "hadamard/hadamard.h"

/* The signs of x that `sign` has are flipped. */
static void signs(float *x, const uint32_t *sign, size_t dim);
/* All stages h = 1, 2, ..., size / 2 of each `size` floats among `count`. */
static void butterflies(float *x, size_t size, size_t count);
/* The matrices of orders 12 and 20 over groups of `width`; `in` is not `out`. */
static void order12(const float *in, float *out, size_t width, int transpose);
static void order20(const float *in, float *out, size_t width, int transpose);
/* x times factor; `out` may be x. */
static void scaled(const float *x, float factor, size_t dim, float *out);

static void transform(const tq_rotation *rotation, float *x, float *scratch, int transpose) {
    size_t dim = rotation->dim;
    if (rotation->order == 0) {
        for (size_t block = (size_t)1 << 20; block; block >>= 1) {
            if (!(dim & block)) continue;
            butterflies(x, block, block);
            scaled(x, (float)(1.0 / sqrt((double)block)), block, x);
            x += block;
        }
        return;
    }
    size_t width = dim / rotation->order;
    butterflies(x, width, dim);
    if (rotation->order == 1) return;
    memcpy(scratch, x, dim * sizeof *x);
    (rotation->order == 12 ? order12 : order20)(scratch, x, width, transpose);
}

static void forward(const tq_rotation *rotation, float *x, float *scratch) {
    size_t dim = rotation->dim;
    for (size_t r = 0; r < rotation->rounds; r++) {
        signs(x, rotation->signs + r * dim, dim);
        transform(rotation, x, scratch, 0);
        if (!rotation->permutations || r + 1 == rotation->rounds) continue;
        const int32_t *from = rotation->permutations + r * dim;
        memcpy(scratch, x, dim * sizeof *x);
        for (size_t i = 0; i < dim; i++) x[i] = scratch[from[i]];
    }
    scaled(x, rotation->factor, dim, x);
}

static void inverse(const tq_rotation *rotation, float *x, float *scratch) {
    size_t dim = rotation->dim;
    for (size_t r = rotation->rounds; r-- > 0;) {
        if (rotation->permutations && r + 1 < rotation->rounds) {
            const int32_t *to = rotation->permutations + r * dim;
            memcpy(scratch, x, dim * sizeof *x);
            for (size_t i = 0; i < dim; i++) x[to[i]] = scratch[i];
        }
        transform(rotation, x, scratch, 1);
        signs(x, rotation->signs + r * dim, dim);
    }
    scaled(x, rotation->inverse_factor, dim, x);
}

static void forward_rows(const tq_rotation *rotation, float *x, size_t rows, float *scratch) {
    for (size_t row = 0; row < rows; row++) forward(rotation, x + row * TQ_PADDED(rotation->dim), scratch);
}

static void inverse_rows(const tq_rotation *rotation, float *x, size_t rows, float *scratch, const float *scales,
                         float *out) {
    size_t dim = rotation->dim;
    for (size_t row = 0; row < rows; row++, x += TQ_PADDED(dim), out += dim) {
        inverse(rotation, x, scratch);
        scaled(x, scales[row], dim, out);
    }
}

static void forward_into(const tq_rotation *rotation, const float *in, float *x, float *scratch, float *out) {
    if (in != x) memcpy(x, in, rotation->dim * sizeof *x);
    forward(rotation, x, scratch);
    if (out != x) memcpy(out, x, rotation->dim * sizeof *x);
}

static void inverse_into(const tq_rotation *rotation, const float *in, float *x, float *scratch, float *out) {
    if (in != x) memcpy(x, in, rotation->dim * sizeof *x);
    inverse(rotation, x, scratch);
    if (out != x) memcpy(out, x, rotation->dim * sizeof *x);
}

#endif
