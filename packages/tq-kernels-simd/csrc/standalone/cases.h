/* Cases written by tests/isa/cases.py and what the driver does with them. No Python in this folder: it is for emulators. */
#ifndef TQ_STANDALONE_CASES_H
#define TQ_STANDALONE_CASES_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "plan.h"
#include "table.h"

enum { CASE_ROTATE = 1, CASE_ENCODE, CASE_DECODE, CASE_REFUSED, CASE_SCORE, CASE_ATTEND };

typedef struct tq_blob {
    char *data;
    size_t bytes;
} tq_blob;

/* The next part of a case, guarded, and the next plan, in an aligned buffer as the Python module keeps it. */
tq_blob tq_next_blob(FILE *file);
tq_plan tq_next_plan(FILE *file);

/* A buffer whose last byte is followed by a page that nobody may touch; kept until the process ends. */
void *tq_guarded(size_t bytes);

/* Reports and counts a difference; `what` names what was compared. */
void tq_same(const char *what, const void *got, const void *expected, size_t bytes);

/* The same for floats that may differ by rounding: the norm of the difference over that of what was expected. */
void tq_near(const char *what, const float *got, const float *expected, size_t count, double tolerance);

/* Memory for a whole call, filled with bytes that no kernel may count on; the process ends without it. */
void *tq_room(size_t bytes);

/* Runs every slot of `table` that an encode case reaches and the baseline's beside it, on each row of x, and compares. */
void tq_compare_slots(const tq_table *table, const tq_plan *plan, char dtype, const void *x, size_t rows);

/* Read a case of scores or of attention and run it: exact results against those of numpy, integer ones against the baseline's,
 * bit for bit where the contract says so. The active level is the same afterwards. */
void tq_score_case(FILE *file);
void tq_attend_case(FILE *file);

#endif
