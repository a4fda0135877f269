/* Slot against slot: the level under test and the baseline see the same row, and every result must have the same bytes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "active.h"
#include "select.h"
#include "standalone/cases.h"

/* What one level computes of a row, all parts aligned and with room as the contracts say. */
typedef struct results {
    float *narrow, *z, *spare, *centroids;
    double *wide, norm;
    int16_t *v;
    uint8_t *codes, *packed, *unpacked, *bits;
    int32_t *residual;
    int64_t dot, square, total;
    double product;
    float product_and_size[2]; /* the second is the sum of magnitudes, of which the first may be off by rounding */
} results;

static results results_of(const tq_plan *plan) {
    size_t padded = TQ_PADDED(plan->book.dim);
    return (results){
        .narrow = tq_room(4 * padded), .z = tq_room(4 * padded), .spare = tq_room(4 * padded), .centroids = tq_room(4 * padded),
        .wide = tq_room(8 * padded), .v = tq_room(2 * padded), .codes = tq_room(padded), .unpacked = tq_room(padded),
        .packed = tq_guarded(plan->stage_bytes), .residual = tq_room(4 * padded),
        .bits = tq_guarded((plan->sketch.projections + 7) / 8),
    };
}

static void free_results(results *of) {
    void *parts[] = {of->narrow, of->z, of->spare, of->centroids, of->wide, of->v, of->codes, of->unpacked, of->residual};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) tq_aligned_free(parts[i]);
}

static void start(const tq_table *table, const tq_plan *plan, char dtype, const void *x, results *of) {
    size_t dim = plan->book.dim;
    if (dtype == 'd') {
        of->norm = table->encode.norm_f64(x, dim, of->wide);
        table->encode.unit_f64(x, of->norm > 0 ? 1 / of->norm : 1, dim, of->z);
    } else {
        const float *row = x;
        if (dtype == 'e') {
            table->encode.widen(x, dim, of->narrow);
            row = of->narrow;
        }
        of->norm = table->encode.norm_f32(row, dim, of->wide);
        table->encode.unit_f32(row, of->norm > 0 ? 1 / of->norm : 1, dim, of->z);
    }
    table->hadamard.forward(&plan->rotation, of->z, of->spare);
    table->encode.coordinates(of->z, dim, of->v);
}

static void finish(const tq_table *table, const tq_plan *plan, float t, const float *query, results *of) {
    size_t dim = plan->book.dim, bits = plan->book.bits;
    table->encode.quantize(&plan->book, of->z, of->v, t, of->codes, &of->dot, &of->square);
    table->encode.pack(of->codes, dim, bits, of->packed);
    table->decode.unpack(of->packed, dim, bits, of->unpacked);
    table->decode.centroids(&plan->book, of->packed, (uint8_t *)of->spare, of->centroids);
    size_t padded = TQ_PADDED(dim);
    memset(of->centroids + dim, 0, (padded - dim) * sizeof *of->centroids);
    of->product = 0.5;
    if (padded <= 4096) table->score.dots32(of->centroids, query, padded, 1, padded, &of->product);
    of->product_and_size[0] = (float)of->product;
    of->product_and_size[1] = 0;
    for (size_t j = 0; j < dim; j++) of->product_and_size[1] += fabsf(of->centroids[j] * query[j]);
    table->hadamard.inverse(&plan->rotation, of->centroids, of->spare);
    of->total = table->sketch.residual(&plan->book, of->codes, of->v, 0.75, of->residual);
    if (plan->sketch.kind == TQ_GAUSSIAN) table->sketch.signs(&plan->sketch, of->residual, of->bits);
}

static void compare(const tq_plan *plan, const results *got, const results *expected) {
    size_t dim = plan->book.dim;
    tq_same("norm", &got->norm, &expected->norm, sizeof got->norm);
    tq_same("scaled coordinates", got->z, expected->z, 4 * dim);
    tq_same("integer coordinates", got->v, expected->v, 2 * dim);
    tq_same("codes", got->codes, expected->codes, dim);
    tq_same("<v, Q>", &got->dot, &expected->dot, sizeof got->dot);
    tq_same("<Q, Q>", &got->square, &expected->square, sizeof got->square);
    tq_same("packed row", got->packed, expected->packed, plan->stage_bytes);
    tq_same("codes unpacked against codes", got->unpacked, expected->codes, dim);
    tq_same("centroids rotated back", got->centroids, expected->centroids, 4 * dim);
    tq_near("product of floats", got->product_and_size, expected->product_and_size, 2, 1e-6);
    tq_same("residual", got->residual, expected->residual, 4 * dim);
    tq_same("residual's length", &got->total, &expected->total, sizeof got->total);
    if (plan->sketch.kind == TQ_GAUSSIAN) tq_same("sketch", got->bits, expected->bits, (plan->sketch.projections + 7) / 8);
}

