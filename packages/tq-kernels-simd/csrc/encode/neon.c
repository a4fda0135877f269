#include "encode/encode.h"

#include "levels.h"

void tq_encode_neon(tq_encode_slots *slots) { (void)slots; }
