#include "hadamard/hadamard.h"

#include "levels.h"

void tq_hadamard_avx2(tq_hadamard_slots *slots) { (void)slots; }
