#include "args.h"

#include <stdlib.h>
#include <string.h>

void tq_raise(const char *name, PyObject *message) {
    PyObject *errors = message ? PyImport_ImportModule("tq_core.errors") : NULL;
    PyObject *type = errors ? PyObject_GetAttrString(errors, name) : NULL;
    if (type) PyErr_SetObject(type, message);
    Py_XDECREF(type);
    Py_XDECREF(errors);
    Py_XDECREF(message);
}

char tq_format(const Py_buffer *buffer) {
    const char *format = buffer->format ? buffer->format : "B";
    if (*format == '@' || *format == '=' || *format == '<') format++;
    if (format[0] == 0 || format[1] != 0) return 0;
    return *format == 'l' && buffer->itemsize == 8 ? 'q' : *format; /* numpy's int64 is a long where long has 8 bytes */
}

static PyObject *shape_of(const Py_buffer *buffer) {
    PyObject *shape = PyTuple_New(buffer->ndim);
    for (int i = 0; shape && i < buffer->ndim; i++) {
        PyObject *size = PyLong_FromSsize_t(buffer->shape[i]);
        if (!size || PyTuple_SetItem(shape, i, size)) Py_CLEAR(shape);
    }
    return shape;
}

static void raise_shape(const char *name, const Py_buffer *buffer, int ndim, Py_ssize_t first, Py_ssize_t second) {
    PyObject *shape = shape_of(buffer);
    if (!shape) return;
    char wanted[64], sizes[2][24];
    for (int i = 0; i < 2; i++) {
        Py_ssize_t size = i ? second : first;
        if (size == TQ_ANY) strcpy(sizes[i], "n");
        else PyOS_snprintf(sizes[i], sizeof sizes[i], "%zd", size);
    }
    PyOS_snprintf(wanted, sizeof wanted, ndim == 1 ? "(%s,)" : "(%s, %s)", sizes[0], sizes[1]);
    tq_raise("ShapeMismatch", PyUnicode_FromFormat("%s must be a C-contiguous array of shape %s, got %R", name, wanted, shape));
    Py_DECREF(shape);
}

void tq_raise_unaligned(const char *name, const Py_buffer *buffer) {
    tq_raise("InvalidDtype", PyUnicode_FromFormat("%s must be aligned to its items of %zd bytes; make a new array", name,
                                                  buffer->itemsize));
}

/* Lets an aligned copy stand in for the last buffer where its items are not aligned; nonzero with an error. */
static int aligned(tq_arguments *arguments, const char *name, int writable) {
    Py_buffer *buffer = &arguments->buffers[arguments->count - 1];
    size_t size = (size_t)buffer->itemsize;
    if (!((uintptr_t)buffer->buf % size)) return 0;
    if (writable) {
        tq_raise_unaligned(name, buffer);
        return -1;
    }
    void *copy = tq_aligned((size_t)buffer->len);
    if (!copy) {
        PyErr_NoMemory();
        return -1;
    }
    memcpy(copy, buffer->buf, (size_t)buffer->len);
    arguments->theirs[arguments->count - 1] = buffer->buf;
    buffer->buf = copy;
    return 0;
}

Py_buffer *tq_buffer_of_any_shape(tq_arguments *arguments, PyObject *object, const char *name, const char *formats, int writable) {
    Py_buffer *buffer = &arguments->buffers[arguments->count];
    int flags = PyBUF_FORMAT | PyBUF_STRIDES | (writable ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(object, buffer, flags)) {
        PyErr_Clear();
        tq_raise("InvalidDtype", PyUnicode_FromFormat("%s must be %s array, got %R", name,
                                                   writable ? "a writable" : "an", (PyObject *)Py_TYPE(object)));
        return NULL;
    }
    arguments->count++;
    char format = tq_format(buffer);
    if (!format || !strchr(formats, format)) {
        tq_raise("InvalidDtype", PyUnicode_FromFormat("%s must have one of the formats '%s', got '%s'", name, formats,
                                                   buffer->format ? buffer->format : "B"));
        return NULL;
    }
    return buffer;
}

