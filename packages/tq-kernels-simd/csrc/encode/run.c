#include "encode/run.h"

#include <math.h>
#include <string.h>

#include "active.h"
#include "trellis/run.h"

#define UNIT 4096.0
#define SQUARE 16777216.0

/* Scratch of a batch: `scaled` holds its rows, TQ_PADDED(dim) floats each, `norms` their norms, the rest one row. Every part
 * is aligned to 64 bytes. */
typedef struct scratch {
    float *row, *scaled, *spare;
    double *wide, norms[8];
    int16_t *v;
    uint8_t *codes, *tried;
    int32_t *residual; /* of the rows whose sketch waits until there are enough, or all are there; likewise `narrow` */
    int16_t *narrow;
    uint8_t *waiting[TQ_SKETCH_ROWS];
    size_t held, stride;
    tq_trellis_scratch trellis; /* its memory NULL for other codebooks */
    void *memory;
} scratch;

/* `local` serves where it is large enough, as it is for a token that a cache appends. */
static int scratch_make(scratch *of, size_t dim, size_t batch, size_t sketched, char *local, size_t local_bytes) {
    size_t padded = TQ_PADDED(dim), bytes = padded * ((batch + 2) * 4 + 8 + 2 + 2 + sketched * (4 + 2));
    of->memory = bytes <= local_bytes ? NULL : tq_aligned(bytes);
    char *next = bytes <= local_bytes ? local : of->memory;
    if (!next) return -1;
    of->wide = (double *)next;
    of->row = (float *)(next += padded * 8);
    of->spare = (float *)(next += padded * 4);
    of->residual = (int32_t *)(next += padded * 4);
    of->narrow = (int16_t *)(next += padded * sketched * 4);
    of->held = 0;
    of->stride = padded;
    of->scaled = (float *)(next += padded * sketched * 2);
    of->v = (int16_t *)(next += padded * batch * 4);
    of->codes = (uint8_t *)(next += padded * 2);
    of->tried = (uint8_t *)(next + padded);
    for (size_t row = 0; row < batch; row++) /* what the kernels read beyond a row and ignore must still be numbers */
        memset(of->scaled + row * padded + dim, 0, (padded - dim) * sizeof *of->scaled);
    memset(of->v + dim, 0, (padded - dim) * sizeof *of->v);
    memset(of->row + dim, 0, (padded - dim) * sizeof *of->row);
    return 0;
}

/* s / norm by the rule, as docs/format.md, section 4; 0 for a zero row, which alone has dot 0, except under plain. */
static double scale_factor(const tq_plan *plan, int64_t dot, int64_t square) {
    double a = (double)dot, b = (double)square, full = (double)plan->book.dim * SQUARE;
    if (plan->rule == TQ_PLAIN) return 1.0;
    if (!(a > 0)) return 0.0;
    if (plan->rule == TQ_MSE) return a / b;
    return plan->rule == TQ_NORM ? sqrt(full / b) : full / a;
}

/* Norms and float32 unit rows of a batch. All norms come before the first division by one, which would wait for it. */
static void normalise(const tq_encode_job *job, size_t start, size_t rows, scratch *of) {
    size_t dim = job->plan->book.dim, padded = TQ_PADDED(dim);
    const tq_encode_slots *slots = &tq_active.encode;
    int strict = job->plan->strict;
    const double *wide = (const double *)job->x + start * dim;
    const float *x = (const float *)job->x + start * dim;
    size_t stride = dim;
    if (job->dtype == 'e') {
        for (size_t r = 0; r < rows; r++)
            slots->widen((const uint16_t *)job->x + (start + r) * dim, dim, of->scaled + r * padded);
        x = of->scaled;
        stride = padded;
    }
    for (size_t r = 0; r < rows; r++) {
        if (strict) of->norms[r] = 1.0;
        else if (job->dtype == 'd') of->norms[r] = slots->norm_f64(wide + r * dim, dim, of->wide);
        else of->norms[r] = slots->norm_f32(x + r * stride, dim, of->wide);
    }
    for (size_t r = 0; r < rows; r++) {
        float *unit = of->scaled + r * padded;
        double inverse = of->norms[r] > 0 ? 1.0 / of->norms[r] : 1.0;
        if (job->dtype == 'd') slots->unit_f64(wide + r * dim, inverse, dim, unit);
        else if (!strict) slots->unit_f32(x + r * stride, inverse, dim, unit);
        else if (x != of->scaled) memcpy(unit, x + r * dim, dim * sizeof *unit);
    }
}

/* Codes of the winning candidate in of->codes; only a strictly larger merit replaces the winner. */
static void best_codes(const tq_plan *plan, scratch *of, const float *scaled, int64_t *dot, int64_t *square) {
    int is_mixed = plan->book.bits == TQ_MIXED;
    void (*quantize)(const tq_codebook *, const float *, const int16_t *, float, uint8_t *, int64_t *, int64_t *) =
        is_mixed ? tq_active.mixed.quantize : tq_active.encode.quantize;
    quantize(&plan->book, scaled, of->v, 1.0f, of->codes, dot, square);
    if (plan->candidates <= 1) return;
    double best = (double)*dot * (double)*dot / (double)*square;
    for (size_t i = 1; i < plan->candidates; i++) {
        int64_t a, b;
        quantize(&plan->book, scaled, of->v, plan->candidate[i], of->tried, &a, &b);
        double merit = (double)a * (double)a / (double)b;
        if (!(merit > best)) continue;
        uint8_t *winner = of->tried;
        of->tried = of->codes;
        of->codes = winner;
        best = merit;
        *dot = a;
        *square = b;
    }
}

