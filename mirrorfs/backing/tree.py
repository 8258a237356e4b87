"""Operations on names, all relative to a folder's descriptor; no symbolic link is ever followed.

New objects are made without permission for anyone else, then given to their owner, then given their
mode. A crash in between leaves an empty object that only root, or the mounting user, can open.
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
from mirrorfs.backing.statx import Status, statx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mirrorfs.backing.credentials import Credentials

RENAME_EXCHANGE = 2  # renameat2(2)
RENAME_WHITEOUT = 4
CAPABILITY_ATTRIBUTE = b"security.capability"  # capabilities(7)
_NOW_NS = 1_000_000_000  # what a request may have been under way


def fd_path(fd: int) -> bytes:
    """A path that leads to the inode of `fd`, also of an O_PATH one, and to nothing else."""
    return b"/proc/self/fd/%d" % fd


def open_path(parent_fd: int, name: bytes) -> int:
    """An O_PATH descriptor of `name`: opens neither a FIFO nor a device, follows no link."""
    return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)


def create_file(
    parent_fd: int, name: bytes, mode: int, caller: Credentials, use: Callable[[int], None]
) -> tuple[int, int]:
    """Make a regular file; returns its O_PATH descriptor, and one for reading and writing that does
    not move atime. FileExistsError if the name is taken.

    `use` is called with the first before the file gets its mode, so that whoever made it can open
    it even if the mode will not let them.
    """
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=parent_fd)
    with _undone_on_error(parent_fd, name) as opened:
        opened.append(fd)
        with contextlib.suppress(PermissionError):  # where what we make is not ours
            fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NOATIME)
        path_fd = os.open(fd_path(fd), os.O_PATH | os.O_CLOEXEC)
        opened.append(path_fd)
        _hand_over(path_fd, parent_fd, mode, caller, use)
    return path_fd, fd


def make_folder(parent_fd: int, name: bytes, mode: int, caller: Credentials) -> int:
    """mkdir; returns an O_PATH descriptor."""
    return _make(parent_fd, name, mode, caller, lambda: os.mkdir(name, 0o700, dir_fd=parent_fd))


def make_node(parent_fd: int, name: bytes, mode: int, rdev: int, caller: Credentials) -> int:
    """mknod of any kind that the file system below and our privileges allow; returns an O_PATH
    descriptor.
    """
    kind = stat.S_IFMT(mode)
    return _make(
        parent_fd, name, mode, caller, lambda: os.mknod(name, kind | 0o600, rdev, dir_fd=parent_fd)
    )


def make_symlink(parent_fd: int, name: bytes, target: bytes, caller: Credentials) -> int:
    """symlink; returns an O_PATH descriptor of the link itself."""
    return _make(parent_fd, name, None, caller, lambda: os.symlink(target, name, dir_fd=parent_fd))


def _make(
    parent_fd: int,
    name: bytes,
    mode: int | None,
    caller: Credentials,
    make: Callable[[], None],
) -> int:
    """Make an object, and hand it over; on an error it is removed again."""
    make()
    with _undone_on_error(parent_fd, name) as opened:
        fd = open_path(parent_fd, name)
        opened.append(fd)
        _hand_over(fd, parent_fd, mode, caller)
    return fd


@contextlib.contextmanager
def _undone_on_error(parent_fd: int, name: bytes) -> Iterator[list[int]]:
    """If the block fails, the object `name` is removed, and the descriptors in the list closed."""
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
    """Give a new object to its owner, then its mode."""
    made = statx(fd)
    _give(fd, made, parent_fd, caller)
    if use is not None:
        use(fd)
    if mode is not None:
        _set_mode(fd, made, parent_fd, mode, caller.umask)


def _give(fd: int, made: Status, parent_fd: int, caller: Credentials) -> None:
    """To the caller; the group stays the folder's where the folder is setgid."""
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
    """An extended attribute of the inode of `fd`."""
    return os.getxattr(fd_path(fd), name)


