/* The tiles of csrc/attend: rows of codes against plain sums, integer tiles against the baseline's. All numbers are such that
 * floats are exact in any order, fused or not, and every level must give the same bytes. Packed rows end where a page begins
 * that nobody may touch. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attend/attend.h"
#include "baseline.h"
#include "standalone/cases.h"
#include "standalone/slot_cases.h"

static const tq_attend_slots *tested;
static const tq_attend_slots *const floor_slots = &tq_attend_baseline;
static char what[160];

static float power_of_two(void) { return (float)(1 << tq_random_word() % 4) / 4; }

static size_t padded_of(size_t dim) { return (dim + 63) / 64 * 64; }

/* Aligned to 64 bytes, which a length that is a multiple of 64 makes of a guarded block. */
static void *tile_of(size_t bytes, int fill) {
    void *made = tq_guarded((bytes + 63) / 64 * 64);
    memset(made, fill, bytes);
    return made;
}

/* Keys and values of the same rows; beyond `tokens` the tile of either may hold anything. */
static void tiles_case(size_t bits, size_t dim, size_t tokens) {
    tq_codebook book = {.dim = dim, .bits = bits};
    tq_attend_side side = {.book = &book, .dim = dim, .padded = padded_of(dim), .row_bytes = tq_row_bytes(dim, bits)};
    for (size_t c = 0; c < (size_t)1 << bits; c++) side.bytes[c] = (uint8_t)tq_random_word();
    uint8_t *packed = tq_guarded(tokens * side.row_bytes);
    for (size_t i = 0; i < tokens * side.row_bytes; i++) packed[i] = (uint8_t)tq_random_word();
    uint8_t *scratch = tile_of(8 * side.padded, 0);
    size_t bytes = TQ_TILE * side.padded;
    uint8_t *got = tile_of(bytes, 0xA5), *expected = tile_of(bytes, 0x5A);
    tested->keys(&side, packed, tokens, scratch, got);
    floor_slots->keys(&side, packed, tokens, scratch, expected);
    snprintf(what, sizeof what, "keys of %zu bits, dim %zu, %zu tokens", bits, dim, tokens);
    for (size_t quad = 0; quad < dim / 4; quad++)
        for (size_t i = 4 * tokens; i < 4 * TQ_TILE; i++) got[quad * 4 * TQ_TILE + i] = expected[quad * 4 * TQ_TILE + i] = 0;
    tq_same(what, got, expected, dim * TQ_TILE);
    tested->values(&side, packed, tokens, scratch, (int8_t *)got);
    floor_slots->values(&side, packed, tokens, scratch, (int8_t *)expected);
    snprintf(what, sizeof what, "values of %zu bits, dim %zu, %zu tokens", bits, dim, tokens);
    for (size_t t = 0; t < TQ_TILE; t++)
        for (size_t j = t < tokens ? dim : 0; j < side.padded; j++) {
            size_t at = (t / 4 * side.padded + j) * 4 + t % 4;
            got[at] = expected[at] = 0;
        }
    tq_same(what, got, expected, bytes);
}

static void products_case(size_t dim, int extreme) {
    size_t padded = padded_of(dim);
    float *scales = tile_of(4 * TQ_TILE, 0), *got = tile_of(4 * TQ_TILE, 0), *expected = tile_of(4 * TQ_TILE, 0);
    for (size_t t = 0; t < TQ_TILE; t++) scales[t] = power_of_two();
    uint8_t *keys = tile_of(TQ_TILE * padded, 0);
    int8_t *query = tile_of(padded, 0);
    for (size_t i = 0; i < TQ_TILE * padded; i++) keys[i] = (uint8_t)(extreme ? 127 : tq_random_word() & 127);
    for (size_t j = 0; j < dim; j++) query[j] = (int8_t)tq_random_number(127, extreme);
    tested->dot_bytes(keys, dim / 4, query, 0.5f, 3, scales, got);
    floor_slots->dot_bytes(keys, dim / 4, query, 0.5f, 3, scales, expected);
    snprintf(what, sizeof what, "dot_bytes of dim %zu", dim);
    tq_same(what, got, expected, 4 * TQ_TILE);

    int16_t *words = tile_of(2 * TQ_TILE * padded, 0), *asked = tile_of(2 * padded, 0);
    int limit = (int)(INT32_MAX / dim / 8191);
    for (size_t i = 0; i < TQ_TILE * padded; i++) words[i] = (int16_t)tq_random_number(8191, extreme);
    for (size_t j = 0; j < dim; j++) asked[j] = (int16_t)tq_random_number(limit > 32767 ? 32767 : limit, extreme);
    tested->dot_words(words, dim / 2, asked, 0.25f, scales, got);
    floor_slots->dot_words(words, dim / 2, asked, 0.25f, scales, expected);
    snprintf(what, sizeof what, "dot_words of dim %zu", dim);
    tq_same(what, got, expected, 4 * TQ_TILE);

    int8_t *values = tile_of(TQ_TILE * padded, 0);
    uint8_t *weights = tile_of(TQ_TILE, 0);
    float *sums = tile_of(4 * padded, 0), *others = tile_of(4 * padded, 0);
    for (size_t i = 0; i < TQ_TILE * padded; i++) values[i] = (int8_t)tq_random_number(127, extreme);
    for (size_t t = 0; t < TQ_TILE; t++) weights[t] = (uint8_t)(extreme ? 127 : tq_random_word() & 127);
    for (size_t j = 0; j < padded; j++) sums[j] = others[j] = (float)tq_random_number(1000, 0);
    tested->weigh_bytes(values, padded, weights, 0.25f, 0.5f, sums);
    floor_slots->weigh_bytes(values, padded, weights, 0.25f, 0.5f, others);
    snprintf(what, sizeof what, "weigh_bytes of dim %zu", dim);
    tq_same(what, sums, others, 4 * padded);
}

