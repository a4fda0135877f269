#include "hadamard/hadamard.h"

#include <math.h>
#include <string.h>

#include "baseline.h"

static float flipped(float value, uint32_t sign) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    bits ^= sign;
    memcpy(&value, &bits, 4);
    return value;
}

static void signs(float *x, const uint32_t *sign, size_t dim) {
    for (size_t j = 0; j < dim; j++) x[j] = flipped(x[j], sign[j]);
}

static void butterflies(float *x, size_t size, size_t count) {
    for (size_t h = 1; h < size; h *= 2)
        for (size_t start = 0; start < count; start += 2 * h)
            for (size_t i = start; i < start + h; i++) {
                float a = x[i], b = x[i + h];
                x[i] = a + b;
                x[i + h] = a - b;
            }
}

/* Row r of the order-12 matrix: the three other groups and their signs in w (docs/format.md). */
static const signed char others12[4][3] = {{1, 2, 3}, {0, 2, 3}, {0, 1, 3}, {0, 1, 2}};
static const signed char signs12[2][4][3] = {
    {{1, 1, 1}, {-1, -1, 1}, {-1, 1, -1}, {-1, -1, 1}},
    {{-1, -1, -1}, {1, 1, -1}, {1, -1, 1}, {1, 1, -1}},
};

static float signed_add(float sum, float value, int sign) { return sign > 0 ? sum + value : sum - value; }

static void order12(const float *in, float *out, size_t width, int transpose) {
    for (size_t i = 0; i < width; i++) {
        float s[4];
        for (int g = 0; g < 4; g++) {
            const float *x = in + (size_t)(3 * g) * width + i;
            s[g] = (x[0] + x[width]) + x[2 * width];
        }
        for (int r = 0; r < 4; r++) {
            int of[4] = {0, 0, 0, 0};
            for (int k = 0; k < 3; k++) of[others12[r][k]] = signs12[transpose][r][k];
            float t = r == 0 || of[0] < 0 ? s[0] : -s[0];
            for (int g = 1; g < 4; g++) t = signed_add(t, s[g], g == r || of[g] < 0 ? 1 : -1);
            for (int j = 0; j < 3; j++) {
                float w = 0;
                for (int k = 0; k < 3; k++) {
                    float value = in[(size_t)(3 * others12[r][k] + j) * width + i];
                    int sign = signs12[transpose][r][k];
                    w = k == 0 ? (sign > 0 ? value : -value) : signed_add(w, value, sign);
                }
                out[(size_t)(3 * r + j) * width + i] = t + (w + w);
            }
        }
    }
}

/* Sign of the order-20 Paley matrix: +1 where the bit of column - row (mod 19) is a square. */
int tq_paley_sign(int row, int column) {
    static const uint32_t squares = 1u << 1 | 1u << 4 | 1u << 9 | 1u << 16 | 1u << 6 | 1u << 17 | 1u << 11 | 1u << 7 | 1u << 5;
    if (row == 0) return 1;
    if (column == 0) return -1;
    if (row == column) return 1;
    return squares >> ((column - row + 19) % 19) & 1 ? 1 : -1;
}

static void order20(const float *in, float *out, size_t width, int transpose) {
    for (int row = 0; row < 20; row++)
        for (size_t i = 0; i < width; i++) {
            float total = 0;
            for (int column = 0; column < 20; column++) {
                int sign = transpose ? tq_paley_sign(column, row) : tq_paley_sign(row, column);
                float value = in[(size_t)column * width + i];
                total = column == 0 ? (sign > 0 ? value : -value) : signed_add(total, value, sign);
            }
            out[(size_t)row * width + i] = total;
        }
}

static void transform(const tq_rotation *rotation, float *x, float *scratch, int transpose) {
    size_t dim = rotation->dim;
    if (rotation->order == 0) {
        size_t start = 0;
        for (size_t block = (size_t)1 << 20; block; block >>= 1) {
            if (!(dim & block)) continue;
            butterflies(x + start, block, block);
            float scale = (float)(1.0 / sqrt((double)block));
            for (size_t i = start; i < start + block; i++) x[i] *= scale;
            start += block;
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
    for (size_t j = 0; j < dim; j++) x[j] *= rotation->factor;
}

static void forward_rows(const tq_rotation *rotation, float *x, size_t rows, float *scratch) {
    for (size_t row = 0; row < rows; row++) forward(rotation, x + row * TQ_PADDED(rotation->dim), scratch);
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
    for (size_t j = 0; j < dim; j++) x[j] *= rotation->inverse_factor;
}

static void forward_into(const tq_rotation *rotation, const float *in, float *x, float *scratch, float *out) {
    memcpy(x, in, rotation->dim * sizeof *x);
    forward(rotation, x, scratch);
    memcpy(out, x, rotation->dim * sizeof *x);
}

static void inverse_into(const tq_rotation *rotation, const float *in, float *x, float *scratch, float *out) {
    memcpy(x, in, rotation->dim * sizeof *x);
    inverse(rotation, x, scratch);
    memcpy(out, x, rotation->dim * sizeof *x);
}

static void inverse_rows(const tq_rotation *rotation, float *x, size_t rows, float *scratch, const float *scales,
                         float *out) {
    size_t dim = rotation->dim;
    for (size_t row = 0; row < rows; row++, x += TQ_PADDED(dim), out += dim) {
        inverse(rotation, x, scratch);
        for (size_t j = 0; j < dim; j++) out[j] = x[j] * scales[row];
    }
}

static void copy(const float *x, float *out, size_t count) { memcpy(out, x, count * sizeof *x); }

static void settle(void) {}

const tq_hadamard_slots tq_hadamard_baseline = {forward,      forward_rows, forward_into, inverse,
                                                inverse_rows, inverse_into, copy,         settle};
