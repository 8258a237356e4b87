/* Puts the module before libfuse in a pyfuse3 mount: a say in what is negotiated in FUSE_INIT, and
 * the session, whose requests the receivers take (receive.c).
 *
 * How. This file defines the ELF symbols fuse_session_new, fuse_session_new_versioned (which is
 * what fuse_session_new stands for in headers since libfuse 3.17) and fuse_session_destroy. When it is loaded with RTLD_NOW | RTLD_GLOBAL before pyfuse3, the dynamic
 * linker finds ours first (ld.so(8), dlopen(3): the global scope comes before an object's own
 * dependencies). Ours call the real function, which dlsym finds among pyfuse3's own dependencies. So
 * this module links with no libfuse, and no memory of another library is written to.
 *
 * What it guarantees. Loading it changes nothing: until install() is called, sessions are passed
 * through untouched. A table of operations that is larger than ours is never copied.
 *
 * Who may call what. bind() and install() are called once, before pyfuse3.init(), by the thread
 * that will serve; callables are called by the threads that are in serve().
 *
 * The lock is the GIL: all state here is read and written with it held. So free-threaded builds turn
 * their GIL on for this module (Py_MOD_GIL_USED), and only the main interpreter may load it, since
 * the symbols exist once in a process. pyfuse3 knows one session, in a module global: a new session
 * ends the old one for us, too.
 */
#define _GNU_SOURCE /* dladdr1, dlinfo, RTLD_NOLOAD */
#include "crew.h"
#include "native.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stdint.h>

/* Library and header may differ; what decides is noted at each place. */
#define HAVE_64_BIT_CAPABILITIES (FUSE_MAJOR_VERSION > 3 || FUSE_MINOR_VERSION >= 17)
#ifndef FUSE_CAP_HANDLE_KILLPRIV_V2 /* since 3.17; for an older one see killpriv.c */
#define FUSE_CAP_HANDLE_KILLPRIV_V2 (1 << 21)
#endif
#define KNOWS_KILLPRIV_V2 317 /* fuse_version() */

/* Since 3.17 fuse_session_new is a macro, too; the labels name symbols whatever the header says. */
#define HOOK(symbol) __asm__(symbol) __attribute__((visibility("default"), used))
session_new hook_new HOOK("fuse_session_new");
session_new_versioned hook_new_versioned HOOK("fuse_session_new_versioned");
void hook_destroy(struct fuse_session *) HOOK("fuse_session_destroy");

struct functions real;
struct fuse_session *session;

/* What install() was given. */
static bool installed;
static ull wanted, not_wanted;
static unsigned max_background; /* 0 leaves it to the kernel */
static void (*original_init)(void *, struct fuse_conn_info *);

/* What state() tells. */
static unsigned long hooked;
static const char *reason = "no session was made through this module";
static struct {
    ull capable, want;
    unsigned max_write, max_readahead, proto_major, proto_minor;
} negotiated;

/* ---- negotiation ---- */

/* Since 3.17 there are want and want_ext. Setting want alone is still understood unless another
 * caller sets want_ext; the functions of 3.17.3 keep both right (libfuse, lib/fuse_lowlevel.c,
 * fuse_convert_to_conn_want_ext). They refuse what the kernel is not capable of; to want that would
 * be EPROTO. Whether they exist is up to the library, not to the header. */
