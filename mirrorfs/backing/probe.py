"""What the file system below can do, found out once for each device, with a real file where it can
be written.

The probe's file has no name (O_TMPFILE) where possible; elsewhere a crash between making and
removing it leaves an empty `.mirrorfs-probe-*` file, which may be deleted.
"""

from __future__ import annotations

import errno
import os
import secrets
from dataclasses import dataclass

from mirrorfs.backing import holes, seek_answers, syscalls
from mirrorfs.backing.mounts import mount_of

# These answer statx(2) of an inode in use from memory; others may send a request to a server, which
# may be stopped, or be this very daemon.
LOCAL = seek_answers.TRIED | {"ext2", "ext3"}
# These can punch; for where that cannot be tried.
_HAS_HOLES = frozenset({"ext4", "xfs", "btrfs", "tmpfs"})
_MIN_BLOCK_BYTES = 4096
_MAX_BLOCK_BYTES = 65536
_PROBE_BYTES = 131072
_NO_TMPFILE = frozenset(
    {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT}
)  # open(2), "O_TMPFILE"


@dataclass(frozen=True, slots=True)
class Abilities:
    """What one file system can do. `unit_bytes` is its allocation unit, held to 4 KiB … 64 KiB;
    `punch` says that it can make holes, and `reason` why not, or why that was not tried; `clone`
    says that two files can share blocks, `seek_proven` that SEEK_DATA was seen to find what is not
    on the disk yet.
    """

    file_system: str
    unit_bytes: int
    punch: bool
    seek_proven: bool
    reason: str = ""
    clone: bool = False

    @property
    def growth_leaves_blocks(self) -> bool:
        """Whether blocks can be found allocated in a hole by which a file has just grown.

        xfs allocates beyond the end ahead of need (xfs(5), allocsize). btrfs stores the zeros
        between an odd end and the end of its block, even if that block was a hole.
        """
        return self.punch and self.file_system in {"xfs", "btrfs"}

    def tells_holes(self, fd: int) -> bool:
        """Whether a hole that SEEK_DATA reports in the open file `fd` may be taken for one."""
        return self.seek_proven and seek_answers.is_right_for(fd, self.file_system)


def probe(folder_fd: int, writable: bool) -> Abilities:
    """Find out what the file system of the folder `folder_fd` can do; `writable` allows a
    short-lived file in it. Raises OSError, but where there is no space for that file.
    """
    frsize = os.fstatvfs(folder_fd).f_frsize or _MIN_BLOCK_BYTES
    unit = min(max(1 << (frsize - 1).bit_length(), _MIN_BLOCK_BYTES), _MAX_BLOCK_BYTES)
    kind = mount_of(folder_fd).fs_type
    can_punch = kind in _HAS_HOLES
    if not writable:
        return Abilities(kind, unit, can_punch, False, "not tried on a read-only mount")
    try:
        fd = _temporary_file(folder_fd)
    except OSError as exc:
        if exc.errno not in syscalls.NO_SPACE:
            raise
        return Abilities(kind, unit, can_punch, False, "there is no space to try it")
    try:
        clone = _try_clone(fd)
        punch, reason = _try_punch(fd)
        is_tried = punch and seek_answers.is_right_for(fd, kind)
        proven = is_tried and seek_answers.prove(fd)
    finally:
        os.close(fd)
    return Abilities(kind, unit, punch, proven, reason, clone)


def probe_at(path_fd: int, writable: bool) -> Abilities:
    """Find out what the file system of the O_PATH descriptor `path_fd` can do; `writable` allows a
    short-lived file in it.

    A descriptor of no folder, or of one that may not be opened, gives no place for that file: then
    SEEK_DATA is not trusted.
    """
    try:
        fd = os.open(
            f"/proc/self/fd/{path_fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NONBLOCK
        )
    except (NotADirectoryError, PermissionError):
        return Abilities(mount_of(path_fd).fs_type, _MIN_BLOCK_BYTES, punch=True, seek_proven=False)
    try:
        return probe(fd, writable)
    except OSError:
        return probe(fd, writable=False)
    finally:
        os.close(fd)


def _fill(fd: int) -> int:
    """Store something in an empty file; returns its size in bytes, which is 0 on a full disk: a
    file system refuses what it does not know of an empty file, too.
    """
    try:
        if os.pwrite(fd, b"\x55" * _PROBE_BYTES, 0) == _PROBE_BYTES:
            return _PROBE_BYTES
    except OSError as exc:
        if exc.errno not in syscalls.NO_SPACE:
            raise
    os.ftruncate(fd, 0)
    return 0


def _try_clone(fd: int) -> bool:
    size = _fill(fd)
    try:
        syscalls.clone_range(fd, size, fd, 0, size)
    except OSError:
        return False
    return True


def _try_punch(fd: int) -> tuple[bool, str]:
    _fill(fd)
    try:
        syscalls.punch_hole(fd, 0, _PROBE_BYTES)
        if os.pread(fd, _PROBE_BYTES, 0).strip(b"\0"):
            return False, "a punched range did not read as zeros"
        holes.next_data(fd, 0)
    except OSError as exc:
        if syscalls.is_unsupported(exc):
            return False, "the file system does not know holes"
        if exc.errno not in syscalls.NO_SPACE:
            raise
    return True, ""


def _temporary_file(folder_fd: int) -> int:
    folder = f"/proc/self/fd/{folder_fd}"
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        if exc.errno not in _NO_TMPFILE:
            raise
    name = f".mirrorfs-probe-{secrets.token_hex(6)}"
    fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=folder_fd)
    os.unlink(name, dir_fd=folder_fd)
    return fd
