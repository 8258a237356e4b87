/* mirrorfs._native: the hooks before libfuse (hooks.c, killpriv.c), the threads that receive requests
 * (receive.c, crew.c), statx(2) (statx.c) and digests (chunk_digests.c). One module, since it has to
 * be loaded in one way: with RTLD_GLOBAL, before pyfuse3; see hooks.c. */
#include "native.h"

static int set_up(PyObject *module)
{
    PyMethodDef *methods[] = {hooks_methods, receive_methods, statx_methods, chunk_digests_methods};
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        PyErr_SetString(PyExc_ImportError, "only the main interpreter can use mirrorfs._native");
        return -1;
    }
    for (size_t i = 0; i < sizeof(methods) / sizeof(*methods); i++)
        if (PyModule_AddFunctions(module, methods[i]) < 0)
            return -1;
    return hooks_set_up(module);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, set_up},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "mirrorfs._native",
    .m_doc = "What Python and pyfuse3 cannot do, or not fast enough.",
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
