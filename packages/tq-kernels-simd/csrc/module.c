/* The Python module: its list of methods, and the choice of a level when it is imported. No arithmetic here. */
#include <stdlib.h>

#include "args.h"
#include "seeded_fault.h"
#include "select.h"

static PyObject *levels(PyObject *module, PyObject *none) {
    (void)module;
    (void)none;
    PyObject *found = PyDict_New();
    for (size_t i = 0; found && i < tq_level_count; i++) {
        PyObject *state = tq_levels[i].runs_here() ? PyUnicode_FromString("ok")
                                                   : PyUnicode_FromFormat("this machine lacks %s", tq_levels[i].needs);
        if (!state || PyDict_SetItemString(found, tq_levels[i].name, state)) Py_CLEAR(found);
        Py_XDECREF(state);
    }
    return found;
}

static PyObject *level(PyObject *module, PyObject *none) {
    (void)module;
    (void)none;
    return PyUnicode_FromString(tq_active.isa);
}

#define FAST(name, call, text) {name, (PyCFunction)(void (*)(void))call, METH_FASTCALL, text}

static PyMethodDef methods[] = {
    {"levels", levels, METH_NOARGS, "levels() -> dict: every level of this build, 'ok' or what this machine lacks."},
    {"level", level, METH_NOARGS, "level() -> str: the level in use, chosen at import; TQ_ISA caps it."},
    FAST("plan", tq_call_plan, "plan(buffer) -> capsule: a checked copy of what plan.py packed."),
    FAST("rotate", tq_call_rotate, "rotate(plan, x, out, inverse, threads)"),
    FAST("encode", tq_call_encode, "encode(plan, x, packed, scales, gammas, threads)"),
    FAST("decode", tq_call_decode, "decode(plan, packed, scales, out, threads)"),
    FAST("attend", tq_call_attend,
         "attend(key_plan, value_plan, key_packed, key_scales, value_packed, value_scales, queries, out, maxima, sums, limits, "
         "mask, scale, softcap, accuracy, threads)"),
    FAST("attend_workspace", tq_call_attend_workspace,
         "attend_workspace(key_plan, value_plan, lanes, groups, count, tokens, accuracy, threads) -> bytes allocated"),
    FAST("attend_exp", tq_call_attend_exp, "attend_exp(x): exp in place as attend computes it; for tests of its error."),
    FAST("scores", tq_call_scores, "scores(plan, packed, scales, gammas, rotated_queries, out, accuracy, threads)"),
    FAST("search", tq_call_search,
         "search(plan, packed, scales, gammas, rotated_queries, mask, k, accuracy, out_scores, out_indices, threads)"),
    FAST("combine", tq_call_combine, "combine(plan, packed, scales, weights, is_sketch, out, threads)"),
    FAST("sketch", tq_call_sketch, "sketch(plan, residuals, out, threads)"),
    FAST("probe_fma", tq_call_probe_fma, "probe_fma(steps) -> float32 operations done"),
    FAST("probe_read", tq_call_probe_read, "probe_read(buffer) -> exclusive or of its words"),
    {NULL, NULL, 0, NULL},
};

/* "left, right"; takes the reference to `left`. */
static PyObject *joined(PyObject *left, const char *right) {
    PyObject *both = PyUnicode_FromFormat("%U, %s", left, right);
    Py_DECREF(left);
    return both;
}

static int execute(PyObject *module) {
    (void)module;
    const char *cap = getenv("TQ_ISA");
    if (tq_select(cap && *cap ? cap : NULL, &tq_active) >= 0) {
#ifdef TQ_SEED_FAULT
        tq_seed_faults(&tq_active);
#endif
        return 0;
    }
    PyObject *names = PyUnicode_FromString(tq_levels[0].name);
    for (size_t i = 1; names && i < tq_level_count; i++)
        names = joined(names, tq_levels[i].name);
    if (names) PyErr_Format(PyExc_ImportError, "TQ_ISA=%s names no level of this build; it has %U", cap, names);
    Py_XDECREF(names);
    return -1;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, execute}, {0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_simd",
    .m_doc = "TurboQuant kernels for CPUs; buffers in, buffers out. The front door is tq_kernels_simd.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__simd(void) { return PyModuleDef_Init(&definition); }
