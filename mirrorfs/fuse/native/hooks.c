/* Gives a pyfuse3 mount the three operations that pyfuse3 has no handler for: fallocate, lseek and
 * copy_file_range; a say in what is negotiated in init; what a write's message says beside its data
 * (messages.c); and answers that need no event loop (at_once.c).
 *
 * How. This file defines the ELF symbols fuse_session_new, fuse_session_new_versioned (which is
 * what fuse_session_new stands for in headers since libfuse 3.17), fuse_session_destroy and
 * fuse_session_receive_buf. When
 * it is loaded with RTLD_NOW | RTLD_GLOBAL before pyfuse3, the dynamic linker finds ours first
 * (ld.so(8), dlopen(3): the global scope comes before an object's own dependencies). Ours copy the
 * public table of operations, fill slots that are empty, and call the real function, which dlsym
 * finds among pyfuse3's own dependencies. So this module links with no libfuse, and no memory of
 * anybody else is written to.
 *
 * What it guarantees.
 * - Loading it changes nothing: until install() is called, sessions are passed through untouched.
 *   A table that pyfuse3 fills itself is never overridden; one larger than ours is never copied.
 * - Each request is answered exactly once. A Request that is dropped without an answer sends EIO;
 *   a second answer raises RuntimeError; one that does not fit the operation raises ValueError,
 *   OverflowError or TypeError, and leaves the request open.
 * - An exception in a callable is reported (sys.unraisablehook) and answered with EIO. It never
 *   unwinds into libfuse, and never ends the mount.
 *
 * Who may call what. bind() and install() are called once, before pyfuse3.init(), by the thread
 * that will serve; callables are called by that thread, inside fuse_session_process_buf. Answers
 * may come from any thread that holds the GIL: libfuse's own multi-threaded loop does the like.
 *
 * The lock is the GIL: all state here is read and written with it held. It is not released around
 * an answer, on purpose. The write to /dev/fuse wakes the caller and does not wait for it (about a
 * microsecond), whereas a thread that gave the GIL away may wait a whole switch interval (5 ms) for
 * it; and holding it makes "is the session still there?" and "send" one step.
 * So free-threaded builds turn their GIL on for this module (Py_MOD_GIL_USED), and only the main
 * interpreter may load it, since the symbols exist once in a process.
 *
 * The end of a session. fuse_session_destroy frees what a request points to. When the device is
 * closed, there or before, the kernel answers the callers: ECONNABORTED or ENOTCONN. So requests
 * that are still open count as answered from then on, and answers to them are not sent and raise
 * nothing. (libfuse does not free such requests: each costs some 200 bytes until the process ends.)
 * pyfuse3 knows one session, in a module global: a new session ends the old one for us, too.
 */
#define _GNU_SOURCE /* dladdr1, dlinfo, RTLD_NOLOAD */
#include "fuseext.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stdint.h>

/* Library and header may differ; what decides is noted at each place. */
#define HAVE_64_BIT_CAPABILITIES (FUSE_MAJOR_VERSION > 3 || FUSE_MINOR_VERSION >= 17)
#ifndef FUSE_CAP_HANDLE_KILLPRIV_V2 /* since 3.17; for an older one see messages.c */
#define FUSE_CAP_HANDLE_KILLPRIV_V2 (1 << 21)
#endif
#define KNOWS_KILLPRIV_V2 317 /* fuse_version() */

/* Since 3.17 fuse_session_new is a macro, too; the labels name symbols whatever the header says. */
#define HOOK(symbol) __asm__(symbol) __attribute__((visibility("default"), used))
session_new hook_new HOOK("fuse_session_new");
session_new_versioned hook_new_versioned HOOK("fuse_session_new_versioned");
void hook_destroy(struct fuse_session *) HOOK("fuse_session_destroy");
int hook_receive(struct fuse_session *, struct fuse_buf *) HOOK("fuse_session_receive_buf");

/* All are there, or none. */
struct functions real;

/* What install() was given. */
static bool installed;
static PyObject *callables[OPERATIONS];
static ull wanted, not_wanted;
static unsigned max_background; /* 0 leaves it to the kernel */

/* The session that lives, hooked or not; generation moves on when one begins and when one ends. */
static struct fuse_session *session;
unsigned long generation;
static void (*original_init)(void *, struct fuse_conn_info *);

