#include "encode/encode.h"

#include <math.h>
#include <string.h>

#include "baseline.h"
#include "encode/steps.h"

static void widen(const uint16_t *x, size_t dim, float *out) {
    for (size_t j = 0; j < dim; j++) {
        uint16_t half;
        memcpy(&half, x + j, 2);
        uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 31, mantissa = half & 1023;
        if (exponent == 0) { /* zero or subnormal: mantissa * 2^-24 is exact */
            float value = (float)mantissa * 0x1p-24f;
            out[j] = sign ? -value : value;
            continue;
        }
        uint32_t bits = sign | (exponent == 31 ? 0x7F800000 : (exponent + 112) << 23) | mantissa << 13;
        memcpy(out + j, &bits, 4);
    }
}

static double halving_tree(double *squares, size_t count) {
    while (count > 1) {
        size_t half = (count + 1) / 2;
        for (size_t i = 0; i < count - half; i++) squares[i] += squares[i + half];
        count = half;
    }
    return sqrt(squares[0]);
}

static double norm_f32(const float *x, size_t dim, double *scratch) {
    for (size_t j = 0; j < dim; j++) scratch[j] = (double)x[j] * (double)x[j];
    return halving_tree(scratch, dim);
}

static double norm_f64(const double *x, size_t dim, double *scratch) {
    for (size_t j = 0; j < dim; j++) scratch[j] = x[j] * x[j];
    return halving_tree(scratch, dim);
}

static void unit_f32(const float *x, double inverse, size_t dim, float *out) {
    for (size_t j = 0; j < dim; j++) out[j] = (float)((double)x[j] * inverse);
}

static void unit_f64(const double *x, double inverse, size_t dim, float *out) {
    for (size_t j = 0; j < dim; j++) out[j] = (float)(x[j] * inverse);
}

static int16_t clamped(float value) {
    float rounded = rintf(value);
    if (!(rounded > -32767.0f)) return -32767; /* also what is no number, from infinite rows under a strict plan */
    return (int16_t)(rounded > 32767.0f ? 32767 : (int)rounded);
}

static void coordinates(float *z, size_t dim, int16_t *v) {
    for (size_t j = 0; j < dim; j++) {
        z[j] *= 4096.0f;
        v[j] = clamped(z[j]);
    }
}

static void quantize(const tq_codebook *book, const float *scaled, const int16_t *v, float t, uint8_t *codes,
                     int64_t *dot, int64_t *square) {
    int middle = 1 << (book->bits - 1);
    int64_t a = 0, b = 0;
    for (size_t j = 0; j < book->dim; j++) {
        int value = t == 1.0f ? v[j] : clamped(t * scaled[j]);
        int m = book->magnitudes[value < 0 ? -value : value];
        int level = value < 0 ? -book->levels[m] : book->levels[m];
        codes[j] = (uint8_t)(value < 0 ? middle - 1 - m : middle + m);
        a += (int64_t)v[j] * level;
        b += (int64_t)level * level;
    }
    *dot = a;
    *square = b;
}

static size_t pack_plane(const uint8_t *codes, size_t dim, int shift, int width, uint8_t *out) {
    return pack_plane_from(0, codes, dim, shift, width, out);
}

const tq_encode_slots tq_encode_baseline = {widen,    norm_f32, norm_f64, unit_f32, unit_f64, coordinates,
                                            quantize, pack,     finish};
