#include "args.h"
#include "combine/run.h"
#include "threads.h"

/* combine(plan, packed, scales, weights, is_sketch, out, threads): weighted sums of the rows' codes or, for the sketch, of its
 * signs, -1 and 1; in the rotated domain. */
PyObject *tq_call_combine(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    static const float signs[2] = {-1, 1};
    const tq_plan *plan;
    long is_sketch, threads;
    if (tq_count("combine", count, 7) || !(plan = tq_plan_argument(args[0], "plan"))) return NULL;
    if (tq_integer(args[4], "is_sketch", 0, 1, &is_sketch) || tq_integer(args[6], "threads", 1, TQ_MAX_THREADS, &threads)) return NULL;
    if (is_sketch ? plan->sketch.kind == TQ_NO_SKETCH : !plan->book.bits) {
        tq_raise("InvalidSpec", PyUnicode_FromFormat("plan must have a %s, got one without", is_sketch ? "sketch" : "codebook"));
        return NULL;
    }
    const tq_codebook of_signs = {.dim = plan->sketch.projections, .bits = 1, .centroids = signs};
    tq_combine_job job = {.book = is_sketch ? &of_signs : &plan->book, .stride = plan->row_bytes};
    tq_arguments arguments = {.count = 0};
    PyObject *result = NULL;
    Py_buffer *packed = tq_buffer(&arguments, args[1], "packed", "B", 2, TQ_ANY, (Py_ssize_t)plan->row_bytes, 0), *scales = NULL,
              *weights = NULL, *out = NULL;
    if (packed) scales = tq_buffer(&arguments, args[2], "scales", "f", 1, packed->shape[0], 0, 0);
    if (scales) weights = tq_buffer(&arguments, args[3], "weights", "f", 2, TQ_ANY, packed->shape[0], 0);
    if (weights) out = tq_buffer(&arguments, args[5], "out", "f", 2, weights->shape[0], (Py_ssize_t)job.book->dim, 1);
    if (out) {
        job.packed = (const uint8_t *)packed->buf + (is_sketch ? plan->stage_bytes : 0);
        job.rows = (size_t)packed->shape[0];
        job.scales = scales->buf;
        job.weights = weights->buf;
        job.out = out->buf;
        int failed;
        Py_BEGIN_ALLOW_THREADS
        failed = tq_parallel((int)threads, (size_t)weights->shape[0], 4, tq_combine_sums, &job);
        Py_END_ALLOW_THREADS
        result = failed ? PyErr_NoMemory() : Py_NewRef(Py_None);
    }
    tq_release(&arguments);
    return result;
}
