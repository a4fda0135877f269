#include <string.h>

#include "args.h"
#include "encode/run.h"
#include "threads.h"

typedef struct job {
    const tq_sketch *sketch;
    const int64_t *residuals;
    uint8_t *out;
} job;

static int sketch_rows(void *context, size_t first, size_t last) {
    const job *it = context;
    size_t dim = it->sketch->dim, padded = TQ_PADDED(dim), bytes = (it->sketch->projections + 7) / 8;
    const size_t all = padded * (2 * sizeof(float) + TQ_SKETCH_ROWS * (sizeof(int32_t) + sizeof(int16_t)));
    float *x = tq_aligned(all);
    if (!x) return -1;
    memset(x, 0, all);
    int32_t *integers = (int32_t *)(x + 2 * padded);
    int16_t *narrow = (int16_t *)(integers + TQ_SKETCH_ROWS * padded);
    for (size_t r = first; r < last; r += TQ_SKETCH_ROWS) {
        uint8_t *out[TQ_SKETCH_ROWS];
        size_t rows = last - r < TQ_SKETCH_ROWS ? last - r : TQ_SKETCH_ROWS;
        for (size_t i = 0; i < rows; i++) {
            out[i] = it->out + (r + i) * bytes;
            for (size_t j = 0; j < dim; j++) integers[i * padded + j] = (int32_t)it->residuals[(r + i) * dim + j];
        }
        tq_sketch_rows(it->sketch, integers, padded, rows, x, x + padded, narrow, out);
    }
    tq_aligned_free(x);
    return 0;
}

/* The first value beyond int32, or `count`. */
static size_t beyond(const int64_t *values, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (values[i] < INT32_MIN || values[i] > INT32_MAX) return i;
    return count;
}

/* sketch(plan, residuals, out, threads): the sign bits of int64 rows that fit into 32 bits. */
PyObject *tq_call_sketch(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    const tq_plan *plan;
    long threads;
    if (tq_count("sketch", count, 4) || !(plan = tq_plan_argument(args[0], "plan"))) return NULL;
    if (tq_integer(args[3], "threads", 1, TQ_MAX_THREADS, &threads)) return NULL;
    if (plan->sketch.kind == TQ_NO_SKETCH) {
        tq_raise("InvalidSpec", PyUnicode_FromString("plan must have a sketch, got one without"));
        return NULL;
    }
    tq_arguments arguments = {.count = 0};
    PyObject *result = NULL;
    Py_ssize_t dim = (Py_ssize_t)plan->sketch.dim, bytes = (Py_ssize_t)(plan->sketch.projections + 7) / 8;
    Py_buffer *rows = tq_buffer(&arguments, args[1], "residuals", "q", 2, TQ_ANY, dim, 0);
    Py_buffer *out = rows ? tq_buffer(&arguments, args[2], "out", "B", 2, rows->shape[0], bytes, 1) : NULL;
    if (out) {
        job it = {&plan->sketch, rows->buf, out->buf};
        size_t values = (size_t)(rows->shape[0] * dim), large;
        int failed = 0;
        Py_BEGIN_ALLOW_THREADS
        large = beyond(it.residuals, values);
        if (large == values && values)
            failed = tq_parallel((int)threads, (size_t)rows->shape[0], 4096 / (size_t)dim + 1, sketch_rows, &it);
        Py_END_ALLOW_THREADS
        if (large < values)
            tq_raise("ScaleRange", PyUnicode_FromFormat("residuals[%zd, %zd] is %lld; 32-bit integers are expected",
                                                        (Py_ssize_t)large / dim, (Py_ssize_t)large % dim,
                                                        (long long)it.residuals[large]));
        else result = failed ? PyErr_NoMemory() : Py_NewRef(Py_None);
    }
    tq_release(&arguments);
    return result;
}
