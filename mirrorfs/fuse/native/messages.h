/* What libfuse does not pass on of the messages between the kernel and us; see messages.c. */
#ifndef FUSEEXT_MESSAGES_H
#define FUSEEXT_MESSAGES_H

#define FUSE_USE_VERSION 35
#include <fuse_lowlevel.h>
#include <stdbool.h>
#include <stddef.h>

/* What a received write is told by, in bits of its file handle that our numbers never reach. */
#define WIRE_KILLS_SETID (1ULL << 63) /* the writer may not keep setuid and setgid */
#define WIRE_APPENDS (1ULL << 62)     /* the file is open with O_APPEND at this moment */

typedef int custom_io(struct fuse_session *, const struct fuse_custom_io *, int fd);

void wire_reset(void);
bool wire_watch_reply(struct fuse_session *, custom_io *);
void wire_received(void *message, size_t size);
bool wire_is_tagged(void);
bool wire_has_killpriv(void);

#endif
