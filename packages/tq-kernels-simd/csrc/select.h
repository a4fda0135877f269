/* Which instruction sets this processor and system run, and which one is used. */
#ifndef TQ_SELECT_H
#define TQ_SELECT_H

#include "table.h"

typedef struct tq_level {
    const char *name;
    const char *needs;     /* what a processor must have, for people */
    int (*runs_here)(void);
    void (*fill)(tq_table *table); /* replaces the slots that this level does better */
} tq_level;

/* Every level of this build, lowest first. */
extern const tq_level tq_levels[];
extern const size_t tq_level_count;

/* Fill `table` with the best level that runs here and is not above the one named `cap` (NULL: no cap). Returns the
 * level's index, or -1 when this build has no level of that name. */
int tq_select(const char *cap, tq_table *table);

#endif
