"""Copy a range of one file into another, or within one: copy_file_range(2).

Holes of the source become holes of the target; data shares its blocks where the file system below
can, and otherwise goes through `writer`, which stores only what differs. Source and result are
equal by construction: nothing is compared before it is cloned.

Guarantees: the size never exceeds what was copied; an error is raised only if nothing was. A crash
leaves each block of the target as it was or as it is in the source.

Called by any thread. Takes the lock of the target for each piece, and that of the source, if
clients write it, too, while blocks are shared: of two files the one with the smaller (device,
inode) first.
"""

from __future__ import annotations

import contextlib
import errno
import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirrorfs.backing import holes, syscalls
from mirrorfs.mirror import writer
from mirrorfs.mirror.counters import Counters
from mirrorfs.mirror.finalising import finalise
from mirrorfs.mirror.punching import make_hole
from mirrorfs.mirror.resizing import resize, size_kept_on_error
from mirrorfs.mirror.writer import Taken

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from mirrorfs.mirror.counters import FileKey
    from mirrorfs.mirror.open_file import OpenFile

# One request may take long where data is really copied; between pieces it can be interrupted.
_MAX_DATA_BYTES = 512 << 20
_MAX_PIECES = 10_000
_COPIED_BYTES = 1 << 20
_CLONED_BYTES = 256 << 20
# Answers to a clone that mean: copy instead (ioctl_ficlonerange(2)).
_NO_CLONE = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY, errno.EPERM, errno.ETXTBSY}
)


@dataclass(frozen=True, slots=True)
class Source:
    """The file that is copied from, without a stale tail."""

    fd: int
    # Device, inode number and birth time (`Status.key`).
    key: FileKey
    # Whether a hole that SEEK_DATA reports may be taken for one (`backing.seek_answers`).
    is_seek_trusted: bool
    # A failed sync makes it doubtful that its blocks hold what reading it shows.
    writeback_failed: bool
    # That of its open file, if clients write it, too.
    lock: threading.Lock | None


@dataclass(slots=True)
class _Copy:
    """One request on its way: `[position, end)` of the source (bytes) is to go to `target`."""

    source: Source
    target: OpenFile
    position: int
    end: int
    # How much further on it is to lie in the target.
    shift: int
    # Whether blocks may be shared.
    clone: bool
    # How much data may yet be copied before the client is answered.
    left_bytes: int = _MAX_DATA_BYTES
    # The last run of data in the source.
    run: holes.Run = field(default_factory=holes.Run)
    # What stopped the last piece; and the sync that failed in any of them (`Taken`).
    failure: OSError | None = None
    unrecorded: OSError | None = None

    @property
    def unit(self) -> int:
        return self.target.abilities.unit_bytes


def copy(
    source: Source,
    start: int,
    target: OpenFile,
    offset: int,
    length: int,
    is_interrupted: Callable[[], bool],
) -> Taken:
    """Copy up to `length` bytes at `start` of `source` to `offset` of `target` (bytes); returns how
    many were, and what stopped that short, if that was an error.

    Fewer are copied at the end of the source, after a lot of data, when `is_interrupted` says so
    between two pieces, and on an error after something was copied. Raises the OSError of the
    failing step, or EINTR, if nothing was (copy_file_range(2)).
    """
    clones = (
        target.abilities.clone and source.key[0] == target.key[0] and not source.writeback_failed
    )
    work = _Copy(source, target, start, start + length, offset - start, clones)
    for _ in range(_MAX_PIECES):
        if work.position >= work.end or work.left_bytes <= 0:
            break
        if is_interrupted():
            if work.position == start:
                raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
            break
        work.failure = None  # what was not taken of the last piece is taken now, or fails again
        try:
            work.position += _copy_piece(work)
        except OSError as exc:
            if work.position == start:
                raise
            work.failure = exc
            break
    return Taken(max(0, work.position - start), work.failure, work.unrecorded)


