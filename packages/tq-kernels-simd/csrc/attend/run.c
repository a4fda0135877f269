#include "attend/run.h"

#include <math.h>
#include <string.h>

#include "active.h"
#include "decode/run.h"
#include "threads.h"

/* How a job is cut: lanes * blocks of query rows * segments of tokens are the items of work. */
typedef struct cut {
    const tq_attend_job *job;
    size_t rows, block_rows, blocks, segments, tiles;
    float *partials; /* what segments 1.. found, of all rows: sums of values, then maximum and sum of each */
} cut;

/* One thread's memory, all of it in one allocation. */
typedef struct desk {
    uint8_t *tile, *scratch, *codes, *queries, *bytes; /* codes follow scratch, which is twice as long where nothing unpacks */
    float *sums, *key_scales, *value_scales, *logits;
} desk;

typedef struct row_state {
    float maximum, sum, decay, step;
    tq_attend_query query;
    size_t first, last; /* tokens that it sees, but for the mask */
} row_state;

/* Segments only where there are fewer lanes and blocks than threads, of at least 16 tiles each. */
static cut cut_job(const tq_attend_job *job) {
    cut c = {.job = job, .rows = job->groups * job->count, .segments = 1};
    c.block_rows = c.rows < TQ_ATTEND_ROWS ? c.rows : TQ_ATTEND_ROWS;
    c.blocks = c.block_rows ? (c.rows + c.block_rows - 1) / c.block_rows : 0;
    c.tiles = (job->tokens + TQ_TILE - 1) / TQ_TILE;
    size_t items = job->lanes * c.blocks, threads = (size_t)job->threads;
    if (items && items < threads) {
        size_t most = c.tiles / 16, wanted = (threads + items - 1) / items;
        c.segments = most < 1 ? 1 : wanted < most ? wanted : most;
    }
    return c;
}

static size_t partial_floats(const cut *c) {
    return (c->segments - 1) * c->job->lanes * c->rows * (c->job->values.side.dim + 2);
}

static size_t greater(size_t a, size_t b) { return a > b ? a : b; }

static size_t desk_bytes(const cut *c) {
    const tq_attend_side *keys = &c->job->keys.side, *values = &c->job->values.side;
    return greater(tq_attend_tile_bytes(keys), tq_attend_tile_bytes(values)) + 16 * greater(keys->padded, values->padded) +
           c->block_rows * (tq_attend_query_bytes(keys) + TQ_TILE) + (c->block_rows * (values->padded + TQ_TILE) + 2 * TQ_TILE) * sizeof(float);
}

size_t tq_attend_workspace(const tq_attend_job *job) {
    cut c = cut_job(job);
    size_t items = job->lanes * c.blocks * c.segments, threads = (size_t)job->threads;
    return (items < threads ? items : threads) * desk_bytes(&c) + partial_floats(&c) * sizeof(float);
}

static desk lay_out(const cut *c, uint8_t *memory) {
    const tq_attend_side *keys = &c->job->keys.side, *values = &c->job->values.side;
    desk d;
    d.tile = memory;
    d.scratch = d.tile + greater(tq_attend_tile_bytes(keys), tq_attend_tile_bytes(values));
    d.codes = d.scratch + 8 * greater(keys->padded, values->padded);
    d.queries = d.codes + 8 * greater(keys->padded, values->padded);
    d.bytes = d.queries + c->block_rows * tq_attend_query_bytes(keys);
    d.sums = (float *)(void *)(d.bytes + c->block_rows * TQ_TILE);
    d.key_scales = d.sums + c->block_rows * values->padded;
    d.value_scales = d.key_scales + TQ_TILE;
    d.logits = d.value_scales + TQ_TILE;
    return d;
}

static void fill_scales(const tq_attend_store *store, size_t lane, size_t first, size_t tokens, float *to) {
    const uint8_t *from = store->scales + (ptrdiff_t)lane * store->scale_lane_bytes;
    if (store->half) tq_active.encode.widen((const uint16_t *)(const void *)from + first, tokens, to); /* `to` has room for a tile */
    else memcpy(to, from + first * sizeof *to, tokens * sizeof *to);
    memset(to + tokens, 0, (TQ_TILE - tokens) * sizeof *to);
}

static const uint8_t *packed_rows(const tq_attend_store *store, size_t lane, size_t first) {
    return store->packed + (ptrdiff_t)lane * store->lane_bytes + first * store->side.row_bytes;
}

