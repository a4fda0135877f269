#include "hadamard/hadamard.h"

#include <string.h>

#include "baseline.h"
#include "hadamard/in_place.h"
#include "hadamard/paley.h"

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

static void order20(const float *in, float *out, size_t width, int transpose) {
    for (int row = 0; row < 20; row++)
        for (size_t i = 0; i < width; i++) {
            float total = 0;
            for (int column = 0; column < 20; column++) {
                int sign = transpose ? paley(column, row) : paley(row, column);
                float value = in[(size_t)column * width + i];
                total = column == 0 ? (sign > 0 ? value : -value) : signed_add(total, value, sign);
            }
            out[(size_t)row * width + i] = total;
        }
}

static void scaled(const float *x, float factor, size_t dim, float *out) {
    for (size_t j = 0; j < dim; j++) out[j] = x[j] * factor;
}

static void copy(const float *x, float *out, size_t count) { memcpy(out, x, count * sizeof *x); }

static void settle(void) {}

const tq_hadamard_slots tq_hadamard_baseline = {forward,      forward_rows, forward_into, inverse,
                                                inverse_rows, inverse_into, copy,         settle};
