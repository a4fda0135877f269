#include "trellis/trellis.h"

#include "levels.h"

void tq_trellis_avx512(tq_trellis_slots *slots) { (void)slots; }
