/* In FUSE_INIT the kernel offers FUSE_HANDLE_KILLPRIV_V2, with which it stops asking for
 * security.capability before every write. libfuse knows it since 3.17. For an older one the bit is
 * put into its answer on the way to the kernel: fuse_session_custom_io lets us write that answer.
 * The structures are those of linux/fuse.h, the kernel's own contract with file systems.
 *
 * A file system that takes the bit must clear setuid and setgid itself. A write says in its message
 * when (FUSE_WRITE_KILL_SUIDGID), which libfuse does not pass on. So the bit is wanted only if the
 * requests of the session come through receive.c. All of this runs with the GIL held. */
#define _GNU_SOURCE
#include "killpriv.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static struct {
    bool is_added;
    bool sees_requests; /* FUSE_INIT was seen, so writes are seen, too */
    bool offered;
    uint64_t init; /* the number of that request, until it is answered */
} wire;

/* A new session begins. */
void killpriv_reset(void)
{
    memset(&wire, 0, sizeof(wire));
}

bool killpriv_sees_requests(void)
{
    return wire.sees_requests;
}

bool killpriv_is_added(void)
{
    return wire.is_added;
}

/* Look at a request before libfuse does. */
void killpriv_received(const void *message, size_t size)
{
    const struct fuse_in_header *header = message;
    const struct fuse_init_in *init = (const void *)(header + 1);
    if (wire.sees_requests ||
        size < sizeof(*header) + offsetof(struct fuse_init_in, flags) + sizeof(init->flags) ||
        header->opcode != FUSE_INIT)
        return;
    wire.sees_requests = true;
    wire.init = header->unique;
    wire.offered = init->flags & FUSE_HANDLE_KILLPRIV_V2;
}

/* libfuse writes an answer: a header, and in a second piece what goes with it. */
static ssize_t write_answer(int fd, struct iovec *pieces, int count, void *userdata)
{
    (void)userdata;
    if (wire.init && count >= 2 && pieces[0].iov_len >= sizeof(struct fuse_out_header)) {
        struct fuse_out_header *header = pieces[0].iov_base;
        struct fuse_init_out *init = pieces[1].iov_base;
        if (header->unique == wire.init) {
            wire.init = 0;
            if (!header->error && wire.offered &&
                pieces[1].iov_len >= offsetof(struct fuse_init_out, flags) + sizeof(uint32_t)) {
                init->flags |= FUSE_HANDLE_KILLPRIV_V2;
                wire.is_added = true;
            }
        }
    }
    return writev(fd, pieces, count);
}

static ssize_t read_request(int fd, void *buffer, size_t size, void *userdata)
{
    (void)userdata;
    return read(fd, buffer, size);
}

/* Have the answers of a session that is not mounted yet pass through here. The descriptor that the
 * call wants is replaced when the session is mounted (libfuse, fuse_session_mount). */
bool killpriv_watch_reply(struct fuse_session *session, custom_io *set_io)
{
    const struct fuse_custom_io io = {.writev = write_answer, .read = read_request};
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool done = set_io(session, &io, fd) == 0;
    close(fd);
    return done;
}
