"""Attributes as FUSE wants them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pyfuse3

if TYPE_CHECKING:
    from mirrorfs.backing.statx import Status

_NOBODYS_ID = (1 << 64) - 1  # the C library passes over names without a number


def entry(
    node_id: int, status: Status, timeout: float, generation: int = 0
) -> pyfuse3.EntryAttributes:
    """The attributes of one inode; `timeout` in seconds holds for the name and for the
    attributes. `generation` is that of file handles, which must be 0 for the root.
    """
    (
        mode, nlink, uid, gid, _, size, blocks, blksize, atime_ns, _, ctime_ns, mtime_ns, rdev, *_,
    ) = status  # fmt: skip
    attr = pyfuse3.EntryAttributes()
    attr.st_ino = pyfuse3.InodeT(node_id)
    attr.generation = generation
    attr.entry_timeout = attr.attr_timeout = timeout
    attr.st_mode = pyfuse3.ModeT(mode)
    attr.st_nlink = nlink
    attr.st_uid = uid
    attr.st_gid = gid
    attr.st_rdev = rdev
    attr.st_size = size
    attr.st_blksize = blksize
    attr.st_blocks = blocks
    attr.st_atime_ns = atime_ns
    attr.st_mtime_ns = mtime_ns
    attr.st_ctime_ns = ctime_ns
    return attr


def unknown() -> pyfuse3.EntryAttributes:
    """For a name in a listing that could not be looked at. No type is 0, so the kernel takes the
    name alone (fs/fuse/readdir.c), forgets the number, and asks again when somebody wants to know
    more, who then meets the error.
    """
    attr = pyfuse3.EntryAttributes()
    attr.st_ino = pyfuse3.InodeT(_NOBODYS_ID)
    attr.st_mode = pyfuse3.ModeT(0)
    return attr


def file_system(fd: int) -> pyfuse3.StatvfsData:
    """statvfs(3) of the file system below."""
    below = os.fstatvfs(fd)
    data = pyfuse3.StatvfsData()
    data.f_bsize, data.f_frsize = below.f_bsize, below.f_frsize
    data.f_blocks, data.f_bfree, data.f_bavail = below.f_blocks, below.f_bfree, below.f_bavail
    data.f_files, data.f_ffree, data.f_favail = below.f_files, below.f_ffree, below.f_favail
    data.f_namemax = below.f_namemax
    return data
