"""How far clients have written an unsettled file, and where a crash leaves that to be found: in the
table that outlives the daemon (`backing.ledger`), and in the mark of the file (`backing.mark`).

Guarantees: mark and list are on the disk before any content below is changed, and the mark is never
much older than the file's mtime, so that a file that was changed later is known to be somebody
else's doing. Every function is called under the lock of the file.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from mirrorfs.backing import progress_table, recovery_attribute, syscalls
from mirrorfs.mirror import gaps

if TYPE_CHECKING:
    from mirrorfs.mirror.open_file import OpenFile
    from mirrorfs.mirror.stale_tail import StaleTail

# How old data may be that a power cut takes from an unsettled file: as in a plain folder, where the
# kernel writes it after that time (vm.dirty_expire_centisecs).
_DURABLE_SECONDS = 30.0
_SECOND_NS = 1_000_000_000


def begin_change(file: OpenFile, tail: StaleTail) -> None:
    """Note that the file below is about to be changed, its times alone at least. The mark must not
    be much older than that: what was changed later has not been changed by us (`recovery`).
    Between the two calls that renew it a power cut finds a file that seems changed by others.
    """
    tail.begin_change()
    if not _is_fresh(tail, time.time()):
        syscalls.touch(file.fd)
        write_mark(file, tail)
        tail.begin_change()


def about_to_change(file: OpenFile, tail: StaleTail) -> None:
    """Before any content below is changed, the list and the mark have to be on the disk, too: the
    old blocks could else be taken for new ones after a power cut.
    """
    tail.changed = True
    begin_change(file, tail)
    if not tail.marked and file.unsettled is not None:
        file.unsettled.make_durable()
        file.make_durable(os.fsync)
        tail.marked = True
        tail.begin_change()


def _is_fresh(tail: StaleTail, mtime: float) -> bool:
    """Whether the mark on the file fits an mtime in seconds since the epoch."""
    return 0 <= mtime - tail.mtime <= recovery_attribute.FRESH_SECONDS


def move_frontier(tail: StaleTail, start: int, done: int, is_zero: bool) -> bool:
    """Let the frontier be where a client has written `[start, done)` to, which has yet to be noted;
    returns whether it, or the size, has moved.
    """
    gaps.fill(tail, start, done)
    tail.written = True
    tail.has_data |= not is_zero
    if done <= tail.frontier and done <= tail.size:
        return False
    if not is_zero:
        tail.data_bytes += max(0, done - max(start, tail.frontier))
    tail.frontier = max(tail.frontier, done)
    tail.size = max(tail.size, done)
    return True


def is_behind(tail: StaleTail) -> bool:
    """Whether the mark says of something written a while ago that it is not on the disk yet."""
    late = time.monotonic() >= tail.durable_since + _DURABLE_SECONDS
    return late and tail.durable < tail.frontier


def note(file: OpenFile, tail: StaleTail) -> None:
    """The end of a change: let a crash of the daemon, as opposed to the machine's, find the
    frontier where it is now, and how the file below was left. A disk may have held the change up
    for so long that the mark is too old for it.
    """
    below = os.fstat(file.fd)
    if tail.place >= 0 and _is_fresh(tail, below.st_mtime_ns // _SECOND_NS):
        tail.progress.set(tail.place, tail.frontier, tail.size, below)
    else:
        write_mark(file, tail)


def write_mark(file: OpenFile, tail: StaleTail) -> None:
    below, unsettled = os.fstat(file.fd), file.unsettled
    tail.mtime = below.st_mtime_ns // _SECOND_NS
    made = recovery_attribute.RecoveryAttribute(
        instance=tail.instance,
        durable=tail.durable,
        valid_length=tail.frontier,
        size=tail.size,
        table=tail.progress.id if tail.place >= 0 else progress_table.NONE,
        place=tail.place,
        file=tail.file,
        entry=tail.entry,
        mtime=tail.mtime,
        state=unsettled.id if unsettled is not None else b"",
    )
    if tail.place >= 0:
        tail.progress.set(tail.place, tail.frontier, tail.size, below)
    recovery_attribute.write(file.fd, made)
