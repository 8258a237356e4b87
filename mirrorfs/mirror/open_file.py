"""A backing file that is being written: its descriptor, its lock, and whether what it shows can be
believed.

One object for each inode with a writing handle, shared by its handles. A write request, a
truncation and an fsync take the lock; reads by clients do not.

Lock order: files before counters; of two files the one with the smaller (device, inode) first.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirrorfs.backing import holes, syscalls, tree
from mirrorfs.mirror import progress
from mirrorfs.mirror.counters import Account, Counters, FileKey
from mirrorfs.mirror.plan import Rules, is_zero
from mirrorfs.mirror.read_ahead import ReadAhead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mirrorfs.backing.probe import Abilities
    from mirrorfs.backing.recovery_list import RecoveryList
    from mirrorfs.mirror.stale_tail import StaleTail

_MAX_RANGES = 1000
_NO_END = 1 << 63
FAILED_SYNC = -1  # where a pending error happened that no single write can make good


@dataclass(slots=True)
class OpenFile:
    """`fd` is open for writing, and for reading if `readable`. `lock` guards every change of the
    content.

    `distrusted` is set by a failed fsync: the kernel may then show data that never reached the disk
    and call it clean (PostgreSQL, "fsyncgate"), so nothing in this file is called unchanged until
    all of it was written anew (`rewritten`) and synced, or it was truncated to nothing. The errno
    is in `failed_sync` until those who have the file open were told.

    `calm` says that the last write found nothing to do, and had its part of the file's map read
    from the disk; `reserved` that a client has preallocated blocks, which stay with the file until
    it is truncated to nothing; `append_only` that it can only be appended to (chattr(1)).

    `seek_proven` says that SEEK_DATA is right for this file (`backing.seek_answers`). Whoever takes
    a hole that it reports for one asks `is_seek_trusted` first.

    `run` is the last run of data that was found; whatever makes a hole or cuts the file cuts it.

    `path` tells where it is below the backing folder. `unsettled` is the list for files with a
    `tail`; without it there are none. `seeded` says that there has been one. `seed_fd` is the old
    file of which the first write makes a seed; -1 if there is none.

    `was_seen` says that a client may have seen the times of the file since they were moved last,
    and `has_capability` that it was given one (capabilities(7)), which a write takes away.
    """

    fd: int
    key: FileKey
    abilities: Abilities
    rules: Rules
    readable: bool
    seek_proven: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    distrusted: bool = False
    failed_sync: int = 0
    calm: bool = False
    reserved: bool = False
    append_only: bool = False
    handles: int = 0
    rewritten: list[tuple[int, int]] = field(default_factory=list)
    run: holes.Run = field(default_factory=holes.Run)
    path: Callable[[], bytes] = bytes
    unsettled: RecoveryList | None = None
    tail: StaleTail | None = None
    seeded: bool = False
    seed_fd: int = -1
    ahead: ReadAhead = field(default_factory=ReadAhead)
    was_seen: bool = False
    has_capability: bool = False

    def make_durable(self, sync: Callable[[int], None]) -> None:
        """Call `sync`, one of fsync(2), fdatasync(2), or what does as much. Raises OSError; what
        reading the file shows is believed no longer then, whatever it was called for.
        """
        try:
            sync(self.fd)
        except OSError as exc:
            if exc.errno != errno.EINTR:
                self.doubt()
                self.failed_sync = exc.errno or errno.EIO
                # Drops the pages that were marked clean without having been written.
                os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
            raise

    def doubt(self) -> None:
        """Begin to doubt what reading the file shows, after a failed fsync."""
        self.distrusted = True
        self.rewritten = []

    def note_rewritten(self, start: int, end: int) -> None:
        """Note that `[start, end)` was written, if that matters."""
        if not self.distrusted or start >= end:
            return
        apart = [(a, b) for a, b in self.rewritten if b < start or end < a]
        joined = [(a, b) for a, b in self.rewritten if not (b < start or end < a)]
        start = min([start, *(a for a, _ in joined)])
        end = max([end, *(b for _, b in joined)])
        self.rewritten = sorted([*apart, (start, end)])[:_MAX_RANGES]

    def data_bytes(self, start: int, end: int) -> int:
        """How many bytes of `[start, end)` are data below, for counting: all, where that cannot be
        told. The caller holds the lock.
        """
        if start >= end:
            return 0
        if not self.is_seek_trusted:
            return end - start
        ranges = holes.data_ranges(self.fd, start, end, self.run)
        return sum(stop - begin for begin, stop in ranges)

    def punch(self, start: int, end: int) -> None:
        """Make `[start, end)` a hole, whatever the rules are; the caller holds the lock."""
        self.run.cut(start, end)
        syscalls.punch_hole(self.fd, start, end)

    def touch(self) -> None:
        """What a write does to a file besides its content; the caller holds the lock."""
        self.was_seen = False
        self.begin_change()
        syscalls.touch(self.fd)
        if self.has_capability:
            tree.remove_capability(self.fd)
            self.has_capability = False
        self.end_change()

    def begin_change(self) -> None:
        """Note that the file below is about to be changed, if it is unsettled (`progress`)."""
        if self.tail is not None:
            progress.begin_change(self, self.tail)

    def end_change(self) -> None:
        """Note how the file below was left, if it is unsettled."""
        if self.tail is not None:
            progress.note(self, self.tail)

    def store_zeros(self, start: int, end: int) -> None:
        """Write zeros to `[start, end)`; the caller holds the lock."""
        self.store(start, bytes(end - start))

    def store(self, start: int, data: bytes) -> None:
        """Write all of `data` as it is, whatever the rules are; the caller holds the lock."""
        view = memoryview(data)
        while view:
            taken = os.pwrite(self.fd, view, start)
            if not taken:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            start, view = start + taken, view[taken:]

    @property
    def is_seek_trusted(self) -> bool:
        """Whether a hole that SEEK_DATA reports may be taken for one."""
        return self.seek_proven and not self.distrusted

    @property
    def compares(self) -> bool:
        """Whether what is written is compared with what is there."""
        return self.rules.skip and self.readable and not self.distrusted

    @property
    def size(self) -> int:
        """Its size for clients, in bytes."""
        tail = self.tail
        return os.fstat(self.fd).st_size if tail is None else tail.size

    @property
    def leaves_blocks(self) -> bool:
        """Whether growing the file leaves blocks in the new hole that nobody has asked for."""
        return self.abilities.growth_leaves_blocks and not self.reserved


@dataclass(slots=True)
class PendingError:
    """A write that failed and was not made good: reported again by fsync and close (DESIGN:
    durability).
    """

    code: int = 0
    offset: int = 0

    def note(self, error: OSError, offset: int) -> None:
        """Let `error`, which happened at `offset`, be reported."""
        self.code, self.offset = error.errno or errno.EIO, offset

    def settle(self, start: int, end: int) -> None:
        """Forget the error if `[start, end)`, just written, covers the place where it happened."""
        if self.code and start <= self.offset < end:
            self.code = 0

    def cut(self, size: int) -> None:
        """Forget the error if the place where it happened is beyond the new end `size`."""
        if not size or self.offset >= size:
            self.code = 0

    def check(self) -> None:
        """Raise the pending error, if there is one."""
        if self.code:
            raise OSError(self.code, os.strerror(self.code))


def open_writable(
    path_fd: int,
    key: FileKey,
    abilities: Abilities,
    rules: Rules,
    check: Callable[[int], None] = lambda _fd: None,
) -> OpenFile:
    """Open the inode of the O_PATH descriptor `path_fd` for the mirror.

    For reading and writing where permitted, since comparing needs reading; without moving atime
    where permitted. Raises OSError if it cannot be opened for writing at all, and what `check`
    raises, which is called with the new descriptor.
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
            append_only = bool(mode & os.O_APPEND)
            proven = abilities.tells_holes(fd)
            return OpenFile(fd, key, abilities, rules, readable, proven, append_only=append_only)
    raise refused or OSError(errno.EACCES, os.strerror(errno.EACCES))


