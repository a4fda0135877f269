#include "search/run.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "active.h"
#include "search/best.h"
#include "threads.h"

size_t tq_search_margin(size_t k) { return 4 * k > k + 32 ? 4 * k : k + 32; }

/* One pass over the rows for up to TQ_QUERY_BLOCK queries; every thread keeps its own best rows. */
typedef struct pass {
    const tq_search_job *job;
    const tq_queries *queries;
    size_t first_query, query_count, keep;
    tq_best *best;     /* threads * query_count */
    atomic_size_t next; /* the first `query_count` that no thread has taken */
} pass;

static int scan(void *context, size_t first, size_t last) {
    pass *it = context;
    const tq_stored_rows *rows = &it->job->rows;
    tq_best *best = it->best + atomic_fetch_add(&it->next, 1) * it->query_count;
    tq_score_scratch scratch;
    float *scores = tq_aligned(it->query_count * TQ_BLOCK * sizeof *scores);
    if (!scores) return -1;
    if (tq_score_scratch_make(&scratch, it->queries, rows->stride)) {
        tq_aligned_free(scores);
        return -1;
    }
    for (size_t r = first; r < last; r += TQ_BLOCK) {
        size_t count = last - r < TQ_BLOCK ? last - r : TQ_BLOCK;
        const uint8_t *mask = it->job->mask ? it->job->mask + r : NULL;
        int is_empty = mask != NULL;
        for (size_t i = 0; is_empty && i < count; i++) is_empty = !mask[i];
        if (is_empty) continue;
        tq_score_block(it->queries, it->first_query, it->query_count, rows, r, count, scores, TQ_BLOCK, &scratch);
        for (size_t q = 0; q < it->query_count; q++)
            tq_best_offer(&best[q], scores + q * TQ_BLOCK, count, (int64_t)r, mask);
    }
    tq_score_scratch_free(&scratch);
    tq_aligned_free(scores);
    return 0;
}

/* Exact scores instead of those of the scan, in place. */
static int rescore(const tq_search_job *job, const tq_queries *exact, size_t query, tq_best *best) {
    size_t stride = job->rows.stride, number = TQ_BLOCK * sizeof(float);
    tq_score_scratch scratch;
    uint8_t *packed = tq_aligned(TQ_BLOCK * stride + 3 * number);
    if (!packed) return -1;
    if (tq_score_scratch_make(&scratch, exact, stride)) {
        tq_aligned_free(packed);
        return -1;
    }
    float *scores = (float *)(packed + TQ_BLOCK * stride), *scales = scores + TQ_BLOCK, *gammas = scales + TQ_BLOCK;
    for (size_t start = 0; start < best->count; start += TQ_BLOCK) {
        size_t count = best->count - start < TQ_BLOCK ? best->count - start : TQ_BLOCK;
        tq_stored_rows some = {packed, stride, count, scales, gammas, job->rows.scale_format, job->rows.gamma_format};
        size_t scale_bytes = some.scale_format == 'f' ? 4 : 2, gamma_bytes = some.gamma_format == 'f' ? 4 : 2;
        for (size_t i = 0; i < count; i++) {
            size_t row = (size_t)best->found[start + i].row;
            memcpy(packed + i * stride, job->rows.packed + row * stride, stride);
            if (job->rows.scales)
                memcpy((char *)scales + i * scale_bytes, (const char *)job->rows.scales + row * scale_bytes, scale_bytes);
            if (job->rows.gammas)
                memcpy((char *)gammas + i * gamma_bytes, (const char *)job->rows.gammas + row * gamma_bytes, gamma_bytes);
        }
        tq_score_block(exact, query, 1, &some, 0, count, scores, TQ_BLOCK, &scratch);
        for (size_t i = 0; i < count; i++) best->found[start + i].score = scores[i];
    }
    tq_score_scratch_free(&scratch);
    tq_aligned_free(packed);
    return 0;
}

static void write_best(const tq_search_job *job, size_t query, const tq_best *best) {
    float *scores = job->scores + query * job->k;
    int64_t *indices = job->indices + query * job->k;
    for (size_t i = 0; i < job->k; i++) {
        int is_row = i < best->count && i < best->keep;
        scores[i] = is_row ? best->found[i].score : -INFINITY;
        indices[i] = is_row ? best->found[i].row : -1;
    }
}

/* The queries of one pass: scan, merge what the threads kept, score anew if asked, write. */
static int run_pass(pass *it, const tq_queries *exact, tq_found *room) {
    const tq_search_job *job = it->job;
    size_t capacity = tq_best_capacity(it->keep), slots = (size_t)job->threads * it->query_count;
    for (size_t i = 0; i < slots; i++) tq_best_start(&it->best[i], room + i * capacity, it->keep);
    atomic_store(&it->next, 0);
    size_t grain = 65536 / it->queries->part[0].book.dim + 64;
    if (job->rows.count && tq_parallel(job->threads, job->rows.count, grain, scan, it)) return -1;
    for (size_t q = 0; q < it->query_count; q++) {
        tq_best *best = &it->best[q];
        for (size_t t = 1; t < (size_t)job->threads; t++) {
            const tq_best *other = &it->best[t * it->query_count + q];
            for (size_t i = 0; i < other->count; i++) tq_best_add(best, other->found[i].score, other->found[i].row);
        }
        tq_best_sort(best);
        if (exact) {
            if (rescore(job, exact, it->first_query + q, best)) return -1;
            tq_best_sort(best);
        }
        write_best(job, it->first_query + q, best);
    }
    return 0;
}

int tq_search(const tq_search_job *job) {
    size_t rows = job->rows.count, wanted = job->k < rows ? job->k : rows;
    if (wanted == 0 || job->count == 0) wanted = 1; /* nothing to find; the pass below writes the padding */
    size_t keep = job->accuracy == TQ_AUTO ? tq_search_margin(wanted) : wanted;
    int is_auto = job->accuracy == TQ_AUTO && keep < rows && tq_scans_in_integers(&job->plan->book);
    if (!is_auto) keep = wanted;
    int accuracy = is_auto ? TQ_INT8 : job->accuracy == TQ_AUTO ? TQ_EXACT : job->accuracy;
    size_t block = job->count < TQ_QUERY_BLOCK ? job->count : TQ_QUERY_BLOCK, slots = (size_t)job->threads * block;
    tq_queries made = {.memory = NULL}, exact = {.memory = NULL};
    tq_best *best = calloc(slots ? slots : 1, sizeof *best);
    tq_found *room = calloc((slots ? slots : 1) * tq_best_capacity(keep), sizeof *room);
    int failed = !best || !room || tq_queries_make(&made, job->plan, job->queries, job->count, accuracy);
    if (!failed && is_auto) failed = tq_queries_make(&exact, job->plan, job->queries, job->count, TQ_EXACT);
    for (size_t q = 0; !failed && q < job->count; q += TQ_QUERY_BLOCK) {
        size_t left = job->count - q;
        pass it = {.job = job, .queries = &made, .first_query = q, .keep = keep, .best = best};
        it.query_count = left < TQ_QUERY_BLOCK ? left : TQ_QUERY_BLOCK;
        failed = run_pass(&it, is_auto ? &exact : NULL, room);
    }
    tq_queries_free(&made);
    tq_queries_free(&exact);
    free(best);
    free(room);
    return failed ? -1 : 0;
}