/* Rows of codes against sums in integers, small enough to be exact as floats in any order; a level without these slots has
 * nothing to compare. */
static void codes_case(size_t bits, size_t dim, size_t tokens, size_t rows) {
    float centroids[16];
    for (size_t c = 0; c < (size_t)1 << bits; c++) centroids[c] = (float)tq_random_number(100, 0);
    tq_codebook book = {.dim = dim, .bits = bits, .centroids = centroids};
    tq_attend_side side = {.book = &book, .dim = dim, .padded = padded_of(dim), .row_bytes = tq_row_bytes(dim, bits)};
    const size_t padded = side.padded;
    uint8_t *packed = tq_guarded(tokens * side.row_bytes), *codes = tile_of(tokens * padded, 0);
    for (size_t i = 0; i < tokens * side.row_bytes; i++) packed[i] = (uint8_t)tq_random_word();
    for (size_t t = 0; t < tokens; t++) tq_decode_baseline.unpack(packed + t * side.row_bytes, dim, bits, codes + t * padded);
    float *scales = tile_of(4 * TQ_TILE, 0), *query = tile_of(4 * rows * padded, 0), *sum = tile_of(4 * rows * padded, 0);
    float *weight = tile_of(4 * rows * TQ_TILE, 0xFF), *logit = tile_of(4 * rows * TQ_TILE, 0xFF); /* NaN behind the tokens */
    float *dots = tile_of(4 * rows * tokens, 0), *totals = tile_of(4 * rows * padded, 0), decays[32];
    const float *queries[32], *weights[32];
    float *logits[32], *sums[32];
    for (size_t t = 0; t < TQ_TILE; t++) scales[t] = power_of_two();
    for (size_t r = 0; r < rows; r++) {
        queries[r] = query + r * padded, sums[r] = sum + r * padded;
        weights[r] = weight + r * TQ_TILE, logits[r] = logit + r * TQ_TILE;
        decays[r] = power_of_two();
        for (size_t t = 0; t < tokens; t++) weight[r * TQ_TILE + t] = (float)(tq_random_word() % 100);
        for (size_t j = 0; j < dim; j++) {
            float *at = sums[r] + tq_attend_place(j), *total = totals + r * padded + tq_attend_place(j);
            query[r * padded + j] = (float)tq_random_number(100, 0);
            *at = (float)tq_random_number(1000, 0);
            *total = decays[r] * *at;
            for (size_t t = 0; t < tokens; t++) *total += weights[r][t] * centroids[codes[t * padded + j]];
        }
        for (size_t t = 0; t < tokens; t++) {
            for (size_t j = 0; j < dim; j++) dots[r * tokens + t] += queries[r][j] * centroids[codes[t * padded + j]];
            dots[r * tokens + t] *= scales[t];
        }
    }
    tested->dot_codes(&side, packed, tokens, tile_of(16 * padded, 0x77), queries, rows, scales, logits);
    tested->weigh_codes(&side, packed, tokens, weights, rows, decays, sums);
    for (size_t r = 0; r < rows; r++) {
        snprintf(what, sizeof what, "dot_codes of %zu bits, dim %zu, %zu tokens, row %zu of %zu", bits, dim, tokens, r, rows);
        tq_same(what, logits[r], dots + r * tokens, 4 * tokens);
        snprintf(what, sizeof what, "weigh_codes of %zu bits, dim %zu, %zu tokens, row %zu of %zu", bits, dim, tokens, r, rows);
        for (size_t j = dim; j < padded; j++) sums[r][tq_attend_place(j)] = 0; /* places of no coordinate hold anything */
        tq_same(what, sums[r], totals + r * padded, 4 * padded);
    }
}

static void codes_cases(void) {
    static const size_t dims[] = {2, 3, 7, 8, 9, 17, 31, 33, 64, 65, 100, 127, 128, 129, 160, 500};
    static const size_t rows[] = {1, 2, 3, 4, 7, 32}, tokens[] = {1, 7, 16, 17, 33, 64};
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++)
        for (size_t bits = 1; bits <= 4; bits++) {
            for (size_t k = 0; k < 6; k++) codes_case(bits, dims[i], tokens[k], rows[(i + bits + k) % 6]);
        }
}

void tq_compare_tile_slots(const tq_table *table) {
    static const size_t dims[] = {32, 64, 96, 128, 160, 288, 1024};
    tested = &table->attend;
    tq_random_start(0x2545F4914F6CDD1D);
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
        for (size_t bits = 1; bits <= 4; bits++)
            for (size_t tokens = 1; tokens <= TQ_TILE; tokens += tokens < 9 ? 1 : 11) tiles_case(bits, dims[i], tokens);
        for (int extreme = 0; extreme < 2; extreme++) products_case(dims[i], extreme);
    }
    if (tested->dot_codes) codes_cases();
}
