#include "attend/attend.h"

#include <math.h>
#include <string.h>

#include "attend/exponential.h"
#include "baseline.h"

static void keys(const tq_attend_side *side, const uint8_t *packed, size_t tokens, uint8_t *scratch, uint8_t *tile) {
    for (size_t t = 0; t < tokens; t++) {
        tq_decode_baseline.unpack(packed + t * side->row_bytes, side->dim, side->book->bits, scratch);
        for (size_t j = 0; j < side->dim; j++)
            tile[(j / 4 * TQ_TILE + t) * 4 + j % 4] = side->bytes[scratch[tq_attend_coordinate(side->book->bits, j)]];
    }
}

static void values(const tq_attend_side *side, const uint8_t *packed, size_t tokens, uint8_t *scratch, int8_t *tile) {
    for (size_t t = 0; t < tokens; t++) {
        tq_decode_baseline.unpack(packed + t * side->row_bytes, side->dim, side->book->bits, scratch);
        int8_t *to = tile + t / 4 * side->padded * 4 + t % 4;
        for (size_t j = 0; j < side->dim; j++)
            to[4 * j] = (int8_t)side->bytes[scratch[tq_attend_coordinate(side->book->bits, j)]];
    }
}

static void words(const tq_attend_side *side, const uint8_t *const codes[8], size_t first, uint8_t *scratch, int16_t *tile) {
    (void)scratch;
    for (size_t j = 0; j + 2 <= side->dim; j += 2) {
        int16_t *to = tile + (j * TQ_TILE / 2 + first) * 2;
        for (size_t t = 0; t < 8; t++) { /* one store of both: with two, stores would be what takes the time */
            int16_t pair[2] = {side->words[codes[t][j]], side->words[codes[t][j + 1]]};
            memcpy(to + 2 * t, pair, sizeof pair);
        }
    }
    int16_t *last = tile + (side->dim / 2 * TQ_TILE + first) * 2;
    for (size_t t = 0; side->dim % 2 && t < 8; t++) {
        last[2 * t] = side->words[codes[t][side->dim - 1]];
        last[2 * t + 1] = 0;
    }
}

static void dot_bytes(const uint8_t *tile, size_t quads, const int8_t *query, float slope, float offset,
                        const float *scales, float *logits) {
    int32_t sums[TQ_TILE] = {0};
    for (size_t q = 0; q < quads; q++)
        for (size_t t = 0; t < TQ_TILE; t++)
            for (size_t i = 0; i < 4; i++) sums[t] += tile[(q * TQ_TILE + t) * 4 + i] * query[4 * q + i];
    for (size_t t = 0; t < TQ_TILE; t++) logits[t] = scales[t] * (slope * (float)sums[t] + offset);
}

static void dot_words(const int16_t *tile, size_t pairs, const int16_t *query, float slope, const float *scales, float *logits) {
    uint32_t sums[TQ_TILE] = {0}; /* unsigned: tokens that nobody filled hold anything, and their sums may wrap */
    for (size_t p = 0; p < pairs; p++)
        for (size_t t = 0; t < TQ_TILE; t++)
            for (size_t i = 0; i < 2; i++) sums[t] += (uint32_t)(tile[(p * TQ_TILE + t) * 2 + i] * query[2 * p + i]);
    for (size_t t = 0; t < TQ_TILE; t++) logits[t] = scales[t] * (slope * (float)(int32_t)sums[t]);
}

static void dot_row(const float *tile, size_t padded, size_t dim, size_t tokens, const float *query, const float *scales,
                    float *logits) {
    for (size_t t = 0; t < tokens; t++) {
        float lanes[8] = {0};
        for (size_t j = 0; j < dim; j += 8)
            for (size_t k = 0; k < 8; k++) lanes[k] += query[j + k] * tile[t * padded + j + k];
        float sum = ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
        logits[t] = scales[t] * sum;
    }
}

static void dot_floats(const float *tile, size_t padded, size_t dim, size_t tokens, const float *const *queries, size_t rows,
                       const float *scales, float *const *logits) {
    for (size_t r = 0; r < rows; r++) dot_row(tile, padded, dim, tokens, queries[r], scales, logits[r]);
}

static float exponential(float x) {
    if (!(x >= EXP_LOW)) return x != x ? x : 0;
    if (x > EXP_HIGH) x = EXP_HIGH;
    float n = rintf(x * LOG2_E), r = (x - n * LN2_HIGH) - n * LN2_LOW;
    float p = (((P4 * r + P3) * r + P2) * r + P1) * r + P0;
    p = (p * r * r + r) + 1.0f;
    uint32_t power = (uint32_t)((int32_t)n + 127) << 23;
    float scale;
    memcpy(&scale, &power, sizeof scale);
    return p * scale;
}

static void exponentials(float *x, size_t count) {
    for (size_t i = 0; i < count; i++) x[i] = exponential(x[i]);
}

static void cap(float *logits, float limit) {
    for (size_t t = 0; t < TQ_TILE; t++) logits[t] = limit - 2 * limit / (exponential(2 * logits[t] / limit) + 1);
}

static float soften(float *logits, float *maximum) {
    float highest = *maximum, sum = 0;
    for (size_t t = 0; t < TQ_TILE; t++)
        if (logits[t] > highest) highest = logits[t];
    *maximum = highest;
    for (size_t t = 0; t < TQ_TILE; t++) {
        logits[t] = highest == -INFINITY ? 0 : exponential(logits[t] - highest);
        sum += logits[t];
    }
    return sum;
}

static float round_weights(const float *weights, const float *scales, uint8_t *bytes) {
    float products[TQ_TILE], highest = 0;
    for (size_t t = 0; t < TQ_TILE; t++) {
        products[t] = weights[t] * scales[t];
        if (products[t] > highest) highest = products[t];
    }
    float unit = highest > 0 ? 127 / highest : 0;
    if (!(unit <= 3e38f)) unit = highest = 0; /* weights so small that they count for nothing */
    for (size_t t = 0; t < TQ_TILE; t++) bytes[t] = (uint8_t)rintf(products[t] * unit);
    return highest / 127;
}

static void weigh_bytes(const int8_t *tile, size_t padded, const uint8_t *bytes, float step, float decay, float *sums) {
    for (size_t j = 0; j < padded; j++) {
        int32_t sum = 0;
        for (size_t t = 0; t < TQ_TILE; t++) sum += bytes[t] * tile[(t / 4 * padded + j) * 4 + t % 4];
        sums[j] = decay * sums[j] + step * (float)sum;
    }
}

static void weigh_floats(const float *tile, size_t padded, size_t tokens, const float *const *weights, size_t rows,
                         const float *decays, float *const *sums) {
    for (size_t r = 0; r < rows; r++) {
        float *sum = sums[r];
        for (size_t j = 0; j < padded; j++) sum[j] *= decays[r];
        for (size_t t = 0; t < tokens; t++)
            for (size_t j = 0; j < padded; j++) sum[j] += weights[r][t] * tile[t * padded + j];
    }
}

const tq_attend_slots tq_attend_baseline = {
    keys, values, words, dot_bytes, dot_words, dot_floats, NULL, NULL, NULL, NULL, cap, soften, round_weights, weigh_bytes, weigh_floats, exponentials,
};
