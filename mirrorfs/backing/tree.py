"""Operations on names, all relative to a folder's descriptor; no symbolic link is ever followed.

What is made here is made without permission for others, then given to its owner, then given its
mode. A crash in between leaves an empty file or folder that only root, or the mounting user, can
open.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from typing import TYPE_CHECKING

from mirrorfs.backing import acl, syscalls
from mirrorfs.backing.statx import Status, identify, statx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mirrorfs.backing.credentials import Credentials

RENAME_EXCHANGE = 2  # renameat2(2)
RENAME_WHITEOUT = 4
CAPABILITY_ATTRIBUTE = b"security.capability"  # capabilities(7)
_NOW_NS = 1_000_000_000  # a request may have been under way for so long


def fd_path(fd: int) -> bytes:
    """A path that leads to the inode of `fd`, also of an O_PATH one, and to nothing else."""
    return b"/proc/self/fd/%d" % fd


def open_path(parent_fd: int, name: bytes) -> int:
    """An O_PATH descriptor of `name`: opens neither a FIFO nor a device, follows no link."""
    return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)


def create_file(
    parent_fd: int, name: bytes, mode: int, caller: Credentials, use: Callable[[int], None]
) -> tuple[int, int, Status]:
    """Make a regular file; returns its O_PATH descriptor, one for reading and writing that does not
    move atime, where the file is the daemon's, and its status. Raises OSError, FileExistsError if
    the name is taken.

    `use` is called with the O_PATH descriptor before the file gets a mode that may not let the
    daemon's user open it.
    """
    inherited = find_xattr(parent_fd, acl.DEFAULT)
    wanted = stat.S_IMODE(mode if inherited is not None else mode & ~caller.umask)
    is_plain = inherited is None and wanted & 0o600 == 0o600
    is_plain &= (caller.uid, caller.gid) == (os.geteuid(), os.getegid())
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, wanted if is_plain else 0o600, dir_fd=parent_fd)
    with _undone_on_error(parent_fd, name) as opened:
        opened.append(fd)
        with contextlib.suppress(PermissionError):  # some servers give what is made to another user
            fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NOATIME)
        path_fd = os.open(fd_path(fd), os.O_PATH | os.O_CLOEXEC)
        opened.append(path_fd)
        made = identify(path_fd)
        if is_plain and (made.uid, made.gid) == (caller.uid, caller.gid):
            use(path_fd)
            if stat.S_IMODE(made.mode) == wanted:
                return path_fd, fd, made
            os.chmod(fd_path(path_fd), wanted)
        else:
            _hand_over(path_fd, parent_fd, mode, caller, use)
        return path_fd, fd, identify(path_fd)


def make_folder(parent_fd: int, name: bytes, mode: int, caller: Credentials) -> int:
    """Make a folder (mkdir(2)); returns an O_PATH descriptor. Raises OSError."""
    return _make(parent_fd, name, mode, caller, lambda: os.mkdir(name, 0o700, dir_fd=parent_fd))


def make_node(parent_fd: int, name: bytes, mode: int, rdev: int, caller: Credentials) -> int:
    """Make a node of the type in `mode` (mknod(2)); returns an O_PATH descriptor. Raises OSError,
    as where the file system below, or the privileges of the daemon, do not allow it.
    """
    kind = stat.S_IFMT(mode)
    return _make(
        parent_fd, name, mode, caller, lambda: os.mknod(name, kind | 0o600, rdev, dir_fd=parent_fd)
    )


def make_symlink(parent_fd: int, name: bytes, target: bytes, caller: Credentials) -> int:
    """Make a symbolic link (symlink(2)); returns an O_PATH descriptor of it. Raises OSError."""
    return _make(parent_fd, name, None, caller, lambda: os.symlink(target, name, dir_fd=parent_fd))


def _make(
    parent_fd: int,
    name: bytes,
    mode: int | None,
    caller: Credentials,
    make: Callable[[], None],
) -> int:
    """Call `make`, and give what it has made to the caller; on an error it is removed again."""
    make()
    with _undone_on_error(parent_fd, name) as opened:
        fd = open_path(parent_fd, name)
        opened.append(fd)
        _hand_over(fd, parent_fd, mode, caller)
    return fd


@contextlib.contextmanager
def _undone_on_error(parent_fd: int, name: bytes) -> Iterator[list[int]]:
    """If the block fails, `name` is removed, and the descriptors in the yielded list are closed."""
    opened: list[int] = []
    try:
        yield opened
    except BaseException:
        for fd in opened:
            os.close(fd)
        with contextlib.suppress(OSError):
            remove(parent_fd, name)
        raise


def _hand_over(
    fd: int,
    parent_fd: int,
    mode: int | None,
    caller: Credentials,
    use: Callable[[int], None] | None = None,
) -> None:
    """Give the new inode `fd` its owner, then its mode; None leaves the mode."""
    made = statx(fd)
    _give(fd, made, parent_fd, caller)
    if use is not None:
        use(fd)
    if mode is not None:
        _set_mode(fd, made, parent_fd, mode, caller.umask)


def _give(fd: int, made: Status, parent_fd: int, caller: Credentials) -> None:
    """Give the new inode `fd` to the caller; the group stays the folder's where that is setgid."""
    if (made.uid, made.gid) == (caller.uid, caller.gid):
        return
    inherits_group = statx(parent_fd).mode & stat.S_ISGID
    gid = made.gid if inherits_group else caller.gid
    if (made.uid, made.gid) == (caller.uid, gid):
        return
    try:
        syscalls.chown(fd, caller.uid, gid)
    except PermissionError:
        # An ordinary user's daemon can only make files of its own.
        if os.geteuid() == 0:
            raise


