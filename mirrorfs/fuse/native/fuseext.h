/* What the two halves of the extension share: the functions of libfuse, and the request object. */
#ifndef FUSEEXT_H
#define FUSEEXT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "messages.h"

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
    int (*session_receive_buf)(struct fuse_session *, struct fuse_buf *);
    custom_io *session_custom_io; /* NULL before 3.13 */
    int (*version)(void);
    int (*reply_err)(fuse_req_t, int);
    int (*reply_lseek)(fuse_req_t, off_t);
    int (*reply_write)(fuse_req_t, size_t);
    const struct fuse_ctx *(*req_ctx)(fuse_req_t);
    int (*req_interrupted)(fuse_req_t);
    bool (*set_feature_flag)(struct fuse_conn_info *, uint64_t); /* NULL before 3.17.3, as is */
    void (*unset_feature_flag)(struct fuse_conn_info *, uint64_t);
};
extern struct functions real;

typedef unsigned long long ull; /* Python's "K"; its "L" is long long */
enum operation { FALLOCATE, LSEEK, COPY_FILE_RANGE, OPERATIONS };

/* Moves on when a session begins and when one ends. */
extern unsigned long generation;

/* What a callable is given to answer with. */
typedef struct {
    PyObject_HEAD
    fuse_req_t req; /* NULL once answered */
    unsigned long generation;
    enum operation operation;
    ull limit; /* of the number that it is answered with */
    uid_t uid; /* copied, since they outlive req */
    gid_t gid;
    pid_t pid;
} Request;
extern PyTypeObject RequestType;

Request *request_make(fuse_req_t, enum operation, ull limit);
void request_give_up(Request *, int code);

bool at_once_install(PyObject *by_opcode, PyObject *is_idle);
void at_once_reset(void);
int at_once_receive(struct fuse_session *, struct fuse_buf *);

#endif
