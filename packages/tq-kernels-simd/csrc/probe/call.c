#include "args.h"

/* probe_fma(steps): float32 operations done, as a float; the caller takes the time. */
PyObject *tq_call_probe_fma(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    long steps;
    if (tq_count("probe_fma", count, 1) || tq_integer(args[0], "steps", 1, 1L << 30, &steps)) return NULL;
    float sink = 0;
    double operations;
    Py_BEGIN_ALLOW_THREADS
    operations = tq_active.probe.fma((size_t)steps, &sink);
    Py_END_ALLOW_THREADS
    return PyFloat_FromDouble(sink == 12345.0f ? 0.0 : operations); /* the compiler cannot know that it is not */
}

/* probe_read(buffer): the exclusive or of its 64-bit words, read once from start to end. */
PyObject *tq_call_probe_read(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (tq_count("probe_read", count, 1)) return NULL;
    tq_arguments arguments = {.count = 0};
    PyObject *result = NULL;
    Py_buffer *buffer = tq_buffer(&arguments, args[0], "buffer", "B", 1, TQ_ANY, TQ_ANY, 0);
    if (buffer) {
        const char *start = (const char *)(((uintptr_t)buffer->buf + 63) / 64 * 64), *end = (char *)buffer->buf + buffer->len;
        size_t bytes = start < end ? (size_t)(end - start) / 256 * 256 : 0;
        result = PyLong_FromUnsignedLongLong(bytes ? tq_active.probe.read(start, bytes) : 0);
    }
    tq_release(&arguments);
    return result;
}
