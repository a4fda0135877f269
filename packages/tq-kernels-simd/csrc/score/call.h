/* Arguments that scores and search have in common. Each returns nonzero or NULL with a Python error. */
#ifndef TQ_SCORE_CALL_H
#define TQ_SCORE_CALL_H

#include "args.h"
#include "score/run.h"

/* Codes and their numbers; scales are ignored for a bare sketch, gammas must be None without one. */
int tq_stored_rows_argument(tq_arguments *arguments, const tq_plan *plan, PyObject *packed, PyObject *scales,
                            PyObject *gammas, tq_stored_rows *rows);
Py_buffer *tq_queries_argument(tq_arguments *arguments, const tq_plan *plan, PyObject *queries);
/* 0 for a plan that has rows to score. */
int tq_scorable(const tq_plan *plan);

#endif
