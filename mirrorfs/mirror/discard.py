"""Ranges that a client asks to be zeros, or to have space: fallocate(2) on a mirrored file.

Guarantees: what is asked to be zeros becomes a hole, also where its ragged ends complete a block of
zeros; space that is asked for is really there (`preallocate=honour`). A crash leaves each range as
it was, or zero.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mirrorfs.backing import holes, syscalls
from mirrorfs.mirror import seeding
from mirrorfs.mirror.counters import Account, Counters
from mirrorfs.mirror.file import count_freed, resize, size_kept_on_error
from mirrorfs.mirror.plan import is_zero

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirrorfs.mirror.file import MirrorFile, PendingError
    from mirrorfs.mirror.tail import Tail

_MAX_OFFSET = (1 << 63) - 1


def discard(
    file: MirrorFile,
    pending: PendingError,
    start: int,
    end: int,
    keep_size: bool,
    account: Account,
) -> None:
    """Make `[start, end)` (bytes) zeros, as a hole; without `keep_size` the file grows to `end`.

    Raises the OSError of the file system below, EOPNOTSUPP where it cannot punch.
    """
    with file.lock:
        if file.tail is not None and start >= file.tail.frontier:
            _discard_unseen(file, file.tail, start, end, keep_size, account)
            return
        seeding.settle(file, account)
        before = os.fstat(file.fd)
        # Growing first: a refusal must leave the data as it was.
        with size_kept_on_error(file, before.st_size):
            if end > before.st_size and not keep_size:
                resize(file, before.st_size, end)
            make_hole(file, start, end)
        file.note_rewritten(start, end)
        size = os.fstat(file.fd).st_size
        account.add(file.key, Counters(discarded_bytes=max(0, min(end, size) - start)))
        count_freed(file, before, account)
    pending.settle(start, end)


def _discard_unseen(
    file: MirrorFile, tail: Tail, start: int, end: int, keep_size: bool, account: Account
) -> None:
    """The same beyond the frontier, where clients see zeros already."""
    if not keep_size and end > tail.size:
        seeding.resize_visible(file, tail, end)
    else:
        syscalls.touch(file.fd)
    discarded = max(0, min(end, tail.size) - start)
    account.add(file.key, Counters(discarded_bytes=discarded))


def keep_zeros(
    file: MirrorFile,
    pending: PendingError,
    start: int,
    end: int,
    keep_size: bool,
    account: Account,
) -> None:
    """The same where zeros are to be stored (`zeros=keep`): as the file system below does it."""
    with file.lock:
        seeding.settle(file, account)
        file.run.cut(start, end)
        syscalls.zero_range(file.fd, start, end, keep_size)
    pending.settle(start, end)


def preallocate(file: MirrorFile, start: int, end: int, keep_size: bool, account: Account) -> None:
    """Make sure that writing to `[start, end)` needs no further space. Raises OSError, ENOSPC above
    all; the size is then what it was.
    """
    with file.lock:
        seeding.settle(file, account)
        size = os.fstat(file.fd).st_size
        file.reserved = True
        with size_kept_on_error(file, size):
            syscalls.preallocate(file.fd, start, end, keep_size)


def grow_only(file: MirrorFile, end: int, keep_size: bool, account: Account) -> None:
    """What is left of a preallocation that is not honoured: the size."""
    with file.lock:
        seeding.settle(file, account)
        before = os.fstat(file.fd)
        if not keep_size and end > before.st_size:
            resize(file, before.st_size, end)
        else:
            syscalls.touch(file.fd)
        count_freed(file, before, account)


def make_hole(file: MirrorFile, start: int, end: int) -> int:
    """Make `[start, end)` zeros, as a hole, without changing the size; returns how many of these
    bytes were data before. The caller holds the lock.
    """
    size = os.fstat(file.fd).st_size
    limit = min(end, size)
    data = [(start, limit)] if start < limit else []
    if data and file.is_seek_trusted:
        data = list(holes.data_ranges(file.fd, start, limit, file.run))
    for first, last in _to_punch(file, start, end, size):
        file.punch(first, last)
    return sum(stop - begin for begin, stop in data)


def _to_punch(file: MirrorFile, start: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    """The parts of `[start, end)`, widened to whole blocks where possible, that are to be punched.

    A ragged end that is zero already is left out: the file system below would write its block
    again. Whole blocks always are, since what is allocated without being data shall go, too.
    """
    first, last = _widened(file, start, end, size)
    unit = file.abilities.unit_bytes
    if not file.readable or file.distrusted:
        yield first, last
        return
    inner, outer = min(first + -first % unit, last), max(last - last % unit, first)
    if inner > outer:  # both ends in one block
        inner, outer = last, last
    touched = False
    for begin, stop in ((first, inner), (inner, outer), (outer, last)):
        whole = begin == inner
        if begin < stop and (whole or not _reads_zero(file, begin, min(stop, size))):
            touched = True
            yield begin, stop
    if not touched:
        syscalls.touch(file.fd)


def _widened(file: MirrorFile, start: int, end: int, size: int) -> tuple[int, int]:
    """`[start, end)` with the blocks at its ends, where the rest of those is zero.

    The file system below frees whole blocks only; a block that two requests make zero is as much a
    hole as one that one request does.
    """
    unit = file.abilities.unit_bytes
    if not (file.rules.punch and file.readable):
        return start, end
    first, last = start - start % unit, end + -end % unit
    if first < start and not _reads_zero(file, first, min(start, size)):
        first = start
    if end < last and not _reads_zero(file, end, min(last, size)):
        last = end
    return first, min(last, _MAX_OFFSET)


def _reads_zero(file: MirrorFile, start: int, end: int) -> bool:
    return start >= end or is_zero(os.pread(file.fd, end - start, start))
