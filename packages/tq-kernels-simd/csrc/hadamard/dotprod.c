#include "hadamard/hadamard.h"

#include "levels.h"

void tq_hadamard_dotprod(tq_hadamard_slots *slots) { (void)slots; }