static void fill_tile(const tq_attend_store *store, size_t lane, size_t first, size_t tokens, const desk *d, int is_key) {
    const tq_attend_side *side = &store->side;
    const uint8_t *packed = packed_rows(store, lane, first);
    if (side->kind == TQ_BYTES && is_key) tq_active.attend.keys(side, packed, tokens, d->scratch, d->tile);
    if (side->kind == TQ_BYTES && !is_key) tq_active.attend.values(side, packed, tokens, d->scratch, (int8_t *)d->tile);
    for (size_t t = 0; side->kind == TQ_WORDS && t < tokens; t += 8) {
        const uint8_t *codes[8];
        for (size_t i = 0; i < 8; i++) { /* the last token stands in for those behind it */
            const uint8_t *row = packed + (t + i < tokens ? t + i : tokens - 1) * side->row_bytes;
            codes[i] = side->book->bits == 8 ? row : d->codes + i * side->padded;
            if (codes[i] != row) tq_active.decode.unpack(row, side->dim, side->book->bits, d->codes + i * side->padded);
        }
        tq_active.attend.words(side, codes, t, d->scratch, (int16_t *)(void *)d->tile);
    }
}

/* -infinity where a token of the tile is out of the row's sight or masked. */
static void hide(const tq_attend_job *job, const row_state *state, size_t query, size_t first, size_t tokens, float *logits) {
    for (size_t t = 0; t < TQ_TILE; t++)
        if (t >= tokens || first + t < state->first || first + t >= state->last) logits[t] = -INFINITY;
    if (!job->mask) return;
    const uint8_t *mask = job->mask + (ptrdiff_t)query * job->mask_stride + first;
    for (size_t t = 0; t < tokens; t++)
        if (!mask[t]) logits[t] = -INFINITY;
}

/* Tokens `first`.. of a tile of packed rows as floats; returns how many. */
static size_t fill_floats(const tq_attend_side *side, const uint8_t *packed, size_t first, size_t tokens, const desk *d) {
    const size_t count = tokens - first < TQ_FLOAT_TOKENS ? tokens - first : TQ_FLOAT_TOKENS;
    for (size_t t = 0; t < count; t++) {
        float *row = (float *)(void *)d->tile + t * side->padded;
        tq_row_centroids(side->book, packed + (first + t) * side->row_bytes, d->scratch, row);
        for (size_t j = side->dim; j < side->padded; j++) row[j] = 0;
    }
    return count;
}

static void score_row(const tq_attend_job *job, const desk *d, const row_state *state, size_t row) {
    const tq_attend_side *keys = &job->keys.side;
    const uint8_t *query = d->queries + row * tq_attend_query_bytes(keys);
    float *logits = d->logits + row * TQ_TILE;
    if (keys->kind == TQ_BYTES)
        tq_active.attend.dot_bytes(d->tile, keys->dim / 4, (const int8_t *)query, state->query.slope, state->query.offset,
                                   d->key_scales, logits);
    else
        tq_active.attend.dot_words((const int16_t *)(void *)d->tile, (keys->dim + 1) / 2, (const int16_t *)(const void *)query,
                                   state->query.slope, d->key_scales, logits);
}

/* The logits of the rows `seeing`, before limits and mask. */
static void score_rows(const tq_attend_job *job, const desk *d, const row_state *states, const uint8_t *packed,
                       const size_t *seeing, size_t count, size_t tokens) {
    const tq_attend_side *keys = &job->keys.side;
    const float *queries[TQ_ATTEND_ROWS], *tile = (const float *)(const void *)d->tile;
    float *logits[TQ_ATTEND_ROWS];
    for (size_t i = 0; i < count; i++) {
        queries[i] = (const float *)(const void *)(d->queries + seeing[i] * tq_attend_query_bytes(keys));
        logits[i] = d->logits + seeing[i] * TQ_TILE;
        if (keys->kind == TQ_BYTES || keys->kind == TQ_WORDS) score_row(job, d, &states[seeing[i]], seeing[i]);
    }
    if (keys->kind == TQ_CODES)
        tq_active.attend.dot_codes(keys, packed, tokens, d->scratch, queries, count, d->key_scales, logits);
    const int by_windows = keys->book->window && count <= TQ_ATTEND_FEW && tq_active.attend.dot_windows;
    if (keys->kind == TQ_FLOATS && by_windows)
        tq_active.attend.dot_windows(keys, packed, tokens, queries, count, d->key_scales, logits);
    for (size_t t = 0; keys->kind == TQ_FLOATS && !by_windows && t < tokens; t += TQ_FLOAT_TOKENS) {
        const size_t filled = fill_floats(keys, packed, t, tokens, d);
        tq_active.attend.dot_floats(tile, keys->padded, keys->dim, filled, queries, count, d->key_scales + t, logits);
        for (size_t i = 0; i < count; i++) logits[i] += TQ_FLOAT_TOKENS;
    }
    for (size_t i = 0; i < count && job->cap > 0; i++) tq_active.attend.cap(d->logits + seeing[i] * TQ_TILE, job->cap);
}

