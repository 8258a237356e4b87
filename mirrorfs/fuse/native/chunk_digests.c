/* xxh3_128 of each chunk of a buffer in one call. The interpreter lock is released, so that a thread
 * that reads goes on meanwhile. */
#include "native.h"
#include "chunk_loops.h"

/* The fastest that this processor can run, and the kernel lets it. */
static chunk_loop *fastest(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2"))
        return chunk_loop_avx2;
#endif
    return chunk_loop_plain;
}

static PyObject *chunk_digests(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Py_buffer data;
    Py_ssize_t chunk_bytes;
    ull seed;
    PyObject *seed_number;
    if (!PyArg_ParseTuple(arguments, "y*O!n", &data, &PyLong_Type, &seed_number, &chunk_bytes))
        return NULL;
    seed = PyLong_AsUnsignedLongLong(seed_number); /* unlike "K" it refuses what does not fit */
    if (PyErr_Occurred() || chunk_bytes <= 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "a chunk has at least one byte");
        PyBuffer_Release(&data);
        return NULL;
    }
    Py_ssize_t count = data.len / chunk_bytes + (data.len % chunk_bytes != 0);
    PyObject *digests =
        count > PY_SSIZE_T_MAX / DIGEST_BYTES
            ? PyErr_NoMemory()
            : PyBytes_FromStringAndSize(NULL, count * DIGEST_BYTES);
    if (digests != NULL) {
        char *to = PyBytes_AS_STRING(digests);
        Py_BEGIN_ALLOW_THREADS
        fastest()(data.buf, (size_t)data.len, (size_t)chunk_bytes, seed, to);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&data);
    return digests;
}

PyMethodDef chunk_digests_methods[] = {
    {"chunk_digests", chunk_digests, METH_VARARGS,
     "The xxh3_128 of each chunk of a buffer, 16 bytes each, most significant byte first."},
    {NULL, NULL, 0, NULL},
};
