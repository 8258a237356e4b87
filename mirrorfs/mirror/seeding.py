"""Seeds: a file that a tool empties, or makes anew in place of an old one, is given the old content
below, invisible, so that what is written is compared with it and only the difference is stored.

A tail (`tail`) begins when a file is truncated (`keep`: its blocks are left where they are) or at
the first write to a new one (`plant`: a clone of the old file). As clients write, its frontier
moves (`reach`, `advance`); `settle` ends it: what is still old is cut off.

Guarantees: clients never see an old block as new. After a crash nobody does either, as soon as the
next mount has looked at the list of unsettled files: a mark on the file says where its frontier
was, or where that was noted (`backing.ledger`). The mark and the list are on the disk before
anything below is changed, and data is on the disk before the mark counts it as durable. Until that
next mount, the backing file looks like an unfinished copy over the old one.

Every function but `give_up` is called under the lock of the file.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from mirrorfs.backing import commits, holes, recovery_attribute, syscalls
from mirrorfs.backing.statx import statx
from mirrorfs.mirror import gaps, progress, seed_rules
from mirrorfs.mirror.cutting import cut
from mirrorfs.mirror.open_file import count_freed, resize
from mirrorfs.mirror.punching import make_zero, not_zero, reads_zero
from mirrorfs.mirror.stale_tail import StaleTail

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs.backing.recovery_list import RecoveryList
    from mirrorfs.mirror.counters import Account
    from mirrorfs.mirror.open_file import OpenFile

# Where changes of different files reach the disk in the order in which they were made. Elsewhere
# (btrfs) fsync of one leaves out what happened to others before, or takes half of it along: their
# attributes, but not their data.
_ORDERED = frozenset({"ext4", "xfs", "tmpfs"})


def keep(file: OpenFile, size: int) -> bool:
    """Truncate a file to `size` bytes for clients only; its blocks become its seed.

    False, and nothing is done, where that is not worth it or not possible.
    """
    status = os.fstat(file.fd)
    if not (
        file.unsettled is not None
        and file.rules.skip
        and file.readable
        and file.abilities.punch
        and not (file.distrusted or file.append_only or file.reserved)
        and size < status.st_size
        and seed_rules.is_worth(status.st_mode, status.st_blocks)
    ):
        return False
    tail = _begin(file, file.unsettled, size, size, shared=False)
    if tail is None:
        return False
    tail.data_bytes = size
    if size:
        _cover(file, tail, size, status.st_size)
    else:
        tail.hidden_bytes = status.st_blocks * 512
    return True


def plant(file: OpenFile) -> None:
    """Put a clone of the file of `seed_fd` under a new file, if nothing is in it yet.

    Whatever speaks against it, the file system above all (ioctl_ficlonerange(2), "ERRORS"), means
    that the file has no seed.
    """
    source_fd, file.seed_fd = file.seed_fd, -1
    try:
        status = os.fstat(file.fd)
        usable = file.rules.skip and file.readable and file.abilities.punch
        if file.unsettled is None or status.st_blocks or not usable:
            return
        tail = _begin(file, file.unsettled, 0, status.st_size, shared=True)
        if tail is None:
            return
        try:
            progress.about_to_change(file, tail)
            if file.abilities.file_system == "xfs":
                syscalls.copy_single_blocks(file.fd)
            syscalls.clone(file.fd, source_fd)
            file.end_change()
            tail.hidden_bytes = os.fstat(file.fd).st_blocks * 512
            tail.changed = False
        except OSError:
            # Where it cannot be settled now, that is tried again when it is closed.
            with contextlib.suppress(OSError):
                settle(file, None)
    finally:
        os.close(source_fd)


def give_up(file: OpenFile) -> None:
    """Close the old file that is kept for the first write: its blocks are not free before."""
    with file.lock:
        source_fd, file.seed_fd = file.seed_fd, -1
        if source_fd >= 0:
            os.close(source_fd)


def _begin(
    file: OpenFile, unsettled: RecoveryList, frontier: int, size: int, shared: bool
) -> StaleTail | None:
    """Note the file on the list and mark it; None where one of them is not possible."""
    try:
        recovery_attribute.remove(file.fd)  # an old one must not be taken for that of this entry
        status = statx(file.fd)
        entry = unsettled.add(file.fd, file.path())
    except OSError:
        return None
    table, now = unsettled.progress_table, time.monotonic()
    place = table.take(entry, status.dev, status.ino)
    try:
        tail = StaleTail(
            frontier=frontier,
            size=size,
            shared=shared,
            hidden_bytes=0,
            entry=entry,
            place=place,
            progress=table,
            instance=recovery_attribute.instance_of(status),
            file=recovery_attribute.file_of(status),
            durable=frontier,
            durable_since=now,
        )
        tail.begin_change()
        syscalls.touch(file.fd)
        progress.write_mark(file, tail)
    except OSError:
        with contextlib.suppress(OSError):
            recovery_attribute.remove(file.fd)
        unsettled.remove(entry)
        table.give_back(place)
        return None
    file.seeded = True
    file.tail = tail
    return tail


def resize_visible(file: OpenFile, tail: StaleTail, size: int) -> None:
    """Truncate or grow a file that has a tail to `size` bytes."""
    tail.begin_change()
    below = os.fstat(file.fd).st_size
    if size > below:
        resize(file, below, size)
    if size < tail.frontier:
        _close_gap(file, tail)
        _cover(file, tail, size, tail.frontier)
        tail.frontier = size
        tail.durable = min(tail.durable, size)
        tail.data_bytes = min(tail.data_bytes, size)
        tail.marked = False  # the mark on the disk says too much
    tail.size = size
    syscalls.touch(file.fd)
    progress.write_mark(file, tail)


def reach(file: OpenFile, tail: StaleTail, start: int, end: int) -> None:
    """Prepare for a write to `[start, end)`: what lies between the frontier and it is zeros for
    clients, and becomes so below, or a gap. The frontier moves when the write is done (`advance`),
    the gap before.
    """
    if tail.gap is not None and gaps.is_met(tail, start, end):
        _meet_gap(file, tail, tail.gap, start, end)
    if end <= tail.frontier:
        return
    below = os.fstat(file.fd).st_size
    stop = min(start, below)
    if stop <= tail.frontier or not file.data_bytes(tail.frontier, stop):
        uncover(file, tail, tail.frontier, end)
        return
    _close_gap(file, tail)
    if start <= below and gaps.begin(tail, start):
        uncover(file, tail, start, end)
    else:
        uncover(file, tail, tail.frontier, end)
        _wipe(file, tail, tail.frontier, stop)


def _meet_gap(file: OpenFile, tail: StaleTail, gap: tuple[int, int], start: int, end: int) -> None:
    """Prepare for a write to a part of the gap: it has to begin where that does."""
    if start > gap[0]:
        uncover(file, tail, gap[0], start)
        _wipe(file, tail, gap[0], start)
        gaps.shorten(tail, start)
    uncover(file, tail, max(start, gap[0]), min(end, gap[1]))


def _close_gap(file: OpenFile, tail: StaleTail) -> None:
    """Let the gap be zeros below, too, if there is one."""
    if tail.gap is not None:
        start, end = tail.gap
        uncover(file, tail, start, end)
        _wipe(file, tail, start, end)
        gaps.shorten(tail, end)


def _cover(file: OpenFile, tail: StaleTail, start: int, end: int) -> None:
    """Count what lies in `[start, end)` as hidden. Where that cannot be told it counts as nothing:
    a file that seems to occupy too little is taken for a hole by copy tools.
    """
    if file.is_seek_trusted:
        tail.hidden_bytes += file.data_bytes(start, end)


def uncover(file: OpenFile, tail: StaleTail, start: int, end: int) -> None:
    """Count what old blocks occupy in `[start, end)` as hidden no longer."""
    tail.hidden_bytes = max(0, tail.hidden_bytes - file.data_bytes(start, end))


def _wipe(file: OpenFile, tail: StaleTail, start: int, stop: int) -> None:
    """Make the old content from `start` to `stop` zeros. What is zero already stays as it is: some
    tools skip zeros by the kilobyte.
    """
    for first, last in not_zero(file, start, stop, os.fstat(file.fd).st_size):
        if file.data_bytes(first, last):
            progress.about_to_change(file, tail)
            uncover(file, tail, max(stop, tail.frontier), last)
            make_zero(file, first, last)


def advance(
    file: OpenFile, tail: StaleTail, start: int, done: int, is_zero: bool, account: Account
) -> OSError | None:
    """Note that a client has written `[start, done)`, nothing but zeros if `is_zero`.

    Returns the error if that cannot be recorded, nor the file be settled without one.
    """
    if progress.move_frontier(tail, start, done, is_zero) and progress.is_behind(tail):
        try:
            refresh(file, tail)
        except OSError as exc:
            # Told once: the next one would succeed.
            with contextlib.suppress(OSError):
                settle(file, account)
            return exc
    try:
        progress.note(file, tail)
    except OSError:
        # What the mark cannot tell must not need telling.
        try:
            settle(file, account)
        except OSError as exc:
            return exc
    return None


def refresh(file: OpenFile, tail: StaleTail) -> None:
    """Make what clients have written durable, and let the mark say so."""
    _close_gap(file, tail)
    file.make_durable(os.fdatasync)
    tail.durable, tail.durable_since = tail.frontier, time.monotonic()
    progress.write_mark(file, tail)


def secure(file: OpenFile, tail: StaleTail) -> None:
    """Make what clients have written durable, and keep the tail: once the file is synced, mark and
    list say on the disk where it ends. Raises OSError as fsync does.
    """
    if file.unsettled is not None:
        file.unsettled.make_durable()
    refresh(file, tail)


def settle(file: OpenFile, account: Account | None) -> None:
    """End the tail, if there is one: what is old is cut off, and the file below is what clients
    see. Data comes first, so that no power cut shows old blocks in a file without a mark.

    Raises OSError if data could not be written; the file is settled all the same. Only where it
    cannot be cut at all it keeps its tail. The mark goes before the list forgets the file
    (`Recovery`).
    """
    tail = file.tail
    if tail is None:
        return
    failure: OSError | None = None
    _close_gap(file, tail)
    before = os.fstat(file.fd)
    by_commit = tail.shared and _is_commit_worth(file, before)
    if tail.changed and not by_commit:
        failure = _try(file, os.fdatasync)
    is_whole = before.st_size == tail.size and not _is_old_left(file, tail)
    if not is_whole:
        failure = cut(file, before, tail.frontier, tail.size) or failure
    if by_commit and (tail.changed or not is_whole):
        failure = _try(file, commits.commit) or failure
    is_marked = not _unmark(file, tail)
    file.tail = None
    is_on_disk = tail.marked or tail.changed  # its mark
    if is_on_disk and not (is_whole or by_commit or _is_ordered(file, before)):
        # Else the list, synced for another file, could forget this one before it is cut.
        failure = _try(file, os.fsync) or failure
    if file.unsettled is not None:
        if not is_marked:
            file.unsettled.remove(tail.entry)
        file.unsettled.progress_table.give_back(tail.place)
    if account is not None:
        count_freed(file, before, account)
    if failure is not None:
        raise failure


def _unmark(file: OpenFile, tail: StaleTail) -> bool:
    """Take the mark away. False if that is not possible (an immutable file, a full xfs), and the
    list says so; raises OSError if that is not possible either.
    """
    try:
        recovery_attribute.remove(file.fd)
    except OSError:
        if file.unsettled is None:
            raise
        file.unsettled.keep_finalised(tail.entry)
        return False
    return True


def _try(file: OpenFile, sync: Callable[[int], None]) -> OSError | None:
    """Call `sync`, see `MirrorFile.make_durable`; returns the error."""
    try:
        file.make_durable(sync)
    except OSError as exc:
        return exc
    return None


def _is_commit_worth(file: OpenFile, status: os.stat_result) -> bool:
    is_large = status.st_blocks * 512 >= commits.WORTH_BYTES
    return is_large and commits.can_commit(file.abilities.file_system)


def _is_ordered(file: OpenFile, status: os.stat_result) -> bool:
    """Whether what the list forgets reaches the disk after what was done to the file before."""
    is_beside = file.unsettled is None or file.unsettled.is_beside(status)
    return is_beside and file.abilities.file_system in _ORDERED


def _is_old_left(file: OpenFile, tail: StaleTail) -> bool:
    """Whether something else than zeros may lie beyond the frontier, in a file that below has the
    size that it has for clients.
    """
    if tail.frontier >= tail.size:
        return False
    if not file.is_seek_trusted:
        return True
    border = min(tail.frontier + -tail.frontier % file.rules.block_bytes, tail.size)
    try:
        if not reads_zero(file, tail.frontier, border):
            return True
        first = holes.next_data(file.fd, border)
    except OSError:  # what cannot be read can be cut
        return True
    return first is not None and first < tail.size
