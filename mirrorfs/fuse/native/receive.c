/* Receivers: the threads that take requests from the kernel and see each through, before libfuse.
 *
 * How. One thread leads: it waits for the next request, shows it to the callable for its opcode, in
 * the kernel's own form (linux/fuse.h), and sends the answer. Nothing is handed from one thread to
 * another, which would cost more than most answers. But a callable may wait for a disk. So a second
 * thread watches: when the leader has been away for AWAY_NS it takes over the lead, and the other
 * joins those that watch when it is done (leader and followers; Schmidt et al., POSA 2, 2000).
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
#include "native.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
    OPCODES = 64,
    AWAY_NS = 1000000,     /* so long the leader may be away */
    RESTLESS_NS = 5000000, /* so long an idle leader is watched before the watcher sleeps */
    SPIN_NS = 40000,       /* so long a request that is expected is waited for awake */
    SPARE = 4,             /* threads that stay when they are not needed */
    HEAD_BYTES = 4096,     /* of a message, before the data of a write */
    LEAST_WRITE = 1 << 20, /* the data of a write, if the negotiation does not say more */
};

static PyObject *callables[OPCODES];

static struct {
    pthread_mutex_t lock;
    pthread_cond_t stir;  /* the leader went to work, or it is the end */
    pthread_cond_t spare; /* there is no watcher */
    int64_t busy_since;   /* 0 while the leader waits for a request */
    uint64_t term;        /* a number for each leader */
    bool is_led, is_watched, is_asleep, is_ended;
    unsigned followers;
    int end_fd; /* can be read when is_ended */
} crew = {.lock = PTHREAD_MUTEX_INITIALIZER, .spare = PTHREAD_COND_INITIALIZER, .end_fd = -1};

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

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* ---- who leads ---- */

static void wait_until(pthread_cond_t *condition, int64_t end)
{
    struct timespec limit = {.tv_sec = end / 1000000000, .tv_nsec = end % 1000000000};
    pthread_cond_timedwait(condition, &crew.lock, &limit);
}

/* Watch the leader until it is away, or there is none. The lock is held. */
static void watch(void)
{
    int64_t idle_since = 0;
    while (!crew.is_ended && crew.is_led) {
        int64_t begun = crew.busy_since, now = now_ns();
        if (begun && now - begun >= AWAY_NS)
            return;
        if (begun) {
            idle_since = 0;
            wait_until(&crew.stir, begun + AWAY_NS);
        } else if (!idle_since || now - idle_since < RESTLESS_NS) {
            idle_since = idle_since ? idle_since : now;
            wait_until(&crew.stir, now + AWAY_NS);
        } else {
            crew.is_asleep = true;
            pthread_cond_wait(&crew.stir, &crew.lock);
            crew.is_asleep = false;
        }
    }
}

/* Wait until this thread is to lead; returns its term, or 0 if the thread is to end. */
static uint64_t follow(void)
{
    uint64_t term = 0;
    pthread_mutex_lock(&crew.lock);
    if (crew.followers < SPARE || !crew.is_led) {
        crew.followers++;
        while (!crew.is_ended && crew.is_watched)
            pthread_cond_wait(&crew.spare, &crew.lock);
        crew.is_watched = true;
        watch();
        crew.is_watched = false;
        pthread_cond_signal(&crew.spare);
        if (!crew.is_ended) {
            crew.is_led = true;
            crew.busy_since = 0;
            term = ++crew.term;
        }
        crew.followers--;
    }
    pthread_mutex_unlock(&crew.lock);
    return term;
}

static void begin_work(void)
{
    pthread_mutex_lock(&crew.lock);
    crew.busy_since = now_ns();
    if (crew.is_asleep)
        pthread_cond_signal(&crew.stir);
    pthread_mutex_unlock(&crew.lock);
}

/* Returns whether the leader of this term still leads. */
static bool end_work(uint64_t term)
{
    pthread_mutex_lock(&crew.lock);
    bool leads = crew.term == term && !crew.is_ended;
    if (leads)
        crew.busy_since = 0;
    pthread_mutex_unlock(&crew.lock);
    return leads;
}

static void end_all(void)
{
    pthread_mutex_lock(&crew.lock);
    crew.is_ended = true;
    if (crew.end_fd >= 0)
        (void)!write(crew.end_fd, &(uint64_t){1}, sizeof(uint64_t));
    pthread_cond_broadcast(&crew.stir);
    pthread_cond_broadcast(&crew.spare);
    pthread_mutex_unlock(&crew.lock);
}

/* A new session begins. */
void receive_reset(void)
{
    static bool is_set_up;
    pthread_mutex_lock(&crew.lock);
    if (!is_set_up) {
        pthread_condattr_t attributes;
        pthread_condattr_init(&attributes);
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
        pthread_cond_init(&crew.stir, &attributes);
        is_set_up = true;
    }
    if (crew.end_fd >= 0)
        close(crew.end_fd);
    crew.end_fd = eventfd(0, EFD_CLOEXEC);
    crew.is_ended = crew.end_fd < 0;
    crew.is_led = false;
    crew.busy_since = 0;
    pthread_mutex_unlock(&crew.lock);
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
    struct pollfd sources[] = {{.fd = fd, .events = POLLIN}, {.fd = crew.end_fd, .events = POLLIN}};
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
static bool lead(struct fuse_session *from, uint64_t term)
{
    int fd = real.session_fd(from);
    PyObject *buffer = NULL;
    bool leads = true;
    while (leads) {
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
            begin_work();
        Py_END_ALLOW_THREADS
        if (!size)
            break;
        take(from, buffer, size);
        if (((struct fuse_in_header *)memory)->opcode == FUSE_INIT)
            Py_CLEAR(buffer); /* what was negotiated may want a larger one */
        leads = end_work(term);
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
        term = follow();
        Py_END_ALLOW_THREADS
        if (!term)
            break;
        if (!crew.followers)
            call_after(start_another);
        if (!lead(from, term)) {
            end_all();
            break;
        }
    }
    Py_RETURN_NONE;
}

static PyObject *stop(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    end_all();
    Py_RETURN_NONE;
}

static PyObject *is_ended(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(crew.is_ended);
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