static void want_capabilities(struct fuse_conn_info *conn)
{
    if (killpriv_sees_requests()) /* a spliced request stays in a pipe, where it cannot be read */
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

size_t hooks_max_write(void)
{
    return negotiated.max_write;
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

/* Copy a table of operations, with our init. Returns why that was not done, or "". */
static const char *replace_init(struct fuse_lowlevel_ops *table,
                                const struct fuse_lowlevel_ops **op, size_t size)
{
    if (!installed)
        return "nothing was installed";
    if (!*op || size > sizeof(*table))
        return "pyfuse3 was built for a newer libfuse than this module; build them together";
    memset(table, 0, sizeof(*table));
    memcpy(table, *op, size);
    original_init = table->init;
    table->init = on_init;
    *op = table;
    return "";
}

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
    FIND(session_process_buf, true)
    FIND(session_custom_io, false)
    FIND(version, true)
    FIND(session_fd, true)
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
static void prepare_killpriv(struct fuse_session *made)
{
    bool is_added_here = (wanted & FUSE_CAP_HANDLE_KILLPRIV_V2) && real.session_custom_io &&
                         real.version() < KNOWS_KILLPRIV_V2;
    killpriv_reset();
    crew_reset();
    if (is_added_here)
        killpriv_watch_reply(made, real.session_custom_io);
}

/* What both hooks do; version is NULL in the older one. */
static struct fuse_session *make_session(void *caller, struct fuse_args *args,
                                         const struct fuse_lowlevel_ops *op, size_t size,
                                         void *version, void *userdata)
{
    PyGILState_STATE gil = PyGILState_Ensure();
    struct fuse_lowlevel_ops table; /* libfuse keeps a copy */
    struct fuse_session *made = NULL;
    const char *why_not = replace_init(&table, &op, size);
    if (!is_bound(caller))
        fputs("mirrorfs._native: no libfuse found behind the caller\n", stderr);
    else if (!version)
        made = real.session_new(args, op, size, userdata);
    else if (real.session_new_versioned)
        made = real.session_new_versioned(args, op, size, version, userdata);
    if (made && installed)
        prepare_killpriv(made);
    session = made;
    memset(&negotiated, 0, sizeof(negotiated));
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
    if (ended == session)
        session = NULL;
    if (is_bound(__builtin_return_address(0)))
        real.session_destroy(ended);
    PyGILState_Release(gil);
}

/* ---- methods of the module ---- */

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
        return "was loaded before mirrorfs._native";
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

static PyObject *install(PyObject *Py_UNUSED(module), PyObject *args, PyObject *keywords)
{
    static char *names[] = {"requests", "want", "dont_want", "max_background", NULL};
    PyObject *requests = Py_None;
    ull want = 0, dont_want = 0;
    unsigned short background = 0;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|$OKKH:install", names, &requests, &want,
                                     &dont_want, &background))
        return NULL;
    if (!receive_install(requests))
        return NULL;
    wanted = want;
    not_wanted = dont_want;
    max_background = background;
    installed = true;
    Py_RETURN_NONE;
}

static PyObject *state(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    ull added = killpriv_is_added() ? FUSE_CAP_HANDLE_KILLPRIV_V2 : 0;
    return Py_BuildValue("{s:k,s:s,s:O,s:K,s:K,s:I,s:I,s:(II)}", "hooked", hooked, "reason",
                         reason, "sees_requests", killpriv_sees_requests() ? Py_True : Py_False,
                         "capable", negotiated.capable | added, "want", negotiated.want | added,
                         "max_write", negotiated.max_write, "max_readahead",
                         negotiated.max_readahead, "protocol", negotiated.proto_major,
                         negotiated.proto_minor);
}

PyMethodDef hooks_methods[] = {
    {"bind", bind_library, METH_O,
     "Find libfuse behind pyfuse3, which is named by its loaded object; returns libfuse's path."},
    {"install", (PyCFunction)(void (*)(void))install, METH_VARARGS | METH_KEYWORDS,
     "Say what sees the requests, and which capabilities are negotiated."},
    {"state", state, METH_NOARGS, "What became of it."},
    {NULL, NULL, 0, NULL},
};

int hooks_set_up(PyObject *module)
{
    static const struct {
        const char *name;
        long bit;
    } capabilities[] = {
        {"CAP_ASYNC_DIO", FUSE_CAP_ASYNC_DIO},
        {"CAP_DONT_MASK", FUSE_CAP_DONT_MASK},
        {"CAP_HANDLE_KILLPRIV_V2", FUSE_CAP_HANDLE_KILLPRIV_V2},
        {"CAP_WRITEBACK_CACHE", FUSE_CAP_WRITEBACK_CACHE},
    };
    for (size_t i = 0; i < sizeof(capabilities) / sizeof(*capabilities); i++)
        if (PyModule_AddIntConstant(module, capabilities[i].name, capabilities[i].bit) < 0)
            return -1;
    return 0;
}
