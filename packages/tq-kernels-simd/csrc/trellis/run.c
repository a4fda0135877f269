#include "trellis/run.h"

#include <math.h>
#include <string.h>

#include "active.h"

static size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

int tq_trellis_scratch_make(tq_trellis_scratch *of, const tq_codebook *book) {
    size_t padded = TQ_PADDED(book->dim), history = aligned((book->dim + 1) * book->nodes * sizeof *of->history);
    char *next = of->memory = tq_aligned(history + padded * (2 + 1 + 1) * sizeof(int16_t) + 2 * padded);
    if (!next) return -1;
    of->history = (uint16_t *)next;
    of->x = (int16_t *)(next += history);
    of->tried = (int16_t *)(next += 2 * padded * sizeof *of->x);
    of->levels = (int16_t *)(next += padded * sizeof *of->tried);
    of->symbols = (uint8_t *)(next += padded * sizeof *of->levels);
    of->packed = of->symbols + padded;
    return 0;
}

void tq_trellis_scratch_free(tq_trellis_scratch *of) { tq_aligned_free(of->memory); }

/* v(t) of a candidate: rounding after clamping is clamping after rounding. */
static void candidate(const float *scaled, size_t dim, float t, int16_t *v) {
    for (size_t j = 0; j < dim; j++) {
        float value = t * scaled[j];
        value = value > 32767 ? 32767 : value < -32767 ? -32767 : value;
        v[j] = (int16_t)lrintf(value);
    }
}

static void pack(const uint8_t *symbols, size_t dim, size_t bits, uint8_t *out) {
    uint64_t held = 0;
    size_t place = 0;
    for (size_t j = dim; j-- > 0;) { /* the walk ends at coordinate 0 */
        held |= (uint64_t)symbols[j] << place;
        place += bits;
        if (place < 8) continue;
        *out++ = (uint8_t)held;
        held >>= 8;
        place -= 8;
    }
    if (place) *out = (uint8_t)held;
}

static void forward(const tq_codebook *book, const int16_t *x, size_t steps, uint16_t *history) {
    (book->nodes >= 32 ? tq_active.trellis.forward_wide : tq_active.trellis.forward)(book, x, steps, history);
}

/* The circular path of two passes: the first, begun half a turn away, finds where the second begins and ends. */
static void walk(const tq_codebook *book, const int16_t *v, tq_trellis_scratch *of, uint8_t *out) {
    size_t dim = book->dim, nodes = book->nodes, half = dim / 2;
    int16_t *x = of->x;
    for (size_t j = 0; j < dim; j++) {
        int value = 2 * v[dim - 1 - j];
        x[j] = x[j + dim] = (int16_t)(value > 32767 ? 32767 : value < -32768 ? -32768 : value);
    }
    memset(of->history, 0, nodes * sizeof *of->history);
    forward(book, x + half, dim, of->history);
    const uint16_t *last = of->history + dim * nodes;
    unsigned seam = 0;
    for (unsigned n = 1; n < nodes; n++)
        if (last[n] < last[seam]) seam = n;
    seam = tq_active.trellis.backward[book->bits](book, x + half, dim, dim - half, of->history, seam, of->symbols);
    memset(of->history, 0xFF, nodes * sizeof *of->history);
    of->history[seam] = 0;
    forward(book, x, dim, of->history);
    tq_active.trellis.backward[book->bits](book, x, dim, 0, of->history, seam, of->symbols);
    pack(of->symbols, dim, book->bits, out);
}

void tq_trellis_row(const tq_plan *plan, const float *scaled, const int16_t *v, tq_trellis_scratch *of, uint8_t *out, int64_t *dot,
                    int64_t *square) {
    const tq_codebook *book = &plan->book;
    double best = 0;
    *dot = *square = 1;
    for (size_t i = 0; i < plan->candidates; i++) {
        uint8_t *row = i ? of->packed : out;
        if (i) candidate(scaled, book->dim, plan->candidate[i], of->tried);
        walk(book, i ? of->tried : v, of, row);
        tq_active.trellis.levels(book, row, of->levels);
        int64_t a = 0, b = 0;
        for (size_t j = 0; j < book->dim; j++) { /* levels are doubled: half of them is exact */
            a += v[j] * (of->levels[j] / 2);
            b += (of->levels[j] / 2) * (of->levels[j] / 2);
        }
        double merit = (double)a * (double)a / (double)b;
        if (a < 0) merit = -merit;
        if (i && !(merit > best)) continue;
        if (i) memcpy(out, row, plan->stage_bytes);
        best = merit;
        *dot = a;
        *square = b;
    }
    if (*dot < *square >> 8) *dot = *square >> 8;
}
