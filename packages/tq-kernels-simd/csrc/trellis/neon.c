#include "trellis/trellis.h"

#include "levels.h"

void tq_trellis_neon(tq_trellis_slots *slots) { (void)slots; }
