"""How far clients have written an unsettled file, and where a crash leaves that to be found: in the
table that outlives the daemon (`backing.ledger`), and in the mark of the file (`backing.mark`).

Guarantees: mark and list are on the disk before anything below is changed, and the mark is never
much older than a change, so that a file that was changed later is known to be somebody else's
doing. Every function is called under the lock of the file.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from mirrorfs.backing import ledger, mark, syscalls
from mirrorfs.mirror import gaps

if TYPE_CHECKING:
    from mirrorfs.mirror.file import MirrorFile
    from mirrorfs.mirror.tail import Tail

# How old data may be that a power cut takes from an unsettled file: as in a plain folder, where the
# kernel writes it after that time (vm.dirty_expire_centisecs).
_DURABLE_SECONDS = 30.0


def about_to_change(file: MirrorFile, tail: Tail) -> None:
    """Before anything below is changed, the list and the mark have to be on the disk: the old
    blocks could else be taken for new ones after a power cut. And the mark must not be much older
    than the change: what was changed later has not been changed by us (`recovery`).
    """
    tail.changed = True
    tail.begin_change()
    if not 0 <= time.time() - tail.mtime <= mark.FRESH_SECONDS:
        syscalls.touch(file.fd)
        write_mark(file, tail)
        tail.begin_change()
    if not tail.marked and file.unsettled is not None:
        file.unsettled.make_durable()
        os.fsync(file.fd)
        tail.marked = True
        tail.begin_change()


def move_frontier(tail: Tail, start: int, done: int, is_zero: bool) -> bool:
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


def is_behind(tail: Tail) -> bool:
    """Whether the mark says of something written a while ago that it is not on the disk yet."""
    late = time.monotonic() >= tail.durable_since + _DURABLE_SECONDS
    return late and tail.durable < tail.frontier


def note(file: MirrorFile, tail: Tail) -> None:
    """Let a crash of the daemon, as opposed to the machine's, find the frontier where it is now."""
    if tail.place >= 0:
        tail.end_change(file.fd)
    else:
        write_mark(file, tail)


def write_mark(file: MirrorFile, tail: Tail) -> None:
    below, unsettled = os.fstat(file.fd), file.unsettled
    tail.mtime = below.st_mtime_ns // 1_000_000_000
    made = mark.Mark(
        instance=tail.instance,
        durable=tail.durable,
        frontier=tail.frontier,
        size=tail.size,
        table=tail.progress.id if tail.place >= 0 else ledger.NONE,
        place=tail.place,
        file=tail.file,
        entry=tail.entry,
        mtime=tail.mtime,
        state=unsettled.id if unsettled is not None else b"",
    )
    if tail.place >= 0:
        tail.progress.set(tail.place, tail.frontier, tail.size, below)
    mark.write(file.fd, made)
