#include "encode/run.h"

#include <math.h>
#include <string.h>

#include "args.h"

#define UNIT 4096.0
#define SQUARE 16777216.0

/* Scratch of one row; every part is aligned to 64 bytes. */
typedef struct scratch {
    float *row, *scaled, *spare;
    double *wide;
    int16_t *v;
    uint8_t *codes, *tried;
    int32_t *residual;
    void *memory;
} scratch;

static int scratch_make(scratch *of, size_t dim) {
    size_t padded = TQ_PADDED(dim);
    char *next = of->memory = tq_aligned(padded * (3 * 4 + 8 + 2 + 2 + 4));
    if (!next) return -1;
    memset(next, 0, padded * (3 * 4 + 8 + 2 + 2 + 4));
    of->wide = (double *)next;
    of->row = (float *)(next += padded * 8);
    of->scaled = (float *)(next += padded * 4);
    of->spare = (float *)(next += padded * 4);
    of->residual = (int32_t *)(next += padded * 4);
    of->v = (int16_t *)(next += padded * 4);
    of->codes = (uint8_t *)(next += padded * 2);
    of->tried = (uint8_t *)(next + padded);
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

/* The unit row in float32 and its norm in float64. */
static double normalised(const tq_encode_job *job, size_t row, scratch *of) {
    size_t dim = job->plan->book.dim;
    const tq_encode_slots *slots = &tq_active.encode;
    if (job->dtype == 'd') {
        const double *x = (const double *)job->x + row * dim;
        double norm = job->plan->strict ? 1.0 : slots->norm_f64(x, dim, of->wide);
        slots->unit_f64(x, norm > 0 ? 1.0 / norm : 1.0, dim, of->scaled);
        return norm;
    }
    const float *x = (const float *)job->x + row * dim;
    if (job->dtype == 'e') {
        slots->widen((const uint16_t *)job->x + row * dim, dim, of->row);
        x = of->row;
    }
    if (job->plan->strict) {
        memcpy(of->scaled, x, dim * sizeof *x);
        return 1.0;
    }
    double norm = slots->norm_f32(x, dim, of->wide);
    slots->unit_f32(x, norm > 0 ? 1.0 / norm : 1.0, dim, of->scaled);
    return norm;
}

/* Codes of the winning candidate in of->codes; only a strictly larger merit replaces the winner. */
static void best_codes(const tq_plan *plan, scratch *of, int64_t *dot, int64_t *square) {
    const tq_encode_slots *slots = &tq_active.encode;
    slots->quantize(&plan->book, of->scaled, of->v, 1.0f, of->codes, dot, square);
    if (plan->candidates <= 1) return;
    double best = (double)*dot * (double)*dot / (double)*square;
    for (size_t i = 1; i < plan->candidates; i++) {
        int64_t a, b;
        slots->quantize(&plan->book, of->scaled, of->v, plan->candidate[i], of->tried, &a, &b);
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

static void sketch_residual(const tq_plan *plan, scratch *of, double norm, double factor, uint8_t *out, float *gamma) {
    size_t dim = plan->book.dim;
    int64_t total = tq_active.sketch.residual(&plan->book, of->codes, of->v, factor, of->residual);
    double length = sqrt((double)total);
    double product = norm == 0 || length == 0 ? 0.0 : norm * length;
    *gamma = (float)(product / (UNIT * sqrt((double)dim)));
    tq_sketch_row(&plan->sketch, of->residual, of->row, of->spare, out);
}

int tq_encode_rows(void *context, size_t first, size_t last) {
    const tq_encode_job *job = context;
    const tq_plan *plan = job->plan;
    scratch of;
    if (scratch_make(&of, plan->book.dim)) return -1;
    int is_direct = plan->candidates <= 1 && plan->sketch.kind == TQ_NO_SKETCH; /* nobody needs v and the codes */
    for (size_t row = first; row < last; row++) {
        double norm = normalised(job, row, &of);
        tq_active.hadamard.forward(&plan->rotation, of.scaled, of.spare);
        int64_t dot, square;
        uint8_t *out = job->packed + row * plan->row_bytes;
        if (is_direct) {
            tq_active.encode.finish(&plan->book, of.scaled, of.v, of.codes, out, &dot, &square);
        } else {
            tq_active.encode.coordinates(of.scaled, plan->book.dim, of.v);
            best_codes(plan, &of, &dot, &square);
            tq_active.encode.pack(of.codes, plan->book.dim, plan->book.bits, out);
        }
        double factor = scale_factor(plan, dot, square);
        job->scales[row] = (float)(norm == 0 || factor == 0 ? 0.0 : norm * factor);
        if (plan->sketch.kind != TQ_NO_SKETCH)
            sketch_residual(plan, &of, norm, factor, out + plan->stage_bytes, job->gammas + row);
    }
    tq_aligned_free(of.memory);
    return 0;
}

void tq_sketch_row(const tq_sketch *sketch, const int32_t *residual, float *x, float *spare, uint8_t *out) {
    if (sketch->kind == TQ_GAUSSIAN) {
        tq_active.sketch.signs(sketch, residual, out);
        return;
    }
    for (size_t j = 0; j < sketch->dim; j++) x[j] = (float)residual[j];
    tq_active.hadamard.forward(&sketch->rotation, x, spare);
    memset(out, 0, (sketch->dim + 7) / 8);
    for (size_t j = 0; j < sketch->dim; j++)
        if (x[j] >= 0) out[j / 8] |= (uint8_t)(1u << j % 8);
}