/* Logits to weights; 0 when all of them are. */
static int soften_row(const tq_attend_job *job, const desk *d, row_state *state, size_t row) {
    float *logits = d->logits + row * TQ_TILE;
    float before = state->maximum, sum = tq_active.attend.soften(logits, &state->maximum);
    if (sum == 0) return 0;
    state->decay = before == state->maximum ? 1 : expf(before - state->maximum);
    state->sum = state->sum * state->decay + sum;
    if (job->values.side.kind == TQ_BYTES) state->step = tq_active.attend.round(logits, d->value_scales, d->bytes + row * TQ_TILE);
    return 1;
}

static void weigh_row(const tq_attend_job *job, const desk *d, const row_state *state, size_t row) {
    const tq_attend_side *values = &job->values.side;
    tq_active.attend.weigh_bytes((const int8_t *)d->tile, values->padded, d->bytes + row * TQ_TILE, state->step, state->decay,
                                 d->sums + row * values->padded);
}

/* The rows `seeing` of a side of codes or floats. */
static void weigh_rows(const tq_attend_job *job, const desk *d, const row_state *states, const uint8_t *packed,
                       const size_t *seeing, size_t count, size_t tokens) {
    const tq_attend_side *values = &job->values.side;
    const float *weights[TQ_ATTEND_ROWS], *tile = (const float *)(const void *)d->tile;
    float *sums[TQ_ATTEND_ROWS], decays[TQ_ATTEND_ROWS];
    for (size_t i = 0; i < count; i++) {
        float *products = d->logits + seeing[i] * TQ_TILE;
        for (size_t t = 0; t < TQ_TILE; t++) products[t] *= d->value_scales[t];
        weights[i] = products;
        sums[i] = d->sums + seeing[i] * values->padded;
        decays[i] = states[seeing[i]].decay;
    }
    if (values->kind == TQ_CODES) tq_active.attend.weigh_codes(values, packed, tokens, weights, count, decays, sums);
    const int by_windows = values->book->window && count <= TQ_ATTEND_FEW && tq_active.attend.weigh_windows;
    if (values->kind == TQ_FLOATS && by_windows)
        tq_active.attend.weigh_windows(values, packed, tokens, weights, count, decays, sums);
    for (size_t t = 0; values->kind == TQ_FLOATS && !by_windows && t < tokens; t += TQ_FLOAT_TOKENS) {
        const size_t filled = fill_floats(values, packed, t, tokens, d);
        tq_active.attend.weigh_floats(tile, values->padded, filled, weights, count, decays, sums);
        for (size_t i = 0; i < count; i++) {
            weights[i] += TQ_FLOAT_TOKENS;
            decays[i] = 1; /* sums have decayed once */
        }
    }
}

/* One tile for all rows, stage by stage: the values' tile takes the place of the keys', so that L1 holds one at a time, and
 * the long chains of softening overlap from row to row. */
static void attend_tile(const tq_attend_job *job, const desk *d, size_t lane, size_t begin, size_t end, row_state *states,
                        size_t first, size_t tokens) {
    size_t seeing[TQ_ATTEND_ROWS], count = 0, weighing = 0;
    for (size_t r = 0; r < end - begin; r++)
        if (states[r].first < first + tokens && states[r].last > first) seeing[count++] = r;
    if (!count) return;
    fill_tile(&job->keys, lane, first, tokens, d, 1);
    fill_scales(&job->keys, lane, first, tokens, d->key_scales);
    fill_scales(&job->values, lane, first, tokens, d->value_scales);
    score_rows(job, d, states, packed_rows(&job->keys, lane, first), seeing, count, tokens);
    for (size_t i = 0; i < count; i++) {
        size_t r = seeing[i];
        if (job->mask || tokens < TQ_TILE || states[r].first > first || states[r].last < first + TQ_TILE)
            hide(job, &states[r], (begin + r) % job->count, first, tokens, d->logits + r * TQ_TILE);
        seeing[weighing] = r;
        weighing += (size_t)soften_row(job, d, &states[r], r);
    }
    if (!weighing) return;
    if (job->values.side.kind != TQ_BYTES) {
        weigh_rows(job, d, states, packed_rows(&job->values, lane, first), seeing, weighing, tokens);
        return;
    }
    fill_tile(&job->values, lane, first, tokens, d, 0);
    for (size_t i = 0; i < weighing; i++) weigh_row(job, d, &states[seeing[i]], seeing[i]);
}

static void write_row(const tq_attend_side *values, const float *sums, float *out) {
    if (values->kind == TQ_FLOATS) memcpy(out, sums, values->dim * sizeof *out);
    else if (values->kind == TQ_CODES)
        for (size_t j = 0; j < values->dim; j++) out[j] = sums[tq_attend_place(j)];
    else tq_attend_to_coordinates(values, sums, out);
    for (size_t j = 0; values->kind == TQ_BYTES && j < values->dim; j++) out[j] *= values->step;
}

