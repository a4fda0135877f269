#include "args.h"
#include "decode/run.h"
#include "threads.h"

/* decode(plan, packed, scales, out, threads): out = scale times the rotated-back centroids of each packed row. */
PyObject *tq_call_decode(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    const tq_plan *plan;
    long threads;
    if (tq_count("decode", count, 5) || !(plan = tq_plan_argument(args[0], "plan"))) return NULL;
    if (tq_integer(args[4], "threads", 1, TQ_MAX_THREADS, &threads)) return NULL;
    if (!plan->book.bits || !plan->rotation.rounds || plan->sketch.kind != TQ_NO_SKETCH) {
        tq_raise("InvalidSpec", PyUnicode_FromString("decode takes a plan with a codebook and rounds, and without a sketch"));
        return NULL;
    }
    tq_arguments arguments = {.count = 0};
    PyObject *result = NULL;
    Py_buffer *packed = tq_buffer(&arguments, args[1], "packed", "B", 2, TQ_ANY, (Py_ssize_t)plan->row_bytes, 0),
              *scales = NULL, *out = NULL;
    if (packed) scales = tq_buffer(&arguments, args[2], "scales", "f", 1, packed->shape[0], 0, 0);
    if (scales) out = tq_buffer(&arguments, args[3], "out", "f", 2, packed->shape[0], (Py_ssize_t)plan->book.dim, 1);
    if (out) {
        tq_decode_job job = {plan, packed->buf, plan->row_bytes, scales->buf, out->buf};
        int failed;
        Py_BEGIN_ALLOW_THREADS
        failed = tq_parallel((int)threads, (size_t)packed->shape[0], 32768 / plan->book.dim + 1, tq_decode_rows, &job);
        Py_END_ALLOW_THREADS
        result = failed ? PyErr_NoMemory() : Py_NewRef(Py_None);
    }
    tq_release(&arguments);
    return result;
}
