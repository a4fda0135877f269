#include "encode/encode.h"

#include <math.h>
#include <string.h>

#include "baseline.h"

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
    size_t bytes = (dim * (size_t)width + 7) / 8;
    unsigned mask = (1u << width) - 1;
    memset(out, 0, bytes);
    for (size_t j = 0; j < dim; j++) {
        size_t bit = j * (size_t)width;
        out[bit / 8] |= (uint8_t)(((unsigned)codes[j] >> shift & mask) << bit % 8);
    }
    return bytes;
}

static void pack(const uint8_t *codes, size_t dim, size_t bits, uint8_t *out) {
    int shift = 0;
    for (int width = 8; width; width /= 2) { /* binary digits of bits, highest first: 3 = 2 + 1, 7 = 4 + 2 + 1 */
        if (!(bits & (size_t)width)) continue;
        out += pack_plane(codes, dim, shift, width, out);
        shift += width;
    }
}

static void finish(const tq_codebook *book, float *z, int16_t *v, uint8_t *codes, uint8_t *out, int64_t *dot,
                   int64_t *square) {
    int64_t unwanted;
    coordinates(z, book->dim, v);
    quantize(book, z, v, 1.0f, codes, dot, square ? square : &unwanted);
    pack(codes, book->dim, book->bits, out);
}

const tq_encode_slots tq_encode_baseline = {widen,    norm_f32, norm_f64, unit_f32, unit_f64, coordinates,
                                            quantize, pack,     finish};
