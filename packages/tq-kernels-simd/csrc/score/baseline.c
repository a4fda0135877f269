#include "score/score.h"

#include "baseline.h"

static void exact(const tq_codebook *book, const float *query, const uint8_t *packed, size_t stride, size_t rows,
                  uint8_t *codes, float *row, float *out) {
    for (size_t r = 0; r < rows; r++) {
        tq_decode_baseline.centroids(book, packed + r * stride, codes, row);
        float lanes[8] = {0};
        size_t j = 0;
        for (; j + 8 <= book->dim; j += 8)
            for (size_t k = 0; k < 8; k++) lanes[k] += query[j + k] * row[j + k];
        for (; j < book->dim; j++) lanes[j % 8] += query[j] * row[j];
        out[r] = ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
    }
}

const tq_score_slots tq_score_baseline = {exact};
