"""The end of a session for the digests: what the disk holds is made durable, what can be known for
free is learned, and the digest file is closed.

Guarantees, in this order: the content is durable, then the digests and the stamp of it are, then
the mark is taken away (`known_digests`, `digest_file`). A crash anywhere in between leaves the
digest file open. Whatever begins to change the file meanwhile ends this (`KnownDigests.epoch`).

Called without the lock of the open file, where no client has it open for writing.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from mirrorfs.backing import holes
from mirrorfs.backing.statx import statx
from mirrorfs.mirror.changed_chunks import CHUNK_BYTES
from mirrorfs.mirror.known_digests import stamp_of

if TYPE_CHECKING:
    from mirrorfs.backing.digest_file import Stamp
    from mirrorfs.mirror.known_digests import KnownDigests

_READ_CHUNKS = 16
# What changes a file twice within a tick of the clock that stamps it may leave one stamp for both.
_TICK_NS = 20_000_000
_TRIES = 3


def seal(
    known: KnownDigests, epoch: int, fd: int, changed: list[tuple[int, int]], tells_holes: bool
) -> bool:
    """Close the digest file of the file `fd`, of which the chunks `changed` have changed, if it is
    still `epoch`; returns whether it was. `tells_holes` says that SEEK_DATA can be trusted.

    Raises OSError, that of fsync(2) above all: the digests are forgotten then.
    """
    try:
        stamp = _durable(known, epoch, fd, changed, tells_holes)
    except OSError:
        known.close(epoch, None)
        raise
    return known.close(epoch, stamp)


def _durable(
    known: KnownDigests, epoch: int, fd: int, changed: list[tuple[int, int]], tells_holes: bool
) -> Stamp | None:
    """Make the content durable, and learn; returns its stamp, None if something else changes it."""
    status = statx(fd)
    stamp, left = stamp_of(status), known.left
    if left is not None and left != (status.size, status.mtime_ns):
        known.is_changed_beside = True
        return None
    for _ in range(_TRIES):
        if 0 <= time.time_ns() - stamp.ctime_ns < _TICK_NS:
            time.sleep(_TICK_NS / 1e9)
        os.fsync(fd)
        _learn(known, epoch, fd, changed, tells_holes)
        before, stamp = stamp, stamp_of(statx(fd))
        if stamp == before:
            return stamp
        if stamp[:2] != before[:2]:  # not by a client: they have it open for that
            known.is_changed_beside = True
            break
    return None


def _learn(
    known: KnownDigests, epoch: int, fd: int, changed: list[tuple[int, int]], tells_holes: bool
) -> None:
    """Take the digests that are missing of the chunks `changed`, as far as they are holes, or in
    the page cache: nothing waits for a disk.
    """
    for start, stop in changed:
        for first, end in known.unknown(epoch, start, stop):
            if tells_holes:
                _learn_holes(known, epoch, fd, first, end)
        for first, end in known.unknown(epoch, start, stop):
            _learn_cached(known, epoch, fd, first, end)


def _learn_holes(known: KnownDigests, epoch: int, fd: int, first: int, stop: int) -> None:
    place, limit = first, stop * CHUNK_BYTES
    for start, end in [*holes.data_ranges(fd, first * CHUNK_BYTES, limit, holes.Run()), (limit, 0)]:
        before = start // CHUNK_BYTES
        if place < before:
            known.learn_zeros(epoch, place, before)
        place = max(place, -(-end // CHUNK_BYTES))


def _learn_cached(known: KnownDigests, epoch: int, fd: int, first: int, stop: int) -> None:
    while first < stop and known.epoch == epoch:
        count = min(_READ_CHUNKS, stop - first)
        buffer = bytearray(count * CHUNK_BYTES)
        try:
            size = os.preadv(fd, [buffer], first * CHUNK_BYTES, os.RWF_NOWAIT)
        except OSError:
            size = 0  # it is not in the cache, or this file system cannot say
        at_end = first * CHUNK_BYTES + size == os.fstat(fd).st_size
        whole = size if at_end else size - size % CHUNK_BYTES
        if whole:
            known.learn(epoch, first, bytes(memoryview(buffer)[:whole]))
        first += max(1, -(-whole // CHUNK_BYTES))
