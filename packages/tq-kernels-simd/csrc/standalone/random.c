#include "standalone/slot_cases.h"

static uint64_t state;

void tq_random_start(uint64_t seed) { state = seed; }

uint32_t tq_random_word(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 16);
}

int tq_random_number(int limit, int extreme) {
    if (extreme) return tq_random_word() & 7 ? limit : -limit;
    return (int)(tq_random_word() % (uint32_t)(2 * limit + 1)) - limit;
}
