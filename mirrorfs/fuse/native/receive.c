/* Requests that are answered before libfuse sees them, and what is done between two of them.
 *
 * How. pyfuse3 receives each request by fuse_session_receive_buf, which hooks.c puts ours in front
 * of. A request of a kind that install() was given a callable for is shown to that callable, in the
 * kernel's own form (linux/fuse.h). What the callable returns says how it goes on:
 *   an errno, or bytes    the answer, which is sent from here; then the next request is received
 *   ... (Ellipsis)        it will be answered later, by answer()
 *   None                  the request goes on to libfuse and pyfuse3 as if nothing had been
 * What is saved by an answer from here is a coroutine, a copy of the data, and above all the way
 * through the event loop from one request to the next, which costs more than most answers.
 *
 * What it guarantees.
 * - A request is answered here or passed on, never both. An exception in the callable is reported
 *   (sys.unraisablehook) and answered with EIO; it never unwinds into libfuse.
 * - The request is not copied: it is lent for the call. Of one that is passed on, the callable may
 *   use the memory until pyfuse3's handler for it has begun to wait.
 * - answer() may be called by any thread that holds the GIL, for a request of the session that
 *   lives. The GIL is kept around sending, on purpose: the write to /dev/fuse wakes the caller and
 *   does not wait for it (about a microsecond), whereas a thread that gave the GIL away may wait a
 *   whole switch interval (5 ms) for it. An answer after the end of the session is not sent: the
 *   kernel has answered the caller then (ECONNABORTED or ENOTCONN).
 * - The event loop waits for no longer than LOOP_NS in one go, and only for the next request of
 *   a client that was just answered (LINGER_NS), while is_slow() says that no other client waits.
 * - The device is read without waiting (O_NONBLOCK): a request that the kernel takes back between
 *   "there is one" and "read it" would else stop all others until the next. */
#define _GNU_SOURCE /* ppoll */
#include "native.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sched.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { OPCODES = 64, SPIN_NS = 40000, LINGER_NS = 200000, LOOP_NS = 2000000 };

static PyObject *callables[OPCODES];
static PyObject *is_slow;
static struct fuse_session *prepared; /* the session whose device is O_NONBLOCK */

/* Take what install() was given: a dict of opcode and callable, and a callable; or None. */
bool receive_install(PyObject *by_opcode, PyObject *slow)
{
    PyObject *key, *value;
    Py_ssize_t place = 0;
    for (int i = 0; i < OPCODES; i++)
        Py_CLEAR(callables[i]);
    Py_XSETREF(is_slow, Py_NewRef(slow));
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

/* A new session begins, maybe at the address of an old one. */
void receive_reset(void)
{
    prepared = NULL;
}

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

enum outcome { PASSED_ON, ANSWERED, LATER };

/* Show a request to its callable. */
static enum outcome take(int fd, void *message, size_t size)
{
    struct fuse_in_header *header = message;
    if (size < sizeof(*header) || header->opcode >= OPCODES || !callables[header->opcode])
        return PASSED_ON;
    uint64_t unique = expected_by(header);
    PyObject *callable = Py_NewRef(callables[header->opcode]);
    PyObject *view = PyMemoryView_FromMemory(message, (Py_ssize_t)size, PyBUF_READ);
    PyObject *result = view ? PyObject_CallOneArg(callable, view) : NULL;
    if (!result) {
        PyErr_WriteUnraisable(callable);
        send(fd, unique, EIO, NULL, 0);
    } else if (result != Py_None && result != Py_Ellipsis) {
        send_result(fd, unique, result);
    }
    enum outcome outcome = result == Py_None       ? PASSED_ON
                           : result == Py_Ellipsis ? LATER
                                                   : ANSWERED;
    Py_XDECREF(result);
    Py_XDECREF(view);
    Py_DECREF(callable);
    return outcome;
}

static bool is_another_client_waiting(void)
{
    PyObject *result = is_slow && is_slow != Py_None ? PyObject_CallNoArgs(is_slow) : NULL;
    bool waits = !result || PyObject_IsTrue(result) != 0;
    if (PyErr_Occurred())
        PyErr_WriteUnraisable(is_slow);
    Py_XDECREF(result);
    return waits;
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Whether there is another request, of which the event loop need not know. One that is expected at
 * once is waited for awake: being woken takes longer than most answers. */
static bool another_follows(int fd, int64_t begun)
{
    static bool is_expected;
    struct pollfd device = {.fd = fd, .events = POLLIN};
    struct timespec linger = {.tv_nsec = LINGER_NS};
    int64_t now = now_ns(), until = now + SPIN_NS;
    int ready = 0;
    if (is_another_client_waiting() || now - begun > LOOP_NS)
        return false;
    Py_BEGIN_ALLOW_THREADS
    while (is_expected && (ready = poll(&device, 1, 0)) == 0 && now_ns() < until)
        sched_yield();
    if (!ready)
        ready = ppoll(&device, 1, &linger, NULL);
    is_expected = ready == 1 && now_ns() < until;
    Py_END_ALLOW_THREADS
    return ready == 1 && device.revents == POLLIN;
}

/* Receive the next request that is passed on. As fuse_session_receive_buf; -EINTR if
 * there is none yet. Called with the GIL held. */
int receive_next(struct fuse_session *from, struct fuse_buf *buffer)
{
    int fd = real.session_fd(from);
    int64_t begun = now_ns();
    if (prepared != from && fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) == 0)
        prepared = from;
    for (;;) {
        int size = real.session_receive_buf(from, buffer);
        if (size == -EAGAIN)
            return -EINTR;
        if (size == -ECONNABORTED) /* the mount ended while a request was handed over: no more */
            return 0;
        if (size <= 0 || (buffer->flags & FUSE_BUF_IS_FD))
            return size;
        killpriv_received(buffer->mem, (size_t)size);
        enum outcome outcome = take(fd, buffer->mem, (size_t)size);
        if (outcome == PASSED_ON)
            return size;
        /* What answers later is a task that the event loop has to run first. */
        if (outcome == LATER || !another_follows(fd, begun))
            return -EINTR;
    }
}

static PyObject *answer(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    ull unique;
    PyObject *result;
    if (!PyArg_ParseTuple(arguments, "KO:answer", &unique, &result))
        return NULL;
    if (session)
        send_result(real.session_fd(session), unique, result);
    Py_RETURN_NONE;
}

PyMethodDef receive_methods[] = {
    {"answer", answer, METH_VARARGS,
     "Answer the request with this number, which was taken with `...`: an errno, or bytes."},
    {NULL, NULL, 0, NULL},
};
