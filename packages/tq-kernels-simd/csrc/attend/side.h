/* What the tiles of keys or values need to know about their codebook, made once a call. */
#ifndef TQ_ATTEND_SIDE_H
#define TQ_ATTEND_SIDE_H

#include "attend/attend.h"

/* The greatest dim of integer tiles: 127 * 127 * 65536 is below 2^31. */
#define TQ_ATTEND_INTEGER_DIM 65536

/* `signs`: values, whose bytes are centred on 0; keys start at 0. `wanted`: integer tiles where the side allows them. */
tq_attend_side tq_attend_make_side(const tq_codebook *book, int wanted, int signs);

/* An integer side's numbers from the order of coordinates to that of positions, and back; dim floats each, no overlap. */
void tq_attend_to_positions(const tq_attend_side *side, const float *coordinates, float *positions);
void tq_attend_to_coordinates(const tq_attend_side *side, const float *positions, float *coordinates);

/* Bytes of a tile, a multiple of 64. */
size_t tq_attend_tile_bytes(const tq_attend_side *side);

#endif
