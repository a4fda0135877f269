#include "mixed/rows.h"

#include "levels.h"

void tq_mixed_avx2(tq_mixed_slots *slots) { *slots = (tq_mixed_slots){quantize, pack, centroids}; }
