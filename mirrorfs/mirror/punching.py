"""Making holes, also where a range ends in the middle of a block.

The file system below frees whole blocks only, and writes the others again. So a block whose rest is
zero goes as a whole, and one that is zero already is left alone. Zeros for a part of a block are
written: a punch would have what was written to that block before go to the disk first.

Guarantees: nothing but the range is changed, and its size is not. A crash leaves each block of it
as it was, or zero. Every function is called under the lock of the open file, and raises OSError as
the file system below does.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mirrorfs.backing import holes, syscalls
from mirrorfs.mirror.plan import is_zero

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirrorfs.mirror.open_file import OpenFile

_MAX_OFFSET = (1 << 63) - 1


def make_hole(file: OpenFile, start: int, end: int) -> int:
    """Make `[start, end)` (bytes) zeros, as a hole, without changing the size, and move the times;
    returns how many of these bytes were data before.
    """
    size = os.fstat(file.fd).st_size
    limit = min(end, size)
    data = [(start, limit)] if start < limit else []
    if data and file.is_seek_trusted:
        data = list(holes.data_ranges(file.fd, start, limit, file.run))
    ranges = list(not_zero(file, start, end, size))
    for first, last in ranges:
        make_zero(file, first, last)
    if not ranges:
        syscalls.touch(file.fd)
    return sum(stop - begin for begin, stop in data)


def make_zero(file: OpenFile, start: int, end: int) -> None:
    """Make a part `[start, end)` (bytes) that `not_zero` has found zeros."""
    is_part = end - start < file.abilities.unit_bytes
    if is_part and end <= os.fstat(file.fd).st_size:
        file.store_zeros(start, end)
    else:
        file.punch(start, end)


def not_zero(file: OpenFile, start: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    """The parts of `[start, end)` (bytes), widened to whole blocks where possible, that are to be
    made zero: whole blocks, and parts of one.

    `size` is the file's below, in bytes. A ragged end that is zero already is left out: the file
    system below would write its block again. Whole blocks always are in it, since what is allocated
    without being data shall go, too.
    """
    first, last = _widened(file, start, end, size)
    unit = file.abilities.unit_bytes
    if not file.readable or file.writeback.failed:
        yield first, last
        return
    inner, outer = min(first + -first % unit, last), max(last - last % unit, first)
    if inner > outer:  # both ends in one block
        inner, outer = last, last
    if not reads_zero(file, first, min(inner, size)):
        yield first, min(inner, size)
    if inner < outer:
        yield inner, outer
    if not reads_zero(file, outer, min(last, size)):
        yield outer, min(last, size)


def _widened(file: OpenFile, start: int, end: int, size: int) -> tuple[int, int]:
    """`[start, end)` with the blocks at its ends, where the rest of those is zero.

    The file system below frees whole blocks only; a block that two requests make zero is as much a
    hole as one that one request does.
    """
    unit = file.abilities.unit_bytes
    if not (file.rules.punch and file.readable):
        return start, end
    first, last = start - start % unit, end + -end % unit
    if first < start and not reads_zero(file, first, min(start, size)):
        first = start
    if end < last and not reads_zero(file, end, min(last, size)):
        last = end
    return first, min(last, _MAX_OFFSET)


def reads_zero(file: OpenFile, start: int, end: int) -> bool:
    """Whether `[start, end)` (bytes), which should be short, is zeros below."""
    return start >= end or is_zero(os.pread(file.fd, end - start, start))
