#include "args.h"
#include "encode/run.h"
#include "threads.h"

/* encode(plan, x, packed, scales, gammas or None, threads): codes, scales and residual norms of the rows of x. */
PyObject *tq_call_encode(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    const tq_plan *plan;
    long threads;
    if (tq_count("encode", count, 6) || !(plan = tq_plan_argument(args[0], "plan"))) return NULL;
    if (tq_integer(args[5], "threads", 1, TQ_MAX_THREADS, &threads)) return NULL;
    if (!plan->book.bits || !plan->candidates || !plan->rotation.rounds) {
        tq_raise("InvalidSpec", PyUnicode_FromString("encode takes a plan with a codebook, candidates and rounds"));
        return NULL;
    }
    tq_arguments arguments = {.count = 0};
    PyObject *result = NULL;
    int sketched = plan->sketch.kind != TQ_NO_SKETCH;
    Py_buffer *x = tq_buffer(&arguments, args[1], "x", "efd", 2, TQ_ANY, (Py_ssize_t)plan->book.dim, 0), *packed = NULL,
              *scales = NULL, *gammas = NULL;
    if (x) packed = tq_buffer(&arguments, args[2], "packed", "B", 2, x->shape[0], (Py_ssize_t)plan->row_bytes, 1);
    if (packed) scales = tq_buffer(&arguments, args[3], "scales", "f", 1, x->shape[0], 0, 1);
    if (scales && sketched) gammas = tq_buffer(&arguments, args[4], "gammas", "f", 1, x->shape[0], 0, 1);
    if (scales && (gammas || !sketched)) {
        tq_encode_job job = {plan, x->buf, tq_format(x), packed->buf, scales->buf, gammas ? gammas->buf : NULL};
        int failed;
        if (x->shape[0] <= 4 && plan->book.dim <= 1024 && !sketched && !plan->book.window) {
            /* microseconds: giving the lock away and taking it back would take as long */
            failed = tq_encode_rows(&job, 0, (size_t)x->shape[0]);
        } else {
            Py_BEGIN_ALLOW_THREADS
            failed = tq_parallel((int)threads, (size_t)x->shape[0], (plan->book.window ? 1024 : 32768) / plan->book.dim + 1, tq_encode_rows, &job);
            Py_END_ALLOW_THREADS
        }
        result = failed ? PyErr_NoMemory() : Py_NewRef(Py_None);
    }
    tq_release(&arguments);
    return result;
}
