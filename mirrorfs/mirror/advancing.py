"""What clients do to a file with a stale tail: its valid length moves as they write, its logical
size as they truncate it, and both become durable as they sync it.

Guarantees: clients never see an old block as new: what they skip is zeros below, or noted as the
gap, before the valid length moves over it. Data is on the disk before the recovery attribute counts
it as durable. A crash leaves the file as far as clients had written it where the daemon alone died,
and as far as it was durable after a power cut (`recovery`).

Every function is called under the lock of the open file.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from mirrorfs.backing import syscalls
from mirrorfs.mirror import gaps, progress
from mirrorfs.mirror.finalising import finalise
from mirrorfs.mirror.old_blocks import close_gap, cover, enter_gap, uncover, wipe
from mirrorfs.mirror.resizing import resize

if TYPE_CHECKING:
    from mirrorfs.mirror.open_file import OpenFile
    from mirrorfs.mirror.stale_tail import StaleTail


def set_logical_size(file: OpenFile, tail: StaleTail, size: int) -> None:
    """Truncate or grow a file that has a stale tail to `size` bytes. Raises OSError
    (ftruncate(2)).
    """
    tail.note_begun()
    below = os.fstat(file.fd).st_size
    if size > below:
        resize(file, below, size)
    if size < tail.valid_length:
        close_gap(file, tail)
        cover(file, tail, size, tail.valid_length)
        tail.valid_length = size
        tail.durable = min(tail.durable, size)
        tail.data_bytes = min(tail.data_bytes, size)
        tail.is_recorded = False  # the attribute on the disk says too much
    tail.logical_size = size
    syscalls.touch(file.fd)
    progress.write_attribute(tail, file.fd)


def reach(file: OpenFile, tail: StaleTail, start: int, end: int) -> None:
    """Prepare for a write to `[start, end)` (bytes): what lies between the valid length and it is
    zeros for clients, and becomes so below, or a gap. The valid length moves when the write is done
    (`advance`), the gap before. Raises OSError.
    """
    gap = tail.gap
    if gap is not None and gaps.is_met(tail, start, end):
        enter_gap(file, tail, gap, start, end)
    if end <= tail.valid_length:
        return
    below = os.fstat(file.fd).st_size
    stop = min(start, below)
    if stop <= tail.valid_length or not file.data_bytes(tail.valid_length, stop):
        uncover(file, tail, tail.valid_length, end)
        return
    close_gap(file, tail)
    if start <= below and gaps.begin(tail, start):
        uncover(file, tail, start, end)
    else:
        uncover(file, tail, tail.valid_length, end)
        wipe(file, tail, tail.valid_length, stop)


def advance(
    file: OpenFile, tail: StaleTail, start: int, done: int, is_zero: bool
) -> OSError | None:
    """Note that a client has written `[start, done)` (bytes), nothing but zeros if `is_zero`.

    Returns the error if that cannot be recorded, nor the file be finalised without one.
    """
    if progress.move_valid_length(tail, start, done, is_zero) and progress.is_behind(tail):
        try:
            refresh(file, tail)
        except OSError as exc:
            # The kernel reports it once: the next sync would succeed.
            with contextlib.suppress(OSError):
                finalise(file)
            return exc
    try:
        progress.end_change(tail, file.fd)
    except OSError:
        # What the attribute cannot say must not need to be said.
        try:
            finalise(file)
        except OSError as exc:
            return exc
    return None


def refresh(file: OpenFile, tail: StaleTail) -> None:
    """Make what clients have written durable, and let the recovery attribute say so. Raises OSError
    as fdatasync(2) does.
    """
    close_gap(file, tail)
    file.make_durable(os.fdatasync)
    tail.durable, tail.durable_since = tail.valid_length, time.monotonic()
    progress.write_attribute(tail, file.fd)


def secure(file: OpenFile, tail: StaleTail) -> None:
    """Make what clients have written durable, and keep the stale tail: once the file is synced,
    recovery attribute and list say on the disk where it begins. Raises OSError as fsync(2) does.
    """
    tail.recovery_list.make_durable()
    refresh(file, tail)
