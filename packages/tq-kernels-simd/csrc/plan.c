#include "plan.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The header, in the order in which plan.py packs it. Offsets count from the start of the buffer, 0 = absent. */
typedef struct header {
    int64_t magic, bytes, dim, rounds, order, bits, rule, strict, candidates, sketch, projections;
    int64_t signs, permutations, thresholds, levels, centroids, magnitudes, candidate;
    int64_t matrix, sketch_signs, sketch_permutations, window;
    double factor, inverse_factor, sketch_factor, sketch_inverse, constant;
} header;

#define MAGIC INT64_C(0x3230304E4C505154) /* "TQPLN002" */
#define MAX_DIM (INT64_C(1) << 20)

static const int planes[9][3] = {{0}, {1}, {2}, {2, 1}, {4}, {4, 1}, {4, 2}, {4, 2, 1}, {8}};

size_t tq_row_bytes(size_t dim, size_t bits) {
    size_t total = 0;
    for (int i = 0; i < 3; i++) total += (dim * (size_t)planes[bits][i] + 7) / 8;
    return total;
}

static uint32_t width_of(uint32_t values) { /* the fewest bits that hold so many */
    uint32_t bits = 0;
    while (UINT32_C(1) << bits < values) bits++;
    return bits;
}

size_t tq_mixed_bytes(const tq_codebook *book) {
    const tq_mixed *it = &book->mixed;
    uint32_t tail = 1;
    for (size_t p = 0; p < book->dim % it->places; p++) tail *= it->radix[p];
    return (book->dim / it->places * it->word_bits + width_of(tail) + 7) / 8;
}

size_t tq_book_bytes(const tq_codebook *book) {
    if (book->bits == TQ_MIXED) return tq_mixed_bytes(book);
    return book->window ? (book->dim * book->bits + 7) / 8 : tq_row_bytes(book->dim, book->bits);
}

typedef struct reader {
    const unsigned char *start;
    size_t bytes;
    const char *fault;
} reader;

/* The array of `count` elements at `offset`, or NULL with a fault when it does not lie inside the buffer, aligned. */
static const void *array(reader *in, int64_t offset, size_t count, size_t size) {
    if (offset < (int64_t)sizeof(header) || (size_t)offset > in->bytes || count > (in->bytes - (size_t)offset) / size || offset % 8) {
        in->fault = "an array of the plan lies outside its buffer";
        return NULL;
    }
    return in->start + offset;
}

static int in_range(int64_t value, int64_t low, int64_t high) { return low <= value && value <= high; }

static int is_float(double value) { return fabs(value) <= FLT_MAX; } /* false for NaN */

/* What is wrong with the permutations, each of which must hold every index once; NULL when nothing is. */
static const char *permuted(const tq_rotation *it) {
    unsigned char *seen = malloc(it->dim);
    if (!seen) return "no memory to check the permutations of the plan";
    const char *fault = NULL;
    for (size_t i = 0; i < (it->rounds - 1) * it->dim && !fault; i++) {
        if (i % it->dim == 0) memset(seen, 0, it->dim);
        if (!in_range(it->permutations[i], 0, (int64_t)it->dim - 1)) fault = "a permutation of the plan points outside";
        else if (seen[it->permutations[i]]++) fault = "a permutation of the plan holds an index twice";
    }
    free(seen);
    return fault;
}

static void rotation(reader *in, tq_rotation *to, const header *h, int64_t signs, int64_t permutations) {
    to->dim = (size_t)h->dim;
    to->rounds = (size_t)h->rounds;
    to->order = (size_t)h->order;
    to->signs = array(in, signs, to->rounds * to->dim, 4);
    to->permutations = NULL;
    for (size_t i = 0; !in->fault && i < to->rounds * to->dim; i++)
        if (to->signs[i] & ~UINT32_C(0x80000000)) in->fault = "a sign of the plan is more than a sign";
    if (h->order != 0 || in->fault) return;
    to->permutations = array(in, permutations, (to->rounds - 1) * to->dim, 4);
    if (!in->fault) in->fault = permuted(to);
}

