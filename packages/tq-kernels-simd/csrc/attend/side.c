#include "attend/side.h"

#include <math.h>
#include <string.h>

#include "active.h"
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
static void byte_levels(tq_attend_side *side, int signs) {
    double share[16], least = INFINITY;
    int best = 127;
    shares(side->book, share);
    for (int top = 96; top <= 127; top++) {
        double error = fit(side->book, share, signs, top, side);
        if (error < least) least = error, best = top;
    }
    fit(side->book, share, signs, best, side);
}

/* Sixteen straight pieces of the positive levels, fitted like the bytes: vector code computes them, as no instruction looks up
 * 256 entries. Up to 6 bits a piece has two levels at most and is exact; at 8 bits the pieces are off by 0.003 of the standard
 * deviation of a coordinate, half of the codebook's own error. Every level of the build uses them, so that all agree. */
static void word_levels(tq_attend_side *side) {
    const float *levels = side->book->centroids + ((size_t)1 << (side->book->bits - 1));
    double share[256], step = levels[((size_t)1 << (side->book->bits - 1)) - 1] / TQ_ATTEND_GREATEST_WORD;
    size_t half = (size_t)1 << (side->book->bits - 1), run = half / 16;
    shares(side->book, share);
    for (size_t piece = 0; piece < 16; piece++) {
        double w = 0, x = 0, y = 0, xx = 0, xy = 0;
        for (size_t i = 0; i < run; i++) {
            double weight = share[half + piece * run + i], word = levels[piece * run + i] / step, at = (double)i;
            w += weight, x += weight * at, y += weight * word;
            xx += weight * at * at, xy += weight * at * word;
        }
        double slope = run > 1 ? (xy - x * y / w) / (xx - x * x / w) : 0;
        int start = nearest((y - slope * x) / w), last = nearest(slope) * (int)(run - 1);
        if (start + last > TQ_ATTEND_GREATEST_WORD) start = TQ_ATTEND_GREATEST_WORD - last;
        side->starts[piece] = (int16_t)start;
        side->slopes[piece] = (int16_t)nearest(slope);
        for (size_t i = 0; i < run; i++) {
            size_t m = piece * run + i;
            side->words[half + m] = (int16_t)(start + nearest(slope) * (int)i);
            side->words[half - 1 - m] = (int16_t)-side->words[half + m];
        }
    }
    side->shift = (int)side->book->bits - 5;
    side->step = (float)step;
}

tq_attend_side tq_attend_make_side(const tq_codebook *book, int integer, int is_value) {
    tq_attend_side side = {.book = book, .dim = book->dim, .step = 1};
    integer = integer && !book->window; /* levels of a trellis stay floats */
    side.padded = TQ_PADDED(book->dim);
    side.row_bytes = tq_book_bytes(book);
    if (!integer && !book->window && book->bits <= 4 && tq_active.attend.dot_codes) side.kind = TQ_CODES;
    if (integer && book->bits <= 4 && book->dim % 32 == 0 && book->dim <= TQ_ATTEND_BYTES_DIM) {
        side.kind = TQ_BYTES;
        byte_levels(&side, is_value);
    } else if (integer && book->bits > 4 && book->dim <= TQ_ATTEND_WORDS_DIM && !is_value) {
        side.kind = TQ_WORDS;
        word_levels(&side);
    }
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
    static const size_t sizes[] = {
        [TQ_FLOATS] = TQ_FLOAT_TOKENS * sizeof(float), [TQ_BYTES] = TQ_TILE, [TQ_WORDS] = TQ_TILE * sizeof(int16_t), [TQ_CODES] = 0};
    return side->padded * sizes[side->kind];
}

size_t tq_attend_query_bytes(const tq_attend_side *side) {
    return side->padded * (side->kind == TQ_BYTES ? 1 : side->kind == TQ_WORDS ? sizeof(int16_t) : sizeof(float));
}

/* The nearest integer of |x| < 2^22, ties to even: adding 1.5 * 2^23 leaves no bits below 1. A call of rintf costs more. */
static float whole(float x) { return (x + 0x1.8p23f) - 0x1.8p23f; }

static tq_attend_query prepare_bytes(const tq_attend_side *side, const float *query, float factor, float *spare, int8_t *row) {
    float highest = 0, total = 0;
    for (size_t j = 0; j < side->dim; j++) highest = fabsf(query[j]) > highest ? fabsf(query[j]) : highest;
    float unit = highest > 0x1p-100f && highest <= 0x1p120f ? 127 / highest : 0;
    tq_attend_to_positions(side, query, spare);
    for (size_t j = 0; j < side->dim; j++) {
        float byte = whole(spare[j] * unit);
        row[j] = (int8_t)(int32_t)byte;
        total += byte; /* exact: dim * 127 is below 2^24 */
    }
    float step = factor * (highest / 127);
    return (tq_attend_query){step * side->step, step * side->base * total}; /* the base counts for the query as rounded */
}

/* As fine as int32 sums allow: sum |query| * the greatest word stays below 2^31, rounding (half a unit for each) included. */
static tq_attend_query prepare_words(const tq_attend_side *side, const float *query, float factor, int16_t *row) {
    float highest = 0, total = 0;
    for (size_t j = 0; j < side->dim; j++) {
        highest = fabsf(query[j]) > highest ? fabsf(query[j]) : highest;
        total += fabsf(query[j]);
    }
    if (!(highest > 0x1p-100f && total <= 0x1p120f)) {
        for (size_t j = 0; j < side->dim; j++) row[j] = 0;
        return (tq_attend_query){0, 0};
    }
    float unit = (0x1p31f - 0x1p26f) / TQ_ATTEND_GREATEST_WORD / total;
    if (unit > 32767 / highest) unit = 32767 / highest;
    for (size_t j = 0; j < side->dim; j++) row[j] = (int16_t)(int32_t)whole(query[j] * unit);
    return (tq_attend_query){factor * side->step / unit, 0};
}

tq_attend_query tq_attend_prepare(const tq_attend_side *side, const float *query, float scale, float *spare, void *to) {
    float factor = scale / (float)side->dim, *row = to;
    memset(to, 0, tq_attend_query_bytes(side));
    if (side->kind == TQ_BYTES) return prepare_bytes(side, query, factor, spare, to);
    if (side->kind == TQ_WORDS) return prepare_words(side, query, factor, to);
    for (size_t j = 0; j < side->dim; j++) row[j] = query[j] * factor;
    return (tq_attend_query){1, 0};
}
