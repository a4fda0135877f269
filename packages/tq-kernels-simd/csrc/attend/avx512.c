#include "attend/attend.h"

#include "levels.h"

void tq_attend_avx512(tq_attend_slots *slots) { (void)slots; }
