"""Names looked up in the backing tree, and descriptors of inodes opened again.

Where a mount point leads to another file system, that one may not answer: its own server is asked
only by the threads of its own device. So each function here that could meet one is given
`remote_dev`: the number of the one device whose server may be asked, or None where statx(2) asks no
server at all (local file systems).
"""

from __future__ import annotations

import errno
import os

from mirrorfs.backing import syscalls, tree
from mirrorfs.backing.statx import Status, identify, statx


def look_up(parent_fd: int, name: bytes, remote_dev: int | None) -> tuple[int, Status]:
    """An O_PATH descriptor of `name` in the folder `parent_fd`, and its status (`status_of`)."""
    fd = tree.open_path(parent_fd, name)
    try:
        return fd, status_of(fd, b"", remote_dev)
    except OSError:
        os.close(fd)
        raise


def status_of(fd: int, name: bytes, remote_dev: int | None) -> Status:
    """The status of `name` in the folder `fd`, or of `fd` itself if `name` is empty.

    What lies on another device than `remote_dev`, behind a mount point, is described as the kernel
    knows it.
    """
    if remote_dev is None:
        return identify(fd, name, ask=False)
    status = statx(fd, name, ask=False)
    return statx(fd, name) if status.dev == remote_dev else status


def statuses_of(folder_fd: int, names: list[bytes], remote_dev: int | None) -> list[Status | int]:
    """The status of each name in a folder (`status_of`); the errno where there is none."""
    found: list[Status | int] = []
    for name in names:
        try:
            found.append(status_of(folder_fd, name, remote_dev))
        except OSError as exc:
            found.append(exc.errno or errno.EIO)
    return found


def top(status: Status) -> Status:
    """`status` of what a mount point leads to, with the identity that it has for clients: that of
    the mount. Its true inode number may not be had without waiting.
    """
    return status._replace(ino=-1 - status.mount_id, btime_ns=-1, generation=0)


def open_again_by_name(
    parent_fd: int, name: bytes, remote_dev: int | None, key: tuple[int, int, int]
) -> int:
    """An O_PATH descriptor of `name`, if that is the inode `key` (`Status.key`); else ESTALE."""
    fd, status = look_up(parent_fd, name, remote_dev)
    return _checked(fd, status, key)


def open_again_by_handle(root_fd: int, handle: bytes, key: tuple[int, int, int]) -> int:
    """An O_PATH descriptor of the inode of a file handle (open_by_handle_at(2)), if that is the
    inode `key`, else ESTALE; -1 if the process may not use handles.
    """
    try:
        fd = syscalls.open_by_handle(root_fd, handle)
    except PermissionError:
        return -1
    return _checked(fd, statx(fd), key)


def _checked(fd: int, status: Status, key: tuple[int, int, int]) -> int:
    if key not in {status.key, top(status).key}:
        os.close(fd)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    return fd
