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

from mirrorfs.backing import commits, holes, ledger, mark, syscalls
from mirrorfs.backing.statx import statx
from mirrorfs.mirror import seed_rules
from mirrorfs.mirror.cutting import cut
from mirrorfs.mirror.file import count_freed, resize
from mirrorfs.mirror.punching import make_zero, not_zero, reads_zero
from mirrorfs.mirror.tail import Tail

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs.backing.unsettled import Unsettled
    from mirrorfs.mirror.counters import Account
    from mirrorfs.mirror.file import MirrorFile

# How old data may be that a power cut takes from an unsettled file: as in a plain folder, where the
# kernel writes it after that time (vm.dirty_expire_centisecs).
_DURABLE_SECONDS = 30.0
# Where changes of different files reach the disk in the order in which they were made. Elsewhere
# (btrfs) fsync of one leaves out what happened to others before, or takes half of it along: their
# attributes, but not their data.
_ORDERED = frozenset({"ext4", "xfs", "tmpfs"})


def keep(file: MirrorFile, size: int) -> bool:
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
    if size:
        _cover(file, tail, size, status.st_size)
    else:
        tail.hidden_bytes = status.st_blocks * 512
    return True


def plant(file: MirrorFile) -> None:
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
            about_to_change(file, tail)
            if file.abilities.file_system == "xfs":
                syscalls.copy_single_blocks(file.fd)
            syscalls.clone(file.fd, source_fd)
            tail.end_change(file.fd)
            tail.hidden_bytes = os.fstat(file.fd).st_blocks * 512
            tail.changed = False
        except OSError:
            # Where it cannot be settled now, that is tried again when it is closed.
            with contextlib.suppress(OSError):
                settle(file, None)
    finally:
        os.close(source_fd)


def give_up(file: MirrorFile) -> None:
    """Close the old file that is kept for the first write: its blocks are not free before."""
    with file.lock:
        source_fd, file.seed_fd = file.seed_fd, -1
        if source_fd >= 0:
            os.close(source_fd)


def _begin(
    file: MirrorFile, unsettled: Unsettled, frontier: int, size: int, shared: bool
) -> Tail | None:
    """Note the file on the list and mark it; None where one of them is not possible."""
    mark.remove(file.fd)  # an old one must not be taken for that of this entry
    try:
        entry = unsettled.add(file.fd, file.path())
    except OSError:
        return None
    progress, now = unsettled.ledger, time.monotonic()
    place = progress.take(entry)
    try:
        status = statx(file.fd)
        tail = Tail(
            frontier=frontier,
            size=size,
            shared=shared,
            hidden_bytes=0,
            entry=entry,
            place=place,
            progress=progress,
            instance=mark.instance_of(status),
            file=mark.file_of(status),
            durable=frontier,
            durable_since=now,
        )
        tail.begin_change()
        syscalls.touch(file.fd)
        _write_mark(file, tail)
    except OSError:
        mark.remove(file.fd)
        unsettled.remove(entry)
        progress.give_back(place)
        return None
    file.seeded = True
    file.tail = tail
    return tail


def resize_visible(file: MirrorFile, tail: Tail, size: int) -> None:
    """Truncate or grow a file that has a tail to `size` bytes."""
    tail.begin_change()
    below = os.fstat(file.fd).st_size
    if size > below:
        resize(file, below, size)
    if size < tail.frontier:
        _cover(file, tail, size, tail.frontier)
        tail.frontier = size
        tail.durable = min(tail.durable, size)
        tail.marked = False  # the mark on the disk says too much
    tail.size = size
    syscalls.touch(file.fd)
    _write_mark(file, tail)


def reach(file: MirrorFile, tail: Tail, start: int, end: int) -> None:
    """Prepare for a write to `[start, end)`: what lies between the frontier and it is zeros for
    clients, and becomes so below. The frontier moves when the write is done (`advance`).
    """
    if end <= tail.frontier:
        return
    uncover(file, tail, tail.frontier, end)
    stop = min(start, os.fstat(file.fd).st_size)
    if stop <= tail.frontier:
        return
    if file.data_bytes(tail.frontier, stop):
        _wipe(file, tail, stop)


def _cover(file: MirrorFile, tail: Tail, start: int, end: int) -> None:
    """Count what lies in `[start, end)` as hidden. Where that cannot be told it counts as nothing:
    a file that seems to occupy too little is taken for a hole by copy tools.
    """
    if file.is_seek_trusted:
        tail.hidden_bytes += file.data_bytes(start, end)


def uncover(file: MirrorFile, tail: Tail, start: int, end: int) -> None:
    """Count what old blocks occupy in `[start, end)` as hidden no longer."""
    tail.hidden_bytes = max(0, tail.hidden_bytes - file.data_bytes(start, end))


def _wipe(file: MirrorFile, tail: Tail, stop: int) -> None:
    """Make the old content from the frontier to `stop` zeros. What is zero already stays as it is:
    some tools skip zeros by the kilobyte.
    """
    for first, last in not_zero(file, tail.frontier, stop, os.fstat(file.fd).st_size):
        if file.data_bytes(first, last):
            about_to_change(file, tail)
            uncover(file, tail, stop, last)
            make_zero(file, first, last)


