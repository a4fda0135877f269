#include "attend/attend.h"

#include "levels.h"

void tq_attend_dotprod(tq_attend_slots *slots) { (void)slots; }
