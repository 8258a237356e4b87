"""Whether reading a file moves the time of its last access.

A thread that moves it waits while the journal is being written: on ext4 until the disk has taken
it, also for a read that lies in memory and was to wait for nothing (RWF_NOWAIT).
"""

from __future__ import annotations

import os
import time

_DAY_NS = 24 * 3600 * 1_000_000_000
_EARLY_NS = 60 * 1_000_000_000


def mount_flags(fd: int) -> int:
    """The flags of the mount in which `fd` was opened, ST_… (statvfs(3)); may wait for a server."""
    return os.fstatvfs(fd).f_flag


def is_due(fd: int, flags: int) -> bool:
    """Whether a read by `fd` now may move the time, by the rule of its mount: relatime, strictatime
    or noatime (mount(8)). `flags` are those of `mount_flags`; pass ST_NOATIME for a descriptor that
    was opened with O_NOATIME.
    """
    if flags & (os.ST_NOATIME | os.ST_RDONLY):
        return False
    if not flags & os.ST_RELATIME:
        return True
    status = os.fstat(fd)
    moved = status.st_atime_ns
    if moved <= max(status.st_mtime_ns, status.st_ctime_ns):
        return True
    return time.time_ns() >= moved + _DAY_NS - _EARLY_NS