static int is_order(int64_t dim, int64_t order) {
    if (order == 0) return 1;
    if (order != 1 && order != 12 && order != 20) return 0;
    int64_t rest = dim % order ? 0 : dim / order;
    return rest > 0 && (rest & (rest - 1)) == 0;
}

static const char *numbers(const header *h, size_t bytes) {
    if (h->magic != MAGIC) return "the buffer is no plan of this version";
    if (h->bytes != (int64_t)bytes) return "the plan does not have the length that it states";
    if (!in_range(h->dim, 2, MAX_DIM) || !in_range(h->rounds, 0, 8) || !is_order(h->dim, h->order))
        return "dim, rounds or order of the plan are out of range";
    if (!in_range(h->bits, 0, TQ_MIXED) || !in_range(h->rule, TQ_PLAIN, TQ_UNBIASED) || !in_range(h->candidates, 0, 65) ||
        !in_range(h->strict, 0, 1))
        return "bits, rule, strict or candidates of the plan are out of range";
    if (h->window && (!in_range(h->window, h->bits + 3, 12) || !in_range(h->bits, 1, 4) || h->dim > 8192 ||
                      h->dim * h->bits < 4 * h->window || h->sketch != TQ_NO_SKETCH))
        return "the trellis of the plan is out of range";
    if (!in_range(h->sketch, TQ_NO_SKETCH, TQ_HADAMARD) || !in_range(h->projections, 0, MAX_DIM))
        return "the sketch of the plan is out of range";
    if (h->sketch != TQ_NO_SKETCH && !h->projections) return "a sketch has projections";
    if (h->sketch == TQ_HADAMARD && h->projections != h->dim) return "a hadamard sketch has dim projections";
    if (!is_float(h->factor) || !is_float(h->inverse_factor) || !is_float(h->sketch_factor) ||
        !is_float(h->sketch_inverse) || !is_float(h->constant))
        return "a factor of the plan is no finite float32";
    return NULL;
}

/* What is wrong with the numbers of a codebook. Levels of the instruction sets compare with thresholds or look magnitudes
 * up, and add products before they widen: both ways give one result only for tables that pass here. */
static const char *ordered(const tq_codebook *book, size_t half) {
    for (size_t i = 0; i < half; i++) {
        if (book->levels[i] < (i ? book->levels[i - 1] : 0)) return "the levels of the plan do not ascend from 0";
        if (i + 1 < half && book->thresholds[i] < (i ? book->thresholds[i - 1] : 0))
            return "the thresholds of the plan do not ascend from 0";
    }
    for (size_t i = 0; i < 2 * half; i++)
        if (!is_float(book->centroids[i])) return "a centroid of the plan is no finite number";
    size_t below = 0;
    for (int value = 0; value < 32768; value++) {
        while (below + 1 < half && value > book->thresholds[below]) below++;
        if (book->magnitudes[value] != below) return "the magnitudes of the plan are not those of its thresholds";
    }
    return NULL;
}

static void trellis(reader *in, tq_codebook *to, const header *h) {
    size_t size = (size_t)1 << h->window;
    to->dim = (size_t)h->dim;
    to->bits = (size_t)h->bits;
    to->window = (size_t)h->window;
    to->nodes = size >> h->bits;
    to->levels = array(in, h->levels, size, 2);
    to->centroids = array(in, h->centroids, size, 4);
    for (size_t i = 0; !in->fault && i < size; i++)
        if (to->levels[i] == 0 || to->levels[i] % 2 || to->levels[i] == INT16_MIN || !is_float(to->centroids[i]))
            in->fault = "a level of the trellis is 0, odd or no number";
    for (size_t i = 0; !in->fault && i < size; i++) /* some levels of the build look up the one, some the other */
        if (to->centroids[i] != (float)to->levels[i] / 8192) in->fault = "a centroid of the trellis is not its level";
    if (in->fault || h->window + h->bits > TQ_PAIR_BITS) return;
    to->pairs = array(in, h->thresholds, size << h->bits << 1, 4);
    for (size_t i = 0; !in->fault && i < size << h->bits; i++)
        if (to->pairs[2 * i] != to->centroids[i & (size - 1)] || to->pairs[2 * i + 1] != to->centroids[i >> h->bits])
            in->fault = "a pair of the trellis is not what its windows say";
}

