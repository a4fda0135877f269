#include "score/call.h"
#include "search/run.h"
#include "threads.h"

/* search(plan, packed, scales, gammas, queries, mask, k, accuracy, out_scores, out_indices, threads): the k best rows of each
 * query, order and padding as in run.h; accuracy TQ_AUTO or one of the scans, whose scores are then those returned. */
PyObject *tq_call_search(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    const tq_plan *plan;
    long k, accuracy, threads;
    if (tq_count("search", count, 11) || !(plan = tq_plan_argument(args[0], "plan")) || tq_scorable(plan)) return NULL;
    if (tq_integer(args[6], "k", 1, 1L << 31, &k) || tq_integer(args[7], "accuracy", TQ_EXACT, TQ_AUTO, &accuracy)) return NULL;
    if (tq_integer(args[10], "threads", 1, TQ_MAX_THREADS, &threads)) return NULL;
    tq_arguments arguments = {.count = 0};
    PyObject *result = NULL;
    tq_search_job job = {.plan = plan, .k = (size_t)k, .accuracy = (int)accuracy, .threads = (int)threads};
    Py_buffer *queries = NULL, *mask = NULL, *scores = NULL, *indices = NULL;
    if (!tq_stored_rows_argument(&arguments, plan, args[1], args[2], args[3], &job.rows))
        queries = tq_queries_argument(&arguments, plan, args[4]);
    if (queries && args[5] != Py_None)
        mask = tq_buffer(&arguments, args[5], "mask", "?", 1, (Py_ssize_t)job.rows.count, 0, 0);
    if (queries && (mask || args[5] == Py_None))
        scores = tq_buffer(&arguments, args[8], "out_scores", "f", 2, queries->shape[0], (Py_ssize_t)k, 1);
    if (scores) indices = tq_buffer(&arguments, args[9], "out_indices", "q", 2, queries->shape[0], (Py_ssize_t)k, 1);
    if (indices) {
        int failed;
        job.queries = queries->buf;
        job.count = (size_t)queries->shape[0];
        job.mask = mask ? mask->buf : NULL;
        job.scores = scores->buf;
        job.indices = indices->buf;
        Py_BEGIN_ALLOW_THREADS
        failed = tq_search(&job);
        Py_END_ALLOW_THREADS
        result = failed ? PyErr_NoMemory() : Py_NewRef(Py_None);
    }
    tq_release(&arguments);
    return result;
}
