/* Receivers: the threads that take requests from the kernel and see each through, before libfuse.
 *
 * How. One thread leads: it waits for the next request, shows it to the callable for its opcode, in
 * the kernel's own form (linux/fuse.h), and sends the answer. Nothing is handed from one thread to
 * another, which would cost more than most answers. But a callable may wait for a disk: then another
 * thread takes over (crew.c).
 * What the callable returns says how it goes on:
 *   an errno, or bytes    the answer, which is sent from here
 *   (answer, callable)    the answer, and what is called after it was sent
 *   ... (Ellipsis)        it will be answered later, by answer()
 * What has no callable libfuse deals with (FUSE_INIT, and what nobody knows).
 *
 * What it guarantees.
 * - A request is answered here or by libfuse, never both. An exception in the callable is reported
 *   (sys.unraisablehook) and answered with EIO.
 * - The request is not copied. It stays as it is for as long as a reference to it is held.
 * - answer() may be called by any thread that holds the GIL, for a request of the session that
 *   lives. The GIL is kept around sending, on purpose: the write to /dev/fuse wakes the caller and
 *   does not wait for it (about a microsecond), whereas a thread that gave the GIL away may wait a
 *   whole switch interval (5 ms) for it. An answer after the end of the session is not sent: the
 *   kernel has answered the caller then (ECONNABORTED or ENOTCONN).
 * - The device is read without waiting (O_NONBLOCK): a request that the kernel takes back between
 *   "there is one" and "read it" would else stop all others until the next. */
#define _GNU_SOURCE /* ppoll */
#include "crew.h"
#include "native.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sched.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    OPCODES = 64,
    SPIN_NS = 40000,       /* so long a request that is expected is waited for awake */
    RETRY_NS = 1000000000, /* so long after no thread could be started */
    HEAD_BYTES = 4096,     /* of a message, before the data of a write */
    LEAST_WRITE = 1 << 20, /* the data of a write, if the negotiation does not say more */
};

static PyObject *callables[OPCODES];

/* Take what install() was given: a dict of opcode and callable, or None. */
bool receive_install(PyObject *by_opcode)
{
    PyObject *key, *value;
    Py_ssize_t place = 0;
    for (int i = 0; i < OPCODES; i++)
        Py_CLEAR(callables[i]);
    if (by_opcode == Py_None)
        return true;
    if (!PyDict_Check(by_opcode)) {
        PyErr_SetString(PyExc_TypeError, "requests is neither a dict nor None");
        return false;
    }
    while (PyDict_Next(by_opcode, &place, &key, &value)) {
        long opcode = PyLong_AsLong(key);
        if (PyErr_Occurred())
            return false;
        if (opcode <= 0 || opcode >= OPCODES || opcode == FUSE_INIT || !PyCallable_Check(value)) {
            PyErr_Format(PyExc_ValueError, "requests: %ld cannot be answered by %R", opcode, value);
            return false;
        }
        callables[opcode] = Py_NewRef(value);
    }
    return true;
}

/* ---- one request ---- */

/* Returns whether the kernel took it. EINVAL says that the payload does not fit the request: the
 * kernel has then ended it with EIO itself, or it still waits (fs/fuse/dev.c, fuse_dev_do_write).
 * ENOENT says that the caller was killed, and any other error that the mount is gone. */
static bool send(int fd, uint64_t unique, int error, const void *payload, size_t size)
{
    struct fuse_out_header header = {
        .len = (uint32_t)(sizeof(header) + size), .error = -error, .unique = unique};
    struct iovec pieces[] = {{&header, sizeof(header)}, {(void *)payload, size}};
    if (!unique)
        return true;
    return writev(fd, pieces, size ? 2 : 1) >= 0 || errno != EINVAL;
}

/* -1 if that session has ended: its descriptor may be that of another file now. */
static int fd_of(struct fuse_session *one)
{
    return one && one == session ? real.session_fd(one) : -1;
}

