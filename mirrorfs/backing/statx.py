"""statx(2), the call behind nearly every answer: in C (statx.c), or, where that was not built, by
ctypes, which does the same in three times the time.

The call releases the interpreter lock, so a thread that waits in it stops nobody else.
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
from typing import TYPE_CHECKING, NamedTuple

from mirrorfs.backing import syscalls

__all__ = ["Status", "identify", "statx"]

_AT_SYMLINK_NOFOLLOW = 0x100
_AT_NO_AUTOMOUNT = 0x800
_AT_EMPTY_PATH = 0x1000
_AT_STATX_DONT_SYNC = 0x4000
_BASIC_AND_BTIME = 0x0FFF
_BTIME = 0x0800
_MOUNT_IDS = 0x5000  # the one that is never used twice where there is one (Linux 6.8)
_STATX = struct.Struct("=IIQIIIHHQQQQ" + "qIi" * 4 + "IIII" + "Q")
_NS = 1_000_000_000
_KNOWN_HANDLES = frozenset(
    {syscalls.FILEID_INO32_GEN, syscalls.FILEID_INO64_GEN, syscalls.FILEID_BTRFS}
)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.statx.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p]


class Status(NamedTuple):
    """What statx(2) says of one inode. Times in ns; `btime_ns` is 0 where the file system has no
    birth time.

    `blocks` counts units of 512 bytes, whatever the block size is. `mount_id` is 0 if not known.

    `generation`, of 32 bits, tells the inode from others that have had its number, also if they
    were born in the same tick of the clock: made of its birth time and of the file handle, in which
    the file system has its own (name_to_handle_at(2)). The same after a remount, and hard to guess.
    0 if it was not asked for (`identify`), or there is none.
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


class _Own(threading.local):
    """What each thread has for itself."""

    def __init__(self) -> None:
        self.buffer = ctypes.create_string_buffer(256)


_own = _Own()


def _by_ctypes(
    kind: type[Status], fd: int, name: bytes, flags: int, identifies: bool = False
) -> Status:
    buffer = _own.buffer
    if _libc.statx(fd, name, flags, _BASIC_AND_BTIME | _MOUNT_IDS, buffer) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    (
        mask, blksize, _, nlink, uid, gid, mode, _, ino, size, blocks, _,
        a_s, a_ns, _, b_s, b_ns, _, c_s, c_ns, _, m_s, m_ns, _,
        rdev_major, rdev_minor, dev_major, dev_minor, mount_id,
    ) = _STATX.unpack_from(buffer)  # fmt: skip
    return kind(
        mode,
        nlink,
        uid,
        gid,
        ino,
        size,
        blocks,
        blksize,
        a_s * _NS + a_ns,
        b_s * _NS + b_ns if mask & _BTIME else 0,
        c_s * _NS + c_ns,
        m_s * _NS + m_ns,
        os.makedev(rdev_major, rdev_minor),
        os.makedev(dev_major, dev_minor),
        mount_id if mask & _MOUNT_IDS else 0,
        _generation(fd, name, struct.pack("=qq", b_s, b_ns) if mask & _BTIME else b"")
        if identifies
        else 0,
    )


def _generation(fd: int, name: bytes, born: bytes) -> int:
    """The same as `find_generation` in statx.c."""
    handle = syscalls.file_handle(fd, name)
    if handle is None or syscalls.handle_type(handle) not in _KNOWN_HANDLES:
        return 0
    generation = 2166136261  # FNV-1a
    for byte in handle[syscalls.HANDLE_HEADER.size :] + born:
        generation = (generation ^ byte) * 16777619 & 0xFFFFFFFF
    return generation or 1


if TYPE_CHECKING:
    _call = _by_ctypes
else:
    try:
        from mirrorfs._statx import statx as _call
    except ImportError:
        _call = _by_ctypes


def statx(fd: int, name: bytes = b"", ask: bool = True) -> Status:
    """Status of `name` in the folder `fd` (no link is followed, nothing is mounted), or of `fd`
    itself, which may be O_PATH.

    Without `ask`, what the kernel knows already (AT_STATX_DONT_SYNC): file systems whose data is
    elsewhere are not asked, so this never waits for them. The device and the type are right even
    then; local file systems answer in full.
    """
    flags = _AT_SYMLINK_NOFOLLOW | _AT_NO_AUTOMOUNT if name else _AT_EMPTY_PATH
    return _call(Status, fd, name, flags if ask else flags | _AT_STATX_DONT_SYNC)


def identify(fd: int, name: bytes = b"", ask: bool = True) -> Status:
    """As `statx`, with the inode's `generation`."""
    flags = _AT_SYMLINK_NOFOLLOW | _AT_NO_AUTOMOUNT if name else _AT_EMPTY_PATH
    return _call(Status, fd, name, flags if ask else flags | _AT_STATX_DONT_SYNC, True)
