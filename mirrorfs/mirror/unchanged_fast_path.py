"""The unchanged fast path: a write that changes nothing, taken without a thread. Its bytes are in
the page cache below already, or are zeros over a hole.

Guarantees: no call here waits for a disk or for a lock. Whatever cannot be decided that way, or
needs more done than moving the times of the file, is left whole to `writer`. What a crash leaves is
what was there. Called by the main loop.
"""

from __future__ import annotations

import os
import time
from enum import Enum
from typing import TYPE_CHECKING

from mirrorfs.backing import holes
from mirrorfs.mirror import basis, gaps, progress
from mirrorfs.mirror.counters import Counters
from mirrorfs.mirror.old_blocks import uncover
from mirrorfs.mirror.plan import Data, Kind, is_zero, pieces, plan

if TYPE_CHECKING:
    from mirrorfs.mirror.open_file import OpenFile
    from mirrorfs.mirror.stale_tail import StaleTail


class Done(Enum):
    """What `take` has done."""

    NOTHING = "nothing"
    # Moving the times of the file is left (`writer.stamp`), which may wait for the journal.
    BUT_TIMES = "all but the times"
    ALL = "all"


_CLOCK_REALTIME_COARSE = 5  # clock_gettime(2): the clock that stamps files


def take(file: OpenFile, offset: int, data: Data, may_seek: bool = True) -> Done:
    """See whether `data` is at `offset` (bytes) already; returns how much of the request is done,
    and has then counted all of it. Raises OSError, having counted nothing.

    Tried only on a file whose last write was a no-op. `may_seek` says that no worker thread is in a
    call on this file: seeking takes locks of the file in the kernel, and a thread that has them may
    be waiting for the disk.
    """
    end = offset + len(data)
    is_for_writer = not file.last_was_noop or file.seed_fd >= 0 or file.has_capability
    if is_for_writer or not data or not file.lock.acquire(blocking=False):
        return Done.NOTHING
    try:
        status = os.fstat(file.fd)
        is_stamped = not file.times_observed and _is_stamped(status)
        # Since the last thread was at it, the map of the file may have been dropped from memory.
        may_seek = may_seek and (is_stamped or file.abilities.is_memory)
        tail = file.stale_tail
        if end > status.st_size:
            return Done.NOTHING
        if tail is not None and not _follows(file, tail, offset, end, may_seek):
            return Done.NOTHING
        count = _classify(file, offset, data, may_seek)
        if count is None:
            return Done.NOTHING
        if not is_stamped and file.abilities.is_memory:
            file.touch()
            is_stamped = True
        count.write_requests, count.received_bytes = 1, len(data)
        if tail is not None:
            _advance(file, tail, offset, end, count)
        file.account.add(file.key, count)
    finally:
        file.lock.release()
    return Done.ALL if is_stamped else Done.BUT_TIMES


def _follows(file: OpenFile, tail: StaleTail, offset: int, end: int, may_seek: bool) -> bool:
    """Whether a write to `[offset, end)` can move the valid length without waiting: there is
    nothing to be wiped before it, and the progress table is where that is noted.
    """
    if gaps.is_met(tail, offset, end):
        return False
    if end <= tail.valid_length:
        return True
    if not may_seek or offset < tail.valid_length or tail.place < 0 or progress.is_behind(tail):
        return False
    return offset == tail.valid_length or _is_blank(file, tail.valid_length, offset)


def _is_blank(file: OpenFile, start: int, end: int) -> bool:
    """Whether there is nothing below in `[start, end)`, or less than a block of stored zeros."""
    if _is_hole(file, start, end):
        return True
    block = file.rules.block_bytes
    if start + -start % block + block <= end:
        return False
    old = basis.read_cached(file.fd, start, end, file.abilities.no_wait_flags)
    return old is not None and is_zero(bytes(old))


def _advance(file: OpenFile, tail: StaleTail, offset: int, end: int, count: Counters) -> None:
    """Move the valid length over `[offset, end)`, of which nothing had to be changed. It is noted
    in memory alone (`_follows`): nothing here waits.
    """
    if tail.shared and end > tail.valid_length:
        count.shared_bytes, count.unchanged_bytes = count.unchanged_bytes, 0
    uncover(file, tail, tail.valid_length, end)
    if progress.move_valid_length(tail, offset, end, count.hole_bytes == end - offset):
        tail.note_ended(file.fd)


def _is_stamped(status: os.stat_result) -> bool:
    """Whether a write at this moment would leave both times as they are.

    Files are stamped by a clock that moves every few milliseconds, or by a finer one if a process
    has seen their times since (Documentation/filesystems/multigrain-ts.rst); see
    `OpenFile.times_observed`.
    """
    tick = time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)
    return status.st_ctime_ns >= tick and tick <= status.st_mtime_ns <= time.time_ns()


def _classify(file: OpenFile, offset: int, data: Data, may_seek: bool) -> Counters | None:
    """The classes of all bytes of `data`; None if one of them needs something done, or a disk."""
    rules, end = file.rules, offset + len(data)
    if rules.punch and is_zero(data):
        is_hole = may_seek and _is_hole(file, offset, end)
        return Counters(hole_bytes=len(data)) if is_hole else None
    if not file.compares:
        return None
    old = basis.read_cached(file.fd, offset, end, file.abilities.no_wait_flags)
    if old is None:
        return None
    count = Counters(compared_bytes=len(data))
    for start, piece in pieces(data, offset, rules.block_bytes):
        there = old if len(piece) == len(data) else old[start - offset :][: len(piece)]
        for step in plan(piece, there, start, rules):
            if step.kind is Kind.UNCHANGED:
                count.unchanged_bytes += step.end - step.start
            elif step.kind is Kind.HOLE and may_seek and _is_hole(file, step.start, step.end):
                count.hole_bytes += step.end - step.start
            else:
                return None
    return count


def _is_hole(file: OpenFile, start: int, end: int) -> bool:
    if not file.is_seek_trusted:
        return False
    first = holes.next_data(file.fd, start)
    return first is None or first >= end
