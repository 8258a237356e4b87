"""Finds an inode of which nothing is known but its number, on file systems that can.

open_by_handle_at(2) takes a handle, which also holds the inode's generation. ext4 and btrfs take 0
for any (ext4_nfs_get_inode, btrfs_get_dentry); xfs says which generation belongs to a number
(XFS_IOC_BULKSTAT). All of it needs root. The caller compares the generation of what was found with
the one that it means (`Status.generation`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from typing import TYPE_CHECKING

from mirrorfs.backing import syscalls
from mirrorfs.backing.statx import identify, statx
from mirrorfs.backing.tree import open_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs.backing.statx import Status

_INO32 = struct.Struct("=II")  # number, generation
_INO64 = struct.Struct("=QI")
_BTRFS = struct.Struct("=QQI")  # number, subvolume, generation
_XFS_IOC_BULKSTAT = 0x8040587F  # xfs_fs.h: _IOR('X', 127, struct xfs_bulkstat_req)
_BULKSTAT_IN = struct.Struct("=Q4xI48x")  # where to begin, and how many; then room for the answer
_BULKSTAT_OUT = struct.Struct("=64xQ56xI124x")  # number and generation of the first


def open_number(root_fd: int, kind: str, number: int) -> tuple[int, Status]:
    """An O_PATH descriptor of the inode `number`, and its status. `root_fd` is a real descriptor of
    the backing folder, on a file system of the type `kind`, one of `KINDS`.

    Raises ENOENT if there is no such inode or it may not be opened by handle, if it has no name any
    more, and if it is a folder that does not lie below the backing folder. For a file, where it
    lies is not checked: a handle does not say.
    """
    template = syscalls.file_handle(root_fd)
    if template is None:
        raise _absent()
    try:
        body = _HANDLES[kind](root_fd, template[syscalls.HANDLE_HEADER.size :], number)
        header = syscalls.HANDLE_HEADER.pack(len(body), syscalls.handle_type(template))
        fd = syscalls.open_by_handle(root_fd, header + body)
    except (OSError, struct.error):
        raise _absent() from None
    try:
        status, root = identify(fd), statx(root_fd)
        if (status.dev, status.ino) != (root.dev, number) or not status.nlink:
            raise _absent()
        if stat.S_ISDIR(status.mode):
            _check_below(fd, root.key)
    except OSError:
        os.close(fd)
        raise
    return fd, status


def open_parent(root_fd: int, fd: int) -> tuple[int, Status]:
    """An O_PATH descriptor of the folder in which the folder `fd` lies, and its status.

    Raises ENOENT if that is neither the backing folder `root_fd`, nor below it.
    """
    parent_fd = open_path(fd, b"..")
    try:
        status = identify(parent_fd)
        _check_below(parent_fd, statx(root_fd).key)
    except OSError:
        os.close(parent_fd)
        raise
    return parent_fd, status


def _check_below(fd: int, root_key: tuple[int, int, int]) -> None:
    """Raise ENOENT if the way up from the folder `fd` does not lead to `root_key`."""
    here, before = os.dup(fd), None
    try:
        while (key := statx(here, ask=False).key) != root_key:
            if key == before:  # as only at the very top
                raise _absent()
            before = key
            above = open_path(here, b"..")
            os.close(here)
            here = above
    finally:
        os.close(here)


def _ext(_root_fd: int, _template: bytes, number: int) -> bytes:
    return _INO32.pack(number, 0)


def _btrfs(_root_fd: int, template: bytes, number: int) -> bytes:
    _, subvolume, _ = _BTRFS.unpack(template)
    return _BTRFS.pack(number, subvolume, 0)


def _xfs(root_fd: int, template: bytes, number: int) -> bytes:
    request = bytearray(_BULKSTAT_OUT.size)
    _BULKSTAT_IN.pack_into(request, 0, number, 1)
    fcntl.ioctl(root_fd, _XFS_IOC_BULKSTAT, request)
    found, generation = _BULKSTAT_OUT.unpack(request)
    if found != number:
        raise _absent()
    layout = _INO32 if len(template) == _INO32.size else _INO64
    return layout.pack(number, generation)


_HANDLES: dict[str, Callable[[int, bytes, int], bytes]] = {
    "ext2": _ext,
    "ext3": _ext,
    "ext4": _ext,
    "xfs": _xfs,
    "btrfs": _btrfs,
}
KINDS = frozenset(_HANDLES)


def _absent() -> OSError:
    return OSError(errno.ENOENT, os.strerror(errno.ENOENT))
