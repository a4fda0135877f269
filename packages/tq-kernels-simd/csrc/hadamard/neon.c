#include "hadamard/hadamard.h"

#include "levels.h"

void tq_hadamard_neon(tq_hadamard_slots *slots) { (void)slots; }
