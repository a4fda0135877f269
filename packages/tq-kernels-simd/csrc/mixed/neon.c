#include "mixed/mixed.h"

#include "levels.h"

void tq_mixed_neon(tq_mixed_slots *slots) { (void)slots; }
