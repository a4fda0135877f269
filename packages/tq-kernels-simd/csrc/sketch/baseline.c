#include "sketch/sketch.h"

#include <math.h>
#include <string.h>

#include "baseline.h"

static int64_t residual(const tq_codebook *book, const uint8_t *codes, const int16_t *v, double factor, int32_t *r) {
    int middle = 1 << (book->bits - 1);
    int64_t total = 0;
    for (size_t j = 0; j < book->dim; j++) {
        int level = codes[j] >= middle ? book->levels[codes[j] - middle] : -book->levels[middle - 1 - codes[j]];
        r[j] = v[j] - (int32_t)rint(factor * (double)level);
        total += (int64_t)r[j] * r[j];
    }
    return total;
}

static void signs(const tq_sketch *sketch, const int32_t *r, uint8_t *out) {
    memset(out, 0, (sketch->projections + 7) / 8);
    for (size_t i = 0; i < sketch->projections; i++) {
        const int16_t *row = sketch->matrix + i * sketch->dim;
        int64_t sum = 0;
        for (size_t j = 0; j < sketch->dim; j++) sum += (int64_t)row[j] * r[j];
        if (sum >= 0) out[i / 8] |= (uint8_t)(1u << i % 8);
    }
}

static void signs_of_rows(const tq_sketch *sketch, const int32_t *r, size_t stride, size_t rows, int16_t *narrow,
                          uint8_t *const *out) {
    (void)narrow;
    for (size_t i = 0; i < rows; i++) signs(sketch, r + i * stride, out[i]);
}

static void project(const tq_sketch *sketch, const float *x, float *out) {
    for (size_t i = 0; i < sketch->projections; i++) {
        const int16_t *row = sketch->matrix + i * sketch->dim;
        double sum = 0;
        for (size_t j = 0; j < sketch->dim; j++) sum += (double)row[j] * (double)x[j];
        out[i] = (float)(sum * (1.0 / 2048.0));
    }
}

const tq_sketch_slots tq_sketch_baseline = {residual, signs, signs_of_rows, project};
