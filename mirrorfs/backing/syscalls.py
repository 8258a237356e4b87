"""System calls that Python's `os` does not offer, by ctypes. Each raises OSError as the functions
of `os` do. Sizes, offsets and ranges are in bytes.

The calls release the interpreter lock, so a thread that waits in one holds up no other.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

_AT_FDCWD = -100
_AT_SYMLINK_NOFOLLOW = 0x100
_AT_EMPTY_PATH = 0x1000
FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02
FALLOC_FL_ZERO_RANGE = 0x10
_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
_FS_IOC_FSGETXATTR = 0x801C581F  # linux/fs.h: _IOR('X', 31, struct fsxattr)
_FS_IOC_FSSETXATTR = 0x401C5820
_FS_XFLAG_COWEXTSIZE = 0x10000
FS_XFLAG_REALTIME = 0x01
_FS_IOC_GETFLAGS = 0x80086601  # linux/fs.h: _IOR('f', 1, long), which stores an int
FS_EXTENT_FL = 0x00080000
FS_VERITY_FL = 0x00100000
_FS_IOC_FIEMAP = 0xC020660B  # linux/fiemap.h
FIEMAP_FLAG_SYNC = 1
_FICLONERANGE = 0x4020940D  # linux/fs.h: _IOW(0x94, 13, struct file_clone_range)
_UTIME_NOW = (1 << 30) - 1
_UTIME_OMIT = (1 << 30) - 2
_MS_REMOUNT = 0x20
_CLONE_NEWNS = 0x20000
_MNT_DETACH = 2
RENAME_NOREPLACE = 1
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
_MAX_HANDLE_BYTES = 128
HANDLE_HEADER = struct.Struct("Ii")  # of a file handle: how many bytes follow, and their type

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_KEPT_BYTES = 16 << 20
_SYS_OPENAT2 = 437  # the same number on every architecture since Linux 5.6
_TIMESPECS = struct.Struct("qqqq")
_FSXATTR = struct.Struct("=IIIII8x")
_INODE_FLAGS = struct.Struct("=I4x")
_FIEMAP = struct.Struct("=QQIIII")
_CLONE_RANGE = struct.Struct("qQQQ")
_NS = 1_000_000_000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_libc.utimensat.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int]
_libc.futimens.argtypes = [ctypes.c_int, ctypes.c_char_p]
_libc.fchownat.argtypes = [
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint32,
    ctypes.c_uint32,
    ctypes.c_int,
]
_libc.renameat2.argtypes = [
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint,
]
_libc.name_to_handle_at.argtypes = [
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_int,
]
_libc.open_by_handle_at.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
_libc.lseek.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int]
_libc.lseek.restype = ctypes.c_int64
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.mount.argtypes = [
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
]
_libc.setns.argtypes = [ctypes.c_int, ctypes.c_int]
_libc.syscall.argtypes = [
    ctypes.c_long,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_size_t,
]
_libc.syscall.restype = ctypes.c_long


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def open_beneath(root_fd: int, path: bytes, flags: int) -> int:
    """A descriptor of `path` below the folder `root_fd`, opened with `flags` and through no
    symbolic link (openat2(2), RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS).
    """
    resolve = _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, 0, resolve)
    return _check(_libc.syscall(_SYS_OPENAT2, root_fd, path, how, len(how)))


def seek_hole(fd: int, offset: int) -> int:
    """The first hole at or after `offset` (lseek(2), SEEK_HOLE), which may be 2^63: os.lseek would
    take that for an error.
    """
    found: int = _libc.lseek(fd, offset, os.SEEK_HOLE)
    return _check(found) if found == -1 else found & (1 << 64) - 1


def punch_hole(fd: int, start: int, end: int) -> None:
    """Make `[start, end)` read as zeros and free its whole blocks; the size stays
    (fallocate(2)).
    """
    _check(_libc.fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, start, end - start))


def preallocate(fd: int, start: int, end: int, keep_size: bool) -> None:
    """Make sure that writing to `[start, end)` needs no further space; without `keep_size` the file
    grows to `end` (fallocate(2), mode 0 or FALLOC_FL_KEEP_SIZE).
    """
    _check(_libc.fallocate(fd, FALLOC_FL_KEEP_SIZE if keep_size else 0, start, end - start))


def zero_range(fd: int, start: int, end: int, keep_size: bool) -> None:
    """Let `[start, end)` read as zeros, in blocks that stay allocated; without `keep_size` the file
    grows to `end` (fallocate(2), FALLOC_FL_ZERO_RANGE).
    """
    mode = FALLOC_FL_ZERO_RANGE | (FALLOC_FL_KEEP_SIZE if keep_size else 0)
    _check(_libc.fallocate(fd, mode, start, end - start))


def clone_range(fd: int, offset: int, source_fd: int, start: int, end: int) -> None:
    """Let `fd` hold at `offset` what `source_fd` holds in `[start, end)`, in the same blocks
    (ioctl_ficlonerange(2)). All three are multiples of the file system's block, except for `end` at
    the end of the source.
    """
    fcntl.ioctl(fd, _FICLONERANGE, _CLONE_RANGE.pack(source_fd, start, end - start, offset))


def clone(fd: int, source_fd: int) -> None:
    """Let `fd` hold all that `source_fd` holds, in the same blocks (ioctl_ficlone(2))."""
    fcntl.ioctl(fd, _FICLONE, source_fd)


def copy_single_blocks(fd: int) -> None:
    """Let xfs copy no more than the block that is written where that is shared; else it reserves
    128 KiB for each until minutes later (ioctl_xfs_fsgetxattr(2), fsx_cowextsize).
    """
    attributes = _extended_attributes(fd)
    flags, extent, extents, project, _ = _FSXATTR.unpack(attributes)
    block = os.fstatvfs(fd).f_frsize
    _FSXATTR.pack_into(attributes, 0, flags | _FS_XFLAG_COWEXTSIZE, extent, extents, project, block)
    fcntl.ioctl(fd, _FS_IOC_FSSETXATTR, attributes)


def _extended_attributes(fd: int) -> bytearray:
    attributes = bytearray(_FSXATTR.size)
    fcntl.ioctl(fd, _FS_IOC_FSGETXATTR, attributes)
    return attributes


def extended_flags(fd: int) -> int:
    """FS_XFLAG_… of a file (ioctl_xfs_fsgetxattr(2)); raises ENOTTY where there are none."""
    flags: int = _FSXATTR.unpack(_extended_attributes(fd))[0]
    return flags


def inode_flags(fd: int) -> int:
    """The flags of a file that lsattr(1) shows (ioctl_iflags(2)); raises ENOTTY where there are
    none.
    """
    answer = bytearray(_INODE_FLAGS.size)
    fcntl.ioctl(fd, _FS_IOC_GETFLAGS, answer)
    flags: int = _INODE_FLAGS.unpack(answer)[0]
    return flags


def count_extents(fd: int, start: int, end: int, flags: int = 0) -> int:
    """How many extents of the file lie in the bytes `[start, end)`, beyond its end, too, with the
    FIEMAP_FLAG_… in `flags` (Documentation/filesystems/fiemap.rst). Raises EOPNOTSUPP where the
    file system has no FIEMAP.
    """
    answer = fcntl.ioctl(fd, _FS_IOC_FIEMAP, _FIEMAP.pack(start, end - start, flags, 0, 0, 0))
    count: int = _FIEMAP.unpack(answer)[3]
    return count


def set_times(fd: int, atime_ns: int | None, mtime_ns: int | None) -> None:
    """Set the times of `fd`, which may be O_PATH, to the nanosecond; None leaves one as it is
    (utimensat(2)).
    """
    _check(
        _libc.utimensat(
            fd, b"", _pack(atime_ns) + _pack(mtime_ns), _AT_EMPTY_PATH | _AT_SYMLINK_NOFOLLOW
        )
    )


def set_times_now(fd: int) -> None:
    """Set both times of `fd`, which may be O_PATH, to now. That needs only the right to write, not
    ownership (utimensat(2), "Permissions").
    """
    _check(_libc.utimensat(_AT_FDCWD, b"/proc/self/fd/%d" % fd, None, 0))


_TOUCH = _TIMESPECS.pack(0, _UTIME_OMIT, 0, _UTIME_NOW)


def move_mtime(fd: int) -> None:
    """Move mtime and ctime to now (futimens(3)); PermissionError for a file of another user or one
    that is immutable.
    """
    _check(_libc.futimens(fd, _TOUCH))


def touch(fd: int) -> None:
    """Move mtime and ctime to now, as a write does, without writing. `fd` is open for writing."""
    try:
        move_mtime(fd)
    except PermissionError:
        # UTIME_OMIT with UTIME_NOW needs ownership; NULL needs only the right to write, and moves
        # atime, too (utimensat(2), "Permissions").
        _check(_libc.futimens(fd, None))


def _pack(time_ns: int | None) -> bytes:
    if time_ns is None:
        return struct.pack("qq", 0, _UTIME_OMIT)
    return struct.pack("qq", *divmod(time_ns, _NS))


def chown(fd: int, uid: int, gid: int) -> None:
    """Give the inode of `fd`, which may be O_PATH and a symbolic link, to `uid` and `gid`; -1
    leaves one.
    """
    _check(_libc.fchownat(fd, b"", uid & 0xFFFFFFFF, gid & 0xFFFFFFFF, _AT_EMPTY_PATH))


def rename(src_fd: int, src: bytes, dst_fd: int, dst: bytes, flags: int) -> None:
    """Rename `src` in the folder `src_fd` to `dst` in the folder `dst_fd` (renameat2(2)), with
    RENAME_NOREPLACE, RENAME_EXCHANGE or RENAME_WHITEOUT in `flags`.
    """
    _check(_libc.renameat2(src_fd, src, dst_fd, dst, flags))


def file_handle(fd: int) -> bytes | None:
    """The handle by which open_by_handle_at(2) finds the inode of `fd` again, with its header; None
    where there are no handles (name_to_handle_at(2)).
    """
    buffer = ctypes.create_string_buffer(
        HANDLE_HEADER.pack(_MAX_HANDLE_BYTES, 0), HANDLE_HEADER.size + _MAX_HANDLE_BYTES
    )
    mount_id = ctypes.create_string_buffer(4)
    if _libc.name_to_handle_at(fd, b"", buffer, mount_id, _AT_EMPTY_PATH) < 0:
        return None
    length, _ = HANDLE_HEADER.unpack_from(buffer)
    return buffer.raw[: HANDLE_HEADER.size + length]


def handle_type(handle: bytes) -> int:
    """The type of a file handle, which says how to read it."""
    kind: int = HANDLE_HEADER.unpack_from(handle)[1]
    return kind


def open_by_handle(mount_fd: int, handle: bytes) -> int:
    """An O_PATH descriptor of the inode that `handle` means; `mount_fd` is a real descriptor in its
    file system. Raises OSError: ESTALE if the inode is gone, EPERM without CAP_DAC_READ_SEARCH
    (open_by_handle_at(2)).
    """
    return _check(
        _libc.open_by_handle_at(mount_fd, handle, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    )


def keep_request_buffers() -> None:
    """Let freed buffers of a request's size stay with the process, for the next request.

    Otherwise glibc hands each back to the kernel, and the next one is paid for by page faults
    (mallopt(3)). A C library without mallopt is left as it is.

    Up to `_KEPT_BYTES` stay at the end of each arena, and all that is free between what is in use.
    So all threads share one arena, which costs no speed: they take and free such buffers with the
    interpreter lock held anyway. Call before threads are started: they stay with their arena.
    """
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(_M_ARENA_MAX, 1)
        _libc.mallopt(_M_MMAP_THRESHOLD, 4 << 20)
        _libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def give_back_request_buffers() -> None:
    """Hand free memory back to the kernel, also what lies between memory in use (malloc_trim(3)).

    That takes about 0.1 ms a MiB, in which other threads wait. A C library without malloc_trim
    keeps it.
    """
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


def unmount(path: bytes, lazy: bool) -> None:
    """Unmount `path` (umount2(2)); with `lazy` the mount leaves the tree at once and ends when no
    process uses it any more.
    """
    _check(_libc.umount2(path, _MNT_DETACH if lazy else 0))


def remount(path: bytes, flags: int) -> None:
    """Give the mount at `path`, and the file system on it, these flags of mount(2) (MS_REMOUNT)."""
    _check(_libc.mount(None, path, None, flags | _MS_REMOUNT, None))


def enter_mount_namespace(fd: int) -> None:
    """Change to the mount namespace that `fd` is open on (setns(2)); its root is then this
    process's. The process must have one thread.
    """
    _check(_libc.setns(fd, _CLONE_NEWNS))


# The errno of a full disk, and of one that is full for this user or group.
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


def is_unsupported(error: OSError) -> bool:
    """Whether the file system below does not know the operation, as opposed to failing at it."""
    return error.errno in {errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY}