static void codebook(reader *in, tq_codebook *to, const header *h) {
    size_t half = (size_t)1 << (h->bits - 1);
    to->dim = (size_t)h->dim;
    to->bits = (size_t)h->bits;
    to->thresholds = array(in, h->thresholds, half - 1, 2);
    to->levels = array(in, h->levels, half, 2);
    to->centroids = array(in, h->centroids, 2 * half, 4);
    to->magnitudes = array(in, h->magnitudes, 32768, 1);
    if (!in->fault) in->fault = ordered(to, half);
}

/* What is wrong with the lanes of a fractional width; the arithmetic of its kernels keeps to 16 bits for what passes here. */
static const char *lanes(const tq_mixed *it) {
    for (size_t i = 0; i < TQ_MIXED_LANES; i++)
        for (size_t k = 0; k <= TQ_MIXED_THRESHOLDS; k++) {
            const int16_t *level = it->levels + k * TQ_MIXED_LANES + i, *threshold = it->thresholds + k * TQ_MIXED_LANES + i;
            if (*level < (k ? level[-TQ_MIXED_LANES] : 0)) return "the levels of the plan do not ascend from 0";
            if (k == TQ_MIXED_THRESHOLDS) continue;
            if (*threshold < (k ? threshold[-TQ_MIXED_LANES] : 0)) return "the thresholds of the plan do not ascend from 0";
            /* codes below the radix: no more magnitudes than it has levels on a side */
            if (k >= (it->radix[i % it->places] - 1) / 2 && *threshold != INT16_MAX)
                return "a lane of the plan has more thresholds than levels";
        }
    return NULL;
}

static void mixed(reader *in, tq_codebook *to, const header *h) {
    tq_mixed *it = &to->mixed;
    to->dim = (size_t)h->dim;
    to->bits = TQ_MIXED;
    const int32_t *shape = array(in, h->magnitudes, 5, 4); /* places and the radix of each */
    it->thresholds = array(in, h->thresholds, TQ_MIXED_THRESHOLDS * TQ_MIXED_LANES, 2);
    it->levels = array(in, h->levels, (TQ_MIXED_THRESHOLDS + 1) * TQ_MIXED_LANES, 2);
    if (in->fault) return;
    if (shape[0] != 2 && shape[0] != 4) in->fault = "a word of the plan has neither 2 nor 4 places";
    uint32_t values = 1;
    for (int p = 0; !in->fault && p < shape[0]; p++) {
        if (!in_range(shape[p + 1], 2, 2 * TQ_MIXED_THRESHOLDS + 1)) in->fault = "a radix of the plan is out of range";
        else values *= it->radix[p] = (uint32_t)shape[p + 1];
    }
    if (in->fault) return;
    it->places = (size_t)shape[0];
    it->word_bits = width_of(values);
    if (it->word_bits > 13) {
        in->fault = "a word of the plan has more than 13 bits";
        return;
    }
    it->low = it->places == 4 ? it->radix[0] * it->radix[1] : UINT32_C(1) << it->word_bits;
    it->inverse = ((UINT32_C(1) << 20) + it->low - 1) / it->low;
    uint32_t greatest = (UINT32_C(1) << it->word_bits) - 1;
    size_t pairs = it->low + (it->places == 4 ? greatest / it->low + 1 : 0);
    it->pairs = array(in, h->centroids, 2 * pairs, 4);
    for (size_t i = 0; !in->fault && i < 2 * pairs; i++)
        if (!is_float(it->pairs[i])) in->fault = "a centroid of the plan is no finite number";
    for (size_t i = 0; i < TQ_MIXED_LANES; i++) {
        it->above[i] = (int16_t)(it->radix[i % it->places] / 2);
        it->even[i] = it->radix[i % it->places] % 2 == 0;
    }
    if (!in->fault) in->fault = lanes(it);
}

