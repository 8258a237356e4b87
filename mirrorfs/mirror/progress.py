"""How far clients have written a file with a stale tail, and where a crash leaves that to be found:
in the table that outlives the daemon (`backing.progress_table`), and in the recovery attribute of
the file (`backing.recovery_attribute`).

Guarantees: recovery attribute and recovery list are on the disk before any content below is
changed, and the attribute is never much older than the file's mtime, so that a file that was
changed later is known not to have been changed by this daemon. A crash of the daemon leaves the
table as it is now, one of the machine leaves the attribute.

Every function is called under the lock of the open file, of which `fd` is the descriptor. The lock
of the recovery list is taken inside.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from mirrorfs.backing import progress_table, recovery_attribute, syscalls
from mirrorfs.mirror import gaps

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs.mirror.stale_tail import StaleTail

# How old data may be that a power cut takes from such a file: as in a plain folder, where the
# kernel writes it after that time (vm.dirty_expire_centisecs).
_DURABLE_SECONDS = 30.0
_SECOND_NS = 1_000_000_000


def begin_change(tail: StaleTail, fd: int) -> None:
    """Note that the file below is about to be changed, its times alone at least. Raises OSError.

    The attribute must not be much older than that: what was changed later has not been changed by
    this daemon (`recovery`). Between the two calls that renew it a power cut finds a file that
    seems changed by others.
    """
    tail.note_begun()
    if not _is_fresh(tail, time.time()):
        syscalls.touch(fd)
        write_attribute(tail, fd)
        tail.note_begun()


def make_durable(tail: StaleTail, make_durable: Callable[[Callable[[int], None]], None]) -> None:
    """Put recovery list and attribute on the disk, by `OpenFile.make_durable`: before any content
    below is changed, since the old blocks could else be taken for new ones after a power cut.
    Raises OSError.
    """
    tail.recovery_list.make_durable()
    make_durable(os.fsync)
    tail.is_recorded = True
    tail.note_begun()


def _is_fresh(tail: StaleTail, mtime: float) -> bool:
    """Whether the attribute on the file fits an mtime in seconds since the epoch."""
    return 0 <= mtime - tail.mtime <= recovery_attribute.FRESH_SECONDS


def move_valid_length(tail: StaleTail, start: int, done: int, is_zero: bool) -> bool:
    """Let the valid length reach to where a client has written `[start, done)`, which has yet to be
    noted; returns whether it, or the logical size, has moved. `is_zero` says that only zeros were
    written.
    """
    gaps.fill(tail, start, done)
    tail.written = True
    tail.has_data |= not is_zero
    if done <= tail.valid_length and done <= tail.logical_size:
        return False
    if not is_zero:
        tail.data_bytes += max(0, done - max(start, tail.valid_length))
    tail.valid_length = max(tail.valid_length, done)
    tail.logical_size = max(tail.logical_size, done)
    return True


def is_behind(tail: StaleTail) -> bool:
    """Whether the attribute says of something that was written a while ago that it is not on the
    disk yet.
    """
    late = time.monotonic() >= tail.durable_since + _DURABLE_SECONDS
    return late and tail.durable < tail.valid_length


def end_change(tail: StaleTail, fd: int) -> None:
    """Note the end of a change: a crash of the daemon, as opposed to the machine's, finds the valid
    length where it is now, and how the file below was left. A disk may have held the change up for
    so long that the attribute is too old for it. Raises OSError.
    """
    below = os.fstat(fd)
    if tail.place >= 0 and _is_fresh(tail, below.st_mtime_ns // _SECOND_NS):
        tail.table.set(tail.place, tail.valid_length, tail.logical_size, below)
    else:
        write_attribute(tail, fd)


def write_attribute(tail: StaleTail, fd: int) -> None:
    """Let the recovery attribute, and the table, say what is true now. Raises OSError
    (setxattr(2)).
    """
    below = os.fstat(fd)
    tail.mtime = below.st_mtime_ns // _SECOND_NS
    made = recovery_attribute.RecoveryAttribute(
        instance=tail.instance,
        durable=tail.durable,
        valid_length=tail.valid_length,
        size=tail.logical_size,
        table=tail.table.id if tail.place >= 0 else progress_table.NONE,
        place=tail.place,
        file=tail.file,
        entry=tail.entry,
        mtime=tail.mtime,
        state=tail.recovery_list.id,
    )
    if tail.place >= 0:
        tail.table.set(tail.place, tail.valid_length, tail.logical_size, below)
    recovery_attribute.write(fd, made)
