#include "decode/decode.h"

#include "levels.h"

/* Look-ups, no products: nothing for SDOT. */
void tq_decode_dotprod(tq_decode_slots *slots) { (void)slots; }