static void candidates(reader *in, tq_plan *plan, const header *h) {
    plan->candidate = array(in, h->candidate, plan->candidates, 4);
    for (size_t i = 0; !in->fault && i < plan->candidates; i++)
        if (!(plan->candidate[i] >= 0.5f && plan->candidate[i] <= 2.0f) || (i == 0 && plan->candidate[i] != 1.0f))
            in->fault = "the candidates of the plan do not begin with 1 or leave 0.5..2";
}

static void sketch(reader *in, tq_sketch *to, const header *h) {
    to->kind = (int)h->sketch;
    to->dim = (size_t)h->dim;
    to->projections = (size_t)h->projections;
    to->constant = h->constant;
    if (h->sketch == TQ_GAUSSIAN) to->matrix = array(in, h->matrix, to->projections * to->dim, 2);
    for (size_t i = 0; to->matrix && !in->fault && i < to->projections * to->dim; i++) {
        int size = to->matrix[i] < 0 ? -to->matrix[i] : to->matrix[i];
        if (size > to->greatest) to->greatest = size;
    }
    if (to->greatest > INT16_MAX) in->fault = "a number of the sketch is below -32767";
    if (h->sketch != TQ_HADAMARD || in->fault) return;
    rotation(in, &to->rotation, h, h->sketch_signs, h->sketch_permutations);
    to->rotation.factor = (float)h->sketch_factor;
    to->rotation.inverse_factor = (float)h->sketch_inverse;
}

const char *tq_plan_read(tq_plan *plan, void *buffer, size_t bytes) {
    header h;
    memset(plan, 0, sizeof *plan);
    if (bytes < sizeof h || (uintptr_t)buffer % 8) return "the buffer is too short or unaligned for a plan";
    memcpy(&h, buffer, sizeof h);
    const char *fault = numbers(&h, bytes);
    if (fault) return fault;
    reader in = {buffer, bytes, NULL};
    plan->rule = (int)h.rule;
    plan->strict = (int)h.strict;
    plan->candidates = (size_t)h.candidates;
    if (h.rounds) rotation(&in, &plan->rotation, &h, h.signs, h.permutations);
    plan->rotation.dim = (size_t)h.dim;
    plan->rotation.factor = (float)h.factor;
    plan->rotation.inverse_factor = (float)h.inverse_factor;
    if (h.bits == TQ_MIXED && h.sketch != TQ_NO_SKETCH) return "a fractional width has no sketch";
    if (h.bits == TQ_MIXED) mixed(&in, &plan->book, &h);
    else if (h.window) trellis(&in, &plan->book, &h);
    else if (h.bits) codebook(&in, &plan->book, &h);
    if (h.candidates) candidates(&in, plan, &h);
    if (h.sketch == TQ_HADAMARD && !h.rounds) return "a hadamard sketch has rounds";
    sketch(&in, &plan->sketch, &h);
    if (in.fault) return in.fault;
    void *room = (void *)(((uintptr_t)buffer + bytes + 63) / 64 * 64);
    if (h.window) {
        tq_planes_fill(room, &plan->book);
        plan->book.planes = room;
    } else if (h.bits && h.bits != TQ_MIXED) {
        tq_tables_fill(room, &plan->book);
        plan->book.tables = room;
    }
    plan->stage_bytes = h.bits ? tq_book_bytes(&plan->book) : 0;
    plan->row_bytes = plan->stage_bytes + (h.sketch ? ((size_t)h.projections + 7) / 8 : 0);
    return NULL;
}
