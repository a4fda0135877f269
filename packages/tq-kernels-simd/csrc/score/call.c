#include <string.h>

#include "args.h"
#include "threads.h"

typedef struct job {
    const tq_plan *plan;
    const uint8_t *packed;
    const float *scales, *queries; /* queries already rotated */
    size_t query_count, row_count;
    float *out;
} job;

static int rows(void *context, size_t first, size_t last) {
    const job *it = context;
    const tq_codebook *book = &it->plan->book;
    size_t dim = book->dim, padded = TQ_PADDED(dim);
    float *query = tq_aligned(padded * (2 * sizeof *query + 1));
    if (!query) return -1;
    memset(query, 0, padded * sizeof *query);
    float *row = query + padded, inverse_dim = 1.0f / (float)dim;
    for (size_t q = 0; q < it->query_count; q++) {
        float *out = it->out + q * it->row_count;
        memcpy(query, it->queries + q * dim, dim * sizeof *query);
        tq_active.score.exact(book, query, it->packed + first * it->plan->row_bytes, it->plan->row_bytes, last - first,
                              (uint8_t *)(row + padded), row, out + first);
        for (size_t r = first; r < last; r++) out[r] *= it->scales[r] * inverse_dim;
    }
    tq_aligned_free(query);
    return 0;
}

/* scores(plan, packed, scales, rotated queries, out, threads): out[q, r] = scale_r <query_q, centroids_r> / dim. */
PyObject *tq_call_scores(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    const tq_plan *plan;
    long threads;
    if (tq_count("scores", count, 6) || !(plan = tq_plan_argument(args[0]))) return NULL;
    if (tq_integer(args[5], "threads", 1, TQ_MAX_THREADS, &threads)) return NULL;
    if (!plan->book.bits) {
        tq_raise("InvalidSpec", PyUnicode_FromString("scores takes a plan with a codebook"));
        return NULL;
    }
    tq_arguments arguments = {.count = 0};
    PyObject *result = NULL;
    Py_buffer *packed = tq_buffer(&arguments, args[1], "packed", "B", 2, TQ_ANY, (Py_ssize_t)plan->row_bytes, 0),
              *scales = NULL, *queries = NULL, *out = NULL;
    if (packed) scales = tq_buffer(&arguments, args[2], "scales", "f", 1, packed->shape[0], 0, 0);
    if (scales) queries = tq_buffer(&arguments, args[3], "queries", "f", 2, TQ_ANY, (Py_ssize_t)plan->book.dim, 0);
    if (queries) out = tq_buffer(&arguments, args[4], "out", "f", 2, queries->shape[0], packed->shape[0], 1);
    if (out) {
        job it = {plan, packed->buf, scales->buf, queries->buf, (size_t)queries->shape[0], (size_t)packed->shape[0], out->buf};
        int failed;
        Py_BEGIN_ALLOW_THREADS
        failed = tq_parallel((int)threads, it.row_count, 65536 / plan->book.dim + 1, rows, &it);
        Py_END_ALLOW_THREADS
        result = failed ? PyErr_NoMemory() : Py_NewRef(Py_None);
    }
    tq_release(&arguments);
    return result;
}
