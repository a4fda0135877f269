#include "sketch/sketch.h"

#include "levels.h"

void tq_sketch_avx512(tq_sketch_slots *slots) { (void)slots; }