def _set_mode(fd: int, made: Status, parent_fd: int, mode: int, umask: int) -> None:
    inherited = find_xattr(parent_fd, acl.DEFAULT)
    if inherited is None:
        mode &= ~umask
    wanted = stat.S_IMODE(mode) | (made.mode & stat.S_ISGID if stat.S_ISDIR(made.mode) else 0)
    os.chmod(fd_path(fd), wanted)
    if inherited is not None:
        # chmod made the group bits the mask; what the folder's default ACL grants is put back.
        os.setxattr(fd_path(fd), acl.ACCESS, acl.inherit(inherited, mode))


def get_xattr(fd: int, name: str | bytes) -> bytes:
    """The extended attribute `name` of the inode of `fd` (getxattr(2)). Raises OSError."""
    return os.getxattr(fd_path(fd), name)


def find_xattr(fd: int, name: str | bytes) -> bytes | None:
    """The extended attribute `name` of the inode of `fd`; None if it has none, or none that may be
    read.
    """
    try:
        return get_xattr(fd, name)
    except OSError:
        return None


def remove_capability(fd: int) -> None:
    """Take security.capability from the file of `fd`, if it has that, as a write does
    (capabilities(7)). Raises OSError.
    """
    try:
        os.removexattr(fd, CAPABILITY_ATTRIBUTE)
    except OSError as exc:
        if exc.errno != errno.ENODATA:
            raise


def list_xattrs(fd: int) -> list[bytes]:
    """The names of the extended attributes of the inode of `fd`."""
    return [os.fsencode(name) for name in os.listxattr(fd_path(fd))]


def remove(parent_fd: int, name: bytes) -> None:
    """Remove `name`, also if it is a folder (unlink(2), rmdir(2)). Raises OSError."""
    try:
        os.unlink(name, dir_fd=parent_fd)
    except IsADirectoryError:
        os.rmdir(name, dir_fd=parent_fd)


def link(fd: int, parent_fd: int, name: bytes) -> None:
    """Give the inode of `fd`, which may be a symbolic link, a further name (link(2))."""
    os.link(fd_path(fd), name, dst_dir_fd=parent_fd, follow_symlinks=True)


