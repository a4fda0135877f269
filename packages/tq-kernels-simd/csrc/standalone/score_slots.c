/* Every slot of csrc/score against the baseline's: random and extreme numbers, packed rows that end TQ_OVERREAD bytes before a
 * page that nobody may touch, results that end at one. float32 products are whole numbers, which every order adds exactly. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "baseline.h"
#include "standalone/cases.h"
#include "standalone/slot_cases.h"

static const tq_score_slots *tested;
static const tq_score_slots *const floor_slots = &tq_score_baseline;
static char what[160];

static void *random_bytes(size_t bytes) {
    uint8_t *made = tq_guarded(bytes);
    for (size_t i = 0; i < bytes; i++) made[i] = (uint8_t)tq_random_word();
    return made;
}

/* Packed rows of a length that is no multiple of anything, each plane `coordinates` long, in one guarded block. */
static tq_packed_rows packed_rows(size_t bits, size_t coordinates, size_t rows) {
    tq_packed_rows from = {{NULL, NULL, NULL}, 0, rows};
    size_t offset[3], count = 0, row_bytes = 0;
    for (size_t width = 8; width; width /= 2) {
        if (!(bits & width)) continue;
        offset[count++] = row_bytes;
        row_bytes += coordinates * width / 8;
    }
    from.stride = row_bytes + tq_random_word() % 7;
    const uint8_t *start = random_bytes(from.stride * (rows - 1) + row_bytes + TQ_OVERREAD);
    for (size_t i = 0; i < count; i++) from.plane[i] = start + offset[i];
    return from;
}

static tq_levels8 levels_of(size_t bits, int extreme) {
    tq_levels8 made = {.bits = bits, .lanes = 32};
    unsigned limit = TQ_LIMIT8(bits);
    for (size_t c = 0; c < 16; c++) {
        if (c >= (size_t)1 << bits) made.level[c] = made.level[c - ((size_t)1 << bits)];
        else made.level[c] = (uint8_t)(extreme ? limit : tq_random_word() % (limit + 1));
    }
    return made;
}

/* Chunks of 32 bytes, phase by phase, as the same number of bytes in chunks of `lanes`. */
static void reorder(size_t bits, size_t lanes, const void *from, size_t length, void *to) {
    size_t phases = TQ_PHASES(bits), ratio = lanes / 32;
    for (size_t block = 0; block < length / 32; block++) {
        size_t chunk = block / phases, phase = block % phases;
        size_t place = (chunk / ratio * phases + phase) * ratio + chunk % ratio;
        memcpy((char *)to + 32 * place, (const char *)from + 32 * block, 32);
    }
}

/* One packed row set in both arithmetics of int8: a scan, and tiles times many queries. */
static void int8_case(size_t bits, size_t lanes, size_t chunks, size_t rows, size_t count, int extreme) {
    tq_levels8 levels = levels_of(bits, extreme), wide = levels;
    wide.lanes = lanes;
    size_t length = chunks * TQ_PHASES(bits) * 32, tiles = (rows + 3) / 4 * 4, stride = tiles + 4;
    tq_packed_rows from = packed_rows(bits, chunks * 32 * TQ_PHASES(bits), rows);
    snprintf(what, sizeof what, "scan8 of %zu bits, %zu lanes, %zu chunks, %zu rows", bits, lanes, chunks, rows);
    int8_t *queries = tq_guarded(count * length), *ordered = tq_guarded(count * length);
    for (size_t i = 0; i < count * length; i++) queries[i] = (int8_t)tq_random_number(127, extreme);
    for (size_t q = 0; q < count; q++) reorder(bits, lanes, queries + q * length, length, ordered + q * length);
    int32_t *got = tq_guarded(4 * rows), *expected = tq_guarded(4 * rows);
    tested->scan8(&wide, ordered, &from, chunks / (lanes / 32), got);
    floor_slots->scan8(&levels, queries, &from, chunks, expected);
    tq_same(what, got, expected, 4 * rows);

    memcpy(what, "expand8", 7);
    uint8_t *tile = tq_guarded(tiles * length), *plain = tq_guarded(tiles * length), *turned = tq_guarded(length);
    memset(tile, 0, tiles * length);
    memset(plain, 0, tiles * length);
    tested->expand8(&wide, &from, chunks / (lanes / 32), tile);
    floor_slots->expand8(&levels, &from, chunks, plain);
    for (size_t r = 0; r < tiles; r++) {
        reorder(bits, lanes, plain + r * length, length, turned);
        tq_same(what, tile + r * length, turned, length);
    }
    size_t bytes = 4 * ((count - 1) * stride + tiles);
    snprintf(what, sizeof what, "dots8 of %zu bits, length %zu, %zu rows, %zu queries", bits, length, tiles, count);
    got = tq_guarded(bytes);
    expected = tq_guarded(bytes);
    tested->dots8(tile, tiles, ordered, length, count, length, TQ_FOLD8(bits), got, stride);
    floor_slots->dots8(plain, tiles, queries, length, count, length, TQ_FOLD8(bits), expected, stride);
    tq_same(what, got, expected, bytes);
}