/* What state() tells. */
static unsigned long hooked;
static const char *reason = "no session was made through this module";
static struct {
    ull capable, want;
    unsigned max_write, max_readahead, proto_major, proto_minor;
} negotiated;

/* ---- from libfuse to the callables ---- */

/* Call what was installed for this operation. Takes both references; arguments may be NULL with an
 * exception set. install() may have replaced the callables since the slots were filled. */
static void call(Request *request, PyObject *arguments)
{
    PyObject *callable = Py_XNewRef(callables[request->operation]);
    PyObject *result = NULL;
    if (!callable)
        request_give_up(request, ENOSYS); /* as an empty slot does */
    else if (arguments)
        result = PyObject_CallObject(callable, arguments);
    if (PyErr_Occurred()) {
        PyErr_WriteUnraisable(callable);
        request_give_up(request, EIO);
    }
    Py_XDECREF(result);
    Py_XDECREF(callable);
    Py_XDECREF(arguments);
    Py_DECREF(request);
}

static void on_fallocate(fuse_req_t req, fuse_ino_t node, int mode, off_t offset, off_t length,
                         struct fuse_file_info *fi)
{
    PyGILState_STATE gil = PyGILState_Ensure();
    Request *request = request_make(req, FALLOCATE, 0);
    if (request)
        call(request, Py_BuildValue("(OKKiLL)", request, (ull)node, (ull)fi->fh, mode,
                                    (long long)offset, (long long)length));
    PyGILState_Release(gil);
}

static void on_lseek(fuse_req_t req, fuse_ino_t node, off_t offset, int whence,
                     struct fuse_file_info *fi)
{
    PyGILState_STATE gil = PyGILState_Ensure();
    Request *request = request_make(req, LSEEK, INT64_MAX);
    if (request)
        call(request, Py_BuildValue("(OKKLi)", request, (ull)node, (ull)fi->fh, (long long)offset,
                                    whence));
    PyGILState_Release(gil);
}

static void on_copy_file_range(fuse_req_t req, fuse_ino_t node_in, off_t offset_in,
                               struct fuse_file_info *in, fuse_ino_t node_out, off_t offset_out,
                               struct fuse_file_info *out, size_t length, int flags)
{
    PyGILState_STATE gil = PyGILState_Ensure();
    Request *request = request_make(req, COPY_FILE_RANGE, length);
    if (request)
        call(request, Py_BuildValue("(OKKLKKLKi)", request, (ull)node_in, (ull)in->fh,
                                    (long long)offset_in, (ull)node_out, (ull)out->fh,
                                    (long long)offset_out, (ull)length, flags));
    PyGILState_Release(gil);
}

/* Since 3.17 there are want and want_ext. Setting want alone is still understood unless somebody
 * else sets want_ext; the functions of 3.17.3 keep both right (libfuse, lib/fuse_lowlevel.c,
 * fuse_convert_to_conn_want_ext). They refuse what the kernel is not capable of; to want that would
 * be EPROTO. Whether they exist is up to the library, not to the header. */
static void want_capabilities(struct fuse_conn_info *conn)
{
    if (wire_is_tagged()) /* a spliced request stays in a pipe, where it cannot be read here */
        not_wanted |= FUSE_CAP_SPLICE_READ;
    else
        wanted &= ~(ull)FUSE_CAP_HANDLE_KILLPRIV_V2;
    if (!real.set_feature_flag || !real.unset_feature_flag) {
        conn->want |= (unsigned)wanted & conn->capable;
        conn->want &= ~(unsigned)not_wanted;
        return;
    }
    for (uint64_t bit = 1; bit; bit <<= 1) {
        if (wanted & bit)
            real.set_feature_flag(conn, bit);
        if (not_wanted & bit)
            real.unset_feature_flag(conn, bit);
    }
}