/* Every int16 coordinate through `quantize`, every half-way value and some infinite ones through `coordinates`, every half
 * that is a number through `widen`: the ties and clamps that rows of samples may miss. */
static void sweep(const tq_table *table, const tq_table *floor, const tq_plan *plan, results *got, results *expected) {
    size_t dim = plan->book.dim;
    uint16_t *halves = tq_room(2 * TQ_PADDED(dim));
    for (int first = -32768; first < 32768; first += (int)dim) {
        for (size_t j = 0; j < dim; j++) {
            int value = first + (int)j < 32768 ? first + (int)j : 0;
            got->v[j] = expected->v[j] = (int16_t)(value < -32767 ? -32767 : value);
            got->z[j] = expected->z[j] = (float)got->v[j]; /* as `coordinates` leaves them: either may be read */
            halves[j] = (uint16_t)((value & 0x7C00) == 0x7C00 && value & 0x3FF ? 0 : value);
        }
        table->encode.quantize(&plan->book, got->z, got->v, 1.0f, got->codes, &got->dot, &got->square);
        floor->encode.quantize(&plan->book, expected->z, expected->v, 1.0f, expected->codes, &expected->dot, &expected->square);
        tq_same("codes of a sweep", got->codes, expected->codes, dim);
        tq_same("<v, Q> of a sweep", &got->dot, &expected->dot, sizeof got->dot);
        tq_same("<Q, Q> of a sweep", &got->square, &expected->square, sizeof got->square);
        table->encode.widen(halves, dim, got->narrow);
        floor->encode.widen(halves, dim, expected->narrow);
        tq_same("widened halves", got->narrow, expected->narrow, 4 * dim);
        for (size_t j = 0; j < dim; j++) {
            float value = ((float)(first + (int)j) * 1.25f + 0.5f) / 4096.0f;
            got->z[j] = expected->z[j] = j % 61 == 60 ? value * 1e36f * 100.0f : value;
        }
        table->encode.coordinates(got->z, dim, got->v);
        floor->encode.coordinates(expected->z, dim, expected->v);
        tq_same("integer coordinates of a sweep", got->v, expected->v, 2 * dim);
        memcpy(got->narrow, expected->z, 4 * dim); /* kept for the candidates: `finish` changes z and v */
        for (size_t j = 0; j < dim; j++) got->z[j] = expected->z[j] = expected->z[j] / 4096.0f;
        table->encode.finish(&plan->book, got->z, got->v, got->codes, got->packed, &got->dot, &got->square);
        floor->encode.finish(&plan->book, expected->z, expected->v, expected->codes, expected->packed, &expected->dot,
                             &expected->square);
        tq_same("packed row of a sweep", got->packed, expected->packed, plan->stage_bytes);
        tq_same("<v, Q> of a finished sweep", &got->dot, &expected->dot, sizeof got->dot);
        tq_same("<Q, Q> of a finished sweep", &got->square, &expected->square, sizeof got->square);
        memcpy(got->z, got->narrow, 4 * dim);
        memcpy(got->v, expected->v, 2 * dim);
        memcpy(expected->z, got->narrow, 4 * dim);
        for (size_t i = 1; i < plan->candidates; i++) {
            table->encode.quantize(&plan->book, got->z, got->v, plan->candidate[i], got->codes, &got->dot, &got->square);
            floor->encode.quantize(&plan->book, expected->z, expected->v, plan->candidate[i], expected->codes,
                                   &expected->dot, &expected->square);
            tq_same("candidate's codes of a sweep", got->codes, expected->codes, dim);
            tq_same("candidate's <v, Q> of a sweep", &got->dot, &expected->dot, sizeof got->dot);
        }
    }
    tq_aligned_free(halves);
}

void tq_compare_slots(const tq_table *table, const tq_plan *plan, char dtype, const void *x, size_t rows) {
    tq_table floor;
    tq_select("baseline", &floor);
    size_t dim = plan->book.dim, row_size = dim * (dtype == 'd' ? 8 : dtype == 'f' ? 4 : 2);
    results got = results_of(plan), expected = results_of(plan);
    float *query = tq_room(4 * TQ_PADDED(dim));
    memset(query, 0, 4 * TQ_PADDED(dim));
    for (size_t j = 0; j < dim; j++) query[j] = (float)((j * 37 % 101) / 50.0 - 1.0);
    for (size_t r = 0; r < rows; r++) {
        const char *row = (const char *)x + r * row_size;
        for (size_t i = 0; i < plan->candidates; i++) {
            start(table, plan, dtype, row, &got);
            start(&floor, plan, dtype, row, &expected);
            finish(table, plan, plan->candidate[i], query, &got);
            finish(&floor, plan, plan->candidate[i], query, &expected);
            compare(plan, &got, &expected);
        }
    }
    sweep(table, &floor, plan, &got, &expected);
    free_results(&got);
    free_results(&expected);
    tq_aligned_free(query);
}
