/* The object that a callable answers with, exactly once. The rules are at the head of hooks.c. */
#include "fuseext.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static bool is_open(const Request *self)
{
    return self->req && self->generation == generation;
}

/* Hand out what is to be answered now. NULL if nothing is to be sent: with an exception if this is
 * a second answer, without one if the session has ended. */
static fuse_req_t take(Request *self)
{
    fuse_req_t req = is_open(self) ? self->req : NULL;
    if (!self->req)
        PyErr_SetString(PyExc_RuntimeError, "this request is already answered");
    self->req = NULL;
    return req;
}

/* Answer with an error unless that is done. */
void request_give_up(Request *self, int code)
{
    if (is_open(self))
        real.reply_err(self->req, code);
    self->req = NULL;
}

/* What the reply functions return is of no use: ENOENT says that the caller was killed meanwhile,
 * which undoes nothing of what we did, and libfuse prints the others. */
static PyObject *answered_or_raised(void)
{
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

static PyObject *request_error(PyObject *object, PyObject *argument)
{
    Request *self = (Request *)object;
    long code = PyLong_AsLong(argument);
    if (code == -1 && PyErr_Occurred())
        return NULL;
    /* The kernel refuses the answer if the number is 512 or more, and the caller would wait for
     * ever (fs/fuse/dev.c, fuse_dev_do_write). Only fallocate's success carries no data. */
    if (code < 0 || code >= 512 || (code == 0 && self->operation != FALLOCATE))
        return PyErr_Format(PyExc_ValueError, "%ld is not an error of this operation", code);
    fuse_req_t req = take(self);
    if (req)
        real.reply_err(req, (int)code);
    return answered_or_raised();
}

/* Answer an lseek or a copy_file_range with a number. */
static PyObject *answer_number(Request *self, enum operation operation, PyObject *argument)
{
    ull number = PyLong_AsUnsignedLongLong(argument);
    if (number == (ull)-1 && PyErr_Occurred())
        return NULL;
    if (self->operation != operation)
        return PyErr_Format(PyExc_TypeError, "another operation is answered so");
    if (number > self->limit)
        return PyErr_Format(PyExc_ValueError, "%llu is more than %llu", number, self->limit);
    fuse_req_t req = take(self);
    if (req && operation == LSEEK)
        real.reply_lseek(req, (off_t)number);
    else if (req)
        real.reply_write(req, (size_t)number);
    return answered_or_raised();
}

static PyObject *request_offset(PyObject *self, PyObject *argument)
{
    return answer_number((Request *)self, LSEEK, argument);
}

static PyObject *request_written(PyObject *self, PyObject *argument)
{
    return answer_number((Request *)self, COPY_FILE_RANGE, argument);
}

static PyObject *request_answered(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(!is_open((Request *)self));
}

static PyObject *request_interrupted(PyObject *self, void *Py_UNUSED(closure))
{
    Request *request = (Request *)self;
    return PyBool_FromLong(is_open(request) && real.req_interrupted(request->req));
}

/* closure says which of the three numbers, by its place */
static PyObject *request_number(PyObject *self, void *closure)
{
    return PyLong_FromUnsignedLong(*(unsigned *)((char *)self + (uintptr_t)closure));
}

static void request_dealloc(PyObject *self)
{
    int saved = errno; /* objects die in unexpected places */
    request_give_up((Request *)self, EIO);
    errno = saved;
    PyObject_Free(self);
}

static PyMethodDef request_methods[] = {
    {"error", request_error, METH_O, "Answer with an errno; 0 is the success of fallocate."},
    {"offset", request_offset, METH_O, "Answer an lseek."},
    {"written", request_written, METH_O, "Answer a copy_file_range; fewer bytes are allowed."},
    {NULL, NULL, 0, NULL},
};

_Static_assert(sizeof(uid_t) == sizeof(unsigned) && sizeof(gid_t) == sizeof(unsigned) &&
                   sizeof(pid_t) == sizeof(unsigned),
               "request_number");
static PyGetSetDef request_properties[] = {
    {"answered", request_answered, NULL, "Nothing is to be sent any more.", NULL},
    {"interrupted", request_interrupted, NULL,
     "The caller was sent a signal. It is waiting all the same, even if it was SIGKILL.", NULL},
    {"uid", request_number, NULL, NULL, (void *)offsetof(Request, uid)},
    {"gid", request_number, NULL, NULL, (void *)offsetof(Request, gid)},
    {"pid", request_number, NULL, NULL, (void *)offsetof(Request, pid)},
    {NULL, NULL, NULL, NULL, NULL},
};

/* A static type: it holds no references, and lives as long as the hooks do. */
PyTypeObject RequestType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mirrorfs._fuseext.Request",
    .tp_doc = "One request of the kernel, to be answered once; dropped, it answers EIO.",
    .tp_basicsize = sizeof(Request),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = request_dealloc,
    .tp_methods = request_methods,
    .tp_getset = request_properties,
};

Request *request_make(fuse_req_t req, enum operation operation, ull limit)
{
    Request *self = PyObject_New(Request, &RequestType);
    if (!self) {
        PyErr_Clear();
        real.reply_err(req, ENOMEM);
        return NULL;
    }
    const struct fuse_ctx *context = real.req_ctx(req);
    self->req = req;
    self->generation = generation;
    self->operation = operation;
    self->limit = limit;
    self->uid = context->uid;
    self->gid = context->gid;
    self->pid = context->pid;
    return self;
}