static void on_init(void *userdata, struct fuse_conn_info *conn)
{
    PyGILState_STATE gil = PyGILState_Ensure();
    if (original_init)
        original_init(userdata, conn);
    want_capabilities(conn);
    if (max_background)
        conn->max_background = max_background;
    negotiated.capable = conn->capable;
    negotiated.want = conn->want;
#if HAVE_64_BIT_CAPABILITIES
    if (real.set_feature_flag) { /* else these may be reserved space */
        negotiated.capable |= conn->capable_ext;
        negotiated.want |= conn->want_ext;
    }
#endif
    negotiated.max_write = conn->max_write;
    negotiated.max_readahead = conn->max_readahead;
    negotiated.proto_major = conn->proto_major;
    negotiated.proto_minor = conn->proto_minor;
    PyGILState_Release(gil);
}

/* ---- the hooks ---- */

/* Copy a table and fill its empty slots. Returns why none was filled, or "". */
static const char *fill(struct fuse_lowlevel_ops *table, const struct fuse_lowlevel_ops **op,
                        size_t *size)
{
    const size_t needed = offsetof(struct fuse_lowlevel_ops, lseek) + sizeof(table->lseek);
    bool asked = callables[FALLOCATE] || callables[LSEEK] || callables[COPY_FILE_RANGE];
    bool filled = false;
    if (!installed)
        return "nothing was installed";
    if (!*op || *size > sizeof(*table))
        return "pyfuse3 was built for a newer libfuse than this module; build them together";
    memset(table, 0, sizeof(*table));
    memcpy(table, *op, *size);
#define FILL(slot, operation, function)                                                            \
    if (callables[operation] && !table->slot) {                                                    \
        table->slot = function;                                                                    \
        filled = true;                                                                             \
    }
    FILL(fallocate, FALLOCATE, on_fallocate)
    FILL(lseek, LSEEK, on_lseek)
    FILL(copy_file_range, COPY_FILE_RANGE, on_copy_file_range)
#undef FILL
    original_init = table->init;
    table->init = on_init;
    *op = table;
    /* Not to our full size: a libfuse that knows fewer operations would complain. */
    if (*size < needed)
        *size = needed;
    if (filled)
        return "";
    return asked ? "pyfuse3 has these operations itself" : "no operation was installed";
}
_Static_assert(offsetof(struct fuse_lowlevel_ops, lseek) >
                   offsetof(struct fuse_lowlevel_ops, copy_file_range),
               "lseek is the last of the slots that are filled");

/* Find the real functions behind an object that is loaded. Returns what is wrong, or NULL.
 * For a handle, dlsym looks at the object and what it depends on, not at the global scope, where we
 * are (dlsym(3)). The handle is never closed: it keeps the functions where they are. */
