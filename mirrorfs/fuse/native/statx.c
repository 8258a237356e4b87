/* statx(2), and with it name_to_handle_at(2), without the detour by ctypes. */
#define _GNU_SOURCE
#include "native.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/* Of the mount ids the one that is never used twice, where the kernel knows one (Linux 6.8). */
enum { MOUNT_IDS = 0x5000, WANTED = STATX_BASIC_STATS | STATX_BTIME | MOUNT_IDS };
enum { FIELDS = 16 };
/* Handles that hold nothing but numbers and generations: of ext2 to ext4 and tmpfs, of xfs, and of
 * btrfs (linux/exportfs.h, enum fid_type). */
enum { INO32_GEN = 0x01, INO64_GEN = 0x81, BTRFS = 0x4d };
enum { HANDLE_BYTES = 32 };

/* A time in ns. Those before 1677 and after 2262 do not fit 64 bits, and file systems have them. */
static PyObject *in_ns(struct statx_timestamp time)
{
    long long ns;
    if (!__builtin_mul_overflow(time.tv_sec, 1000000000LL, &ns) &&
        !__builtin_add_overflow(ns, time.tv_nsec, &ns))
        return PyLong_FromLongLong(ns);
    PyObject *seconds = PyLong_FromLongLong(time.tv_sec), *factor = PyLong_FromLong(1000000000);
    PyObject *rest = PyLong_FromUnsignedLong(time.tv_nsec), *whole = NULL, *sum = NULL;
    if (seconds != NULL && factor != NULL && rest != NULL)
        whole = PyNumber_Multiply(seconds, factor);
    if (whole != NULL)
        sum = PyNumber_Add(whole, rest);
    Py_XDECREF(seconds);
    Py_XDECREF(factor);
    Py_XDECREF(rest);
    Py_XDECREF(whole);
    return sum;
}

/* FNV-1a. */
static uint32_t hash(uint32_t so_far, const void *data, size_t size)
{
    for (size_t i = 0; i < size; i++)
        so_far = (so_far ^ ((const unsigned char *)data)[i]) * UINT32_C(16777619);
    return so_far;
}

/* See mirrorfs.backing.statx.Status; 0 if there is none. */
static uint32_t find_generation(int fd, const char *name, const struct statx *found)
{
    union {
        struct file_handle handle;
        char room[sizeof(struct file_handle) + HANDLE_BYTES];
    } below = {.handle = {.handle_bytes = HANDLE_BYTES}};
    struct file_handle *handle = &below.handle;
    int mount;
    if (name_to_handle_at(fd, name, handle, &mount, *name ? 0 : AT_EMPTY_PATH) < 0)
        return 0;
    if (handle->handle_type != INO32_GEN && handle->handle_type != INO64_GEN &&
        handle->handle_type != BTRFS)
        return 0;
    uint32_t generation = hash(UINT32_C(2166136261), handle->f_handle, handle->handle_bytes);
    if (found->stx_mask & STATX_BTIME) {
        int64_t born[2] = {found->stx_btime.tv_sec, found->stx_btime.tv_nsec};
        generation = hash(generation, born, sizeof(born));
    }
    return generation ? generation : 1;
}

/* Fills a new tuple; the order is that of mirrorfs.backing.statx.Status. */
static PyObject *fill(PyObject *status, const struct statx *found, uint32_t generation)
{
    PyObject *fields[FIELDS] = {
        PyLong_FromUnsignedLong(found->stx_mode),
        PyLong_FromUnsignedLong(found->stx_nlink),
        PyLong_FromUnsignedLong(found->stx_uid),
        PyLong_FromUnsignedLong(found->stx_gid),
        PyLong_FromUnsignedLongLong(found->stx_ino),
        PyLong_FromUnsignedLongLong(found->stx_size),
        PyLong_FromUnsignedLongLong(found->stx_blocks),
        PyLong_FromUnsignedLong(found->stx_blksize),
        in_ns(found->stx_atime),
        found->stx_mask & STATX_BTIME ? in_ns(found->stx_btime) : PyLong_FromLong(0),
        in_ns(found->stx_ctime),
        in_ns(found->stx_mtime),
        PyLong_FromUnsignedLongLong(makedev(found->stx_rdev_major, found->stx_rdev_minor)),
        PyLong_FromUnsignedLongLong(makedev(found->stx_dev_major, found->stx_dev_minor)),
        PyLong_FromUnsignedLongLong(found->stx_mask & MOUNT_IDS ? found->stx_mnt_id : 0),
        PyLong_FromUnsignedLong(generation),
    };
    bool complete = true;
    for (int i = 0; i < FIELDS; i++) {
        complete = complete && fields[i] != NULL;
        PyTuple_SET_ITEM(status, i, fields[i]);
    }
    if (!complete)
        Py_CLEAR(status);
    return status;
}

static PyObject *call_statx(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    struct statx found;
    uint32_t generation = 0;
    int result;
    if (count < 4 || count > 5 || !PyType_Check(arguments[0]) || !PyBytes_Check(arguments[2]) ||
        !PyType_IsSubtype((PyTypeObject *)arguments[0], &PyTuple_Type))
        return PyErr_Format(PyExc_TypeError, "not (a type of tuples, fd, name in bytes, flags, whether to identify)");
    PyTypeObject *type = (PyTypeObject *)arguments[0];
    const char *name = PyBytes_AS_STRING(arguments[2]);
    int fd = (int)PyLong_AsLong(arguments[1]), flags = (int)PyLong_AsLong(arguments[3]);
    bool identifies = count == 5 && PyObject_IsTrue(arguments[4]) == 1;
    if (PyErr_Occurred())
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    result = statx(fd, name, flags, WANTED, &found);
    if (result == 0 && identifies)
        generation = find_generation(fd, name, &found);
    Py_END_ALLOW_THREADS
    if (result < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    PyObject *status = type->tp_alloc(type, FIELDS);
    return status == NULL ? NULL : fill(status, &found, generation);
}

PyMethodDef statx_methods[] = {
    {"statx", (PyCFunction)(void *)call_statx, METH_FASTCALL,
     "What statx(2) says of a name in the folder of a descriptor, as one of those tuples."},
    {NULL, NULL, 0, NULL},
};
