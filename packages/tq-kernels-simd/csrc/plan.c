#include "plan.h"

#include <string.h>

/* The header, in the order in which plan.py packs it. Offsets count from the start of the buffer, 0 = absent. */
typedef struct header {
    int64_t magic, bytes, dim, rounds, order, bits, rule, strict, candidates, sketch, projections;
    int64_t signs, permutations, thresholds, levels, centroids, magnitudes, candidate;
    int64_t matrix, sketch_signs, sketch_permutations;
    double factor, inverse_factor, sketch_factor, sketch_inverse, constant;
} header;

#define MAGIC INT64_C(0x3130304E4C505154) /* "TQPLN001" */
#define MAX_DIM (INT64_C(1) << 20)

static const int planes[9][3] = {{0}, {1}, {2}, {2, 1}, {4}, {4, 1}, {4, 2}, {4, 2, 1}, {8}};

size_t tq_row_bytes(size_t dim, size_t bits) {
    size_t total = 0;
    for (int i = 0; i < 3; i++) total += (dim * (size_t)planes[bits][i] + 7) / 8;
    return total;
}

typedef struct reader {
    const unsigned char *start;
    size_t bytes;
    const char *fault;
} reader;

/* The array of `count` elements at `offset`, or NULL with a fault when it does not lie inside the buffer, aligned. */
static const void *array(reader *in, int64_t offset, size_t count, size_t size) {
    if (offset <= 0 || (size_t)offset > in->bytes || count > (in->bytes - (size_t)offset) / size || offset % 8) {
        in->fault = "an array of the plan lies outside its buffer";
        return NULL;
    }
    return in->start + offset;
}

static void rotation(reader *in, tq_rotation *to, const header *h, int64_t signs, int64_t permutations) {
    to->dim = (size_t)h->dim;
    to->rounds = (size_t)h->rounds;
    to->order = (size_t)h->order;
    to->signs = array(in, signs, to->rounds * to->dim, 4);
    to->permutations = NULL;
    if (h->order != 0 || in->fault) return;
    to->permutations = array(in, permutations, (to->rounds - 1) * to->dim, 4);
    if (in->fault) return;
    for (size_t i = 0; i < (to->rounds - 1) * to->dim; i++)
        if (to->permutations[i] < 0 || (size_t)to->permutations[i] >= to->dim) in->fault = "a permutation points outside";
}

static int is_order(int64_t dim, int64_t order) {
    if (order == 0) return 1;
    if (order != 1 && order != 12 && order != 20) return 0;
    int64_t rest = dim % order ? 0 : dim / order;
    return rest > 0 && (rest & (rest - 1)) == 0;
}

static int in_range(int64_t value, int64_t low, int64_t high) { return low <= value && value <= high; }

static const char *numbers(const header *h, size_t bytes) {
    if (h->magic != MAGIC) return "the buffer is no plan of this version";
    if (h->bytes != (int64_t)bytes) return "the plan does not have the length that it states";
    if (!in_range(h->dim, 2, MAX_DIM) || !in_range(h->rounds, 0, 8) || !is_order(h->dim, h->order))
        return "dim, rounds or order of the plan are out of range";
    if (!in_range(h->bits, 0, 8) || !in_range(h->rule, TQ_PLAIN, TQ_UNBIASED) || !in_range(h->candidates, 0, 65))
        return "bits, rule or candidates of the plan are out of range";
    if (!in_range(h->sketch, TQ_NO_SKETCH, TQ_HADAMARD) || !in_range(h->projections, 0, MAX_DIM))
        return "the sketch of the plan is out of range";
    if (h->sketch == TQ_HADAMARD && h->projections != h->dim) return "a hadamard sketch has dim projections";
    return NULL;
}

static void codebook(reader *in, tq_codebook *to, const header *h) {
    size_t half = (size_t)1 << (h->bits - 1);
    to->dim = (size_t)h->dim;
    to->bits = (size_t)h->bits;
    to->thresholds = array(in, h->thresholds, half - 1, 2);
    to->levels = array(in, h->levels, half, 2);
    to->centroids = array(in, h->centroids, 2 * half, 4);
    to->magnitudes = array(in, h->magnitudes, 32768, 1);
    for (size_t i = 0; to->magnitudes && i < 32768; i++)
        if (to->magnitudes[i] >= half) in->fault = "a magnitude of the plan has no level";
}

const char *tq_plan_read(tq_plan *plan, const void *buffer, size_t bytes) {
    header h;
    memset(plan, 0, sizeof *plan);
    if (bytes < sizeof h || (uintptr_t)buffer % 8) return "the buffer is too short or unaligned for a plan";
    memcpy(&h, buffer, sizeof h);
    const char *fault = numbers(&h, bytes);
    if (fault) return fault;
    reader in = {buffer, bytes, NULL};
    plan->rule = (int)h.rule;
    plan->strict = h.strict != 0;
    plan->candidates = (size_t)h.candidates;
    if (h.rounds) rotation(&in, &plan->rotation, &h, h.signs, h.permutations);
    plan->rotation.dim = (size_t)h.dim;
    plan->rotation.factor = (float)h.factor;
    plan->rotation.inverse_factor = (float)h.inverse_factor;
    if (h.bits) codebook(&in, &plan->book, &h);
    if (h.candidates) plan->candidate = array(&in, h.candidate, (size_t)h.candidates, 4);
    plan->sketch.kind = (int)h.sketch;
    plan->sketch.dim = (size_t)h.dim;
    plan->sketch.projections = (size_t)h.projections;
    plan->sketch.constant = h.constant;
    if (h.sketch == TQ_GAUSSIAN) plan->sketch.matrix = array(&in, h.matrix, (size_t)(h.projections * h.dim), 2);
    if (h.sketch == TQ_HADAMARD) {
        if (!h.rounds) return "a hadamard sketch has rounds";
        rotation(&in, &plan->sketch.rotation, &h, h.sketch_signs, h.sketch_permutations);
        plan->sketch.rotation.factor = (float)h.sketch_factor;
        plan->sketch.rotation.inverse_factor = (float)h.sketch_inverse;
    }
    if (in.fault) return in.fault;
    plan->stage_bytes = h.bits ? tq_row_bytes((size_t)h.dim, (size_t)h.bits) : 0;
    plan->row_bytes = plan->stage_bytes + (h.sketch ? ((size_t)h.projections + 7) / 8 : 0);
    return NULL;
}
