"""Reads a file from the disk, not from the page cache, and leaves nothing there.

ext4 and xfs read past the page cache (O_DIRECT); what is dirty in there they write back before.
btrfs, which reads compressed extents through it all the same, and what knows no O_DIRECT, are told
to drop what they have cached, before and after. tmpfs has no disk.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
from typing import TYPE_CHECKING

from mirrorfs.backing import mounts, scan

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mirrorfs.backing.scan import Part

# Logical blocks are no larger; all offsets and lengths that go below are multiples.
BLOCK_BYTES = 4096
_TRULY_DIRECT = frozenset({"ext4", "xfs"})
# What a disk that cannot read a place is told by (blk_errors in block/blk-core.c), and a file
# system whose checksums are wrong.
UNREADABLE = frozenset(
    {errno.EIO, errno.EREMOTEIO, errno.ENODATA, errno.EILSEQ, errno.EBADMSG, errno.EUCLEAN}
    | {errno.ENOLINK, errno.ETIMEDOUT}
)


class DiskReader:
    """Of the open regular file `fd`, which stays the caller's. To be closed."""

    def __init__(self, fd: int) -> None:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        path = f"/proc/self/fd/{fd}"
        self._is_direct = True
        try:
            self._fd = _open(path, flags | os.O_DIRECT)
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
            self._is_direct = False
            self._fd = _open(path, flags)
        self._drops = not self._is_direct or mounts.mount_of(fd).fs_type not in _TRULY_DIRECT
        self._one: mmap.mmap | None = None
        if self._drops:
            with contextlib.suppress(OSError):
                os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_RANDOM)

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)

    def read(self, parts: Iterable[Part]) -> Iterator[tuple[Part, memoryview, OSError | None]]:
        """Each part, its content if it is to be read, and the error if it cannot be, as
        `scan.ahead` has them. Parts begin at multiples of `BLOCK_BYTES`. What is beyond the end
        reads as zeros.
        """
        # A window need not end with a block, but what is read does.
        return scan.ahead(parts, self._fill, lambda size: mmap.mmap(-1, size))

    def once(self, start: int, end: int) -> bytes:
        """What `[start, end)` holds, which is no more than `scan.WINDOW_BYTES`. Raises OSError."""
        if self._one is None:
            self._one = mmap.mmap(-1, scan.WINDOW_BYTES)
        window = memoryview(self._one)[: end - start]
        self._fill(window, start)
        return bytes(window)

    def _fill(self, window: memoryview, start: int) -> None:
        buffer = memoryview(window.obj)
        length = -(-len(window) // BLOCK_BYTES) * BLOCK_BYTES
        if self._drops:
            self._drop(start, length)
        done = 0
        while done < len(window):
            count = self._read(buffer[done:length], start + done)
            if count % BLOCK_BYTES and done + count < len(window):
                buffer[done + count : length] = bytes(length - done - count)
                break  # the end of the file
            if not count:
                buffer[done:length] = bytes(length - done)
                break
            done += count
        if self._drops:
            self._drop(start, length)

    def _read(self, window: memoryview, start: int) -> int:
        try:
            return os.preadv(self._fd, [window], start)
        except OSError as exc:
            if exc.errno != errno.EINVAL or not self._is_direct:
                raise
        # It took the flag, and reads nothing with it.
        self._is_direct, self._drops = False, True
        other = _open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(other, self._fd, inheritable=False)
        os.close(other)
        return os.preadv(self._fd, [window], start)

    def _drop(self, start: int, length: int) -> None:
        with contextlib.suppress(OSError):
            os.posix_fadvise(self._fd, start, length, os.POSIX_FADV_DONTNEED)


def _open(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_NOATIME)
    except PermissionError:
        return os.open(path, flags)


def open_file(path: bytes, folder_fd: int) -> int:
    """A descriptor of the regular file `path`, by which no time of access moves where that is
    permitted. Raises OSError, also for what is no regular file.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path, flags | os.O_NOATIME, dir_fd=folder_fd)
    except PermissionError:
        fd = os.open(path, flags, dir_fd=folder_fd)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "is no regular file any more")
    return fd