/* Send what the callable has returned: an errno, or the payload of a success. */
static void send_result(int fd, uint64_t unique, PyObject *result)
{
    Py_buffer view;
    if (PyLong_Check(result)) {
        long code = PyLong_AsLong(result);
        if (PyErr_Occurred())
            PyErr_WriteUnraisable(result);
        send(fd, unique, code > 0 && code < 512 ? (int)code : EIO, NULL, 0);
    } else if (PyObject_GetBuffer(result, &view, PyBUF_SIMPLE) == 0) {
        if (!send(fd, unique, 0, view.buf, (size_t)view.len))
            send(fd, unique, EIO, NULL, 0);
        PyBuffer_Release(&view);
    } else {
        PyErr_WriteUnraisable(result);
        send(fd, unique, EIO, NULL, 0);
    }
}

/* 0 for a request that the kernel waits for no answer of; its own numbers begin above that. */
static uint64_t expected_by(const struct fuse_in_header *header)
{
    bool is_expected = header->opcode != FUSE_FORGET && header->opcode != FUSE_BATCH_FORGET &&
                       header->opcode != FUSE_INTERRUPT;
    return is_expected ? header->unique : 0;
}

static void call_after(PyObject *callable)
{
    PyObject *result = PyObject_CallNoArgs(callable);
    if (!result)
        PyErr_WriteUnraisable(callable);
    Py_XDECREF(result);
}

/* Show a request to its callable, and send what that returns. */
static void show(struct fuse_session *from, PyObject *message, const struct fuse_in_header *header)
{
    uint64_t unique = expected_by(header);
    PyObject *callable = Py_NewRef(callables[header->opcode]);
    PyObject *result = PyObject_CallOneArg(callable, message);
    int fd = fd_of(from);
    if (!result) {
        PyErr_WriteUnraisable(callable);
        send(fd, unique, EIO, NULL, 0);
    } else if (PyTuple_Check(result) && PyTuple_GET_SIZE(result) == 2) {
        send_result(fd, unique, PyTuple_GET_ITEM(result, 0));
        call_after(PyTuple_GET_ITEM(result, 1));
    } else if (result != Py_Ellipsis) {
        send_result(fd, unique, result);
    }
    Py_XDECREF(result);
    Py_DECREF(callable);
}

/* What libfuse sees to itself. */
static void pass_on(struct fuse_session *to, void *message, size_t size)
{
    struct fuse_buf buffer = {.mem = message, .size = size};
    real.session_process_buf(to, &buffer);
}

/* See to a request of `size` bytes in the bytearray `buffer`. Called with the GIL held. */
static void take(struct fuse_session *from, PyObject *buffer, size_t size)
{
    struct fuse_in_header *header = (void *)PyByteArray_AS_STRING(buffer);
    killpriv_received(header, size);
    if (size < sizeof(*header) || header->opcode >= OPCODES || !callables[header->opcode]) {
        pass_on(from, header, size);
        return;
    }
    PyObject *all = PyMemoryView_FromObject(buffer);
    PyObject *message = all ? PySequence_GetSlice(all, 0, (Py_ssize_t)size) : NULL;
    Py_XDECREF(all);
    if (message) {
        show(from, message, header);
        Py_DECREF(message);
    } else {
        PyErr_WriteUnraisable(buffer);
        send(fd_of(from), expected_by(header), ENOMEM, NULL, 0);
    }
}

/* Wait for the next request; returns its size, or 0 at the end. One that is expected at once is
 * waited for awake: being woken takes longer than most answers. */
