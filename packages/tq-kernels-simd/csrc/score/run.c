#include "score/run.h"

#include <string.h>

#include "active.h"
#include "decode/run.h"

#define TILE_ROWS 16 /* of 768 bytes or so: in the first-level cache beside the queries */
#define SPAN 4096    /* floats that are added in float32 before they go to float64 */

static size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

int tq_score_scratch_make(tq_score_scratch *of, const tq_queries *queries, size_t stride) {
    size_t row = 0, codes = 0, tile = 0, wide = 0, lows = TILE_ROWS * TQ_QUERY_BLOCK * sizeof(int32_t), blocks = TQ_BLOCK * TQ_QUERY_BLOCK;
    if (queries->count == 1) blocks = TQ_BLOCK;
    for (int i = 0; i < queries->parts; i++) {
        const tq_part *part = &queries->part[i];
        size_t segment = least(part->length, TQ_SEGMENT), bytes = 0;
        if (part->method == TQ_EXACT) {
            row = part->length * sizeof(float) > row ? part->length * sizeof(float) : row;
            codes = part->length > codes ? part->length : codes;
        } else {
            bytes = TILE_ROWS * segment * (part->method == TQ_INT16 || part->book.window ? sizeof(int16_t) : 1);
            wide = part->method == TQ_INT16 || part->length > TQ_SEGMENT ? blocks * sizeof(int64_t) : wide;
        }
        tile = bytes > tile ? bytes : tile;
    }
    /* the last rows, so many that the one before them is TQ_OVERREAD away from the end of the buffer */
    of->tail_bytes = TQ_OVERREAD + (TQ_OVERREAD / stride + 2) * stride;
    size_t sizes[] = {row, codes, tile, of->tail_bytes, wide, blocks * 4, TQ_BLOCK * 4, TQ_QUERY_BLOCK * 8, lows}, total = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) total += aligned(sizes[i]);
    char *next = of->memory = tq_aligned(total);
    if (!next) return -1;
    memset(next, 0, total);
    of->row = (float *)next;
    of->codes = (uint8_t *)(next += aligned(row));
    of->tile = (uint8_t *)(next += aligned(codes));
    of->tail = (uint8_t *)(next += aligned(tile));
    of->wide = (int64_t *)(next += aligned(of->tail_bytes));
    of->sums = (int32_t *)(next += aligned(wide));
    of->factors = (float *)(next += aligned(blocks * 4));
    of->products = (double *)(next += aligned(TQ_BLOCK * 4));
    of->lows = (int32_t *)(next + aligned(TQ_QUERY_BLOCK * 8));
    return 0;
}

void tq_score_scratch_free(tq_score_scratch *of) { tq_aligned_free(of->memory); }

/* The planes of `rows` rows of a part from coordinate `start`, a multiple of 8. */
static tq_packed_rows planes_of(const tq_part *part, const uint8_t *packed, size_t stride, size_t rows, size_t start) {
    tq_packed_rows from = {{NULL, NULL, NULL}, stride, rows};
    const uint8_t *plane = packed + part->offset;
    int count = 0;
    for (size_t width = 8; width; width /= 2) {
        if (!(part->book.bits & width)) continue;
        from.plane[count++] = plane + start * width / 8;
        plane += (part->book.dim * width + 7) / 8;
    }
    return from;
}

static tq_packed_rows rows_from(const tq_packed_rows *from, size_t first, size_t rows) {
    tq_packed_rows some = {{NULL, NULL, NULL}, from->stride, rows};
    for (int i = 0; i < 3; i++)
        if (from->plane[i]) some.plane[i] = from->plane[i] + first * from->stride;
    return some;
}

/* Queries first_query.. of a part against rows whose TQ_OVERREAD bytes beyond exist. */
typedef struct task {
    const tq_part *part;
    size_t first_query, queries, rows, stride; /* stride: of the results, from one query to the next */
    const uint8_t *packed;
    size_t packed_stride;
    tq_score_scratch *scratch;
} task;

static void sum8(const task *it, size_t start, size_t length, int32_t *out) {
    const tq_part *part = it->part;
    size_t fold = TQ_FOLD8(part->book.bits), chunk = TQ_PHASES(part->book.bits) * part->levels8.lanes;
    const int8_t *queries = (const int8_t *)part->queries + it->first_query * part->length + start;
    tq_packed_rows from = planes_of(part, it->packed, it->packed_stride, it->rows, start);
    if (it->queries == 1) {
        tq_active.score.scan8(&part->levels8, queries, &from, length / chunk, out);
        return;
    }
    for (size_t r = 0; r < it->rows; r += TILE_ROWS) {
        tq_packed_rows some = rows_from(&from, r, least(TILE_ROWS, it->rows - r));
        tq_active.score.expand8(&part->levels8, &some, length / chunk, it->scratch->tile);
        tq_active.score.dots8(it->scratch->tile, (some.rows + 3) / 4 * 4, queries, part->length, (it->queries + 1) / 2 * 2,
                              length, fold, out + r, it->stride);
    }
}

