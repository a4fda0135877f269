/* Look-ups shared by decoding and scoring on NEON; a function of its own symbol, called once a row. */
#ifndef TQ_DECODE_NEON_H
#define TQ_DECODE_NEON_H

#include "plan.h"

void tq_decode_centroids_neon(const tq_codebook *book, const uint8_t *packed, uint8_t *codes, float *out);

#endif
