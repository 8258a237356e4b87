/* A baton: what two threads have that take turns. One gives it, one takes it.
 *
 * Python's own locks do the same, but a thread that waits for one sleeps at once, is woken while the
 * other still holds the interpreter lock, and so sleeps again. There and back costs 50 µs on a
 * machine whose processors take long to wake each other, more than most of what a thread is given to
 * do. Here the interpreter lock is let go first, then the baton is passed on; and whoever waits does
 * so awake for a while, leaving the processor to anybody else who wants it (sched_yield(2)).
 *
 * What it guarantees. Giving a baton that nobody waits for lets the next who waits have it at once;
 * giving it twice is as giving it once. Only one thread may wait for a baton at a time. Waiting goes
 * on over signals, which Python sees to afterwards. A wait without a limit ends with the baton only. */
#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>

#include <linux/futex.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { EMPTY, GIVEN, AWAITED }; /* the last: somebody sleeps until it is given */
/* How long this thread waits awake. What a wait took says what the next one will (as the halt polling
 * of KVM has it, Documentation/virt/kvm/halt-polling.rst): after one that being awake for longer would
 * have saved from sleep, it is the long time, and after one that it would not, the short one. */
enum { SHORT_NS = 50000, LONG_NS = 250000 };
static _Thread_local int64_t awake_ns = SHORT_NS;

typedef struct {
    PyObject_HEAD
    _Atomic uint32_t state; /* futex(2) */
} Baton;
static PyTypeObject BatonType;

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void give(Baton *baton)
{
    if (atomic_exchange(&baton->state, GIVEN) == AWAITED)
        syscall(SYS_futex, &baton->state, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static bool swap(Baton *baton, uint32_t from, uint32_t to)
{
    return atomic_compare_exchange_strong(&baton->state, &from, to);
}

/* Returns whether it was given before `until`; 0 stands for no limit. */
static bool take(Baton *baton, int64_t until)
{
    int64_t begun = now_ns(), now = begun;
    while (!swap(baton, GIVEN, EMPTY)) {
        if (until && now >= until) {
            awake_ns = SHORT_NS;
            return false;
        }
        if (now - begun < awake_ns) {
            sched_yield();
        } else if (swap(baton, EMPTY, AWAITED)) {
            int64_t left = until - now;
            struct timespec limit = {left / 1000000000, left % 1000000000};
            syscall(SYS_futex, &baton->state, FUTEX_WAIT_PRIVATE, AWAITED, until ? &limit : NULL,
                    NULL, 0);
            swap(baton, AWAITED, EMPTY);
        }
        now = now_ns();
    }
    if (now - begun > LONG_NS)
        awake_ns = SHORT_NS;
    else if (now - begun > SHORT_NS)
        awake_ns = LONG_NS;
    return true;
}

static PyObject *baton_give(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    give((Baton *)self);
    Py_RETURN_NONE;
}

static PyObject *pass_on(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    PyObject *given;
    Baton *awaited;
    double seconds;
    bool is_there;
    if (!PyArg_ParseTuple(arguments, "OO!d:pass_on", &given, &BatonType, &awaited, &seconds))
        return NULL;
    if (given != Py_None && !Py_IS_TYPE(given, &BatonType))
        return PyErr_Format(PyExc_TypeError, "%R is no baton", given);
    int64_t until = seconds < 0 ? 0 : now_ns() + (int64_t)(seconds * 1e9);
    Py_BEGIN_ALLOW_THREADS
    if (given != Py_None)
        give((Baton *)given);
    is_there = take(awaited, until);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(is_there);
}

static PyMethodDef baton_methods[] = {
    {"give", baton_give, METH_NOARGS, "Let whoever waits for it have it, now or later."},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject BatonType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mirrorfs._baton.Baton",
    .tp_doc = "Not given yet.",
    .tp_basicsize = sizeof(Baton),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_methods = baton_methods,
};

static PyMethodDef methods[] = {
    {"pass_on", pass_on, METH_VARARGS,
     "Give one baton (or None), and wait for another: no longer than so many seconds, or, if they\n"
     "are negative, until it is there. Returns whether it is."},
    {NULL, NULL, 0, NULL},
};

static int set_up(PyObject *module)
{
    return PyModule_AddType(module, &BatonType);
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, set_up}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "mirrorfs._baton",
    .m_doc = "Batons: what two threads have that take turns.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__baton(void)
{
    return PyModuleDef_Init(&definition);
}