/* Both planes of `rows` rows of a trellis of long windows, times the queries; the second plane counts a sixteenth. */
static void sum_planes(const task *it, const uint8_t *packed, size_t rows, const int8_t *queries, int32_t *out) {
    const tq_part *part = it->part;
    const size_t length = part->length, fours = (rows + 3) / 4 * 4, count = (it->queries + 1) / 2 * 2;
    uint8_t *high = it->scratch->tile, *low = high + TILE_ROWS * length;
    int32_t *lows = it->scratch->lows;
    tq_active.score.expand_long(&part->levels8, packed, it->packed_stride, rows, length, high, low);
    tq_active.score.dots_bytes(high, fours, queries, length, count, length, out, it->stride);
    if (part->book.bits < 4) return; /* their levels have one plane */
    tq_active.score.dots8(low, fours, queries, length, count, length, 1, lows, TILE_ROWS);
    for (size_t q = 0; q < it->queries; q++)
        for (size_t r = 0; r < rows; r++)
            out[q * it->stride + r] = 16 * out[q * it->stride + r] + lows[q * TILE_ROWS + r]; /* below 2^31: TQ_FINE_DIM */
}

/* The same as sum8 for windows of a trellis. */
static void sum_windows(const task *it, int32_t *out) {
    const tq_part *part = it->part;
    const int8_t *queries = (const int8_t *)part->queries + it->first_query * part->length;
    const uint8_t *packed = it->packed + part->offset;
    const size_t count = (it->queries + 1) / 2 * 2, length = part->length;
    const int is_short = part->book.window <= TQ_WINDOW8_BITS;
    uint8_t *tile = it->scratch->tile;
    if (it->queries == 1 && is_short) {
        tq_active.score.scan_windows(&part->levels8, queries, packed, it->packed_stride, it->rows, out);
        return;
    }
    for (size_t r = 0; r < it->rows; r += TILE_ROWS) {
        const size_t rows = least(TILE_ROWS, it->rows - r), fours = (rows + 3) / 4 * 4;
        const uint8_t *from = packed + r * it->packed_stride;
        if (!is_short) {
            sum_planes(it, from, rows, queries, out + r);
            continue;
        }
        tq_active.score.expand_windows(&part->levels8, from, it->packed_stride, rows, length, tile);
        if (part->book.bits < 4) tq_active.score.dots8(tile, fours, queries, length, count, length, 1, out + r, it->stride);
        else tq_active.score.dots_bytes(tile, fours, queries, length, count, length, out + r, it->stride);
    }
}

static void sum16(const task *it, size_t start, size_t length, int64_t *out) {
    const tq_part *part = it->part;
    const int16_t *queries = (const int16_t *)part->queries + it->first_query * part->length + start;
    int16_t *tile = (int16_t *)it->scratch->tile;
    tq_packed_rows from = planes_of(part, it->packed, it->packed_stride, it->rows, start);
    for (size_t r = 0; r < it->rows; r += TILE_ROWS) {
        tq_packed_rows some = rows_from(&from, r, least(TILE_ROWS, it->rows - r));
        tq_active.score.expand16(part->levels16, part->book.bits, &some, length, tile);
        tq_active.score.dots16(tile, some.rows, queries, part->length, it->queries, length, out + r, it->stride);
    }
}

/* As the slot `finish`, for sums of more than 32 bits. */
static void finish64(const int64_t *sums, int times, int64_t minus, float factor, const float *weight, size_t rows, int add,
                     float *out) {
    for (size_t r = 0; r < rows; r++) {
        float value = ((float)(times * sums[r] - minus) * factor) * weight[r];
        out[r] = add ? out[r] + value : value;
    }
}