static size_t next_request(int fd, void *memory, size_t size)
{
    static bool is_expected; /* by the leader */
    struct pollfd sources[] = {{.fd = fd, .events = POLLIN}, {.fd = crew_end_fd(), .events = POLLIN}};
    for (;;) {
        int64_t until = now_ns() + SPIN_NS;
        int ready = 0;
        while (is_expected && (ready = poll(sources, 2, 0)) == 0 && now_ns() < until)
            sched_yield();
        if (!ready)
            ready = poll(sources, 2, -1);
        if (sources[1].revents)
            return 0;
        if (ready < 0 && errno != EINTR)
            return 0;
        is_expected = now_ns() < until;
        ssize_t got = read(fd, memory, size);
        if (got > 0)
            return (size_t)got;
        if (got == 0 || (errno != EINTR && errno != EAGAIN && errno != ENOENT))
            return 0; /* ENODEV, ECONNABORTED: the mount has ended */
    }
}

/* One request after the other, until another thread leads, or the end, for which it returns false.
 * Called with the GIL held. */
static bool lead(struct fuse_session *from, uint64_t term, PyObject *start_another)
{
    int fd = real.session_fd(from);
    PyObject *buffer = NULL;
    bool leads = true;
    int64_t tried = 0;
    while (leads) {
        if (crew_is_alone() && now_ns() - tried > RETRY_NS) {
            tried = now_ns();
            call_after(start_another);
        }
        if (!buffer || Py_REFCNT(buffer) > 1) { /* a request that is not done yet lies in it */
            size_t data = hooks_max_write() > LEAST_WRITE ? hooks_max_write() : LEAST_WRITE;
            Py_XSETREF(buffer, PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)data + HEAD_BYTES));
            if (!buffer) {
                PyErr_WriteUnraisable(NULL);
                continue; /* there is nothing else to do */
            }
        }
        size_t size, room = (size_t)PyByteArray_GET_SIZE(buffer);
        char *memory = PyByteArray_AS_STRING(buffer);
        Py_BEGIN_ALLOW_THREADS
        size = next_request(fd, memory, room);
        if (size)
            crew_begin_work();
        Py_END_ALLOW_THREADS
        if (!size)
            break;
        take(from, buffer, size);
        if (((struct fuse_in_header *)memory)->opcode == FUSE_INIT)
            Py_CLEAR(buffer); /* what was negotiated may want a larger one */
        leads = crew_end_work(term);
    }
    Py_XDECREF(buffer);
    return !leads;
}

/* ---- methods of the module ---- */

static PyObject *serve(PyObject *Py_UNUSED(module), PyObject *start_another)
{
    struct fuse_session *from = session;
    if (!from) {
        PyErr_SetString(PyExc_RuntimeError, "there is no session");
        return NULL;
    }
    fcntl(real.session_fd(from), F_SETFL, fcntl(real.session_fd(from), F_GETFL) | O_NONBLOCK);
    for (;;) {
        uint64_t term;
        Py_BEGIN_ALLOW_THREADS
        term = crew_follow();
        Py_END_ALLOW_THREADS
        if (!term)
            break;
        if (!lead(from, term, start_another)) {
            crew_end();
            break;
        }
    }
    Py_RETURN_NONE;
}

static PyObject *stop(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    crew_end();
    Py_RETURN_NONE;
}

static PyObject *is_ended(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(crew_is_ended());
}

static PyObject *answer(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    ull unique;
    PyObject *result;
    if (!PyArg_ParseTuple(arguments, "KO:answer", &unique, &result))
        return NULL;
    send_result(fd_of(session), unique, result);
    Py_RETURN_NONE;
}

PyMethodDef receive_methods[] = {
    {"serve", serve, METH_O,
     "Be one of the threads that receive requests, until the mount ends, stop() is called or there\n"
     "are enough others. The callable starts another thread that calls this."},
    {"stop", stop, METH_NOARGS, "Let all calls of serve() return, as soon as they are idle."},
    {"is_ended", is_ended, METH_NOARGS, "Whether the mount has ended, or stop() was called."},
    {"answer", answer, METH_VARARGS,
     "Answer the request with this number, which was taken with `...`: an errno, or bytes."},
    {NULL, NULL, 0, NULL},
};
