"""Make a mirrored file durable."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from mirrorfs.mirror import progress, seeding

if TYPE_CHECKING:
    from mirrorfs.mirror.open_file import OpenFile


def sync(file: OpenFile, data_only: bool) -> bool:
    """fsync(2) or fdatasync(2). After a failure the file's cached content is no longer believed.

    A file that a tool has come back to, and in which it has not written much (`Tail.has_begun`),
    keeps its tail: qemu-img syncs the header of a virtual disk before it closes it.

    Returns whether it is believed again, because all of it has been written since and is now on the
    disk.
    """
    with file.lock:
        tail = file.stale_tail
        keeps = tail is not None and tail.resumed and tail.has_begun and file.compares
        if tail is not None and keeps:
            seeding.secure(file, tail)
        else:
            seeding.finalise(file)
        # The mark of a tail has to be gone, too, or the next mount after a power cut would cut off
        # what is synced here; fdatasync leaves attributes out on ext4.
        file.make_durable(os.fdatasync if data_only and not file.seeded else os.fsync)
        if tail is not None and keeps:
            tail.marked = True
        return file.writeback.note_synced(os.fstat(file.fd).st_size)


def sync_unwritten(fd: int, data_only: bool) -> None:
    """The same by a descriptor of a file that nobody has open for writing. After a failure, what is
    cached of it is dropped: it may never have reached the disk.
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
    """Let the mark of an unsettled file count what was written a while ago as durable, which it is
    then. Raises OSError as fsync does.
    """
    with file.lock:
        tail = file.stale_tail
        if tail is not None and progress.is_behind(tail):
            seeding.refresh(file, tail)


def finalise(file: OpenFile) -> None:
    """End the stale tail of a file, see `seeding.finalise`."""
    with file.lock:
        seeding.finalise(file)
