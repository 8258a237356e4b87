/* What the parts of the extension module share. */
#ifndef NATIVE_H
#define NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "killpriv.h"

typedef struct fuse_session *session_new(struct fuse_args *, const struct fuse_lowlevel_ops *,
                                         size_t, void *userdata);
typedef struct fuse_session *session_new_versioned(struct fuse_args *,
                                                   const struct fuse_lowlevel_ops *, size_t,
                                                   void *version, void *userdata);

/* The functions of the libfuse that pyfuse3 uses: fuse_ and the name. All are there, or none. */
struct functions {
    session_new *session_new;
    session_new_versioned *session_new_versioned; /* NULL before 3.17 */
    void (*session_destroy)(struct fuse_session *);
    int (*session_fd)(struct fuse_session *);
    void (*session_process_buf)(struct fuse_session *, const struct fuse_buf *);
    custom_io *session_custom_io; /* NULL before 3.13 */
    int (*version)(void);
    bool (*set_feature_flag)(struct fuse_conn_info *, uint64_t); /* NULL before 3.17.3, as is */
    void (*unset_feature_flag)(struct fuse_conn_info *, uint64_t);
};
extern struct functions real;

typedef unsigned long long ull; /* Python's "K" */

/* The session that lives, NULL if there is none. */
extern struct fuse_session *session;

/* Methods of the module, by the file that has them. */
extern PyMethodDef hooks_methods[], receive_methods[], statx_methods[],
    chunk_digests_methods[];
int hooks_set_up(PyObject *module);
size_t hooks_max_write(void);

bool receive_install(PyObject *by_opcode);

#endif