def about_to_change(file: MirrorFile, tail: Tail) -> None:
    """Before anything below is changed, the list and the mark have to be on the disk: the old
    blocks could else be taken for new ones after a power cut. And the mark must not be much older
    than the change: what was changed later has not been changed by us (`recovery`).
    """
    tail.changed = True
    tail.begin_change()
    if not 0 <= time.time() - tail.mtime <= mark.FRESH_SECONDS:
        syscalls.touch(file.fd)
        _write_mark(file, tail)
        tail.begin_change()
    if not tail.marked and file.unsettled is not None:
        file.unsettled.make_durable()
        os.fsync(file.fd)
        tail.marked = True
        tail.begin_change()


def advance(
    file: MirrorFile, tail: Tail, done: int, is_zero: bool, account: Account
) -> OSError | None:
    """Note that a client has written up to `done`, nothing but zeros if `is_zero`.

    Returns the error if that cannot be recorded, nor the file be settled without one.
    """
    if not move_frontier(tail, done, is_zero):
        tail.end_change(file.fd)
        return None
    if is_behind(tail):
        try:
            refresh(file, tail)
        except OSError as exc:
            # Told once: the next one would succeed.
            with contextlib.suppress(OSError):
                settle(file, account)
            return exc
    try:
        _note(file, tail)
    except OSError:
        # What the mark cannot tell must not need telling.
        try:
            settle(file, account)
        except OSError as exc:
            return exc
    return None


def move_frontier(tail: Tail, done: int, is_zero: bool) -> bool:
    """Let the frontier be where a client has written to, which has yet to be noted; returns whether
    it, or the size, has moved.
    """
    tail.written = True
    tail.has_data |= not is_zero
    if done <= tail.frontier and done <= tail.size:
        return False
    tail.frontier = max(tail.frontier, done)
    tail.size = max(tail.size, done)
    return True


def is_behind(tail: Tail) -> bool:
    """Whether the mark says of something written a while ago that it is not on the disk yet."""
    late = time.monotonic() >= tail.durable_since + _DURABLE_SECONDS
    return late and tail.durable < tail.frontier


def refresh(file: MirrorFile, tail: Tail) -> None:
    """Make what clients have written durable, and let the mark say so."""
    try:
        os.fdatasync(file.fd)
    except OSError:
        file.distrust()
        raise
    tail.durable, tail.durable_since = tail.frontier, time.monotonic()
    _write_mark(file, tail)


def _note(file: MirrorFile, tail: Tail) -> None:
    """Let a crash of the daemon, as opposed to the machine's, find the frontier where it is now."""
    if tail.place >= 0:
        tail.end_change(file.fd)
    else:
        _write_mark(file, tail)


def _write_mark(file: MirrorFile, tail: Tail) -> None:
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


def settle(file: MirrorFile, account: Account | None) -> None:
    """End the tail, if there is one: what is old is cut off, and the file below is what clients
    see. Data comes first, so that no power cut shows old blocks in a file without a mark.

    Raises OSError if data could not be written; the file is settled all the same. Only where it
    cannot be cut at all it keeps its tail.
    """
    tail = file.tail
    if tail is None:
        return
    failure: OSError | None = None
    before = os.fstat(file.fd)
    by_commit = tail.shared and _is_commit_worth(file, before)
    if tail.changed and not by_commit:
        failure = _try(file, os.fdatasync)
    is_whole = before.st_size == tail.size and not _is_old_left(file, tail)
    if not is_whole:
        failure = cut(file, before, tail.frontier, tail.size) or failure
    if by_commit and (tail.changed or not is_whole):
        failure = _try(file, commits.commit) or failure
    mark.remove(file.fd)
    file.tail = None
    is_on_disk = tail.marked or tail.changed  # its mark
    if is_on_disk and not (is_whole or by_commit or _is_ordered(file, before)):
        # Else the list, synced for another file, could forget this one before it is cut.
        failure = _try(file, os.fsync) or failure
    if file.unsettled is not None:
        file.unsettled.remove(tail.entry)
        file.unsettled.ledger.give_back(tail.place)
    if account is not None:
        count_freed(file, before, account)
    if failure is not None:
        raise failure


def _try(file: MirrorFile, sync: Callable[[int], None]) -> OSError | None:
    """Call `sync`; if it fails, what is cached is believed no longer, and the error is returned."""
    try:
        sync(file.fd)
    except OSError as exc:
        file.distrust()
        return exc
    return None


def _is_commit_worth(file: MirrorFile, status: os.stat_result) -> bool:
    is_large = status.st_blocks * 512 >= commits.WORTH_BYTES
    return is_large and commits.can_commit(file.abilities.file_system)


def _is_ordered(file: MirrorFile, status: os.stat_result) -> bool:
    """Whether what the list forgets reaches the disk after what was done to the file before."""
    is_beside = file.unsettled is None or file.unsettled.is_beside(status)
    return is_beside and file.abilities.file_system in _ORDERED


def _is_old_left(file: MirrorFile, tail: Tail) -> bool:
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
