"""What handlers hand to a worker thread: short sequences of calls below that may block together.

Nothing here touches the inode or handle tables, which belong to the main loop's thread.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from mirrorfs.backing import syscalls, tree

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyfuse3

    from mirrorfs.backing.syscalls import Status

RENAME_EXCHANGE = 2


def look_up(parent_fd: int, name: bytes) -> tuple[int, Status]:
    """An O_PATH descriptor of `name` and its status."""
    return with_status(tree.open_path(parent_fd, name))


def with_status(fd: int) -> tuple[int, Status]:
    """`fd` and its status; `fd` is closed if there is none."""
    try:
        return fd, syscalls.statx(fd)
    except OSError:
        os.close(fd)
        raise


def make(function: Callable[..., int], *args: object) -> tuple[int, Status]:
    """Make an object by a function of `backing.tree`; its O_PATH descriptor and status."""
    return with_status(function(*args))


def link(fd: int, parent_fd: int, name: bytes) -> Status:
    tree.link(fd, parent_fd, name)
    return syscalls.statx(fd)


def remove(parent_fd: int, name: bytes, folder: bool) -> tuple[int, Status]:
    """unlink or rmdir; the descriptor and status (from before) of what was removed."""
    fd, status = look_up(parent_fd, name)
    try:
        if folder:
            os.rmdir(name, dir_fd=parent_fd)
        else:
            os.unlink(name, dir_fd=parent_fd)
    except OSError:
        os.close(fd)
        raise
    return fd, status


def rename(
    src_fd: int, src: bytes, dst_fd: int, dst: bytes, flags: int
) -> tuple[Status, tuple[int, Status] | None]:
    """rename; the status of what was moved, and descriptor and status (from before) of what it met
    there.
    """
    met = None
    moved = syscalls.statx(src_fd, src)
    with contextlib.suppress(FileNotFoundError):
        met = look_up(dst_fd, dst)
    try:
        tree.rename(src_fd, src, dst_fd, dst, flags)
    except OSError:
        if met:
            os.close(met[0])
        raise
    return moved, met


def list_folder(fd: int) -> list[bytes]:
    return tree.list_names(fd)


def stat_names(folder_fd: int, names: list[bytes]) -> list[Status | None]:
    """The status of each name; None for one that is gone."""
    found: list[Status | None] = []
    for name in names:
        try:
            found.append(syscalls.statx(folder_fd, name))
        except OSError:
            found.append(None)
    return found


def open_reader(path_fd: int) -> int:
    """A descriptor for a client's reads of the inode of the O_PATH descriptor `path_fd`."""
    return os.open(tree.fd_path(path_fd), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)


def set_attributes(fd: int, fields: pyfuse3.SetattrFields, attr: pyfuse3.EntryAttributes) -> None:
    """Owner, mode and times of the inode of the O_PATH descriptor `fd`; the size was set before."""
    if fields.update_uid or fields.update_gid:
        syscalls.chown(
            fd, attr.st_uid if fields.update_uid else -1, attr.st_gid if fields.update_gid else -1
        )
    if fields.update_mode:
        os.chmod(tree.fd_path(fd), stat.S_IMODE(attr.st_mode))
    if fields.update_atime or fields.update_mtime:
        tree.set_times(
            fd,
            attr.st_atime_ns if fields.update_atime else None,
            attr.st_mtime_ns if fields.update_mtime else None,
        )


def flush(fd: int) -> None:
    """Let the file system below report what it holds back until close (network file systems do)."""
    os.close(os.dup(fd))


def sync_reader(fd: int, data_only: bool) -> None:
    if data_only:
        os.fdatasync(fd)
    else:
        os.fsync(fd)
