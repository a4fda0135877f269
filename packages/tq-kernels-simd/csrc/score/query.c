#include "score/query.h"

#include <math.h>
#include <string.h>

#include "active.h"

/* P(x < N < infinity) of a standard Gaussian: rotated coordinates are close to one. */
static double tail(double x) { return 0.5 * erfc(x * 0.70710678118654752); }

/* Fit the positive levels m (of the parity of `middle`, at most `middle`) with the largest at `top`: the weighted squared error. */
static double fit(const float *positive, const double *weight, size_t half, int middle, int top, int *m, double *step) {
    double scale = top / (double)positive[half - 1], cross = 0, square = 0, error = 0;
    for (size_t i = 0; i < half; i++) {
        int odd = middle & 1;
        double wanted = (positive[i] * scale - odd) * 0.5;
        m[i] = !(wanted > 0) ? odd : wanted >= middle / 2 ? middle : 2 * (int)lrint(wanted) + odd;
        cross += weight[i] * (double)positive[i] * m[i];
        square += weight[i] * m[i] * m[i];
    }
    *step = square > 0 ? cross / square : 0;
    for (size_t i = 0; i < half; i++) {
        double off = (double)positive[i] - *step * m[i];
        error += weight[i] * off * off;
    }
    return error;
}

void tq_levels8_make(const tq_codebook *book, tq_levels8 *levels) {
    size_t half = (size_t)1 << (book->bits - 1);
    const float *positive = book->centroids + half;
    double weight[8], best = INFINITY;
    for (size_t i = 0; i < half; i++) {
        double low = i ? 0.5 * ((double)positive[i - 1] + (double)positive[i]) : 0;
        double high = i + 1 < half ? 0.5 * ((double)positive[i] + (double)positive[i + 1]) : INFINITY;
        weight[i] = tail(low) - tail(high) + 1e-12; /* the term keeps the fit defined for any codebook */
    }
    memset(levels, 0, sizeof *levels);
    levels->bits = book->bits;
    int limit = TQ_LIMIT8(book->bits);
    for (int middle = limit; middle >= 1 && middle >= limit - 1; middle--)
        for (int top = middle; top > 0 && 5 * top >= 3 * middle; top -= 2) {
            int m[8];
            double step, error = fit(positive, weight, half, middle, top, m, &step);
            if (!(error < best)) continue;
            best = error;
            levels->middle = middle;
            levels->step = (float)step;
            for (size_t c = 0; c < 16; c++) {
                size_t code = c % (2 * half);
                int signed_level = code >= half ? m[code - half] : -m[half - 1 - code];
                levels->level[c] = (uint8_t)((middle + signed_level) / 2);
            }
        }
}

static int method_of(const tq_codebook *book, int accuracy) {
    size_t bits = book->bits;
    if (bits == TQ_MIXED) return TQ_EXACT;
    if (book->window)
        return accuracy == TQ_INT8 && book->dim * bits % 8 == 0 && book->dim <= TQ_FINE_DIM ? TQ_INT8 : TQ_EXACT;
    if (accuracy == TQ_INT8) return bits <= 4 ? TQ_INT8 : TQ_INT16;
    return accuracy == TQ_INT16 && bits <= 5 ? TQ_INT16 : TQ_EXACT;
}

int tq_scans_in_integers(const tq_codebook *book) { return method_of(book, TQ_INT8) != TQ_EXACT; }

static size_t element_bytes(int method) { return method == TQ_INT8 ? 1 : method == TQ_INT16 ? 2 : 4; }

static size_t round_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

static size_t lanes_of(const tq_codebook *book) {
    size_t phases = TQ_PHASES(book->bits), lanes = tq_active.score.lanes;
    return lanes > 32 && 4 * round_up(book->dim, lanes * phases) > 5 * round_up(book->dim, 32 * phases) ? 32 : lanes;
}

static size_t padded_length(const tq_part *part) {
    if (part->method == TQ_EXACT) return TQ_PADDED(part->book.dim);
    if (part->method == TQ_INT16) return round_up(part->book.dim, 32);
    if (part->book.window) return round_up(part->book.dim, 64);
    return round_up(part->book.dim, TQ_PHASES(part->book.bits) * part->levels8.lanes);
}

/* Round to integers of at most `limit` in magnitude; returns the unit, 0 for a query of zeros. */
static double integers(const float *x, size_t dim, int limit, int32_t *out) {
    float largest = 0;
    for (size_t j = 0; j < dim; j++) largest = fabsf(x[j]) > largest ? fabsf(x[j]) : largest;
    double inverse = largest > 0 && isfinite(largest) ? limit / (double)largest : 0;
    for (size_t j = 0; j < dim; j++) out[j] = inverse > 0 ? (int32_t)lrint((double)x[j] * inverse) : 0;
    return inverse > 0 ? (double)largest / limit : 0;
}

