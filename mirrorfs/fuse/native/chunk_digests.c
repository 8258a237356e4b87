/* xxh3_128 of each chunk of a buffer in one call. The interpreter lock is released, so that a thread
 * that reads goes on meanwhile. xxHash is compiled in from its header: nothing is linked with. */
#include "native.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

static PyObject *chunk_digests(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    enum { DIGEST_BYTES = sizeof(XXH128_canonical_t) };
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
        const char *from = data.buf;
        XXH128_canonical_t *to = (void *)PyBytes_AS_STRING(digests);
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t left = data.len; left > 0; left -= chunk_bytes, from += chunk_bytes) {
            size_t length = (size_t)(left < chunk_bytes ? left : chunk_bytes);
            XXH128_canonicalFromHash(to++, XXH3_128bits_withSeed(from, length, seed));
        }
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
