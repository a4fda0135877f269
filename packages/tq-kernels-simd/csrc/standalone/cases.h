/* Cases written by tests/isa/cases.py and what the driver does with them. No Python in this folder: it is for emulators. */
#ifndef TQ_STANDALONE_CASES_H
#define TQ_STANDALONE_CASES_H

#include <stddef.h>
#include <stdint.h>

#include "plan.h"
#include "table.h"

enum { CASE_ROTATE = 1, CASE_ENCODE, CASE_DECODE, CASE_REFUSED };

/* A buffer whose last byte is followed by a page that nobody may touch; kept until the process ends. */
void *tq_guarded(size_t bytes);

/* Reports and counts a difference; `what` names what was compared. */
void tq_same(const char *what, const void *got, const void *expected, size_t bytes);

/* Runs every slot of `table` that an encode case reaches and the baseline's beside it, on each row of x, and compares. */
void tq_compare_slots(const tq_table *table, const tq_plan *plan, char dtype, const void *x, size_t rows);

/* Runs every slot of csrc/score at this level and at the baseline on numbers of its own, and compares. */
void tq_compare_scores(const tq_table *table);

#endif
