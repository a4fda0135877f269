#include "score/score.h"

#include "levels.h"

void tq_score_neon(tq_score_slots *slots) { (void)slots; }
