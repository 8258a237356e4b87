/* Three facts in the raw messages of the kernel that libfuse does not pass on. The structures are
 * those of linux/fuse.h, the kernel's own contract with file systems.
 *
 * - A write says whether setuid and setgid are to go (FUSE_WRITE_KILL_SUIDGID), and with which flags
 *   its file is open now. Both are put into high bits of the file handle, which the handler of the
 *   write gets to see.
 * - In FUSE_INIT the kernel offers FUSE_HANDLE_KILLPRIV_V2, with which it stops asking for
 *   security.capability before every write. libfuse knows it since 3.17. For an older one the bit is
 *   put into its answer on the way to the kernel: fuse_session_custom_io lets us write that answer.
 *
 * The bit is asked for only if requests come through here: whoever takes it must clear setuid and
 * setgid, and needs the tag in order to. All of this runs with the GIL held. */
#define _GNU_SOURCE
#include "messages.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static struct {
    bool has_killpriv;
    bool tagged; /* FUSE_INIT was seen, so writes are seen, too */
    bool offered;
    uint64_t init; /* the number of that request, until it is answered */
} wire;

/* A new session begins. */
void wire_reset(void)
{
    memset(&wire, 0, sizeof(wire));
}

bool wire_is_tagged(void)
{
    return wire.tagged;
}

bool wire_has_killpriv(void)
{
    return wire.has_killpriv;
}

static void tag_write(struct fuse_write_in *write)
{
    if (write->write_flags & FUSE_WRITE_KILL_SUIDGID)
        write->fh |= WIRE_KILLS_SETID;
    if (write->flags & O_APPEND)
        write->fh |= WIRE_APPENDS;
}

/* Look at a request before libfuse does. */
void wire_received(void *message, size_t size)
{
    struct fuse_in_header *header = message;
    void *body = header + 1;
    if (size < sizeof(*header) + offsetof(struct fuse_init_in, flags) + sizeof(uint32_t))
        return;
    if (header->opcode == FUSE_INIT) {
        wire.tagged = true;
        wire.init = header->unique;
        wire.offered = ((struct fuse_init_in *)body)->flags & FUSE_HANDLE_KILLPRIV_V2;
    } else if (header->opcode == FUSE_WRITE && wire.tagged &&
               size >= sizeof(*header) + sizeof(struct fuse_write_in)) {
        tag_write(body);
    }
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
                wire.has_killpriv = true;
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
bool wire_watch_reply(struct fuse_session *session, custom_io *set_io)
{
    const struct fuse_custom_io io = {.writev = write_answer, .read = read_request};
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool done = set_io(session, &io, fd) == 0;
    close(fd);
    return done;
}
