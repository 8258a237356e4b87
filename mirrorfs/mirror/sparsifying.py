"""Digging holes where a file holds blocks of zeros, without any change of what it holds.

Guarantees: what is read is looked at and punched before anybody who writes through the mount can
come between. Size and mtime stay as they are, so a copy tool takes the file for what it was. A
crash leaves each block as it was, or a hole, and at worst an mtime that has moved.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from mirrorfs.backing import holes, syscalls
from mirrorfs.backing.statx import statx
from mirrorfs.mirror.plan import zero_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mirrorfs.backing.statx import Status
    from mirrorfs.mirror.open_file import OpenFile

MAX_BYTES = 64 << 20  # of one request
_PIECE_BYTES = 1 << 20  # for which writers wait


def sparsify(
    file: OpenFile, start: int, end: int, restamped: Callable[[Status, Status], object]
) -> None:
    """Dig holes in `[start, end)` (bytes) of an open file. `restamped` is called with its status
    before and after each change, under its lock.

    Raises OSError: EBUSY while it has a stale tail, EIO after a failed fsync, EOPNOTSUPP where the
    file system below cannot punch, EACCES where the file may not be read.
    """
    for first in range(start, end, _PIECE_BYTES):
        with file.lock:
            _check(file)
            before = statx(file.fd, ask=False)
            blocks = os.fstat(file.fd)
            stop = min(first + _PIECE_BYTES, end, before.size)
            unit = file.abilities.unit_bytes
            ranges = list(zero_ranges(file.fd, first, stop, unit, file.is_seek_trusted))
            for one in ranges:
                file.run.cut(*one)
            try:
                dig(file.fd, ranges)
            finally:
                # Its content is as it was, so its digests still hold.
                if ranges:
                    restamped(before, statx(file.fd, ask=False))
            file.count_freed(blocks)


def _check(file: OpenFile) -> None:
    for is_so, code in (
        (file.stale_tail is not None, errno.EBUSY),
        (file.writeback.failed, errno.EIO),
        (not file.abilities.punch, errno.EOPNOTSUPP),
        (not file.readable, errno.EACCES),
    ):
        if is_so:
            raise OSError(code, os.strerror(code))


def zero_ranges(
    fd: int, start: int, end: int, unit: int, is_seek_trusted: bool
) -> Iterator[tuple[int, int]]:
    """The parts of `[start, end)` (bytes) that are data below and zeros, in whole blocks of `unit`
    bytes; the last may reach beyond the end of the file. Holes are not read where SEEK_DATA may be
    trusted.
    """
    size = os.fstat(fd).st_size
    start, end = start + -start % unit, end if end >= size else end - end % unit
    end = min(end, size)
    data = holes.data_ranges(fd, start, end) if is_seek_trusted else iter([(start, end)])
    for begin, stop in data:
        first = begin - begin % unit
        for place in range(first, stop, _PIECE_BYTES):
            length = min(_PIECE_BYTES, min(stop + -stop % unit, end) - place)
            yield from _zeros(os.pread(fd, length, place), place, unit)


def _zeros(data: bytes, place: int, unit: int) -> Iterator[tuple[int, int]]:
    """The runs of zero blocks in `data`, which lies at `place`, in bytes of the file."""
    run: tuple[int, int] | None = None
    for index in sorted(zero_blocks(data, unit)):
        begin = place + index * unit
        stop = begin + unit
        if run is not None and run[1] == begin:
            run = run[0], stop
            continue
        if run is not None:
            yield run
        run = begin, stop
    if run is not None:
        yield run


def dig(fd: int, ranges: list[tuple[int, int]]) -> None:
    """Make holes of these ranges, and set mtime back. Raises OSError, PermissionError before
    anything is done where mtime cannot be set.
    """
    if not ranges:
        return
    mtime_ns = os.fstat(fd).st_mtime_ns
    syscalls.set_times(fd, None, mtime_ns)
    try:
        for start, end in ranges:
            syscalls.punch_hole(fd, start, end)
    finally:
        syscalls.set_times(fd, None, mtime_ns)