static size_t clamp(int64_t value, size_t highest) {
    return value < 0 ? 0 : (uint64_t)value > highest ? highest : (size_t)value;
}

/* Rows begin..end-1 of a lane against the tokens first..last-1; returns through out, maxima and sums of these rows. */
static void attend_block(const tq_attend_job *job, const desk *d, size_t lane, size_t begin, size_t end, size_t first,
                         size_t last, float *out, float *maxima, float *sums) {
    const tq_attend_side *keys = &job->keys.side, *values = &job->values.side;
    row_state states[TQ_ATTEND_ROWS];
    size_t lowest = last, highest = first;
    for (size_t r = begin; r < end; r++) {
        row_state *state = &states[r - begin];
        *state = (row_state){.maximum = -INFINITY, .first = first, .last = last};
        const float *query = job->queries + (lane * job->groups * job->count + r) * keys->dim;
        state->query = tq_attend_prepare(keys, query, job->scale, (float *)(void *)d->scratch,
                                         d->queries + (r - begin) * tq_attend_query_bytes(keys));
        if (job->limits) {
            size_t low = clamp(job->limits[2 * (r % job->count)], last), high = clamp(job->limits[2 * (r % job->count) + 1], last);
            if (low > first) state->first = low;
            state->last = high;
        }
        if (state->first >= state->last) {
            state->first = state->last = 0; /* it sees no tile */
            continue;
        }
        if (state->first < lowest) lowest = state->first;
        if (state->last > highest) highest = state->last;
    }
    memset(d->sums, 0, (end - begin) * values->padded * sizeof *d->sums);
    for (size_t t = lowest / TQ_TILE * TQ_TILE; t < highest; t += TQ_TILE)
        attend_tile(job, d, lane, begin, end, states, t, last - t < TQ_TILE ? last - t : TQ_TILE);
    for (size_t r = begin; r < end; r++) {
        write_row(values, d->sums + (r - begin) * values->padded, out + (r - begin) * values->dim);
        maxima[r - begin] = states[r - begin].maximum;
        sums[r - begin] = states[r - begin].sum;
    }
}

static int work(void *context, size_t first, size_t last) {
    const cut *c = context;
    const tq_attend_job *job = c->job;
    size_t bytes = desk_bytes(c), all = job->lanes * c->rows, dim = job->values.side.dim;
    if (first >= last) return 0;
    uint8_t *memory = tq_aligned(bytes);
    if (!memory) return -1;
    memset(memory, 0, bytes); /* so that no number is read that nobody wrote */
    desk d = lay_out(c, memory);
    for (size_t item = first; item < last; item++) {
        size_t segment = item % c->segments, block = item / c->segments % c->blocks, lane = item / c->segments / c->blocks;
        size_t begin = block * c->block_rows, end = begin + c->block_rows < c->rows ? begin + c->block_rows : c->rows;
        size_t from = c->tiles * segment / c->segments * TQ_TILE, to = c->tiles * (segment + 1) / c->segments * TQ_TILE;
        size_t row = lane * c->rows + begin;
        float *out = job->out, *maxima = job->maxima, *sums = job->sums;
        if (segment) {
            out = c->partials + (segment - 1) * all * (dim + 2);
            maxima = out + all * dim;
            sums = maxima + all;
        }
        attend_block(job, &d, lane, begin, end, from, to < job->tokens ? to : job->tokens, out + row * dim, maxima + row, sums + row);
    }
    tq_aligned_free(memory);
    return 0;
}

/* Add what another segment found to a row. */
static void merge_row(size_t dim, float *out, float *maximum, float *sum, const float *other, float other_maximum, float other_sum) {
    float highest = fmaxf(*maximum, other_maximum);
    if (highest == -INFINITY) return;
    float keep = expf(*maximum - highest), add = expf(other_maximum - highest);
    for (size_t j = 0; j < dim; j++) out[j] = keep * out[j] + add * other[j];
    *sum = keep * *sum + add * other_sum;
    *maximum = highest;
}

int tq_attend(const tq_attend_job *job) {
    cut c = cut_job(job);
    size_t all = job->lanes * c.rows, dim = job->values.side.dim, floats = partial_floats(&c);
    if (floats && !(c.partials = tq_aligned(floats * sizeof *c.partials))) return -1;
    int failed = tq_parallel(job->threads, job->lanes * c.blocks * c.segments, 1, work, &c);
    for (size_t s = 1; !failed && s < c.segments; s++) {
        const float *out = c.partials + (s - 1) * all * (dim + 2), *maxima = out + all * dim, *sums = maxima + all;
        for (size_t r = 0; r < all; r++)
            merge_row(dim, job->out + r * dim, job->maxima + r, job->sums + r, out + r * dim, maxima[r], sums[r]);
    }
    tq_aligned_free(c.partials);
    return failed;
}