def _copy_piece(work: _Copy) -> int:
    """One run of the source's holes or a part of its data; returns how many bytes were done."""
    work.end = min(work.end, os.fstat(work.source.fd).st_size)
    start, stop = work.position, work.end
    if start >= stop:  # the source has become shorter meanwhile
        return 0
    if work.source.is_seek_trusted:
        ranges = holes.data_ranges(work.source.fd, start, stop, work.run)
        start, stop = next(ranges, (stop, stop))
    if start > work.position:
        if work.target.rules.punch and work.target.abilities.punch:
            # It may be append-only since it was opened (chattr(1)).
            with contextlib.suppress(PermissionError):
                return _copy_hole(work, start)
        return _copy_data(work, start)
    size = _whole_blocks(work, stop)
    return (_clone(work, work.position + size) if size else 0) or _copy_data(work, stop)


def _whole_blocks(work: _Copy, stop: int) -> int:
    """How many bytes from here on can be cloned, up to `stop`: 0 if none can."""
    if not work.clone or work.shift % work.unit or work.position % work.unit:
        return 0
    size = min(stop - work.position, _CLONED_BYTES)
    return size - size % work.unit


def _copy_hole(work: _Copy, stop: int) -> int:
    """Let `[position, stop)` of the target be a hole, as it is in the source."""
    target, count = work.target, Counters()
    start, end = work.position + work.shift, stop + work.shift
    with target.lock:
        target.begin_digests()
        finalise(target)
        before = os.fstat(target.fd)
        # Growing first: a refusal must leave the data as it was.
        with size_kept_on_error(target, before.st_size):
            if end > before.st_size:
                resize(target, before.st_size, end)
            if start < before.st_size:
                count.punched_bytes = make_hole(target, start, min(end, before.st_size))
        count.received_bytes = end - start
        count.hole_bytes = count.received_bytes - count.punched_bytes
        if count.punched_bytes:
            target.tally.changed.mark(start, end)
        target.count(count)
        target.count_freed(before)
        target.writeback.note_rewritten(start, end)
    return end - start


def _clone(work: _Copy, stop: int) -> int:
    """Share `[position, stop)` of the source with the target; 0 if that is not possible."""
    target = work.target
    start, size = work.position + work.shift, stop - work.position
    with _both(work.source, target):
        target.begin_digests()
        finalise(target)
        before = os.fstat(target.fd)
        try:
            with size_kept_on_error(target, before.st_size):
                if start > before.st_size:
                    resize(target, before.st_size, start)
                target.forget_digests(start, start + size)
                syscalls.clone_range(target.fd, start, work.source.fd, work.position, stop)
        except OSError as exc:
            if exc.errno not in _NO_CLONE:
                raise
            work.clone = False
            return 0
        target.note_size(os.fstat(target.fd).st_size)
        if target.digests is not None:
            target.digests.shared(start, start + size)
        target.tally.changed.mark(start, start + size)
        target.count(Counters(received_bytes=size, shared_bytes=size))
        target.count_freed(before)
        target.writeback.note_rewritten(start, start + size)
    work.left_bytes -= size // 16  # a clone costs next to nothing; it is bounded all the same
    return size


def _both(source: Source, target: OpenFile) -> ExitStack:
    """The locks of both files, taken in ascending order of device and inode."""
    stack = ExitStack()
    locks = [(target.key, target.lock)]
    if source.lock is not None and source.lock is not target.lock:
        locks.append((source.key, source.lock))
    for _, lock in sorted(locks, key=lambda pair: pair[0]):
        stack.enter_context(lock)
    return stack


def _copy_data(work: _Copy, stop: int) -> int:
    """Copy a piece of data by reading and writing it; what the target holds already is left."""
    size = min(stop - work.position, _COPIED_BYTES)
    if work.clone and not work.shift % work.unit:
        # Up to the next block only: from there on, whole blocks can be cloned.
        size = min(size, work.unit - work.position % work.unit)
    data = os.pread(work.source.fd, size, work.position)
    offset = work.position + work.shift
    taken = writer.write(work.target, offset, data, requests=0)
    work.failure = taken.failure
    work.unrecorded = taken.unrecorded or work.unrecorded
    work.left_bytes -= taken.size
    return taken.size
