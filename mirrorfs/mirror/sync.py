"""Make a client's file durable, or let go of what only a crash would need.

Guarantees: after `sync` has returned, a power cut loses nothing that was written to the file
before; after it has raised, nothing that reading the file shows is believed (`writeback`). Called
by any thread; every function but `sync_unwritten` takes the lock of the open file.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from mirrorfs.mirror import advancing, finalising, progress

if TYPE_CHECKING:
    from mirrorfs.mirror.open_file import OpenFile


def sync(file: OpenFile, data_only: bool) -> bool:
    """fsync(2), or fdatasync(2) with `data_only`. Raises its OSError.

    A file that a client has come back to, and in which it has not written much
    (`StaleTail.has_begun`), keeps its stale tail: qemu-img syncs the header of a virtual disk
    before it closes it. Any other stale tail ends.

    Returns whether an earlier failure is made good, because all of the file has been written since
    and is now on the disk.
    """
    with file.lock:
        tail = file.stale_tail
        keeps = tail is not None and tail.resumed and tail.has_begun and file.compares
        if tail is not None and keeps:
            advancing.secure(file, tail)
        else:
            finalising.finalise(file)
        # The recovery attribute has to be gone, too, or the next mount after a power cut would cut
        # off what is synced here; fdatasync leaves attributes out on ext4.
        file.make_durable(os.fdatasync if data_only and not file.seeded else os.fsync)
        if tail is not None and keeps:
            tail.is_recorded = True
        return file.writeback.note_synced(os.fstat(file.fd).st_size)


def sync_unwritten(fd: int, data_only: bool) -> None:
    """fsync(2), or fdatasync(2) with `data_only`, by the descriptor of a file that no client has
    open for writing. Raises its OSError, after which what is cached of the file has been dropped:
    it may never have reached the disk.
    """
    try:
        if data_only:
            os.fdatasync(fd)
        else:
            os.fsync(fd)
    except OSError as exc:
        if exc.errno != errno.EINTR:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        raise


def refresh(file: OpenFile) -> None:
    """Let the recovery attribute of a file with a stale tail count what was written a while ago as
    durable, which it is then. Raises OSError as fdatasync(2) does.
    """
    with file.lock:
        tail = file.stale_tail
        if tail is not None and progress.is_behind(tail):
            advancing.refresh(file, tail)


def finalise(file: OpenFile) -> None:
    """End the stale tail of a file, if it has one. Raises OSError as fsync(2) does; the stale tail
    has ended all the same, unless it cannot be cut off.
    """
    with file.lock:
        finalising.finalise(file)
