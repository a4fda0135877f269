#include "combine/run.h"

#include <string.h>

#include "active.h"
#include "decode/run.h"

/* Sums at once: they share what was looked up. */
#define SUMS 32
/* Rows that are added up in float32 before their sum goes to float64, so that long sums lose nothing. */
#define LONGEST 512

typedef struct desk {
    float *tile, *sums, *weights, *scales;
    double *totals;
    uint8_t *codes;
} desk;

static void add_tile(const tq_combine_job *job, const tq_attend_side *side, const desk *d, size_t row, size_t rows, size_t first,
                     size_t count) {
    const uint8_t *packed = job->packed + row * job->stride;
    const float *weights[SUMS];
    float *sums[SUMS], decays[SUMS];
    memset(d->scales, 0, TQ_TILE * sizeof *d->scales);
    memcpy(d->scales, job->scales + row, rows * sizeof *d->scales);
    for (size_t s = 0; s < count; s++) {
        float *mine = d->weights + s * TQ_TILE;
        const float *given = job->weights + (first + s) * job->rows + row;
        for (size_t r = 0; r < TQ_TILE; r++) mine[r] = r < rows ? given[r] : 0;
        for (size_t r = 0; r < rows; r++) mine[r] *= d->scales[r];
        weights[s] = mine;
        sums[s] = d->sums + s * side->padded;
        decays[s] = 1;
    }
    if (side->kind == TQ_CODES) {
        tq_active.attend.weigh_codes(side, packed, rows, weights, count, decays, sums);
        return;
    }
    for (size_t r = 0; r < rows; r++)
        tq_row_centroids(side->book, packed + r * job->stride, d->codes, d->tile + r * side->padded);
    tq_active.attend.weigh_floats(d->tile, side->padded, rows, weights, count, decays, sums);
}

/* Adds the float32 sums to the totals and starts them again. */
static void settle(const tq_attend_side *side, const desk *d, size_t count) {
    for (size_t i = 0; i < count * side->padded; i++) d->totals[i] += (double)d->sums[i];
    memset(d->sums, 0, count * side->padded * sizeof *d->sums);
}

int tq_combine_sums(void *context, size_t first, size_t last) {
    const tq_combine_job *job = context;
    tq_attend_side side = {.book = job->book, .dim = job->book->dim, .padded = TQ_PADDED(job->book->dim), .row_bytes = job->stride};
    int in_registers = job->book->bits <= 4 && !job->book->window; /* neither fractional widths nor trellises */
    side.kind = in_registers && tq_active.attend.weigh_codes ? TQ_CODES : TQ_FLOATS;
    const size_t most = last - first < SUMS ? last - first : SUMS, tile = side.kind == TQ_CODES ? 0 : TQ_TILE * side.padded;
    if (first >= last) return 0;
    const size_t bytes = most * side.padded * (sizeof(double) + sizeof(float)) + side.padded +
                         (tile + (most + 1) * TQ_TILE) * sizeof(float);
    char *memory = tq_aligned(bytes);
    if (!memory) return -1;
    memset(memory, 0, bytes);
    desk d = {.totals = (double *)(void *)memory};
    d.sums = (float *)(void *)(d.totals + most * side.padded);
    d.tile = d.sums + most * side.padded;
    d.weights = d.tile + tile;
    d.scales = d.weights + most * TQ_TILE;
    d.codes = (uint8_t *)(d.scales + TQ_TILE);
    for (size_t s = first; s < last; s += most) {
        const size_t count = last - s < most ? last - s : most;
        memset(d.totals, 0, count * side.padded * sizeof *d.totals);
        for (size_t row = 0; row < job->rows; row += TQ_TILE) {
            add_tile(job, &side, &d, row, job->rows - row < TQ_TILE ? job->rows - row : TQ_TILE, s, count);
            if ((row + TQ_TILE) % LONGEST == 0) settle(&side, &d, count);
        }
        settle(&side, &d, count);
        for (size_t i = 0; i < count; i++)
            for (size_t j = 0; j < side.dim; j++)
                job->out[(s + i) * side.dim + j] =
                    (float)d.totals[i * side.padded + (side.kind == TQ_CODES ? tq_attend_place(j) : j)];
    }
    tq_aligned_free(memory);
    return 0;
}
