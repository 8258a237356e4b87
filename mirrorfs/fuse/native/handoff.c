/* Handoff: two threads take turns; one gives, the other waits until it is given.
 *
 * Python's own locks do as much, but a thread that waits for one sleeps at once, is woken while the
 * other still holds the interpreter lock, and so sleeps again. There and back costs 50 us on a
 * machine whose processors take long to wake each other, more than most of what a thread is given to
 * do. Here the interpreter lock is let go first, then the handoff is given; and the thread that waits
 * does so awake for a while, leaving the processor to any other that wants it (sched_yield(2)).
 *
 * What it guarantees. One that is given while no thread waits is there for the next that does;
 * giving it twice is as giving it once. Only one thread may wait for it at a time. Waiting goes on
 * over signals, which Python sees to afterwards. A wait without a limit ends only when it is given. */
#define _GNU_SOURCE
#include "native.h"

#include <linux/futex.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { EMPTY, GIVEN, AWAITED }; /* the last: a thread sleeps until it is given */
/* How long this thread waits awake. What a wait took says what the next one will (as the halt polling
 * of KVM has it, Documentation/virt/kvm/halt-polling.rst): after one that being awake for longer would
 * have saved from sleep, it is the long time, and after one that it would not, the short one. */
enum { SHORT_NS = 50000, LONG_NS = 250000 };
static _Thread_local int64_t awake_ns = SHORT_NS;

typedef struct {
    PyObject_HEAD
    _Atomic uint32_t state; /* futex(2) */
} Handoff;

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void give(Handoff *handoff)
{
    if (atomic_exchange(&handoff->state, GIVEN) == AWAITED)
        syscall(SYS_futex, &handoff->state, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static bool swap(Handoff *handoff, uint32_t from, uint32_t to)
{
    return atomic_compare_exchange_strong(&handoff->state, &from, to);
}

/* Returns whether it was given before `until`; 0 stands for no limit. */
static bool take(Handoff *handoff, int64_t until)
{
    int64_t begun = now_ns(), now = begun;
    while (!swap(handoff, GIVEN, EMPTY)) {
        if (until && now >= until) {
            awake_ns = SHORT_NS;
            return false;
        }
        if (now - begun < awake_ns) {
            sched_yield();
        } else if (swap(handoff, EMPTY, AWAITED)) {
            int64_t left = until - now;
            struct timespec limit = {left / 1000000000, left % 1000000000};
            syscall(SYS_futex, &handoff->state, FUTEX_WAIT_PRIVATE, AWAITED, until ? &limit : NULL,
                    NULL, 0);
            swap(handoff, AWAITED, EMPTY);
        }
        now = now_ns();
    }
    if (now - begun > LONG_NS)
        awake_ns = SHORT_NS;
    else if (now - begun > SHORT_NS)
        awake_ns = LONG_NS;
    return true;
}

static PyObject *handoff_give(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    give((Handoff *)self);
    Py_RETURN_NONE;
}

static PyObject *pass_on(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    PyObject *given;
    Handoff *awaited;
    double seconds;
    bool is_there;
    if (!PyArg_ParseTuple(arguments, "OO!d:pass_on", &given, &HandoffType, &awaited, &seconds))
        return NULL;
    if (given != Py_None && !Py_IS_TYPE(given, &HandoffType))
        return PyErr_Format(PyExc_TypeError, "%R is no Handoff", given);
    int64_t until = seconds < 0 ? 0 : now_ns() + (int64_t)(seconds * 1e9);
    Py_BEGIN_ALLOW_THREADS
    if (given != Py_None)
        give((Handoff *)given);
    is_there = take(awaited, until);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(is_there);
}

static PyMethodDef give_methods[] = {
    {"give", handoff_give, METH_NOARGS, "Let the thread that waits for it go on, now or later."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject HandoffType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mirrorfs._native.Handoff",
    .tp_doc = "Not given yet.",
    .tp_basicsize = sizeof(Handoff),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_methods = give_methods,
};

PyMethodDef handoff_methods[] = {
    {"pass_on", pass_on, METH_VARARGS,
     "Give one (or None), and wait for another: no longer than so many seconds, or, if they are\n"
     "negative, until it is given. Returns whether it was."},
    {NULL, NULL, 0, NULL},
};
