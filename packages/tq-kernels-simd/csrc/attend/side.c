#include "attend/side.h"

#include <math.h>

#include "hadamard/hadamard.h"

size_t tq_attend_coordinate(size_t bits, size_t position) {
    size_t width = bits == 4 ? 4 : bits >= 2 ? 2 : 1, phases = 8 / width; /* of the lowest plane; 3 bits start with two */
    size_t quad = position / 4, inside = position % 4;
    return quad / phases * 4 * phases + inside * phases + quad % phases;
}

/* What part of the codes has about this centroid, from its neighbours and the normal density of rotated coordinates. */
static double share(const tq_codebook *book, size_t code) {
    size_t last = ((size_t)1 << book->bits) - 1;
    double at = book->centroids[code], below = code ? book->centroids[code - 1] : at, above = book->centroids[code < last ? code + 1 : last];
    return exp(-0.5 * at * at) * (above - below);
}

/* Fits base + step * round((centroid - origin) * top / (highest - origin)) to the centroids by weighted least squares (base 0
 * with signs) and returns the squared error. */
static double fit(const tq_codebook *book, int signs, int top, double *base, double *step) {
    size_t levels = (size_t)1 << book->bits;
    double highest = book->centroids[levels - 1], origin = signs ? 0 : book->centroids[0];
    double w = 0, u = 0, c = 0, uu = 0, uc = 0, cc = 0;
    for (size_t i = 0; i < levels; i++) {
        double weight = share(book, i), at = book->centroids[i], byte = rint((at - origin) * top / (highest - origin));
        w += weight, u += weight * byte, c += weight * at;
        uu += weight * byte * byte, uc += weight * byte * at, cc += weight * at * at;
    }
    if (signs) u = c = 0;
    *step = (uc - u * c / w) / (uu - u * u / w);
    *base = (c - *step * u) / w;
    return cc - c * c / w - *step * (uc - u * c / w);
}

/* Codebooks are symmetric, so the greatest centroid sets the scale. The greatest byte need not be 127: with few levels,
 * another grid often hits the inner ones better. */
static void integer_levels(tq_attend_side *side, int signs) {
    const tq_codebook *book = side->book;
    size_t levels = (size_t)1 << book->bits;
    double least = INFINITY, base = 0, step = 1, highest = book->centroids[levels - 1], origin = signs ? 0 : book->centroids[0];
    int best = 127;
    for (int top = 64; top <= 127; top++) {
        double error = fit(book, signs, top, &base, &step);
        if (error < least) least = error, best = top;
    }
    fit(book, signs, best, &base, &step);
    for (size_t i = 0; i < levels; i++) side->bytes[i] = (uint8_t)(int)rint((book->centroids[i] - origin) * best / (highest - origin));
    for (size_t i = levels; i < 16; i++) side->bytes[i] = side->bytes[0];
    side->step = (float)step;
    side->base = (float)base;
}

tq_attend_side tq_attend_make_side(const tq_codebook *book, int wanted, int signs) {
    tq_attend_side side = {.book = book, .dim = book->dim, .step = 1};
    side.padded = TQ_PADDED(book->dim);
    side.row_bytes = tq_row_bytes(book->dim, book->bits);
    side.integer = wanted && book->bits <= 4 && book->dim % 32 == 0 && book->dim <= TQ_ATTEND_INTEGER_DIM;
    if (side.integer) integer_levels(&side, signs);
    return side;
}

size_t tq_attend_tile_bytes(const tq_attend_side *side) {
    return TQ_TILE * side->padded * (side->integer ? 1 : sizeof(float));
}
