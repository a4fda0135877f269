#include "attend/attend.h"

#include "levels.h"

void tq_attend_neon(tq_attend_slots *slots) { (void)slots; }
