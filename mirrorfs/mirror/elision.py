"""A write that changes nothing, taken without waiting: its bytes are in the page cache below
already, or are zeros over a hole.

Guarantees: no call here waits for a disk or for a lock. Whatever cannot be decided that way, or
needs anything done, is left whole to `writer`. What a crash leaves is what was there.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from mirrorfs.backing import holes
from mirrorfs.mirror import basis
from mirrorfs.mirror.counters import Account, Counters
from mirrorfs.mirror.plan import Data, Kind, is_zero, plan

if TYPE_CHECKING:
    from mirrorfs.mirror.file import MirrorFile, PendingError

_CLOCK_REALTIME_COARSE = 5  # clock_gettime(2): the clock that stamps files


def elide(
    file: MirrorFile, pending: PendingError, offset: int, data: Data, account: Account
) -> bool:
    """Whether `data` at `offset` (bytes) was there already; if so, it is counted and answered for.

    False means that nothing was done or counted. Tried only on a file whose last write changed
    nothing, and only for whole blocks.
    """
    block = file.rules.block_bytes
    if not file.calm or not data or offset % block or len(data) % block:
        return False
    if not file.lock.acquire(blocking=False):
        return False
    try:
        if file.tail is not None:
            return False
        status = os.fstat(file.fd)
        # What lies beyond what clients may see is nothing that was there.
        if file.tail is not None or offset + len(data) > status.st_size or not _is_stamped(status):
            return False
        count = _classify(file, offset, data)
        if count is None:
            return False
        count.write_requests = 1
        count.received_bytes = len(data)
        account.add(file.key, count)
    finally:
        file.lock.release()
    pending.settle(offset, offset + len(data))
    return True


def _is_stamped(status: os.stat_result) -> bool:
    """Whether a write at this moment would leave both times as they are.

    Files are stamped by a clock that moves every few milliseconds. Moving a time may wait for the
    journal, so a write in a new tick is the writer's.
    """
    tick = time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)
    return status.st_ctime_ns >= tick and tick <= status.st_mtime_ns <= time.time_ns()


def _classify(file: MirrorFile, offset: int, data: Data) -> Counters | None:
    """The classes of all bytes of `data`; None if one of them needs something done, or a disk."""
    rules, end = file.rules, offset + len(data)
    if rules.punch and is_zero(data):
        return Counters(hole_bytes=len(data)) if _is_hole(file, offset, end) else None
    if not (rules.skip and file.readable) or file.distrusted:
        return None
    old = basis.read_cached(file.fd, offset, end, file.abilities.no_wait_flags)
    if old is None:
        return None
    count = Counters(compared_bytes=len(data))
    for step in plan(data, old, offset, rules):
        if step.kind is Kind.UNCHANGED:
            count.unchanged_bytes += step.end - step.start
        elif step.kind is Kind.HOLE and _is_hole(file, step.start, step.end):
            count.hole_bytes += step.end - step.start
        else:
            return None
    return count


def _is_hole(file: MirrorFile, start: int, end: int) -> bool:
    if not file.is_seek_trusted:
        return False
    first = holes.next_data(file.fd, start)
    return first is None or first >= end