/* Place one projected query in the order and type of the part's method. */
static void store(tq_part *part, size_t q, const float *x, double constant, int32_t *whole) {
    size_t dim = part->book.dim, bits = part->book.bits;
    double unit = 1;
    if (part->method == TQ_EXACT) {
        memcpy((float *)part->queries + q * part->length, x, dim * sizeof *x);
    } else if (part->method == TQ_INT16) {
        int16_t *to = (int16_t *)part->queries + q * part->length;
        unit = integers(x, dim, TQ_MAX16, whole) * ((double)part->book.centroids[((size_t)1 << bits) - 1] / TQ_MAX16);
        for (size_t j = 0; j < dim; j++) to[j] = (int16_t)whole[j];
    } else if (part->book.window) {
        int8_t *to = (int8_t *)part->queries + q * part->length;
        int32_t sum = 0;
        unit = integers(x, dim, 127, whole) * (double)part->levels8.step;
        for (size_t j = 0; j < dim; j++) {
            to[j] = (int8_t)whole[j];
            sum += whole[j];
        }
        part->sums[q] = sum;
    } else {
        int8_t *to = (int8_t *)part->queries + q * part->length;
        size_t phases = TQ_PHASES(bits), lanes = part->levels8.lanes;
        int64_t sum = 0;
        unit = integers(x, dim, 127, whole) * (double)part->levels8.step;
        for (size_t j = 0, i = 0; j < dim; i++) { /* i: the byte of the row that holds coordinates j.. */
            if (i == lanes) {
                to += phases * lanes;
                i = 0;
            }
            for (size_t p = 0; p < phases && j < dim; p++, j++) {
                to[p * lanes + i] = (int8_t)whole[j];
                sum += whole[j];
            }
        }
        part->sums[q] = (int32_t)sum; /* at most 2^20 * 127 */
    }
    part->factors[q] = constant * unit;
}

static void levels16(const tq_codebook *book, int16_t *out) {
    size_t count = (size_t)1 << book->bits;
    double largest = (double)book->centroids[count - 1];
    for (size_t c = 0; c < 256; c++) {
        double level = largest > 0 ? rint((double)book->centroids[c % count] * (TQ_MAX16 / largest)) : 0;
        out[c] = (int16_t)(level > -TQ_MAX16 ? level < TQ_MAX16 ? level : TQ_MAX16 : -TQ_MAX16);
    }
}

static void describe(tq_queries *made, const tq_plan *plan, int accuracy) {
    made->centroids[0] = -1;
    made->centroids[1] = 1;
    if (plan->book.bits) made->part[made->parts++].book = plan->book;
    if (plan->sketch.kind != TQ_NO_SKETCH) {
        tq_part *part = &made->part[made->parts++];
        part->book = (tq_codebook){.dim = plan->sketch.projections, .bits = 1, .centroids = made->centroids};
        part->offset = plan->stage_bytes;
    }
    made->is_sketch = !plan->book.bits;
    for (int i = 0; i < made->parts; i++) {
        tq_part *part = &made->part[i];
        part->method = method_of(&part->book, accuracy);
        if (part->method == TQ_INT8 && part->book.window) {
            const tq_planes *planes = part->book.planes; /* centroid ~ step / 2 * (2 level - middle) */
            part->levels8 = (tq_levels8){.bits = part->book.bits, .trellis = &part->book, .middle = 2 * planes->limit,
                                         .step = planes->step / 2};
        } else if (part->method == TQ_INT8) {
            tq_levels8_make(&part->book, &part->levels8);
            part->levels8.lanes = lanes_of(&part->book);
        }
        part->length = padded_length(part);
    }
}

static size_t aligned(size_t bytes) { return round_up(bytes, 64); }

/* The query in the domain of the sketch: turned by its rotation or multiplied by its matrix. */
static void project(const tq_sketch *sketch, const float *query, float factor, float *turned, float *spare, float *out) {
    for (size_t j = 0; j < sketch->dim; j++) turned[j] = query[j] * factor;
    if (sketch->kind == TQ_GAUSSIAN) {
        tq_active.sketch.project(sketch, turned, out);
        return;
    }
    tq_active.hadamard.forward(&sketch->rotation, turned, spare);
    memcpy(out, turned, sketch->dim * sizeof *out);
}

int tq_queries_make(tq_queries *made, const tq_plan *plan, const float *queries, size_t count, int accuracy) {
    memset(made, 0, sizeof *made);
    made->count = count;
    describe(made, plan, accuracy);
    size_t even = (count + 1) / 2 * 2, bytes = 0, dim = plan->book.bits ? plan->book.dim : plan->sketch.dim;
    for (int i = 0; i < made->parts; i++)
        bytes += aligned(even * made->part[i].length * element_bytes(made->part[i].method)) + aligned(even * sizeof(double)) +
                 aligned(even * sizeof(int32_t)) + aligned(256 * sizeof(int16_t));
    size_t widest = TQ_PADDED(dim > plan->sketch.projections ? dim : plan->sketch.projections);
    char *next = made->memory = tq_aligned(bytes + widest * 4 * sizeof(float));
    if (!next) return -1;
    memset(next, 0, bytes + widest * 4 * sizeof(float));
    float *turned = (float *)(next + bytes), *spare = turned + widest, *projected = spare + widest;
    int32_t *whole = (int32_t *)(projected + widest);
    for (int i = 0; i < made->parts; i++) {
        tq_part *part = &made->part[i];
        part->queries = next;
        part->factors = (double *)(next += aligned(even * part->length * element_bytes(part->method)));
        part->sums = (int32_t *)(next += aligned(even * sizeof(double)));
        part->levels16 = (int16_t *)(next += aligned(even * sizeof(int32_t)));
        next += aligned(256 * sizeof(int16_t));
        if (part->method == TQ_INT16) levels16(&part->book, part->levels16);
        int is_stage = i == 0 && !made->is_sketch;
        float root = made->is_sketch ? 1.0f : (float)(1.0 / sqrt((double)dim));
        for (size_t q = 0; q < count; q++) {
            const float *query = queries + q * dim;
            if (!is_stage) project(&plan->sketch, query, root, turned, spare, projected);
            store(part, q, is_stage ? query : projected, is_stage ? 1.0 / (double)dim : plan->sketch.constant, whole);
        }
    }
    return 0;
}

void tq_queries_free(tq_queries *made) { tq_aligned_free(made->memory); }