def _check(fd: int, check: Callable[[int], None]) -> None:
    try:
        check(fd)
    except BaseException:
        os.close(fd)
        raise


def resize(file: OpenFile, old_size: int, size: int) -> None:
    """Truncate or grow the file from `old_size` to `size` bytes; what is new is a hole. The caller
    holds the lock.
    """
    rules = file.rules
    grows = rules.punch and file.leaves_blocks and size > old_size
    hole = hole_at_end(file, old_size) if grows else 0
    os.ftruncate(file.fd, size)
    file.run.cut(size, _NO_END)
    if size == 0:
        file.distrusted = False
    if rules.punch and size < old_size:
        _punch_zero_tail(file, size, rules.block_bytes)
    elif grows:
        free_blocks(file, hole, size, rules.block_bytes)


@contextlib.contextmanager
def size_kept_on_error(file: OpenFile, size: int) -> Iterator[None]:
    """If the block fails, a file that it has made larger than `size` bytes gets that size back. The
    caller holds the lock.
    """
    try:
        yield
    except OSError:
        if os.fstat(file.fd).st_size > size:
            with contextlib.suppress(PermissionError):  # append-only: as it is in a plain folder
                os.ftruncate(file.fd, size)
            file.run.cut(size, _NO_END)
        raise


def count_freed(file: OpenFile, before: os.stat_result, account: Account) -> None:
    """Count by how much the file occupies less than `before`."""
    freed = (before.st_blocks - os.fstat(file.fd).st_blocks) * 512
    if freed > 0:
        account.add(file.key, Counters(freed_bytes=freed))


def hole_at_end(file: OpenFile, size: int) -> int:
    """Where the hole begins in which a file of `size` bytes ends; `size` if its last block is data,
    or may be.

    No further back than the beginning of the last block.
    """
    start = size - size % file.rules.block_bytes
    is_hole = start < size and file.is_seek_trusted and holes.next_data(file.fd, start) is None
    return start if is_hole else size


def free_blocks(file: OpenFile, start: int, end: int, block_bytes: int) -> None:
    """Free what is allocated in the hole `[start, end)`, from the first whole block to its end.

    The block in which the hole ends is freed only where the file ends in it, too.
    """
    first = start + -start % block_bytes
    if end < os.fstat(file.fd).st_size:
        last = end - end % block_bytes
    else:
        last = end + -end % block_bytes
    if first < last:
        with contextlib.suppress(OSError):
            file.punch(first, last)


def _punch_zero_tail(file: OpenFile, size: int, block_bytes: int) -> None:
    ragged = size % block_bytes
    if not (ragged and file.readable and file.abilities.punch):
        return
    start = size - ragged
    if file.data_bytes(start, size) and is_zero(os.pread(file.fd, ragged, start)):
        file.punch(start, start + block_bytes)