def find_xattr(fd: int, name: str | bytes) -> bytes | None:
    """The same; None if it has none, or none that can be read."""
    try:
        return get_xattr(fd, name)
    except OSError:
        return None


def remove_capability(fd: int) -> None:
    """Take security.capability from the file of `fd`, if it is there, as a write does."""
    try:
        os.removexattr(fd, CAPABILITY_ATTRIBUTE)
    except OSError as exc:
        if exc.errno != errno.ENODATA:
            raise


def list_xattrs(fd: int) -> list[bytes]:
    """The names of the extended attributes of the inode of `fd`."""
    return [os.fsencode(name) for name in os.listxattr(fd_path(fd))]


def remove(parent_fd: int, name: bytes) -> None:
    """unlink, or rmdir if it is a folder."""
    try:
        os.unlink(name, dir_fd=parent_fd)
    except IsADirectoryError:
        os.rmdir(name, dir_fd=parent_fd)


def link(fd: int, parent_fd: int, name: bytes) -> None:
    """A further name for the inode of `fd`, which may be a symbolic link."""
    os.link(fd_path(fd), name, dst_dir_fd=parent_fd, follow_symlinks=True)


def rename(
    src_fd: int, src: bytes, dst_fd: int, dst: bytes, flags: int, caller: Credentials
) -> None:
    """rename, with the flags of renameat2(2); a whiteout that it makes is the caller's."""
    if not flags:
        os.rename(src, dst, src_dir_fd=src_fd, dst_dir_fd=dst_fd)
        return
    syscalls.rename(src_fd, src, dst_fd, dst, flags)
    if flags & RENAME_WHITEOUT:
        _give_whiteout(src_fd, src, caller)


def _give_whiteout(folder_fd: int, name: bytes, caller: Credentials) -> None:
    """Give what RENAME_WHITEOUT has left to the caller, if nobody has put something else there; the
    rename is done, and no error of this undoes it.
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


def open_for_reading(path_fd: int, flags: int, keeps_atime: bool) -> tuple[int, bool]:
    """A descriptor for reading the inode of the O_PATH descriptor `path_fd`, opened with `flags`,
    and whether reading by it moves no time of access. It is asked for with `keeps_atime`, and
    refused where the file is another's and we are not root (open(2), O_NOATIME).
    """
    path, flags = fd_path(path_fd), flags | os.O_RDONLY | os.O_CLOEXEC
    if keeps_atime:
        with contextlib.suppress(PermissionError):
            return os.open(path, flags | os.O_NOATIME), True
    return os.open(path, flags), False


def list_names(folder_fd: int, keeps_atime: bool) -> list[bytes]:
    """The names in a folder, without `.` and `..`, in the order of the file system below."""
    fd, _ = open_for_reading(folder_fd, os.O_DIRECTORY, keeps_atime)
    try:
        return [os.fsencode(name) for name in os.listdir(fd)]
    finally:
        os.close(fd)


def sync_folder(folder_fd: int, data_only: bool) -> None:
    """Make the names in a folder durable."""
    fd = os.open(fd_path(folder_fd), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if data_only:
            os.fdatasync(fd)
        else:
            os.fsync(fd)
    finally:
        os.close(fd)


def set_times(fd: int, atime_ns: int | None, mtime_ns: int | None) -> None:
    """Times to the nanosecond; None leaves one. Who may write to a file, but is not its owner, can
    only set both to now, which has to be said in other words than two times (utimensat(2)).
    """
    try:
        syscalls.set_times(fd, atime_ns, mtime_ns)
    except PermissionError as exc:
        if exc.errno != errno.EPERM or not (_is_now(atime_ns) and _is_now(mtime_ns)):
            raise
        syscalls.set_times_now(fd)


def _is_now(time_ns: int | None) -> bool:
    """Whether that may be the time at which the kernel took a request to set it to now."""
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
