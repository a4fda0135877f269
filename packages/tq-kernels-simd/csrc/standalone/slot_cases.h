/* Comparisons of a level's slots with the baseline's on numbers made here, which need no file of cases. */
#ifndef TQ_STANDALONE_SLOT_CASES_H
#define TQ_STANDALONE_SLOT_CASES_H

#include <stdint.h>

#include "table.h"

/* The same numbers on every machine: start again, 32 bits, and -limit..limit or, where `extreme`, mostly limit, at times -limit. */
void tq_random_start(uint64_t seed);
uint32_t tq_random_word(void);
int tq_random_number(int limit, int extreme);

/* Each runs the slots of an operation on random and extreme numbers and reports as tq_same does. */
void tq_compare_score_slots(const tq_table *table);
void tq_compare_tile_slots(const tq_table *table);

#endif
