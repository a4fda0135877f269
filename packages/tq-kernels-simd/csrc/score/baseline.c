#include "score/score.h"

#include "baseline.h"

#define LANES 32

/* The code at phase p of byte i: 2 and 1 bits of two planes for 3, else one plane. */
static unsigned code_at(const tq_packed_rows *from, size_t bits, size_t row, size_t i, size_t p) {
    const uint8_t *low = from->plane[0] + row * from->stride;
    if (bits != 3) return (unsigned)low[i] >> p * bits & ((1u << bits) - 1);
    const uint8_t *high = from->plane[1] + row * from->stride;
    return (low[i] >> 2 * p & 3u) | (high[i / 2] >> (4 * (i & 1) + p) & 1u) << 2;
}

static void scan8(const tq_levels8 *levels, const int8_t *query, const tq_packed_rows *from, size_t chunks, int32_t *out) {
    size_t phases = TQ_PHASES(levels->bits);
    for (size_t r = 0; r < from->rows; r++) {
        int32_t sum = 0;
        for (size_t c = 0; c < chunks; c++)
            for (size_t p = 0; p < phases; p++)
                for (size_t i = 0; i < LANES; i++)
                    sum += levels->level[code_at(from, levels->bits, r, c * LANES + i, p)] * query[(c * phases + p) * LANES + i];
        out[r] = sum;
    }
}

static void expand8(const tq_levels8 *levels, const tq_packed_rows *from, size_t chunks, uint8_t *tile) {
    size_t phases = TQ_PHASES(levels->bits);
    for (size_t r = 0; r < from->rows; r++)
        for (size_t c = 0; c < chunks; c++)
            for (size_t p = 0; p < phases; p++)
                for (size_t i = 0; i < LANES; i++)
                    *tile++ = levels->level[code_at(from, levels->bits, r, c * LANES + i, p)];
}

static void dots8(const uint8_t *tile, size_t rows, const int8_t *queries, size_t query_stride, size_t count, size_t length,
                  size_t fold, int32_t *out, size_t stride) {
    (void)fold;
    for (size_t q = 0; q < count; q++)
        for (size_t r = 0; r < rows; r++) {
            const uint8_t *row = tile + r * length;
            const int8_t *query = queries + q * query_stride;
            int32_t sum = 0;
            for (size_t j = 0; j < length; j++) sum += row[j] * query[j];
            out[q * stride + r] = sum;
        }
}

/* The window of a coordinate: its bits and those behind, around the circle that a row is. */
static size_t window_at(const tq_codebook *book, const uint8_t *row, size_t j) {
    size_t bytes = book->dim * book->bits / 8, start = j * book->bits, byte = start / 8;
    uint32_t three = 0;
    for (size_t i = 0; i < 3; i++) three |= (uint32_t)row[(byte + i) % bytes] << 8 * i;
    return three >> start % 8 & (((size_t)1 << book->window) - 1);
}

static void scan_windows(const tq_levels8 *levels, const int8_t *query, const uint8_t *packed, size_t stride, size_t rows, int32_t *out) {
    const tq_codebook *book = levels->trellis;
    for (size_t r = 0; r < rows; r++, packed += stride) {
        int32_t sum = 0;
        for (size_t j = 0; j < book->dim; j++) sum += book->planes->scan_high[window_at(book, packed, j)] * query[j];
        out[r] = sum;
    }
}

static void expand_windows(const tq_levels8 *levels, const uint8_t *packed, size_t stride, size_t rows, size_t length, uint8_t *tile) {
    const tq_codebook *book = levels->trellis;
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < book->dim; j++)
            tile[r * length + j] = book->planes->scan_high[window_at(book, packed + r * stride, j)];
}

static void expand_long(const tq_levels8 *levels, const uint8_t *packed, size_t stride, size_t rows, size_t length, uint8_t *high,
                        uint8_t *low) {
    const tq_codebook *book = levels->trellis;
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < book->dim; j++) {
            uint16_t level = book->planes->scan[window_at(book, packed + r * stride, j)];
            high[r * length + j] = (uint8_t)(level >> 8);
            low[r * length + j] = (uint8_t)level;
        }
}

static void dots_bytes(const uint8_t *tile, size_t rows, const int8_t *queries, size_t query_stride, size_t count, size_t length,
                       int32_t *out, size_t stride) {
    dots8(tile, rows, queries, query_stride, count, length, 1, out, stride);
}

static void finish(const int32_t *sums, uint32_t minus, float factor, const float *weight, size_t rows, int add, float *out) {
    for (size_t r = 0; r < rows; r++) {
        float value = ((float)(int32_t)(2u * (uint32_t)sums[r] - minus) * factor) * weight[r];
        out[r] = add ? out[r] + value : value;
    }
}

static void expand16(const int16_t *level16, size_t bits, const tq_packed_rows *from, size_t length, int16_t *tile) {
    for (size_t r = 0; r < from->rows; r++, tile += length)
        for (size_t j = 0; j < length; j++) {
            unsigned code = 0, shift = 0;
            int plane = 0;
            for (unsigned width = 8; width; width /= 2) {
                if (!(bits & width)) continue;
                const uint8_t *bytes = from->plane[plane++] + r * from->stride;
                code |= ((unsigned)bytes[j * width / 8] >> j * width % 8 & ((1u << width) - 1)) << shift;
                shift += width;
            }
            tile[j] = level16[code];
        }
}

static void dots16(const int16_t *tile, size_t rows, const int16_t *queries, size_t query_stride, size_t count, size_t length,
                   int64_t *out, size_t stride) {
    for (size_t q = 0; q < count; q++)
        for (size_t r = 0; r < rows; r++) {
            const int16_t *row = tile + r * length, *query = queries + q * query_stride;
            int64_t sum = 0;
            for (size_t j = 0; j < length; j++) sum += row[j] * query[j];
            out[q * stride + r] += sum;
        }
}

static void dots32(const float *row, const float *queries, size_t query_stride, size_t count, size_t length, double *out) {
    for (size_t q = 0; q < count; q++) {
        const float *query = queries + q * query_stride;
        float lanes[8] = {0};
        for (size_t j = 0; j < length; j += 8)
            for (size_t k = 0; k < 8; k++) lanes[k] += query[j + k] * row[j + k];
        out[q] += (double)(((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7])));
    }
}

const tq_score_slots tq_score_baseline = {
    LANES, scan8, expand8, dots8, scan_windows, expand_windows, expand_long, dots_bytes, finish, expand16, dots16, dots32,
};
