"""Where a backing file has data and where it has holes.

Uses pread, pwrite and lseek only in ways that do not depend on the descriptor's position, which
lseek moves.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SURE_BYTES = (1 << 63) - (1 << 20)


def next_data(fd: int, start: int) -> int | None:
    """The first offset at or after `start` that holds data, or None if only holes or the end follow
    (lseek(2)).
    """
    try:
        return os.lseek(fd, start, os.SEEK_DATA)
    except OSError as exc:
        if exc.errno != errno.ENXIO:
            raise
    return start if _is_unsure(fd, start) else None


def _is_unsure(fd: int, start: int) -> bool:
    """Whether there may be data from `start` on although none was found: xfs does not find what
    lies in the last block below 2^63.
    """
    return start < os.fstat(fd).st_size > _SURE_BYTES


def data_ranges(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of `[start, end)` that hold data, in ascending order. Unwritten (preallocated)
    extents are holes.
    """
    while start < end:
        first = next_data(fd, start)
        if first is None or first >= end:
            return
        try:
            stop = min(os.lseek(fd, first, os.SEEK_HOLE), end)
        except OSError as exc:
            if exc.errno != errno.ENXIO:
                raise
            if not _is_unsure(fd, first):  # truncated beside us between the two calls
                return
            stop = end
        yield first, stop
        start = max(stop, first + 1)


def seek(fd: int, offset: int, whence: int, trusted: bool) -> int:
    """lseek(2) with SEEK_DATA or SEEK_HOLE; raises its OSError, ENXIO above all.

    Where the file system's own answer is not `trusted`, all of the file is data: a hole that is
    none would make a copy lose what was written.
    """
    if trusted:
        return os.lseek(fd, offset, whence)
    size = os.fstat(fd).st_size
    if not 0 <= offset < size:
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
    return offset if whence == os.SEEK_DATA else size
