/* Whole calls of scores, search and attention at the level under test and at the baseline. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "active.h"
#include "attend/run.h"
#include "score/run.h"
#include "search/run.h"
#include "select.h"
#include "standalone/cases.h"

static void use_baseline(void) { tq_select("baseline", &tq_active); }

/* out[q * rows + r], in blocks as score/call.c cuts them. */
static float *scores_of(const tq_plan *plan, const tq_stored_rows *rows, const float *asked, size_t count, int accuracy) {
    float *out = tq_guarded(count * rows->count * sizeof *out);
    tq_queries queries;
    tq_score_scratch scratch;
    if (tq_queries_make(&queries, plan, asked, count, accuracy) || tq_score_scratch_make(&scratch, &queries, rows->stride)) exit(2);
    for (size_t r = 0; r < rows->count; r += TQ_BLOCK)
        for (size_t q = 0; q < count; q += TQ_QUERY_BLOCK) {
            size_t some = rows->count - r < TQ_BLOCK ? rows->count - r : TQ_BLOCK;
            size_t few = count - q < TQ_QUERY_BLOCK ? count - q : TQ_QUERY_BLOCK;
            tq_score_block(&queries, q, few, rows, r, some, out + q * rows->count + r, rows->count, &scratch);
        }
    tq_score_scratch_free(&scratch);
    tq_queries_free(&queries);
    return out;
}

static void search_with(const tq_plan *plan, const tq_stored_rows *rows, const float *asked, size_t count, int accuracy,
                        float *found, int64_t *indices) {
    tq_search_job job = {.plan = plan, .rows = *rows, .queries = asked, .count = count, .k = 5, .accuracy = accuracy,
                         .threads = 2, .scores = found, .indices = indices};
    if (tq_search(&job)) exit(2);
}

void tq_score_case(FILE *file) {
    tq_plan plan = tq_next_plan(file);
    tq_blob packed = tq_next_blob(file), scales = tq_next_blob(file), gammas = tq_next_blob(file), asked = tq_next_blob(file),
            expected = tq_next_blob(file);
    tq_stored_rows rows = {(const uint8_t *)packed.data, plan.row_bytes, packed.bytes / plan.row_bytes, scales.data,
                           gammas.bytes ? gammas.data : NULL, 'f', 'f'};
    const tq_table level = tq_active;
    const float *queries = (const float *)asked.data;
    size_t all = asked.bytes / (plan.book.dim * sizeof(float)), counts[] = {1, 2, all};
    int is_sketched = plan.sketch.kind != TQ_NO_SKETCH; /* its queries are projected in floats, hence within rounding */
    tq_near("exact scores", scores_of(&plan, &rows, queries, all, TQ_EXACT), (const float *)expected.data, all * rows.count, 1e-5);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        for (int accuracy = TQ_EXACT; accuracy <= TQ_INT8; accuracy++) {
            size_t count = counts[i], numbers = count * rows.count;
            float found[2][64 * 5], *got = scores_of(&plan, &rows, queries, count, accuracy);
            int64_t indices[2][64 * 5];
            search_with(&plan, &rows, queries, count, accuracy, found[0], indices[0]);
            use_baseline();
            float *floor = scores_of(&plan, &rows, queries, count, accuracy);
            search_with(&plan, &rows, queries, count, accuracy, found[1], indices[1]);
            tq_active = level;
            if (accuracy == TQ_EXACT || is_sketched || plan.book.window) { /* a trellis is scored in floats at every accuracy */
                tq_near("scores within rounding", got, floor, numbers, is_sketched ? 1e-2 : 1e-5);
                continue;
            }
            size_t exact_bits = accuracy == TQ_INT8 ? 8 : 5; /* wider codes are scored in floats */
            if (plan.book.bits > exact_bits) continue;
            tq_same("integer scores", got, floor, numbers * sizeof *got);
            tq_same("scores found", found[0], found[1], count * 5 * sizeof **found);
            tq_same("rows found", indices[0], indices[1], count * 5 * sizeof **indices);
        }
}

/* out, maxima and sums of one call, one behind the other, at the active level, which decides what the sides are. */
static float *attended(tq_attend_job *job, int integers) {
    job->keys.side = tq_attend_make_side(job->keys.side.book, integers, 0);
    job->values.side = tq_attend_make_side(job->values.side.book, integers, 1);
    size_t rows = job->lanes * job->groups * job->count, dim = job->values.side.dim;
    job->out = tq_guarded(rows * (dim + 2) * sizeof(float));
    job->maxima = job->out + rows * dim;
    job->sums = job->maxima + rows;
    if (tq_attend(job)) exit(2);
    return job->out;
}

void tq_attend_case(FILE *file) {
    tq_plan keys = tq_next_plan(file), values = tq_next_plan(file);
    tq_blob key_packed = tq_next_blob(file), key_scales = tq_next_blob(file), value_packed = tq_next_blob(file),
            value_scales = tq_next_blob(file), queries = tq_next_blob(file), limits = tq_next_blob(file),
            mask = tq_next_blob(file), settings = tq_next_blob(file), expected = tq_next_blob(file);
    const tq_table level = tq_active;
    size_t rows = queries.bytes / (keys.book.dim * sizeof(float)), dim = values.book.dim;
    float numbers[3]; /* scale, soft cap, groups */
    if (settings.bytes != sizeof numbers) exit(2);
    memcpy(numbers, settings.data, sizeof numbers);
    size_t groups = (size_t)numbers[2], tokens = key_scales.bytes / sizeof(float);
    for (int integers = 0; integers <= 1; integers++) {
        tq_attend_job job = {.lanes = 1, .groups = groups, .count = rows / groups, .tokens = tokens, .scale = numbers[0],
                             .cap = numbers[1], .queries = (const float *)queries.data, .threads = 1};
        if (limits.bytes) job.limits = (const int64_t *)(const void *)limits.data;
        if (mask.bytes) job.mask = (const uint8_t *)mask.data;
        job.mask_stride = (ptrdiff_t)tokens;
        job.keys = (tq_attend_store){.side.book = &keys.book, .packed = (const uint8_t *)key_packed.data,
                                     .scales = (const uint8_t *)key_scales.data};
        job.values = (tq_attend_store){.side.book = &values.book, .packed = (const uint8_t *)value_packed.data,
                                       .scales = (const uint8_t *)value_scales.data};
        float *got = attended(&job, integers);
        use_baseline();
        float *floor = attended(&job, integers);
        tq_active = level;
        /* in integers, a weight that rounding moves to its neighbour moves the sum by a hundredth of a token */
        tq_near("attended values", got, floor, rows * dim, integers ? 3e-3 : 1e-5);
        tq_near("sums of weights", got + rows * (dim + 1), floor + rows * (dim + 1), rows, 1e-5);
        for (size_t r = 0; r < rows; r++) {
            float *maximum = got + rows * dim + r, sum = got[rows * (dim + 1) + r];
            for (size_t j = 0; j < dim; j++) got[r * dim + j] /= sum > 0 ? sum : 1; /* of no token: zeros */
            if (sum > 0) tq_near("maximum", maximum, floor + rows * dim + r, 1, 1e-5);
            else tq_same("maximum of no token", maximum, &(float){-INFINITY}, sizeof *maximum);
        }
        tq_near("attention against float64", got, (const float *)expected.data, rows * dim, integers ? 5e-2 : 1e-4);
    }
}
