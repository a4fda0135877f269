#include "args.h"
#include "threads.h"

typedef struct job {
    const tq_rotation *rotation;
    const float *x;
    float *out;
    int inverse, is_large;
} job;

#define LARGE_BYTES ((size_t)24 << 20) /* where input and output together leave few caches of today room */

static int rows(void *context, size_t first, size_t last) {
    const job *it = context;
    size_t dim = it->rotation->dim, padded = TQ_PADDED(dim);
    float *x = tq_aligned(2 * padded * sizeof *x);
    if (!x) return -1;
    for (size_t j = dim; j < padded; j++) x[j] = 0;
    const tq_hadamard_slots *slots = &tq_active.hadamard;
    for (size_t row = first; row < last; row++) {
        float *out = it->out + row * dim;
        if (it->is_large && row + 1 < last) tq_ahead(it->x + (row + 1) * dim, dim * sizeof *x);
        (it->inverse ? slots->inverse_into : slots->forward_into)(it->rotation, it->x + row * dim, x, x + padded,
                                                                  it->is_large ? x : out);
        if (it->is_large) slots->copy_past_cache(x, out, dim);
    }
    slots->settle();
    tq_aligned_free(x);
    return 0;
}

/* rotate(plan, x, out, inverse, threads): out = the rotation (or its inverse) of each row of x. */
PyObject *tq_call_rotate(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    const tq_plan *plan;
    long inverse, threads;
    if (tq_count("rotate", count, 5) || !(plan = tq_plan_argument(args[0], "plan"))) return NULL;
    if (tq_integer(args[3], "inverse", 0, 1, &inverse) || tq_integer(args[4], "threads", 1, TQ_MAX_THREADS, &threads))
        return NULL;
    if (!plan->rotation.rounds) {
        tq_raise("InvalidSpec", PyUnicode_FromString("this plan has no rounds to rotate with"));
        return NULL;
    }
    tq_arguments arguments = {.count = 0};
    PyObject *result = NULL;
    Py_ssize_t dim = (Py_ssize_t)plan->rotation.dim;
    Py_buffer *x = tq_buffer(&arguments, args[1], "x", "f", 2, TQ_ANY, dim, 0);
    Py_buffer *out = x ? tq_buffer(&arguments, args[2], "out", "f", 2, x->shape[0], dim, 1) : NULL;
    if (out) {
        job it = {&plan->rotation, x->buf, out->buf, (int)inverse, (size_t)x->len >= LARGE_BYTES};
        int failed;
        Py_BEGIN_ALLOW_THREADS
        failed = tq_parallel((int)threads, (size_t)x->shape[0], 65536 / (size_t)dim + 1, rows, &it);
        Py_END_ALLOW_THREADS
        result = failed ? PyErr_NoMemory() : Py_NewRef(Py_None);
    }
    tq_release(&arguments);
    return result;
}