static const char *resolve(const char *path)
{
    struct functions found;
    void *library = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    if (!library)
        return "is not loaded";
#define FIND(name, required)                                                                       \
    *(void **)&found.name = dlsym(library, "fuse_" #name);                                         \
    if (required && !found.name)                                                                   \
        return "has no fuse_" #name " behind it";
    FIND(session_new, true)
    FIND(session_new_versioned, false)
    FIND(session_destroy, true)
    FIND(session_receive_buf, true)
    FIND(session_custom_io, false)
    FIND(version, true)
    FIND(session_fd, true)
    FIND(reply_err, true)
    FIND(reply_lseek, true)
    FIND(reply_write, true)
    FIND(req_ctx, true)
    FIND(req_interrupted, true)
    FIND(set_feature_flag, false)
    FIND(unset_feature_flag, false)
#undef FIND
    real = found;
    return NULL;
}

/* A hook must work even if bind() was never called: then its caller says which libfuse is meant. */
static bool is_bound(void *caller)
{
    Dl_info info;
    return real.session_new ||
           (dladdr(caller, &info) && info.dli_fname && !resolve(info.dli_fname));
}

/* See to it that FUSE_HANDLE_KILLPRIV_V2 can be negotiated, if it is wanted. A libfuse that knows it
 * does so by itself. */
static void prepare_wire(struct fuse_session *made)
{
    bool by_wire = (wanted & FUSE_CAP_HANDLE_KILLPRIV_V2) && real.session_custom_io &&
                   real.version() < KNOWS_KILLPRIV_V2;
    wire_reset();
    at_once_reset();
    if (by_wire)
        wire_watch_reply(made, real.session_custom_io);
}

/* What both hooks do; version is NULL in the older one. */
static struct fuse_session *make_session(void *caller, struct fuse_args *args,
                                         const struct fuse_lowlevel_ops *op, size_t size,
                                         void *version, void *userdata)
{
    PyGILState_STATE gil = PyGILState_Ensure();
    struct fuse_lowlevel_ops table; /* libfuse keeps a copy */
    struct fuse_session *made = NULL;
    const char *why_not = fill(&table, &op, &size);
    if (!is_bound(caller))
        fputs("mirrorfs._fuseext: no libfuse found behind the caller\n", stderr);
    else if (!version)
        made = real.session_new(args, op, size, userdata);
    else if (real.session_new_versioned)
        made = real.session_new_versioned(args, op, size, version, userdata);
    if (made && installed)
        prepare_wire(made);
    session = made;
    memset(&negotiated, 0, sizeof(negotiated));
    generation++;
    reason = made ? why_not : "libfuse refused the session";
    hooked += !*reason;
    PyGILState_Release(gil);
    return made;
}

struct fuse_session *hook_new(struct fuse_args *args, const struct fuse_lowlevel_ops *op,
                              size_t size, void *userdata)
{
    return make_session(__builtin_return_address(0), args, op, size, NULL, userdata);
}

struct fuse_session *hook_new_versioned(struct fuse_args *args, const struct fuse_lowlevel_ops *op,
                                        size_t size, void *version, void *userdata)
{
    return make_session(__builtin_return_address(0), args, op, size, version, userdata);
}

void hook_destroy(struct fuse_session *ended)
{
    PyGILState_STATE gil = PyGILState_Ensure();
    if (ended == session) {
        session = NULL;
        generation++;
    }
    if (is_bound(__builtin_return_address(0)))
        real.session_destroy(ended);
    PyGILState_Release(gil);
}

/* Called for each request, by pyfuse3's loop, with the GIL held. */
int hook_receive(struct fuse_session *from, struct fuse_buf *buffer)
{
    if (!is_bound(__builtin_return_address(0)))
        return -ENOSYS;
    if (from == session && installed)
        return at_once_receive(from, buffer);
    return real.session_receive_buf(from, buffer);
}

/* ---- the module ---- */

/* Returns why pyfuse3's references do not lead to the hooks, or NULL. */
static const char *find_order_problem(const char *path)
{
    Dl_info info;
    struct link_map *own, *other;
    void *object = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    bool known = object && !dlinfo(object, RTLD_DI_LINKMAP, &other) &&
                 dladdr1((void *)hook_new, &info, (void **)&own, RTLD_DL_LINKMAP);
    if (object)
        dlclose(object);
    if (!known)
        return "is unknown to the dynamic linker";
    /* The list is in the order of loading (dlinfo(3)), and loading resolves at once. */
    while (other && other != own)
        other = other->l_prev;
    if (!other)
        return "was loaded before mirrorfs._fuseext";
    void *everything = dlopen(NULL, RTLD_NOW);
    void *first = everything ? dlsym(everything, "fuse_session_new") : NULL;
    if (everything)
        dlclose(everything);
    return first == (void *)hook_new ? NULL : "finds another fuse_session_new before the hook";
}

static PyObject *bind_library(PyObject *Py_UNUSED(module), PyObject *argument)
{
    PyObject *path;
    Dl_info info;
    if (!PyUnicode_FSConverter(argument, &path))
        return NULL;
    const char *problem = resolve(PyBytes_AS_STRING(path));
    if (!problem)
        problem = find_order_problem(PyBytes_AS_STRING(path));
    if (problem)
        PyErr_Format(PyExc_OSError, "%s %s", PyBytes_AS_STRING(path), problem);
    Py_DECREF(path);
    if (problem)
        return NULL;
    bool known = dladdr((void *)real.session_new, &info) && info.dli_fname;
    return PyUnicode_DecodeFSDefault(known ? info.dli_fname : "?");
}

static int to_bits(PyObject *object, void *place)
{
    ull bits = PyLong_AsUnsignedLongLong(object);
    if (PyErr_Occurred())
        return 0;
    *(ull *)place = bits;
    return 1;
}

static PyObject *install(PyObject *Py_UNUSED(module), PyObject *args, PyObject *keywords)
{
    static char *names[] = {"fallocate", "lseek", "copy_file_range", "want",
                            "dont_want", "max_background", "at_once", "is_idle", NULL};
    PyObject *given[OPERATIONS] = {Py_None, Py_None, Py_None};
    PyObject *at_once = Py_None, *is_idle = Py_None;
    ull want = 0, dont_want = 0, background = 0;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|$OOOO&O&O&OO:install", names,
                                     &given[FALLOCATE], &given[LSEEK], &given[COPY_FILE_RANGE],
                                     to_bits, &want, to_bits, &dont_want, to_bits, &background,
                                     &at_once, &is_idle))
        return NULL;
    for (int i = 0; i < OPERATIONS; i++)
        if (given[i] != Py_None && !PyCallable_Check(given[i]))
            return PyErr_Format(PyExc_TypeError, "%s is neither callable nor None", names[i]);
    for (int i = 0; i < OPERATIONS; i++)
        Py_XSETREF(callables[i], given[i] == Py_None ? NULL : Py_NewRef(given[i]));
    if (background > UINT16_MAX)
        return PyErr_Format(PyExc_ValueError, "max_background is at most %d", UINT16_MAX);
    if (!at_once_install(at_once, is_idle))
        return NULL;
    wanted = want;
    max_background = (unsigned)background;
    not_wanted = dont_want;
    installed = true;
    Py_RETURN_NONE;
}

