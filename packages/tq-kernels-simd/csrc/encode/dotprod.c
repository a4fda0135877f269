#include "encode/encode.h"

#include "levels.h"

/* Its integer sums are of int16 products, SDOT multiplies int8: the level below is kept. */
void tq_encode_dotprod(tq_encode_slots *slots) { (void)slots; }
