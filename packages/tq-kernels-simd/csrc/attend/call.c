#include <limits.h>
#include <math.h>

#include "args.h"
#include "attend/run.h"
#include "threads.h"

enum { EXACT, MIXED, INTEGER }; /* both sides in floats; keys in bytes; both in bytes */

/* A buffer of `ndim` dimensions whose last `inner` are C-contiguous; the strides of the others are the caller's, in whole
 * elements. Sizes of TQ_ANY are not prescribed. Sets ShapeMismatch or InvalidDtype. */
static Py_buffer *strided(tq_arguments *arguments, PyObject *object, const char *name, const char *formats, int ndim, int inner,
                          const Py_ssize_t *shape, int writable) {
    Py_buffer *buffer = tq_buffer_of_any_shape(arguments, object, name, formats, writable);
    if (!buffer) return NULL;
    int fits = buffer->ndim == ndim;
    Py_ssize_t expected = buffer->itemsize;
    for (int i = ndim - 1; fits && i >= 0; i--) {
        fits = shape[i] == TQ_ANY || buffer->shape[i] == shape[i];
        if (buffer->shape[i] > 1) {
            if (i >= ndim - inner) fits = fits && buffer->strides[i] == expected;
            else fits = fits && buffer->strides[i] % buffer->itemsize == 0;
        }
        expected *= buffer->shape[i];
    }
    if (fits) {
        if (!((uintptr_t)buffer->buf % (size_t)buffer->itemsize)) return buffer;
        tq_raise_unaligned(name, buffer); /* a copy of a cache would cost more than what is attended */
        return NULL;
    }
    PyObject *came = PyList_New(buffer->ndim), *wanted = PyList_New(ndim);
    for (int i = 0; came && i < buffer->ndim; i++) PyList_SetItem(came, i, PyLong_FromSsize_t(buffer->shape[i]));
    for (int i = 0; wanted && i < ndim; i++)
        PyList_SetItem(wanted, i, shape[i] == TQ_ANY ? PyUnicode_FromString("n") : PyLong_FromSsize_t(shape[i]));
    if (came && wanted)
        tq_raise("ShapeMismatch", PyUnicode_FromFormat("%s must have the shape %S with its last %d dimensions contiguous, got %S",
                                                       name, wanted, inner, came));
    Py_XDECREF(came);
    Py_XDECREF(wanted);
    return NULL;
}

static int number(PyObject *object, const char *name, double low, float *value) {
    double given = PyFloat_AsDouble(object);
    *value = (float)given;
    if (given == -1 && PyErr_Occurred()) PyErr_Clear();
    else if (given >= low && isfinite(*value)) return 0;
    tq_raise("InvalidSpec", PyUnicode_FromFormat("%s must be a finite number%s, got %R", name, low == 0 ? " >= 0" : "", object));
    return -1;
}

static const tq_plan *stage_plan(PyObject *object, const char *name) {
    const tq_plan *plan = tq_plan_argument(object, name);
    if (!plan || (plan->book.bits && plan->book.bits != TQ_MIXED && plan->sketch.kind == TQ_NO_SKETCH)) return plan;
    tq_raise("InvalidSpec", PyUnicode_FromFormat("%s must be a plan with a codebook and without a sketch", name));
    return NULL;
}

static int store(tq_arguments *arguments, PyObject *const *args, const char *const *names, Py_ssize_t lanes, Py_ssize_t tokens,
                 tq_attend_store *to, Py_buffer **packed) {
    Py_ssize_t shape[3] = {lanes, tokens, (Py_ssize_t)to->side.row_bytes};
    *packed = strided(arguments, args[0], names[0], "B", 3, 2, shape, 0);
    if (!*packed) return -1;
    Py_ssize_t scale_shape[2] = {(*packed)->shape[0], (*packed)->shape[1]};
    Py_buffer *scales = strided(arguments, args[1], names[1], "fe", 2, 1, scale_shape, 0);
    if (!scales) return -1;
    to->packed = (*packed)->buf;
    to->scales = scales->buf;
    to->lane_bytes = (*packed)->strides[0];
    to->scale_lane_bytes = scales->strides[0];
    to->half = tq_format(scales) == 'e';
    return 0;
}

static int stores(tq_arguments *arguments, PyObject *const *args, tq_attend_job *job) {
    static const char *const keys[2] = {"key_packed", "key_scales"}, *const values[2] = {"value_packed", "value_scales"};
    Py_buffer *packed;
    if (store(arguments, args, keys, TQ_ANY, TQ_ANY, &job->keys, &packed)) return -1;
    job->lanes = (size_t)packed->shape[0];
    job->tokens = (size_t)packed->shape[1];
    return store(arguments, args + 2, values, packed->shape[0], packed->shape[1], &job->values, &packed);
}

