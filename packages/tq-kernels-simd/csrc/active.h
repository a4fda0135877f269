/* The level that runs and the memory that it works in: what the portable code needs, without Python. */
#ifndef TQ_ACTIVE_H
#define TQ_ACTIVE_H

#include "table.h"

/* The table of the level that runs; set once, when the module is imported. */
extern tq_table tq_active;

/* Memory aligned to 64 bytes, or NULL; no Python error is set, so that it may be called without the lock. */
void *tq_aligned(size_t bytes);
void tq_aligned_free(void *memory);

#endif
