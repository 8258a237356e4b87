"""What a session was, when it is over: put together by the recorder's thread from what was seen of
it, the file as it is now, and the sessions before.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from mirrorfs.backing.statx import statx
from mirrorfs.catalog import endings, ranges, sessions
from mirrorfs.catalog.session import Session

if TYPE_CHECKING:
    from mirrorfs.backing.statx import Status
    from mirrorfs.catalog.catalog import Catalog
    from mirrorfs.catalog.endings import Observed
    from mirrorfs.fs.live_session import Live
    from mirrorfs.mirror.counters import FileKey


NO_HABIT = sessions.Habit()


def conclude(live: Live, seen: Observed, backing_fd: int, catalog: Catalog) -> Session:
    """The session that has ended."""
    begun = live.begun
    status = _status_of(backing_fd, seen.path, live.key)
    path, written_as = endings.meant_for(seen.path)
    habit = catalog.call(sessions.habit, path, begun.program, endings.MEDIAN_OF) or NO_HABIT
    changed = live.tally.changed.ranges(1 << 63 if status is None else status.size)
    size, allocated = live.replaced or (begun.size_before, begun.allocated_before)
    mode = status.mode if status is not None else 0
    device, inode, born_ns = live.key
    session = Session(
        path=path,
        begin_ns=begun.begin_ns,
        program=begun.program,
        uid=begun.uid,
        device=device,
        inode=inode,
        born_ns=born_ns,
        written_as=written_as,
        end_ns=live.end_ns,
        ended=endings.ending(seen, begun.program, habit.was_stamped, mode),
        size_before=size,
        size_after=None if status is None else status.size,
        allocated_before=allocated,
        allocated_after=None if status is None else status.blocks * 512,
        counters=live.tally.counters,
        changed_chunks=ranges.count(changed),
        repaired_chunks=live.tally.digests.repaired_chunks if live.tally.digests else 0,
        is_stamped=seen.is_stamped,
        errors=", ".join(f"{name} {count}" for name, count in sorted(live.errors.items())),
        ranges=ranges.encode(ranges.bounded(changed)),
        number=live.number,
    )
    zeroed = _zeroed(session)
    unusual = endings.unusual(session, habit.shares, zeroed)
    return replace(session, zeroed_bytes=zeroed, unusual=unusual) if zeroed or unusual else session


def cut_off(session: Session, backing_fd: int) -> Session:
    """The session of a daemon that died, as far as it is known: up to when the file was changed."""
    path, written_as = endings.meant_for(session.path)
    key = (session.device, session.inode, session.born_ns)
    status = _status_of(backing_fd, session.path, key)
    if status is None:
        return replace(session.interrupted(0), path=path, written_as=written_as)
    return replace(
        session.interrupted(status.mtime_ns),
        path=path,
        written_as=written_as,
        size_after=status.size,
        allocated_after=status.blocks * 512,
    )


def _status_of(backing_fd: int, path: bytes, key: FileKey) -> Status | None:
    """The status of the file that has this path below the backing folder; None if it is another one
    by now, or there is none.
    """
    try:
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=backing_fd)
    except OSError:
        return None
    try:
        status = statx(fd)
    except OSError:
        return None
    finally:
        os.close(fd)
    return status if status.key == key else None


def _zeroed(session: Session) -> int:
    """How much data was turned to zeros: punched, or not there any more in a file that is no
    smaller, and of which no client has asked for holes.
    """
    count, gone = session.counters, 0
    if session.size_after is not None and not session.is_shrunk and not count.discarded_bytes:
        gone = (session.allocated_before or 0) - (session.allocated_after or 0)
    return max(count.punched_bytes, gone)
