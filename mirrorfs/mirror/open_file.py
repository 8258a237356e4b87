"""A backing file that clients write: its descriptor, its lock, and whether what it shows can be
believed.

One object for each inode with a writing handle, shared by its handles. A write request, a
truncation and an fsync take its lock; reads by clients do not. What changes a backing file below
goes through here or through a function that is called under that lock.

Guarantees: a sync that fails is noted before anything else can be believed of the file
(`OpenFile.make_durable`, the only way in which a client's file is synced). What a crash leaves of a
file with a stale tail is found by `progress`; nothing else in here outlives the daemon.

Lock order: the lock of an open file before that of the recovery list, and before that of the
account; of two open files the one with the smaller (device, inode) first.
"""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirrorfs.backing import holes, syscalls, tree
from mirrorfs.mirror import progress
from mirrorfs.mirror.counters import Counters
from mirrorfs.mirror.read_ahead import ReadAhead
from mirrorfs.mirror.tally import Tally
from mirrorfs.mirror.writeback import Writeback

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs.backing.probe import Abilities
    from mirrorfs.backing.recovery_list import RecoveryList
    from mirrorfs.mirror.counters import Account, FileKey
    from mirrorfs.mirror.known_digests import KnownDigests
    from mirrorfs.mirror.plan import Rules
    from mirrorfs.mirror.stale_tail import StaleTail


@dataclass(slots=True)
class OpenFile:
    """One inode that is open for writing, with all that decides what is done with a write to it."""

    # --- What it is; fixed while it is open.

    # Open for writing, and for reading too if `readable`. Its owner closes it.
    fd: int
    # Device, inode number and birth time (`Status.key`); under this the account counts.
    key: FileKey
    # What the file system below can do.
    abilities: Abilities
    # What is done with zeros and with unchanged blocks.
    rules: Rules
    # Where all that is done to the file is counted.
    account: Account
    readable: bool
    # SEEK_DATA is right for this file (`backing.seek_answers`). A hole that it reports may be taken
    # for one only while `is_seek_trusted`.
    seek_proven: bool = False
    # It can only be appended to (chattr(1)), and `fd` appends wherever it is written to.
    append_only: bool = False
    # It was made by the client that has it open.
    is_new: bool = False
    # Gives its path below the backing folder; called when that is needed.
    path: Callable[[], bytes] = bytes

    # --- Who uses it.

    # Guards every change of the content, and the fields below unless they say otherwise.
    lock: threading.Lock = field(default_factory=threading.Lock)
    # How many handles and calls under way use it. Guarded by its owner's turn.
    handles: int = 0

    # --- What is done to it.

    # In this session; another object takes its place while no client writes.
    tally: Tally = field(default_factory=Tally)

    # --- What is known of its content.

    # Whether that may be believed, and whether space was reserved; outlives this object.
    writeback: Writeback = field(default_factory=Writeback)
    # The last run of data that was found; what makes a hole or cuts the file cuts it, too.
    run: holes.Run = field(default_factory=holes.Run)
    # What the disk reads ahead of a client that writes in order.
    ahead: ReadAhead = field(default_factory=ReadAhead)
    # What was there at the last write had to be read; else its digests were enough.
    reads_old: bool = True

    # --- What a write has to undo.

    # A client has given it a capability (capabilities(7)), which a write takes away.
    has_capability: bool = False

    # --- Old content that it has below (`seeding`).

    # The list on which a file with a stale tail is; without one there are no stale tails.
    recovery_list: RecoveryList | None = None
    # The old blocks beyond what clients see, if there are any.
    stale_tail: StaleTail | None = None
    # There has been a stale tail, so that its recovery attribute may still be on the disk.
    seeded: bool = False
    # The old file of which the first write makes a seed, a descriptor; -1 if there is none.
    seed_fd: int = -1

    def make_durable(self, sync: Callable[[int], None]) -> None:
        """Call `sync`, which is fsync(2), fdatasync(2), or does as much, with the descriptor.

        Raises its OSError. What reading the file shows is believed no longer then, in whatever
        operation that happened; only EINTR means that nothing was tried.
        """
        try:
            sync(self.fd)
        except OSError as exc:
            if exc.errno != errno.EINTR:
                self.writeback.note_failure(exc.errno or errno.EIO)
                # Drops the pages that were marked clean without having been written.
                os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
            raise

    def data_bytes(self, start: int, end: int) -> int:
        """How many bytes of `[start, end)` are data below, for counting: all, where SEEK_DATA is
        not trusted. The caller holds the lock. Raises OSError.
        """
        if start >= end:
            return 0
        if not self.is_seek_trusted:
            return end - start
        ranges = holes.data_ranges(self.fd, start, end, self.run)
        return sum(stop - begin for begin, stop in ranges)

    def punch(self, start: int, end: int) -> None:
        """Make `[start, end)` (bytes) a hole, whatever the rules are; the caller holds the lock.
        Raises OSError (fallocate(2)).
        """
        self.run.cut(start, end)
        self.forget_digests(start, end)
        syscalls.punch_hole(self.fd, start, end)
        if self.digests is not None:
            self.digests.zeroed(start, end)

    def touch(self) -> None:
        """Do to the file what a write does besides its content: move mtime and ctime, and take the
        capability away. The caller holds the lock. Raises OSError.
        """
        self.begin_change()
        syscalls.touch(self.fd)
        if self.has_capability:
            tree.remove_capability(self.fd)
            self.has_capability = False
        self.end_change()

    def begin_change(self) -> None:
        """Note that the file below is about to be changed, if it has a stale tail (`progress`); the
        caller holds the lock. Raises OSError.
        """
        if self.stale_tail is not None:
            progress.begin_change(self.stale_tail, self.fd)

    def begin_content_change(self) -> None:
        """Note that the content below is about to be changed, if the file has a stale tail
        (`progress`); the caller holds the lock. Raises OSError.
        """
        tail = self.stale_tail
        if tail is None:
            return
        tail.changed = True
        progress.begin_change(tail, self.fd)
        if not tail.is_recorded:
            progress.make_durable(tail, self.make_durable)

    def end_change(self) -> None:
        """Note how the file below was left, if it has a stale tail; the caller holds the lock.
        Raises OSError.
        """
        if self.stale_tail is not None:
            progress.end_change(self.stale_tail, self.fd)

    def store_zeros(self, start: int, end: int) -> None:
        """Write zeros to `[start, end)` (bytes); the caller holds the lock. Raises OSError."""
        self.store(start, bytes(end - start))

    def store(self, start: int, data: bytes) -> None:
        """Write all of `data` at `start` (bytes) as it is, whatever the rules are; the caller holds
        the lock. Raises OSError, EIO where the file system takes nothing.
        """
        self.forget_digests(start, start + len(data))
        view = memoryview(data)
        while view:
            taken = os.pwrite(self.fd, view, start)
            if not taken:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            start, view = start + taken, view[taken:]

    @property
    def digests(self) -> KnownDigests | None:
        """What is known of its chunks; None where digests are not taken."""
        return self.tally.digests

    def begin_digests(self) -> None:
        """Prepare the digests for a change of the content below; the caller holds the lock."""
        if self.tally.digests is not None:
            self.tally.digests.begin(self.fd)

    def forget_digests(self, start: int, end: int) -> None:
        """Note that `[start, end)` (bytes) is about to be changed below; the caller holds the
        lock.
        """
        if self.tally.digests is not None:
            self.tally.digests.changed(start, end)

    def note_size(self, size: int) -> None:
        """Note that the file below ends at `size` (bytes) now, with zeros in what is new; the
        caller holds the lock.
        """
        if self.tally.digests is not None:
            self.tally.digests.resized(size)

    def count(self, delta: Counters) -> None:
        """Add `delta` to the account, and to this session. May be called without the lock."""
        self.account.add(self.key, delta, self.tally.counters)

    def count_freed(self, before: os.stat_result) -> None:
        """Count by how many bytes the file occupies less than `before`; the caller holds the lock.
        Raises OSError.
        """
        freed = (before.st_blocks - os.fstat(self.fd).st_blocks) * 512
        if freed > 0:
            self.count(Counters(freed_bytes=freed))

    @property
    def is_seek_trusted(self) -> bool:
        """Whether a hole that SEEK_DATA reports may be taken for one."""
        return self.seek_proven and not self.writeback.failed

    @property
    def compares(self) -> bool:
        """Whether what is written is compared with what is there."""
        return self.rules.skip and self.readable and not self.writeback.failed

    @property
    def size(self) -> int:
        """Its size for clients, in bytes. Raises OSError."""
        tail = self.stale_tail
        return os.fstat(self.fd).st_size if tail is None else tail.logical_size

    @property
    def leaves_blocks(self) -> bool:
        """Whether growing the file leaves blocks in the new hole that no client has reserved."""
        return self.abilities.growth_leaves_blocks and not self.writeback.reserved


