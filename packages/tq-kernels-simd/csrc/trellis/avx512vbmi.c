#include "levels.h"
#include "trellis/avx512vbmi_windows.h"

INLINE void centroids_blocks(const tq_codebook *book, const uint8_t *packed, float *out, const int blocks) {
    const size_t dim = book->dim;
    for (size_t j = 0; j < dim; j += 128) {
        const size_t other = j + 64 < dim ? j + 64 : j; /* a block of its own twice */
        const window_place places[2] = {window_place_of(book, j), window_place_of(book, other)};
        const uint8_t *const rows[2] = {packed, packed};
        const window_place *const both[2] = {places, places + 1};
        __m512 x[2][4];
        windows_of_64(book->planes, rows, both, blocks, x);
        if (j + 128 <= dim) {
            for (size_t v = 0; v < 8; v++) _mm512_storeu_ps(out + j + 16 * v, x[v / 4][v % 4]);
            continue;
        }
        for (size_t v = 0; v < 8 && j + 16 * v < dim; v++) {
            const size_t left = dim - j - 16 * v;
            _mm512_mask_storeu_ps(out + j + 16 * v, left >= 16 ? (__mmask16)~0 : (__mmask16)((1u << left) - 1), x[v / 4][v % 4]);
        }
    }
}

static void centroids(const tq_codebook *book, const uint8_t *packed, float *out) {
    if (!permutes(book)) {
        tq_trellis_centroids_avx2(book, packed, out);
        return;
    }
#define CENTROIDS(blocks) centroids_blocks(book, packed, out, blocks)
    FOR_BLOCKS(book, CENTROIDS);
}

void tq_trellis_avx512vbmi(tq_trellis_slots *slots) { slots->centroids = centroids; }
