#include "mixed/mixed.h"

#include "levels.h"

void tq_mixed_avx512(tq_mixed_slots *slots) { (void)slots; }