def rename(
    src_fd: int, src: bytes, dst_fd: int, dst: bytes, flags: int, caller: Credentials
) -> None:
    """Rename `src` to `dst`, with the flags of renameat2(2); a whiteout that it makes is given to
    the caller. Raises OSError.
    """
    if not flags:
        os.rename(src, dst, src_dir_fd=src_fd, dst_dir_fd=dst_fd)
        return
    syscalls.rename(src_fd, src, dst_fd, dst, flags)
    if flags & RENAME_WHITEOUT:
        _give_whiteout(src_fd, src, caller)


def _give_whiteout(folder_fd: int, name: bytes, caller: Credentials) -> None:
    """Give the whiteout that renameat2(2) has left to the caller, unless something else has that
    name by now; the rename is done, and no error of this undoes it.
    """
    with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
        fd = open_path(folder_fd, name)
        opened.callback(os.close, fd)
        made = statx(fd)
        if stat.S_ISCHR(made.mode) and not made.rdev:
            _give(fd, made, folder_fd, caller)


def read_link(fd: int) -> bytes:
    """The target of the symbolic link that the O_PATH descriptor `fd` stands for (readlinkat(2),
    empty path).
    """
    return os.readlink(b"", dir_fd=fd)


def open_for_reading(path_fd: int, flags: int, keeps_atime: bool) -> int:
    """A descriptor for reading the inode of the O_PATH descriptor `path_fd`, opened with `flags`.

    `keeps_atime` wishes that reading by it moves no time of access; the kernel refuses that to a
    daemon of an ordinary user for a file of another user (open(2), O_NOATIME). Raises OSError.
    """
    path, flags = fd_path(path_fd), flags | os.O_RDONLY | os.O_CLOEXEC
    if keeps_atime:
        with contextlib.suppress(PermissionError):
            return os.open(path, flags | os.O_NOATIME)
    return os.open(path, flags)


def list_names(folder_fd: int, keeps_atime: bool) -> list[bytes]:
    """The names in a folder, without `.` and `..`, in the order of the file system below.

    `keeps_atime` as for `open_for_reading`. Raises OSError.
    """
    fd = open_for_reading(folder_fd, os.O_DIRECTORY, keeps_atime)
    try:
        return [os.fsencode(name) for name in os.listdir(fd)]
    finally:
        os.close(fd)


def sync_folder(folder_fd: int, data_only: bool) -> None:
    """Make the names in a folder durable: fdatasync(2) with `data_only`, else fsync(2). OSError."""
    fd = os.open(fd_path(folder_fd), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if data_only:
            os.fdatasync(fd)
        else:
            os.fsync(fd)
    finally:
        os.close(fd)


def set_times(fd: int, atime_ns: int | None, mtime_ns: int | None) -> None:
    """Set the times of the inode of `fd`, in ns since the epoch; None leaves one. Raises OSError.

    A daemon that may write to a file, but does not own it, can only set both to now, by a call
    without times (utimensat(2), "Permissions").
    """
    try:
        syscalls.set_times(fd, atime_ns, mtime_ns)
    except PermissionError as exc:
        if exc.errno != errno.EPERM or not (_is_now(atime_ns) and _is_now(mtime_ns)):
            raise
        syscalls.set_times_now(fd)


def _is_now(time_ns: int | None) -> bool:
    """Whether the kernel may have made that time from a request to set it to now."""
    return time_ns is not None and abs(time.time_ns() - time_ns) < _NOW_NS


def ask_to_write(fd: int, flags: int) -> None:
    """Let the file system below refuse one more open for writing, with `flags` of open(2), of a
    file that is written already: it may have become immutable or append-only meanwhile (chattr(1)).
    Raises OSError.
    """
    wanted = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | (flags & os.O_APPEND)
    try:
        os.close(os.open(fd_path(fd), wanted))
    except OSError as exc:
        if exc.errno != errno.EACCES:  # by mode, by which the kernel has checked the caller
            raise


def flush(fd: int) -> None:
    """Let the file system below report what it holds back until close (network file systems do).
    Raises OSError.
    """
    os.close(os.dup(fd))