static void by_int8(const task *it, const float *weight, int add, float *out, size_t out_stride) {
    const tq_part *part = it->part;
    int32_t *sums = it->scratch->sums;
    int64_t *wide = it->scratch->wide;
    int is_wide = part->length > TQ_SEGMENT;
    for (size_t start = 0; start < part->length; start += TQ_SEGMENT) {
        if (part->book.window) sum_windows(it, sums); /* dims of a trellis end before a segment does */
        else sum8(it, start, least(TQ_SEGMENT, part->length - start), sums);
        if (is_wide)
            for (size_t i = 0; i < it->queries * it->stride; i++) wide[i] = (start ? wide[i] : 0) + sums[i];
    }
    for (size_t q = 0; q < it->queries; q++) {
        int64_t minus = (int64_t)part->levels8.middle * part->sums[it->first_query + q];
        float factor = (float)part->factors[it->first_query + q], *to = out + q * out_stride;
        if (is_wide) finish64(wide + q * it->stride, 2, minus, factor, weight, it->rows, add, to);
        else tq_active.score.finish(sums + q * it->stride, (uint32_t)minus, factor, weight, it->rows, add, to);
    }
}

static void by_int16(const task *it, const float *weight, int add, float *out, size_t out_stride) {
    const tq_part *part = it->part;
    int64_t *wide = it->scratch->wide;
    memset(wide, 0, it->queries * it->stride * sizeof *wide);
    for (size_t start = 0; start < part->length; start += TQ_SEGMENT)
        sum16(it, start, least(TQ_SEGMENT, part->length - start), wide);
    for (size_t q = 0; q < it->queries; q++)
        finish64(wide + q * it->stride, 1, 0, (float)part->factors[it->first_query + q], weight, it->rows, add,
                 out + q * out_stride);
}

static void by_float(const task *it, const float *weight, int add, float *out, size_t out_stride) {
    const tq_part *part = it->part;
    const float *queries = (const float *)part->queries + it->first_query * part->length;
    double *products = it->scratch->products;
    for (size_t r = 0; r < it->rows; r++) {
        const uint8_t *packed = it->packed + r * it->packed_stride + part->offset;
        tq_row_centroids(&part->book, packed, it->scratch->codes, it->scratch->row);
        memset(products, 0, it->queries * sizeof *products);
        for (size_t start = 0; start < part->length; start += SPAN)
            tq_active.score.dots32(it->scratch->row + start, queries + start, part->length, it->queries,
                                   least(SPAN, part->length - start), products);
        for (size_t q = 0; q < it->queries; q++) {
            float value = (float)(products[q] * part->factors[it->first_query + q]) * weight[r], *to = out + q * out_stride + r;
            *to = add ? *to + value : value;
        }
    }
}

/* The numbers of rows first..first+count-1 as float32, in place or in `buffer`. */
static const float *numbers(const void *stored, char format, size_t first, size_t count, float *buffer) {
    if (format == 'f') return (const float *)stored + first;
    tq_active.encode.widen((const uint16_t *)stored + first, count, buffer);
    return buffer;
}

static void score(const tq_queries *queries, size_t first_query, size_t query_count, const tq_stored_rows *rows, size_t first,
                  size_t count, const uint8_t *packed, float *out, size_t out_stride, tq_score_scratch *scratch) {
    for (int i = 0; i < queries->parts; i++) {
        const tq_part *part = &queries->part[i];
        int by_gamma = i == 1 || queries->is_sketch;
        const float *weight = numbers(by_gamma ? rows->gammas : rows->scales, by_gamma ? rows->gamma_format : rows->scale_format,
                                      first, count, scratch->factors);
        task it = {part, first_query, query_count, count, TQ_BLOCK, packed, rows->stride, scratch};
        if (part->method == TQ_INT8) by_int8(&it, weight, i, out, out_stride);
        else if (part->method == TQ_INT16) by_int16(&it, weight, i, out, out_stride);
        else by_float(&it, weight, i, out, out_stride);
    }
}

void tq_score_block(const tq_queries *queries, size_t first_query, size_t query_count, const tq_stored_rows *rows, size_t first,
                    size_t count, float *out, size_t out_stride, tq_score_scratch *scratch) {
    size_t stride = rows->stride, near_end = TQ_OVERREAD / stride + 1;
    size_t safe = rows->count > near_end ? rows->count - near_end : 0; /* rows below it end TQ_OVERREAD bytes early */
    size_t direct = first >= safe ? 0 : least(count, safe - first);
    if (direct)
        score(queries, first_query, query_count, rows, first, direct, rows->packed + first * stride, out, out_stride, scratch);
    if (direct == count) return;
    memcpy(scratch->tail, rows->packed + (first + direct) * stride, (count - direct) * stride);
    score(queries, first_query, query_count, rows, first + direct, count - direct, scratch->tail, out + direct, out_stride,
          scratch);
}
