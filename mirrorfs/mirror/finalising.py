"""The end of a stale tail: what is old is cut off, and the file below is what clients see.

Guarantees: no power cut shows old blocks in a file without a recovery attribute. So what clients
have written is made durable first; then the old blocks are cut off, the attribute is taken away,
and the recovery list forgets the file (`recovery`), in an order that the file system below keeps,
or that a sync enforces. A crash in the middle leaves a file that is done, or has its attribute: the
next mount finalises it.

Called under the lock of the open file; takes the lock of the recovery list inside.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mirrorfs.backing import commits, holes, recovery_attribute
from mirrorfs.mirror.cutting import cut
from mirrorfs.mirror.old_blocks import close_gap
from mirrorfs.mirror.punching import reads_zero

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs.mirror.open_file import OpenFile
    from mirrorfs.mirror.stale_tail import StaleTail

# Where changes of different files reach the disk in the order in which they were made. Elsewhere
# (btrfs) fsync of one leaves out what happened to others before, or takes half of it along: their
# attributes, but not their data.
_ORDERED = frozenset({"ext4", "xfs", "tmpfs"})
# A commit of the whole file system costs as much as fsync of a file with so much data
# (`backing.commits`).
COMMIT_WORTH_BYTES = 64 << 20


def finalise(file: OpenFile, counts_freed: bool = True) -> None:
    """End the stale tail, if there is one. With `counts_freed`, the blocks that this frees are
    counted.

    Raises OSError if data could not be written; the stale tail has ended all the same. Only where
    it cannot be cut off at all it stays.
    """
    tail = file.stale_tail
    if tail is None:
        return
    failure: OSError | None = None
    file.begin_digests()
    close_gap(file, tail)
    before = os.fstat(file.fd)
    by_commit = tail.shared and _is_commit_worth(file, before)
    if tail.changed and not by_commit:
        failure = _try(file, os.fdatasync)
    is_whole = before.st_size == tail.logical_size and not _is_old_left(file, tail)
    if not is_whole:
        failure = cut(file, before, tail.valid_length, tail.logical_size) or failure
    if by_commit and (tail.changed or not is_whole):
        failure = _try(file, commits.commit) or failure
    keeps_attribute = not _remove_attribute(file, tail)
    file.stale_tail = None
    is_on_disk = tail.is_recorded or tail.changed  # its attribute
    if is_on_disk and not (is_whole or by_commit or _is_ordered(file, tail, before)):
        # Else the list, synced for another file, could forget this one before it is cut.
        failure = _try(file, os.fsync) or failure
    if not keeps_attribute:
        tail.recovery_list.remove(tail.entry)
    tail.table.give_back(tail.place)
    if counts_freed:
        file.count_freed(before)
    if failure is not None:
        raise failure


def _remove_attribute(file: OpenFile, tail: StaleTail) -> bool:
    """Take the recovery attribute away. False if that is not possible (an immutable file, a full
    xfs), and the recovery list says so; raises OSError if that is not possible either.
    """
    try:
        recovery_attribute.remove(file.fd)
    except OSError:
        tail.recovery_list.keep_finalised(tail.entry)
        return False
    return True


def _try(file: OpenFile, sync: Callable[[int], None]) -> OSError | None:
    """Call `sync`, see `OpenFile.make_durable`; returns the error."""
    try:
        file.make_durable(sync)
    except OSError as exc:
        return exc
    return None


def _is_commit_worth(file: OpenFile, status: os.stat_result) -> bool:
    """Whether a commit of the file system as a whole costs less than fsync of this file."""
    is_large = status.st_blocks * 512 >= COMMIT_WORTH_BYTES
    return is_large and commits.can_commit(file.abilities.file_system)


def _is_ordered(file: OpenFile, tail: StaleTail, status: os.stat_result) -> bool:
    """Whether what the list forgets reaches the disk after what was done to the file before."""
    return tail.recovery_list.is_beside(status) and file.abilities.file_system in _ORDERED


def _is_old_left(file: OpenFile, tail: StaleTail) -> bool:
    """Whether something else than zeros may lie beyond the valid length, in a file that has its
    logical size below.
    """
    start, end = tail.valid_length, tail.logical_size
    if start >= end:
        return False
    if not file.is_seek_trusted:
        return True
    border = min(start + -start % file.rules.block_bytes, end)
    try:
        if not reads_zero(file, start, border):
            return True
        first = holes.next_data(file.fd, border)
    except OSError:  # what cannot be read can be cut
        return True
    return first is not None and first < end
