/* Arguments of the Python functions: acquire, check, release. Every function has one `tq_arguments`, fills it in order, and
 * leaves through `tq_release`. Errors are Python exceptions, set by the function that returns nonzero or NULL. */
#ifndef TQ_ARGS_H
#define TQ_ARGS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "active.h"
#include "plan.h"

#define TQ_MAX_BUFFERS 12
enum { TQ_ANY = -1 }; /* a size that is not prescribed */

typedef struct tq_arguments {
    Py_buffer buffers[TQ_MAX_BUFFERS];
    void *theirs[TQ_MAX_BUFFERS]; /* the address that an aligned copy stands in for, else NULL */
    int count;
} tq_arguments;

/* Set the error of that name in tq_core.errors. Takes the reference to `message`; NULL leaves the error that is set. */
void tq_raise(const char *name, PyObject *message);

/* A C-contiguous buffer of `ndim` dimensions with the given sizes and one of the formats ("f", "e", "d", "B", "h", "i", "q",
 * "?"), writable if asked. Sets ShapeMismatch or InvalidDtype, which name the argument, what was expected and what came.
 * `buf` is aligned to its items: input that is not (a view into a file, say) is copied, output that is not is refused. */
Py_buffer *tq_buffer(tq_arguments *arguments, PyObject *object, const char *name, const char *formats, int ndim,
                     Py_ssize_t first, Py_ssize_t second, int writable);
/* The first half of it: a buffer of any shape, strides and alignment with one of the formats. */
Py_buffer *tq_buffer_of_any_shape(tq_arguments *arguments, PyObject *object, const char *name, const char *formats, int writable);
/* InvalidDtype for items at an address that is no multiple of their size. */
void tq_raise_unaligned(const char *name, const Py_buffer *buffer);
void tq_release(tq_arguments *arguments);

/* The checked plan inside a capsule made by `_simd.plan`; InvalidDtype names the argument. */
const tq_plan *tq_plan_argument(PyObject *object, const char *name);

/* An integer within low..high, or InvalidSpec. */
int tq_integer(PyObject *object, const char *name, long low, long high, long *value);
/* TypeError unless as many arguments were given as expected. */
int tq_count(const char *function, Py_ssize_t given, Py_ssize_t expected);
/* The format of a checked buffer, native byte order assumed: 'f', 'e', 'd', ... */
char tq_format(const Py_buffer *buffer);

/* Methods by operation; module.c lists them. */
PyObject *tq_call_plan(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *tq_call_rotate(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *tq_call_encode(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *tq_call_decode(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *tq_call_probe_fma(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *tq_call_probe_read(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *tq_call_scores(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *tq_call_attend(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *tq_call_attend_workspace(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *tq_call_attend_exp(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *tq_call_search(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *tq_call_combine(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *tq_call_sketch(PyObject *module, PyObject *const *args, Py_ssize_t count);

#endif
