/* FUSE_HANDLE_KILLPRIV_V2 for a libfuse that does not know it; see killpriv.c. */
#ifndef NATIVE_KILLPRIV_H
#define NATIVE_KILLPRIV_H

#define FUSE_USE_VERSION 35
#include <fuse_lowlevel.h>
#include <stdbool.h>
#include <stddef.h>

typedef int custom_io(struct fuse_session *, const struct fuse_custom_io *, int fd);

void killpriv_reset(void);
bool killpriv_watch_reply(struct fuse_session *, custom_io *);
void killpriv_received(const void *message, size_t size);
bool killpriv_sees_requests(void);
bool killpriv_is_added(void);

#endif