def open_writable(
    path_fd: int,
    key: FileKey,
    abilities: Abilities,
    rules: Rules,
    account: Account,
    check: Callable[[int], None] = lambda _fd: None,
) -> OpenFile:
    """Open the inode of the O_PATH descriptor `path_fd` for writing by clients.

    For reading and writing where permitted, since comparing needs reading; without moving atime
    where permitted. Raises OSError (open(2)) if it cannot be opened for writing at all,
    and what `check` raises, which is called with the new descriptor.
    """
    path = tree.fd_path(path_fd)
    flags = os.O_CLOEXEC | os.O_NONBLOCK
    attempts = (
        (os.O_RDWR | os.O_NOATIME, True),
        (os.O_RDWR, True),
        (os.O_WRONLY, False),
        (os.O_WRONLY | os.O_APPEND, False),
    )
    refused: OSError | None = None
    for mode, readable in attempts:
        try:
            fd = os.open(path, mode | flags)
        except PermissionError as exc:
            refused = exc
        else:
            _check(fd, check)
            return OpenFile(
                fd,
                key,
                abilities,
                rules,
                account,
                readable,
                seek_proven=abilities.tells_holes(fd),
                append_only=bool(mode & os.O_APPEND),
            )
    raise refused or OSError(errno.EACCES, os.strerror(errno.EACCES))


def _check(fd: int, check: Callable[[int], None]) -> None:
    try:
        check(fd)
    except BaseException:
        os.close(fd)
        raise
