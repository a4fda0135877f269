#include "encode/encode.h"

#include "levels.h"

void tq_encode_avx512(tq_encode_slots *slots) { (void)slots; }
