"""What handlers return and take: plain values."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mirrorfs.backing.credentials import Credentials
    from mirrorfs.backing.statx import Status
    from mirrorfs.mirror.plan import Data


class Entry(NamedTuple):
    """An inode as a client sees it."""

    node_id: int
    status: Status
    name_seconds: float  # how long the kernel may keep the name
    attribute_seconds: float  # and the attributes
    generation: int = 0  # of file handles; 0 for the root


class Opened(NamedTuple):
    """An open file or folder, by the number of its handle."""

    handle: int
    is_direct: bool = False  # reads and writes bypass the page cache of the mount


class Changes(NamedTuple):
    """Attributes to be set; None leaves one."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None  # in bytes
    atime_ns: int | None = None
    mtime_ns: int | None = None


NO_CHANGES = Changes()


class WriteRequest(NamedTuple):
    """One write request, with what the kernel says of it.

    `data` may lie in the kernel's message.
    """

    handle: int
    offset: int  # in bytes
    data: Data
    writer: Credentials | None = None
    takes_setid: bool = False  # the writer may not keep setuid and setgid
    appends: bool = False  # the file is O_APPEND at this moment
    sync_flags: int = 0  # O_SYNC or O_DSYNC, if it is to be durable when it is answered


class CopyRequest(NamedTuple):
    """One copy_file_range(2); offsets and length in bytes."""

    number: int  # of the request
    source: int  # a handle
    source_offset: int
    target: int  # a handle
    target_offset: int
    length: int
    flags: int
    caller: Credentials


def refuse(code: int) -> OSError:
    """The error that a client gets for the errno `code`."""
    return OSError(code, os.strerror(code))


def stale() -> OSError:
    """For an inode that is no more, or cannot be found again."""
    return refuse(errno.ESTALE)
