#include "decode/decode.h"

#include "levels.h"

void tq_decode_neon(tq_decode_slots *slots) { (void)slots; }