/* queries, out, maxima, sums */
static int rows(tq_arguments *arguments, PyObject *const *args, tq_attend_job *job) {
    Py_ssize_t shape[4] = {(Py_ssize_t)job->lanes, TQ_ANY, TQ_ANY, (Py_ssize_t)job->keys.side.dim};
    Py_buffer *queries = strided(arguments, args[0], "queries", "f", 4, 4, shape, 0), *out, *maxima, *sums;
    if (!queries) return -1;
    job->groups = (size_t)(shape[1] = queries->shape[1]);
    job->count = (size_t)(shape[2] = queries->shape[2]);
    shape[3] = (Py_ssize_t)job->values.side.dim;
    if (!(out = strided(arguments, args[1], "out", "f", 4, 4, shape, 1)) ||
        !(maxima = strided(arguments, args[2], "maxima", "f", 3, 3, shape, 1)) ||
        !(sums = strided(arguments, args[3], "sums", "f", 3, 3, shape, 1)))
        return -1;
    job->queries = queries->buf;
    job->out = out->buf;
    job->maxima = maxima->buf;
    job->sums = sums->buf;
    return 0;
}

static int sight(tq_arguments *arguments, PyObject *limits, PyObject *mask, tq_attend_job *job) {
    Py_ssize_t pairs[2] = {(Py_ssize_t)job->count, 2}, all[2] = {(Py_ssize_t)job->count, (Py_ssize_t)job->tokens};
    Py_buffer *buffer;
    if (limits != Py_None) {
        if (!(buffer = strided(arguments, limits, "limits", "q", 2, 2, pairs, 0))) return -1;
        job->limits = buffer->buf;
    }
    if (mask != Py_None) {
        if (!(buffer = strided(arguments, mask, "mask", "?", 2, 1, all, 0))) return -1;
        job->mask = buffer->buf;
        job->mask_stride = buffer->strides[0];
    }
    return 0;
}

static int settings(PyObject *const *args, PyObject *accuracy, PyObject *threads, tq_attend_job *job) {
    const tq_plan *keys, *values;
    long how, most;
    if (!(keys = stage_plan(args[0], "key_plan")) || !(values = stage_plan(args[1], "value_plan"))) return -1;
    if (tq_integer(accuracy, "accuracy", EXACT, INTEGER, &how) || tq_integer(threads, "threads", 1, TQ_MAX_THREADS, &most)) return -1;
    job->keys.side = tq_attend_make_side(&keys->book, how >= MIXED, 0);
    job->values.side = tq_attend_make_side(&values->book, how == INTEGER, 1);
    job->threads = (int)most;
    return 0;
}

/* attend(key_plan, value_plan, key_packed, key_scales, value_packed, value_scales, queries, out, maxima, sums, limits, mask,
 * scale, softcap, accuracy, threads): see attention.py. */
PyObject *tq_call_attend(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    tq_attend_job job = {.limits = NULL};
    if (tq_count("attend", count, 16) || settings(args, args[14], args[15], &job)) return NULL;
    if (number(args[12], "scale", -INFINITY, &job.scale) || number(args[13], "softcap", 0, &job.cap)) return NULL;
    tq_arguments arguments = {.count = 0};
    PyObject *result = NULL;
    if (!stores(&arguments, args + 2, &job) && !rows(&arguments, args + 6, &job) && !sight(&arguments, args[10], args[11], &job)) {
        int failed;
        Py_BEGIN_ALLOW_THREADS
        failed = tq_attend(&job);
        Py_END_ALLOW_THREADS
        result = failed ? PyErr_NoMemory() : Py_NewRef(Py_None);
    }
    tq_release(&arguments);
    return result;
}

/* attend_workspace(key_plan, value_plan, lanes, groups, count, tokens, accuracy, threads): bytes that attend allocates. */
PyObject *tq_call_attend_workspace(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    static const char *const names[4] = {"lanes", "groups", "count", "tokens"};
    tq_attend_job job = {.limits = NULL};
    size_t *sizes[4] = {&job.lanes, &job.groups, &job.count, &job.tokens};
    if (tq_count("attend_workspace", count, 8) || settings(args, args[6], args[7], &job)) return NULL;
    for (int i = 0; i < 4; i++) {
        long size;
        if (tq_integer(args[2 + i], names[i], 0, i == 3 ? LONG_MAX : 1L << 20, &size)) return NULL;
        *sizes[i] = (size_t)size;
    }
    return PyLong_FromSize_t(tq_attend_workspace(&job));
}

/* attend_exp(x): x, a float32 array of a multiple of 8 numbers, becomes exp(x) as the active level computes it. */
PyObject *tq_call_attend_exp(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (tq_count("attend_exp", count, 1)) return NULL;
    tq_arguments arguments = {.count = 0};
    PyObject *result = NULL;
    Py_buffer *x = tq_buffer(&arguments, args[0], "x", "f", 1, TQ_ANY, 0, 1);
    if (x && x->shape[0] % 8) tq_raise("ShapeMismatch", PyUnicode_FromFormat("x must have a multiple of 8 numbers, got %zd", x->shape[0]));
    else if (x) {
        tq_active.attend.exponentials(x->buf, (size_t)x->shape[0]);
        result = Py_NewRef(Py_None);
    }
    tq_release(&arguments);
    return result;
}
