/* What the instruction sets share that read rows of codes; portable, private to csrc/attend. */
#ifndef TQ_ATTEND_CODES_H
#define TQ_ATTEND_CODES_H

#include <string.h>

#include "attend/attend.h"
#include "specialize.h"

/* Bits a code has in the lowest plane: three bits are a plane of two and a plane of one. */
#define TQ_WIDTH(bits) ((bits) == 3 ? 2 : (bits))

/* A table of 16 for indices of four bits of which the code is the lowest `bits`: whatever stands above does not count. */
static inline void tq_attend_entries(const tq_codebook *book, float entries[16]) {
    for (size_t i = 0; i < 16; i++) entries[i] = book->centroids[i & (((size_t)1 << book->bits) - 1)];
}

/* Asks for the row that lies a tile ahead. */
static inline void tq_attend_ahead(const tq_attend_side *side, const uint8_t *row) {
    for (size_t line = 0; line < side->row_bytes; line += 64) __builtin_prefetch(row + TQ_TILE * side->row_bytes + line, 0, 2);
}

/* Rows t..t+count-1 of a tile, the last one standing in for those behind it; the tile one ahead is fetched meanwhile. */
static inline void tq_attend_rows(const tq_attend_side *side, const uint8_t *packed, size_t t, size_t tokens, size_t count,
                                  const uint8_t **rows) {
    for (size_t i = 0; i < count; i++) {
        rows[i] = packed + (t + i < tokens ? t + i : tokens - 1) * side->row_bytes;
        tq_attend_ahead(side, rows[i]);
    }
}

/* Where 64 coordinates lie in each of a tile's rows, `step` bytes apart: the lowest plane, and for three bits the other. */
typedef struct tq_attend_block {
    const uint8_t *low, *third;
    size_t step;
} tq_attend_block;

/* The block from coordinate `first` on, a multiple of 64. Where fewer are left, copies in `spare`, TQ_TILE * 64 bytes, with
 * zeros behind them: all 64 may be read. */
static inline tq_attend_block tq_attend_block_of(const tq_attend_side *side, const uint8_t *packed, size_t tokens, size_t first,
                                                 uint8_t *spare) {
    const size_t bits = side->book->bits, width = TQ_WIDTH(bits), plane = (side->dim * width + 7) / 8;
    const uint8_t *low = packed + first * width / 8, *third = packed + (bits == 3 ? plane + first / 8 : 0);
    if (side->dim - first >= 64) return (tq_attend_block){low, third, side->row_bytes};
    memset(spare, 0, tokens * 64);
    for (size_t t = 0; t < tokens; t++) {
        memcpy(spare + 64 * t, low + t * side->row_bytes, plane - first * width / 8);
        if (bits == 3) memcpy(spare + 64 * t + 32, third + t * side->row_bytes, (side->dim - first + 7) / 8);
    }
    return (tq_attend_block){spare, spare + 32, 64};
}

#endif
