"""Whether reading a file moves the time of its last access.

Who moves it waits where the journal is being written, also if all that is read lies in memory and
nothing may be waited for (RWF_NOWAIT): on ext4 until the disk has taken it.
"""

from __future__ import annotations

import os
import time

_DAY_NS = 24 * 3600 * 1_000_000_000
_EARLY_NS = 60 * 1_000_000_000


def mount_flags(fd: int) -> int:
    """What `is_due` wants to know of the mount in which `fd` was opened; may wait."""
    return os.fstatvfs(fd).f_flag


def is_due(fd: int, flags: int) -> bool:
    """Whether a read by `fd` now may move the time, as relatime says, or always (mount(8)). One
    that was opened with O_NOATIME has that as a flag of its mount.
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
