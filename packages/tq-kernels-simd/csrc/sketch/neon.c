#include "sketch/sketch.h"

#include "levels.h"

void tq_sketch_neon(tq_sketch_slots *slots) { (void)slots; }
