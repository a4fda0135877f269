#include "score/call.h"

#include "score/run.h"
#include "threads.h"

int tq_stored_rows_argument(tq_arguments *arguments, const tq_plan *plan, PyObject *packed, PyObject *scales,
                            PyObject *gammas, tq_stored_rows *rows) {
    Py_buffer *codes = tq_buffer(arguments, packed, "packed", "B", 2, TQ_ANY, (Py_ssize_t)plan->row_bytes, 0);
    if (!codes) return -1;
    *rows = (tq_stored_rows){codes->buf, plan->row_bytes, (size_t)codes->shape[0], NULL, NULL, 'f', 'f'};
    if (plan->book.bits) {
        Py_buffer *numbers = tq_buffer(arguments, scales, "scales", "fe", 1, codes->shape[0], 0, 0);
        if (!numbers) return -1;
        rows->scales = numbers->buf;
        rows->scale_format = tq_format(numbers);
    }
    if (plan->sketch.kind == TQ_NO_SKETCH) {
        if (gammas == Py_None) return 0;
        tq_raise("InvalidSpec", PyUnicode_FromFormat("gammas must be None for a plan without a sketch, got %R",
                                                     (PyObject *)Py_TYPE(gammas)));
        return -1;
    }
    Py_buffer *numbers = tq_buffer(arguments, gammas, "gammas", "fe", 1, codes->shape[0], 0, 0);
    if (!numbers) return -1;
    rows->gammas = numbers->buf;
    rows->gamma_format = tq_format(numbers);
    return 0;
}

Py_buffer *tq_queries_argument(tq_arguments *arguments, const tq_plan *plan, PyObject *queries) {
    size_t dim = plan->book.bits ? plan->book.dim : plan->sketch.dim;
    return tq_buffer(arguments, queries, "queries", "f", 2, TQ_ANY, (Py_ssize_t)dim, 0);
}

int tq_scorable(const tq_plan *plan) {
    if (plan->row_bytes) return 0;
    tq_raise("InvalidSpec", PyUnicode_FromString("plan must have a codebook or a sketch to score with, got a bare rotation"));
    return -1;
}

typedef struct job {
    const tq_queries *queries;
    tq_stored_rows rows;
    float *out;
} job;

static int score_rows(void *context, size_t first, size_t last) {
    const job *it = context;
    tq_score_scratch scratch;
    if (tq_score_scratch_make(&scratch, it->queries, it->rows.stride)) return -1;
    for (size_t r = first; r < last; r += TQ_BLOCK)
        for (size_t q = 0; q < it->queries->count; q += TQ_QUERY_BLOCK) {
            size_t rows = last - r < TQ_BLOCK ? last - r : TQ_BLOCK, left = it->queries->count - q;
            tq_score_block(it->queries, q, left < TQ_QUERY_BLOCK ? left : TQ_QUERY_BLOCK, &it->rows, r, rows,
                           it->out + q * it->rows.count + r, it->rows.count, &scratch);
        }
    tq_score_scratch_free(&scratch);
    return 0;
}

/* scores(plan, packed, scales, gammas, queries, out, accuracy, threads): out[q, r], the estimated inner products. Queries are
 * rotated for a plan with a codebook, and as they are for a bare sketch, where scales are ignored. */
PyObject *tq_call_scores(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    const tq_plan *plan;
    long accuracy, threads;
    if (tq_count("scores", count, 8) || !(plan = tq_plan_argument(args[0], "plan")) || tq_scorable(plan)) return NULL;
    if (tq_integer(args[6], "accuracy", TQ_EXACT, TQ_INT8, &accuracy)) return NULL;
    if (tq_integer(args[7], "threads", 1, TQ_MAX_THREADS, &threads)) return NULL;
    tq_arguments arguments = {.count = 0};
    PyObject *result = NULL;
    job it;
    Py_buffer *queries = NULL, *out = NULL;
    if (!tq_stored_rows_argument(&arguments, plan, args[1], args[2], args[3], &it.rows))
        queries = tq_queries_argument(&arguments, plan, args[4]);
    if (queries) out = tq_buffer(&arguments, args[5], "out", "f", 2, queries->shape[0], (Py_ssize_t)it.rows.count, 1);
    if (out) {
        tq_queries made;
        int failed;
        it.queries = &made;
        it.out = out->buf;
        Py_BEGIN_ALLOW_THREADS
        failed = tq_queries_make(&made, plan, queries->buf, (size_t)queries->shape[0], (int)accuracy);
        if (!failed && it.rows.count && made.count)
            failed = tq_parallel((int)threads, it.rows.count, 65536 / made.part[0].book.dim + 64, score_rows, &it);
        tq_queries_free(&made);
        Py_END_ALLOW_THREADS
        result = failed ? PyErr_NoMemory() : Py_NewRef(Py_None);
    }
    tq_release(&arguments);
    return result;
}