static PyObject *state(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    ull by_wire = wire_has_killpriv() ? FUSE_CAP_HANDLE_KILLPRIV_V2 : 0;
    return Py_BuildValue("{s:k,s:s,s:O,s:K,s:K,s:I,s:I,s:(II)}", "hooked", hooked, "reason",
                         reason, "tagged", wire_is_tagged() ? Py_True : Py_False, "capable",
                         negotiated.capable | by_wire, "want", negotiated.want | by_wire,
                         "max_write", negotiated.max_write, "max_readahead",
                         negotiated.max_readahead, "protocol", negotiated.proto_major,
                         negotiated.proto_minor);
}

static int set_up(PyObject *module)
{
    static const struct {
        const char *name;
        long bit;
    } capabilities[] = {
        {"CAP_ATOMIC_O_TRUNC", FUSE_CAP_ATOMIC_O_TRUNC},
        {"CAP_AUTO_INVAL_DATA", FUSE_CAP_AUTO_INVAL_DATA},
        {"CAP_CACHE_SYMLINKS", FUSE_CAP_CACHE_SYMLINKS},
        {"CAP_DONT_MASK", FUSE_CAP_DONT_MASK},
        {"CAP_HANDLE_KILLPRIV", FUSE_CAP_HANDLE_KILLPRIV},
        {"CAP_HANDLE_KILLPRIV_V2", FUSE_CAP_HANDLE_KILLPRIV_V2},
        {"CAP_PARALLEL_DIROPS", FUSE_CAP_PARALLEL_DIROPS},
        {"CAP_WRITEBACK_CACHE", FUSE_CAP_WRITEBACK_CACHE},
    };
    PyObject *tags = Py_BuildValue("(KK)", WIRE_KILLS_SETID, WIRE_APPENDS);
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        PyErr_SetString(PyExc_ImportError, "only the main interpreter can use mirrorfs._fuseext");
        return -1;
    }
    for (size_t i = 0; i < sizeof(capabilities) / sizeof(*capabilities); i++)
        if (PyModule_AddIntConstant(module, capabilities[i].name, capabilities[i].bit) < 0)
            return -1;
    if (PyModule_AddObjectRef(module, "WRITE_TAGS", tags) < 0)
        return -1;
    Py_DECREF(tags);
    return PyModule_AddType(module, &RequestType);
}

static PyMethodDef methods[] = {
    {"bind", bind_library, METH_O,
     "Find libfuse behind pyfuse3, which is named by its loaded object; returns libfuse's path."},
    {"install", (PyCFunction)(void (*)(void))install, METH_VARARGS | METH_KEYWORDS,
     "Say what is called for each operation, and which capabilities are negotiated."},
    {"state", state, METH_NOARGS, "What became of it."},
    {NULL, NULL, 0, NULL},
};

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
    .m_name = "mirrorfs._fuseext",
    .m_doc = "fallocate, lseek and copy_file_range for a pyfuse3 mount.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__fuseext(void)
{
    return PyModuleDef_Init(&definition);
}