/* Sketches the rows that wait. */
static void sketch_waiting(const tq_plan *plan, scratch *of) {
    if (of->held) tq_sketch_rows(&plan->sketch, of->residual, of->stride, of->held, of->row, of->spare, of->narrow, of->waiting);
    of->held = 0;
}

static void sketch_residual(const tq_plan *plan, scratch *of, double norm, double factor, uint8_t *out, float *gamma) {
    size_t dim = plan->book.dim;
    int64_t total = tq_active.sketch.residual(&plan->book, of->codes, of->v, factor, of->residual + of->held * of->stride);
    double length = sqrt((double)total);
    *gamma = (float)(norm * length / (UNIT * sqrt((double)dim)));
    of->waiting[of->held++] = out;
    if (of->held == TQ_SKETCH_ROWS) sketch_waiting(plan, of);
}

/* Codes, scale and residual norm of one row from its rotated coordinates. */
static void finish(const tq_encode_job *job, size_t row, scratch *of, float *z, double norm) {
    const tq_plan *plan = job->plan;
    const tq_encode_slots *slots = &tq_active.encode;
    uint8_t *out = job->packed + row * plan->row_bytes;
    int64_t dot, square = 0;
    if (plan->book.window) {
        slots->coordinates(z, plan->book.dim, of->v);
        tq_trellis_row(plan, z, of->v, &of->trellis, out, &dot, &square);
    } else if (plan->book.bits == TQ_MIXED) {
        slots->coordinates(z, plan->book.dim, of->v);
        best_codes(plan, of, z, &dot, &square);
        tq_active.mixed.pack(&plan->book, of->codes, out);
    } else if (plan->candidates <= 1 && plan->sketch.kind == TQ_NO_SKETCH) { /* nobody needs v and the codes */
        int squared = plan->rule == TQ_MSE || plan->rule == TQ_NORM;
        slots->finish(&plan->book, z, of->v, of->codes, out, &dot, squared ? &square : NULL);
    } else {
        slots->coordinates(z, plan->book.dim, of->v);
        best_codes(plan, of, z, &dot, &square);
        slots->pack(of->codes, plan->book.dim, plan->book.bits, out);
    }
    double factor = scale_factor(plan, dot, square);
    job->scales[row] = (float)(norm * factor); /* no number where the norm overflowed: the caller refuses the row */
    if (plan->sketch.kind != TQ_NO_SKETCH)
        sketch_residual(plan, of, norm, factor, out + plan->stage_bytes, job->gammas + row);
}

int tq_encode_rows(void *context, size_t first, size_t last) {
    const tq_encode_job *job = context;
    const tq_plan *plan = job->plan;
    size_t padded = TQ_PADDED(plan->book.dim), batch = TQ_BATCH(padded);
    size_t row_bytes = plan->book.dim * (job->dtype == 'd' ? 8 : job->dtype == 'f' ? 4 : 2);
    if (batch > last - first) batch = last > first ? last - first : 1;
    scratch of;
    _Alignas(64) char local[8192];
    size_t sketched = plan->sketch.kind == TQ_NO_SKETCH ? 0 : last - first < TQ_SKETCH_ROWS ? last - first : TQ_SKETCH_ROWS;
    if (scratch_make(&of, plan->book.dim, batch, sketched, local, sizeof local)) return -1;
    of.trellis.memory = NULL;
    if (plan->book.window && tq_trellis_scratch_make(&of.trellis, &plan->book)) {
        tq_aligned_free(of.memory);
        return -1;
    }
    for (size_t start = first; start < last; start += batch) {
        size_t rows = last - start < batch ? last - start : batch;
        const char *next = start + batch < last ? (const char *)job->x + (start + batch) * row_bytes : NULL;
        normalise(job, start, rows, &of);
        if (next) tq_ahead(next, batch * row_bytes / 2);
        tq_active.hadamard.forward_rows(&plan->rotation, of.scaled, rows, of.spare);
        if (next) tq_ahead(next + batch * row_bytes / 2, batch * row_bytes / 2);
        for (size_t r = 0; r < rows; r++) finish(job, start + r, &of, of.scaled + r * padded, of.norms[r]);
    }
    sketch_waiting(plan, &of);
    tq_trellis_scratch_free(&of.trellis);
    tq_aligned_free(of.memory);
    return 0;
}

void tq_sketch_rows(const tq_sketch *sketch, const int32_t *residuals, size_t stride, size_t rows, float *x, float *spare,
                    int16_t *narrow, uint8_t *const *out) {
    if (sketch->kind == TQ_GAUSSIAN) {
        tq_active.sketch.signs_of_rows(sketch, residuals, stride, rows, narrow, out);
        return;
    }
    for (size_t r = 0; r < rows; r++) {
        for (size_t j = 0; j < sketch->dim; j++) x[j] = (float)residuals[r * stride + j];
        tq_active.hadamard.forward(&sketch->rotation, x, spare);
        memset(out[r], 0, (sketch->dim + 7) / 8);
        for (size_t j = 0; j < sketch->dim; j++)
            if (x[j] >= 0) out[r][j / 8] |= (uint8_t)(1u << j % 8);
    }
}
