#include "sketch/sketch.h"

#include "levels.h"

/* The sketch multiplies int16 by int32: nothing for SDOT. */
void tq_sketch_dotprod(tq_sketch_slots *slots) { (void)slots; }
