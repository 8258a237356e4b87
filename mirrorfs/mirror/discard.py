"""Ranges that a client wants to be zeros, or to have space: fallocate(2).

Guarantees: what is to be zeros becomes a hole, also where its ragged ends complete a block of
zeros; space that a client reserves is really there (`preallocate=honour`). An error leaves size and
data as they were, as far as the file system below does. A crash leaves each range as it was, or
zero.

Called by any thread; every function takes the lock of the open file, ends its stale tail where
that is in the way, and raises the OSError of the file system below (fallocate(2)).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mirrorfs.backing import syscalls
from mirrorfs.mirror import advancing
from mirrorfs.mirror.counters import Counters
from mirrorfs.mirror.finalising import finalise
from mirrorfs.mirror.punching import make_hole
from mirrorfs.mirror.resizing import resize, size_kept_on_error

if TYPE_CHECKING:
    from mirrorfs.mirror.open_file import OpenFile
    from mirrorfs.mirror.stale_tail import StaleTail


def discard(file: OpenFile, start: int, end: int, keep_size: bool) -> None:
    """Make `[start, end)` (bytes) zeros, as a hole; without `keep_size` the file grows to `end`.

    Raises EOPNOTSUPP where the file system below cannot punch.
    """
    with file.lock:
        file.begin_digests()
        tail = file.stale_tail
        if tail is not None and start >= tail.valid_length:
            _discard_unseen(file, tail, start, end, keep_size)
            return
        finalise(file)
        before = os.fstat(file.fd)
        # Growing first: a refusal must leave the data as it was.
        with size_kept_on_error(file, before.st_size):
            if end > before.st_size and not keep_size:
                resize(file, before.st_size, end)
            if make_hole(file, start, end):
                file.tally.changed.mark(start, end)
        file.writeback.note_rewritten(start, end)
        size = os.fstat(file.fd).st_size
        file.count(Counters(discarded_bytes=max(0, min(end, size) - start)))
        file.count_freed(before)


def _discard_unseen(file: OpenFile, tail: StaleTail, start: int, end: int, keep_size: bool) -> None:
    """`discard` beyond the valid length, where clients see zeros already."""
    if not keep_size and end > tail.logical_size:
        advancing.set_logical_size(file, tail, end)
    else:
        file.touch()
    discarded = max(0, min(end, tail.logical_size) - start)
    file.count(Counters(discarded_bytes=discarded))


def keep_zeros(file: OpenFile, start: int, end: int, keep_size: bool) -> None:
    """Make `[start, end)` (bytes) zeros as the file system below does it, which stores them
    (`zeros=keep`); without `keep_size` the file grows to `end`.
    """
    with file.lock:
        file.begin_digests()
        finalise(file)
        file.run.cut(start, end)
        file.forget_digests(start, end)
        syscalls.zero_range(file.fd, start, end, keep_size)
        file.note_size(os.fstat(file.fd).st_size)
        file.tally.changed.mark(start, end)


def preallocate(file: OpenFile, start: int, end: int, keep_size: bool) -> None:
    """Make sure that writing to `[start, end)` (bytes) needs no further space; without `keep_size`
    the file grows to `end`. Raises OSError, ENOSPC above all; the size is then what it was.
    """
    with file.lock:
        file.begin_digests()
        finalise(file)
        size = os.fstat(file.fd).st_size
        with size_kept_on_error(file, size):
            syscalls.preallocate(file.fd, start, end, keep_size)
        file.note_size(os.fstat(file.fd).st_size)
        file.writeback.reserved = True


def grow_only(file: OpenFile, end: int, keep_size: bool) -> None:
    """Do what is left of a preallocation up to `end` (bytes) that is not honoured: the size grows,
    without `keep_size`, and the times move.
    """
    with file.lock:
        file.begin_digests()
        finalise(file)
        before = os.fstat(file.fd)
        if keep_size or end <= before.st_size:
            syscalls.touch(file.fd)
        else:
            try:
                resize(file, before.st_size, end)
            except PermissionError:  # append-only (chattr(1)); this way it may grow
                syscalls.preallocate(file.fd, before.st_size, end, keep_size)
                file.note_size(end)
        file.count_freed(before)