static void int16_case(size_t bits, size_t length, size_t rows, size_t count, int extreme) {
    int16_t level16[256];
    for (size_t c = 0; c < 256; c++)
        level16[c] = c >> bits ? level16[c & (((size_t)1 << bits) - 1)] : (int16_t)(extreme ? TQ_MAX16 : tq_random_number(TQ_MAX16, 0));
    tq_packed_rows from = packed_rows(bits, length, rows);
    size_t tile_bytes = 2 * rows * length, stride = rows + 3;
    int16_t *tile = tq_guarded(tile_bytes), *expected_tile = tq_guarded(tile_bytes);
    snprintf(what, sizeof what, "expand16 of %zu bits, length %zu, %zu rows", bits, length, rows);
    tested->expand16(level16, bits, &from, length, tile);
    floor_slots->expand16(level16, bits, &from, length, expected_tile);
    tq_same(what, tile, expected_tile, tile_bytes);

    int16_t *queries = tq_guarded(2 * count * length);
    for (size_t i = 0; i < count * length; i++) queries[i] = (int16_t)(extreme ? -TQ_MAX16 : tq_random_number(TQ_MAX16, 0));
    size_t bytes = 8 * ((count - 1) * stride + rows);
    int64_t *got = random_bytes(bytes), *expected = tq_guarded(bytes);
    for (size_t i = 0; i < bytes / 8; i++) got[i] /= 4; /* there is something already, and room for more */
    memcpy(expected, got, bytes);
    snprintf(what, sizeof what, "dots16 of length %zu, %zu rows, %zu queries", length, rows, count);
    tested->dots16(expected_tile, rows, queries, length, count, length, got, stride);
    floor_slots->dots16(expected_tile, rows, queries, length, count, length, expected, stride);
    tq_same(what, got, expected, bytes);
}

static void finish_case(size_t rows, int add) {
    int32_t *sums = random_bytes(4 * rows);
    for (size_t r = 0; r < rows; r += 5) sums[r] = r & 1 ? INT32_MIN : INT32_MAX;
    float *weight = tq_guarded(4 * rows), *got = tq_guarded(4 * rows), *expected = tq_guarded(4 * rows);
    for (size_t r = 0; r < rows; r++) {
        weight[r] = (float)tq_random_number(1000000, 0) * 3e-5f;
        got[r] = expected[r] = (float)tq_random_number(1000000, 0);
    }
    uint32_t minus = tq_random_word();
    float factor = (float)tq_random_number(1000000, 0) * 1e-9f;
    snprintf(what, sizeof what, "finish of %zu rows, add %d", rows, add);
    tested->finish(sums, minus, factor, weight, rows, add, got);
    floor_slots->finish(sums, minus, factor, weight, rows, add, expected);
    tq_same(what, got, expected, 4 * rows);
}

static void float_case(size_t length, size_t count) {
    float *row = tq_guarded(4 * length), *queries = tq_guarded(4 * count * length);
    double *got = tq_guarded(8 * count), *expected = tq_guarded(8 * count);
    for (size_t j = 0; j < length; j++) row[j] = (float)tq_random_number(64, 0);
    for (size_t j = 0; j < count * length; j++) queries[j] = (float)tq_random_number(64, 0);
    for (size_t q = 0; q < count; q++) got[q] = expected[q] = tq_random_number(1000, 0) / 8.0;
    snprintf(what, sizeof what, "dots32 of length %zu, %zu queries", length, count);
    tested->dots32(row, queries, length, count, length, got);
    floor_slots->dots32(row, queries, length, count, length, expected);
    tq_same(what, got, expected, 8 * count);
}

void tq_compare_score_slots(const tq_table *table) {
    static const size_t chunks[] = {1, 2, 3, 4, 6, 8, 16, 18}, lengths[] = {32, 64, 96, 160, 1024, 1056, 2080};
    tested = &table->score;
    tq_random_start(0x9E3779B97F4A7C15);
    for (size_t bits = 1; bits <= 4; bits++)
        for (size_t lanes = 32; lanes <= tested->lanes; lanes *= 2) {
            for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++)
                for (size_t rows = 1; rows <= 9; rows++)
                    for (int extreme = 0; extreme < 2 && chunks[c] % (lanes / 32) == 0; extreme++)
                        int8_case(bits, lanes, chunks[c], rows, 2 * (1 + (rows + c) % 5), extreme);
            for (int extreme = 0; extreme < 2; extreme++) /* as long as a call may be, and many queries */
                int8_case(bits, lanes, TQ_SEGMENT / 32 / TQ_PHASES(bits), 3, 2, extreme);
            int8_case(bits, lanes, 4, 16, 32, 0);
        }
    for (size_t bits = 1; bits <= 8; bits++) {
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
            for (size_t rows = 1; rows <= 6; rows++) int16_case(bits, lengths[i], rows, 1 + (rows + i) % 4, rows % 2);
        int16_case(bits, 8192, 5, 3, 1);
    }
    int16_case(5, TQ_SEGMENT, 1, 1, 1);
    int16_case(8, 64, 16, 32, 0);
    for (size_t rows = 1; rows <= 33; rows++)
        for (int add = 0; add < 2; add++) finish_case(rows, add);
    for (size_t length = 64; length <= 4096; length *= 2) float_case(length, 1 + length / 64 % 3);
}
