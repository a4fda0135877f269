#include "attend/side.h"

#include <math.h>

#include "hadamard/hadamard.h"

/* Codes in a byte of the lowest plane; 3 bits start with a plane of two. */
static size_t phases_of(size_t bits) { return bits == 4 ? 2 : bits >= 2 ? 4 : 8; }

size_t tq_attend_coordinate(size_t bits, size_t position) {
    size_t phases = phases_of(bits), quad = position / 4, inside = position % 4;
    return quad / phases * 4 * phases + inside * phases + quad % phases;
}

/* What part of the codes has about each centroid, from its neighbours and the normal density of rotated coordinates. */
static void shares(const tq_codebook *book, double *share) {
    size_t last = ((size_t)1 << book->bits) - 1;
    for (size_t i = 0; i <= last; i++) {
        double at = book->centroids[i], below = book->centroids[i ? i - 1 : 0], above = book->centroids[i < last ? i + 1 : last];
        share[i] = exp(-0.5 * at * at) * (above - below);
    }
}

static int nearest(double x) { return (int)(x < 0 ? x - 0.5 : x + 0.5); }

/* Fits base + step * byte to the centroids by weighted least squares (base 0 with signs), the greatest byte being `top`;
 * returns the squared error. */
static double fit(const tq_codebook *book, const double *share, int signs, int top, tq_attend_side *side) {
    size_t levels = (size_t)1 << book->bits;
    double origin = signs ? 0 : book->centroids[0], pitch = top / (book->centroids[levels - 1] - origin);
    double w = 0, u = 0, c = 0, uu = 0, uc = 0, cc = 0;
    for (size_t i = 0; i < levels; i++) {
        int byte = nearest((book->centroids[i] - origin) * pitch);
        double weight = share[i], at = book->centroids[i];
        side->bytes[i] = (uint8_t)byte;
        w += weight, u += weight * byte, c += weight * at;
        uu += weight * byte * byte, uc += weight * byte * at, cc += weight * at * at;
    }
    if (signs) u = c = 0;
    double step = (uc - u * c / w) / (uu - u * u / w);
    side->step = (float)step;
    side->base = (float)((c - step * u) / w);
    return cc - c * c / w - step * (uc - u * c / w);
}

/* Codebooks are symmetric, so the greatest centroid sets the scale. The greatest byte need not be 127: with few levels,
 * another grid often hits the inner ones better. */
static void integer_levels(tq_attend_side *side, int signs) {
    double share[16], least = INFINITY;
    int best = 127;
    shares(side->book, share);
    for (int top = 96; top <= 127; top++) {
        double error = fit(side->book, share, signs, top, side);
        if (error < least) least = error, best = top;
    }
    fit(side->book, share, signs, best, side);
}

tq_attend_side tq_attend_make_side(const tq_codebook *book, int wanted, int signs) {
    tq_attend_side side = {.book = book, .dim = book->dim, .step = 1};
    side.padded = TQ_PADDED(book->dim);
    side.row_bytes = tq_row_bytes(book->dim, book->bits);
    side.integer = wanted && book->bits <= 4 && book->dim % 32 == 0 && book->dim <= TQ_ATTEND_INTEGER_DIM;
    if (side.integer) integer_levels(&side, signs);
    return side;
}

void tq_attend_to_positions(const tq_attend_side *side, const float *coordinates, float *positions) {
    size_t phases = phases_of(side->book->bits);
    for (size_t first = 0; first < side->dim; first += 4 * phases)
        for (size_t phase = 0; phase < phases; phase++)
            for (size_t i = 0; i < 4; i++) *positions++ = coordinates[first + i * phases + phase];
}

void tq_attend_to_coordinates(const tq_attend_side *side, const float *positions, float *coordinates) {
    size_t phases = phases_of(side->book->bits);
    for (size_t first = 0; first < side->dim; first += 4 * phases)
        for (size_t phase = 0; phase < phases; phase++)
            for (size_t i = 0; i < 4; i++) coordinates[first + i * phases + phase] = *positions++;
}

size_t tq_attend_tile_bytes(const tq_attend_side *side) {
    return TQ_TILE * side->padded * (side->integer ? 1 : sizeof(float));
}
