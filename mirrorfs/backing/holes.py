"""Where a backing file has data and where it has holes.

lseek(2) moves the position of the descriptor, so the descriptors here are read and written by
pread(2) and pwrite(2) alone. Offsets are in bytes.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from mirrorfs.backing import syscalls

if TYPE_CHECKING:
    from collections.abc import Iterator

_SURE_BYTES = (1 << 63) - (1 << 20)
# ext4's answer where a file that lay in its inode has grown, and was not written back yet
# (ext4_iomap_begin_report): it cannot tell.
_CANNOT_TELL = errno.ENOENT


class Run:
    """The last run of data that was found in a file, from `first` to `stop` (bytes).

    SEEK_HOLE passes every extent up to the next hole, however far that is: 14 ms for 60,000 of
    them. A caller that goes through such a run in many small steps looks for its end only once.
    What other processes do to the backing file may make this wrong, so it can only be used for
    counting. Whether there is data at all is never remembered.
    """

    __slots__ = ("first", "stop")

    def __init__(self) -> None:
        self.first = self.stop = 0

    def end_of(self, fd: int, first: int) -> int | None:
        """The end of the run to which the data at `first` in the file `fd` belongs; None if there
        is no data now.
        """
        if not self.first <= first < self.stop:
            stop = _end_of_data(fd, first)
            if stop is None:
                return None
            self.first, self.stop = first, stop
        return self.stop

    def cut(self, start: int, end: int) -> None:
        """Note that `[start, end)` is data no more. Of what remains, the part after it is kept: a
        caller goes forward, as a rule.
        """
        if end < self.stop:
            self.first = max(self.first, end)
        else:
            self.stop = min(self.stop, start)


def next_data(fd: int, start: int) -> int | None:
    """The first offset at or after `start` that holds data, or None if only holes or the end follow
    (lseek(2), SEEK_DATA). Raises OSError.
    """
    try:
        return os.lseek(fd, start, os.SEEK_DATA)
    except OSError as exc:
        if exc.errno == _CANNOT_TELL:
            return start if start < os.fstat(fd).st_size else None
        if exc.errno != errno.ENXIO:
            raise
    return start if _is_unsure(fd, start) else None


def _is_unsure(fd: int, start: int) -> bool:
    """Whether there may be data from `start` on although none was found: xfs does not find what
    lies in the last block below 2^63.
    """
    return start < os.fstat(fd).st_size > _SURE_BYTES


def data_ranges(fd: int, start: int, end: int, run: Run | None = None) -> Iterator[tuple[int, int]]:
    """The parts of `[start, end)` that hold data, in ascending order. Unwritten (preallocated)
    extents are holes, as long as no page of them is in the page cache (lseek(2)). Raises OSError.

    With a `run` that is kept from call to call, all steps through one run of data together cost as
    much as one.
    """
    run = Run() if run is None else run
    while start < end:
        first = next_data(fd, start)
        if first is None or first >= end:
            return
        stop = run.end_of(fd, first)
        if stop is None:
            return
        yield first, min(stop, end)
        start = max(stop, first + 1)


def _end_of_data(fd: int, first: int) -> int | None:
    """The end of the run of data in which `first` lies; None if another process has truncated the
    file meanwhile.
    """
    try:
        return _next_hole(fd, first)
    except OSError as exc:
        if exc.errno != errno.ENXIO:
            raise
    return 1 << 63 if _is_unsure(fd, first) else None


def _next_hole(fd: int, offset: int) -> int:
    """The first hole at or after `offset`, which is the end of the file if there is no other."""
    size = os.fstat(fd).st_size
    if size > _SURE_BYTES:
        # tmpfs answers with the end of the last block, which os.lseek cannot tell from an error.
        return min(syscalls.seek_hole(fd, offset), size)
    try:
        return os.lseek(fd, offset, os.SEEK_HOLE)
    except OSError as exc:
        if exc.errno != _CANNOT_TELL:
            raise
    return _as_all_data(fd, offset, os.SEEK_HOLE)


def seek(fd: int, offset: int, whence: int, trusted: bool) -> int:
    """The offset that lseek(2) gives for SEEK_DATA or SEEK_HOLE; raises its OSError, as ENXIO
    beyond the end.

    Where the file system's own answer is not `trusted`, all of the file is data: a hole that is
    none would make a copy lose what was written.
    """
    if not trusted:
        return _as_all_data(fd, offset, whence)
    if whence == os.SEEK_HOLE:
        return _next_hole(fd, offset)
    try:
        return os.lseek(fd, offset, whence)
    except OSError as exc:
        if exc.errno != _CANNOT_TELL:
            raise
    return _as_all_data(fd, offset, whence)


def _as_all_data(fd: int, offset: int, whence: int) -> int:
    """What lseek(2) gives for a file without any holes."""
    size = os.fstat(fd).st_size
    if not 0 <= offset < size:
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
    return offset if whence == os.SEEK_DATA else size
