#include "hadamard/hadamard.h"

#include "levels.h"

void tq_hadamard_avx512(tq_hadamard_slots *slots) { (void)slots; }
