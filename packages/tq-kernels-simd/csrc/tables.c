#include <math.h>
#include <string.h>

#include "plan.h"

static void split(const int16_t *words, size_t count, uint8_t *low, uint8_t *high) {
    for (size_t i = 0; i < count; i++) {
        low[i] = (uint8_t)words[i];
        high[i] = (uint8_t)(words[i] >> 8);
    }
}

/* Whether no bucket of that shift holds two thresholds; fills the buckets. */
static int bucketed(tq_tables *tables, const tq_codebook *book, int shift) {
    size_t count = ((size_t)1 << (book->bits - 1)) - 1, next = 0;
    for (int i = 0; i < 16; i++) {
        int first = i << shift, last = i < 15 ? first + (1 << shift) - 1 : 32767;
        while (next < count && book->thresholds[next] < first) next++;
        size_t inside = 0;
        while (next + inside < count && book->thresholds[next + inside] < last) inside++;
        if (inside > 1) return 0;
        tables->bucket_below[i] = (uint8_t)next;
        tables->bucket_tops[i] = inside ? book->thresholds[next] : 32767;
    }
    return 1;
}

static double greatest_centroid(const tq_codebook *book) {
    double largest = 0;
    for (size_t i = 0; i < (size_t)1 << book->window; i++) largest = fmax(largest, fabs((double)book->centroids[i]));
    return largest;
}

/* The step for which levels of at most `top` on either side of 0 fit the centroids best, and their squared error; all windows
 * occur alike. */
static double fit_scan(const tq_codebook *book, double largest, int top, double *step) {
    double cross = 0, square = 0, norm = 0;
    for (size_t i = 0; i < (size_t)1 << book->window; i++) {
        double centroid = (double)book->centroids[i], whole = rint(centroid * (top / largest));
        cross += centroid * whole;
        square += whole * whole;
        norm += centroid * centroid;
    }
    *step = cross / square; /* no level is 0, so that the largest is not */
    return norm - *step * cross;
}

/* Of few levels, another greatest one often hits the others better. */
static void fill_scan(tq_planes *planes, const tq_codebook *book, int fine) {
    double largest = greatest_centroid(book), least = INFINITY, step;
    int best = planes->limit;
    for (int top = planes->limit; 5 * top >= 4 * planes->limit && (book->window <= 7 || top == planes->limit); top--) {
        double error = fit_scan(book, largest, top, &step);
        if (error < least) least = error, best = top;
    }
    fit_scan(book, largest, best, &step);
    planes->step = (float)step;
    for (size_t i = 0; i < (size_t)1 << book->window; i++) {
        unsigned level = (unsigned)((int)rint((double)book->centroids[i] * (best / largest)) + planes->limit);
        planes->scan[i] = (uint16_t)(fine ? (level >> 4) << 8 | (level & 15) : level << 8);
    }
}

void tq_planes_fill(tq_planes *planes, const tq_codebook *book) {
    size_t mask = ((size_t)1 << book->window) - 1;
    int fine = book->bits == 4 && book->window > 7;
    memset(planes, 0, sizeof *planes);
    planes->limit = fine ? 2047 : book->bits == 4 || book->window > 7 ? 127 : 63;
    fill_scan(planes, book, fine);
    for (size_t i = 0; book->window <= TQ_PLANE_BITS && i < sizeof planes->low; i++) {
        unsigned level = (unsigned)(book->levels[i & mask] + 32768);
        planes->low[i] = (uint8_t)level;
        planes->high[i] = (uint8_t)(level >> 8);
        planes->scan_high[i] = (uint8_t)(planes->scan[i & mask] >> 8);
        planes->scan_low[i] = (uint8_t)planes->scan[i & mask];
    }
}

void tq_tables_fill(tq_tables *tables, const tq_codebook *book) {
    size_t half = (size_t)1 << (book->bits - 1);
    memset(tables, 0, sizeof *tables);
    for (size_t nodes = 1; nodes < half; nodes *= 2)
        for (size_t m = 0; m < nodes; m++) tables->tree[nodes + m] = book->thresholds[half / nodes * m + half / nodes / 2 - 1];
    memcpy(tables->levels, book->levels, half * sizeof *book->levels);
    split(tables->tree, half, tables->tree_bytes[0], tables->tree_bytes[1]);
    split(tables->levels, half, tables->level_bytes[0], tables->level_bytes[1]);
    for (size_t c = 0; c < 2 * half; c++) {
        uint32_t bits;
        memcpy(&bits, book->centroids + c, sizeof bits);
        for (int k = 0; k < 4; k++) tables->centroid_bytes[k][c] = (uint8_t)(bits >> 8 * k);
    }
    int shift = 10; /* buckets of a quarter of the deviation, within which four bits have one threshold */
    while (shift > 6 && !bucketed(tables, book, shift)) shift--;
    tables->bucket_shift = shift > 6 ? shift : 0;
    split(tables->bucket_tops, 16, tables->bucket_top_bytes[0], tables->bucket_top_bytes[1]);
}