Py_buffer *tq_buffer(tq_arguments *arguments, PyObject *object, const char *name, const char *formats, int ndim,
                     Py_ssize_t first, Py_ssize_t second, int writable) {
    Py_buffer *buffer = tq_buffer_of_any_shape(arguments, object, name, formats, writable);
    if (!buffer) return NULL;
    int fits = buffer->ndim == ndim && PyBuffer_IsContiguous(buffer, 'C');
    fits = fits && (first == TQ_ANY || buffer->shape[0] == first);
    fits = fits && (ndim < 2 || second == TQ_ANY || buffer->shape[1] == second);
    if (!fits) {
        raise_shape(name, buffer, ndim, first, second);
        return NULL;
    }
    return aligned(arguments, name, writable) ? NULL : buffer;
}

void tq_release(tq_arguments *arguments) {
    while (arguments->count) {
        int last = --arguments->count;
        if (arguments->theirs[last]) {
            tq_aligned_free(arguments->buffers[last].buf);
            arguments->buffers[last].buf = arguments->theirs[last];
        }
        PyBuffer_Release(&arguments->buffers[last]);
    }
}

int tq_integer(PyObject *object, const char *name, long low, long high, long *value) {
    *value = PyLong_AsLong(object);
    if (*value == -1 && PyErr_Occurred()) {
        PyErr_Clear();
        *value = low - 1;
    }
    if (*value >= low && *value <= high) return 0;
    tq_raise("InvalidSpec", PyUnicode_FromFormat("%s must be an integer in %ld..%ld, got %R", name, low, high, object));
    return -1;
}

int tq_count(const char *function, Py_ssize_t given, Py_ssize_t expected) {
    if (given == expected) return 0;
    PyErr_Format(PyExc_TypeError, "%s takes %zd arguments, got %zd", function, expected, given);
    return -1;
}

/* The capsule owns an aligned copy of the buffer and the plan that points into it. */
#define CAPSULE "tq_kernels_simd.plan"

typedef struct owned_plan {
    tq_plan plan;
    void *copy;
} owned_plan;

static void destroy(PyObject *capsule) {
    owned_plan *owned = PyCapsule_GetPointer(capsule, CAPSULE);
    if (!owned) return;
    tq_aligned_free(owned->copy);
    free(owned);
}

PyObject *tq_call_plan(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (tq_count("plan", count, 1)) return NULL;
    tq_arguments arguments = {.count = 0};
    PyObject *capsule = NULL;
    owned_plan *owned = calloc(1, sizeof *owned);
    Py_buffer *buffer = owned ? tq_buffer(&arguments, args[0], "plan", "B", 1, TQ_ANY, TQ_ANY, 0) : NULL;
    if (!owned) PyErr_NoMemory();
    if (buffer) {
        owned->copy = tq_aligned((size_t)buffer->len + TQ_PLAN_ROOM);
        if (!owned->copy) PyErr_NoMemory();
        else memcpy(owned->copy, buffer->buf, (size_t)buffer->len);
        const char *fault = owned->copy ? tq_plan_read(&owned->plan, owned->copy, (size_t)buffer->len) : NULL;
        if (fault) tq_raise("CorruptData", PyUnicode_FromString(fault));
        else if (owned->copy) capsule = PyCapsule_New(owned, CAPSULE, destroy);
    }
    tq_release(&arguments);
    if (!capsule && owned) {
        tq_aligned_free(owned->copy);
        free(owned);
    }
    return capsule;
}

const tq_plan *tq_plan_argument(PyObject *object, const char *name) {
    owned_plan *owned = PyCapsule_IsValid(object, CAPSULE) ? PyCapsule_GetPointer(object, CAPSULE) : NULL;
    if (owned) return &owned->plan;
    tq_raise("InvalidDtype", PyUnicode_FromFormat("%s must come from _simd.plan, got %R", name, (PyObject *)Py_TYPE(object)));
    return NULL;
}
