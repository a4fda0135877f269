/* Deliberate faults, compiled only with TQ_SEED_FAULT: a check that cannot fail proves nothing. */
#ifndef TQ_SEEDED_FAULT_H
#define TQ_SEEDED_FAULT_H

#include "table.h"

/* Afterwards the norm of a float32 row reads one element too many with the level's own kernel, and that of a float64 row
 * overflows an int. */
void tq_seed_faults(tq_table *table);

#endif
