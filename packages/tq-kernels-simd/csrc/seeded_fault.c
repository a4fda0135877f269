#include "seeded_fault.h"

#ifdef TQ_SEED_FAULT
#include <limits.h>

static tq_encode_slots sound;

static double over_reading(const float *x, size_t dim, double *scratch) { return sound.norm_f32(x, dim + 1, scratch); }

static double overflowing(const double *x, size_t dim, double *scratch) {
    volatile int count = INT_MAX;
    count += 1;
    return sound.norm_f64(x, dim, scratch) + count;
}

void tq_seed_faults(tq_table *table) {
    sound = table->encode;
    table->encode.norm_f32 = over_reading;
    table->encode.norm_f64 = overflowing;
}
#else
typedef int tq_no_seeded_fault; /* an empty file is no C */
#endif
