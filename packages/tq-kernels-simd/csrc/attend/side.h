/* What the tiles of keys or values need to know about their codebook, made once a call. */
#ifndef TQ_ATTEND_SIDE_H
#define TQ_ATTEND_SIDE_H

#include "attend/attend.h"

/* The greatest dims of the kinds: 127 * 127 * 65536 is below 2^31; a query against 4096 words keeps 6 bits on average. */
#define TQ_ATTEND_BYTES_DIM 65536
#define TQ_ATTEND_WORDS_DIM 4096
#define TQ_ATTEND_GREATEST_WORD 8191

/* `integer`: bytes or words where the side allows them. Values have bytes centred on 0, and no words. */
tq_attend_side tq_attend_make_side(const tq_codebook *book, int integer, int is_value);

/* What a row's logits are made of: key scale * (slope * dot + offset) with the prepared query. */
typedef struct tq_attend_query {
    float slope, offset;
} tq_attend_query;

/* The query as the tiles want it: a permutation of bytes, words, or floats that hold scale / dim already. `spare` has room for
 * dim floats, `to` for tq_attend_query_bytes, and ends in zeros. */
tq_attend_query tq_attend_prepare(const tq_attend_side *side, const float *query, float scale, float *spare, void *to);
size_t tq_attend_query_bytes(const tq_attend_side *side);

/* A side of bytes: its numbers from the order of coordinates to that of positions, and back; dim floats each, no overlap. */
void tq_attend_to_positions(const tq_attend_side *side, const float *coordinates, float *positions);
void tq_attend_to_coordinates(const tq_attend_side *side, const float *positions, float *coordinates);

/* Bytes of a tile, a multiple of 64; none for codes. */
size_t tq_attend_tile_bytes(const tq_attend_side *side);

#endif
