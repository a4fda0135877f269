#include "decode/decode.h"

#include "levels.h"

void tq_decode_avx512(tq_decode_slots *slots) { (void)slots; }
