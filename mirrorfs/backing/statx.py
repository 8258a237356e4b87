"""statx(2), the call behind nearly every answer (fuse/native/statx.c).

The call releases the interpreter lock, so a thread that waits in it stops no other.
"""

from __future__ import annotations

from typing import NamedTuple

from mirrorfs import _native

__all__ = ["Status", "identify", "statx"]

_AT_SYMLINK_NOFOLLOW = 0x100
_AT_NO_AUTOMOUNT = 0x800
_AT_EMPTY_PATH = 0x1000
_AT_STATX_DONT_SYNC = 0x4000


class Status(NamedTuple):
    """What statx(2) says of one inode; the order is that of statx.c. Sizes in bytes, times in ns
    since the epoch; `btime_ns` is 0 where the file system has no birth time.

    `blocks` counts units of 512 bytes, whatever the block size is. `mount_id` is 0 if not known; it
    is never used twice where the kernel knows such a one (STATX_MNT_ID_UNIQUE, Linux 6.8).

    `generation`, of 32 bits, tells the inode from others that have had its number, also if they
    were born in the same tick of the clock: made of its birth time and of the file handle, in which
    the file system has its own (name_to_handle_at(2)). It stays after a remount, and is hard to
    guess. 0 in what `statx` returns, and where there is none.
    """

    mode: int
    nlink: int
    uid: int
    gid: int
    ino: int
    size: int
    blocks: int
    blksize: int
    atime_ns: int
    btime_ns: int
    ctime_ns: int
    mtime_ns: int
    rdev: int
    dev: int
    mount_id: int = 0
    generation: int = 0

    @property
    def key(self) -> tuple[int, int, int]:
        """Identity: device, inode number, birth time."""
        return (self.dev, self.ino, self.btime_ns)


def statx(fd: int, name: bytes = b"", ask: bool = True) -> Status:
    """Status of `name` in the folder `fd` (no link is followed, nothing is mounted), or of `fd`
    itself, which may be O_PATH. Raises OSError.

    Without `ask`, the kernel says what it knows already (AT_STATX_DONT_SYNC): a file system whose
    data is elsewhere sends no request for it, so this never waits for a server. The device and the
    type are right even then; local file systems answer in full.
    """
    flags = _AT_SYMLINK_NOFOLLOW | _AT_NO_AUTOMOUNT if name else _AT_EMPTY_PATH
    return _native.statx(Status, fd, name, flags if ask else flags | _AT_STATX_DONT_SYNC)


def identify(fd: int, name: bytes = b"", ask: bool = True) -> Status:
    """As `statx`, with the inode's `generation`."""
    flags = _AT_SYMLINK_NOFOLLOW | _AT_NO_AUTOMOUNT if name else _AT_EMPTY_PATH
    return _native.statx(Status, fd, name, flags if ask else flags | _AT_STATX_DONT_SYNC, True)
