"""Finalise the files that a crash has left with a stale tail (`seeding`), each before it is used.

Where the daemon alone has died, all that clients had written is still there, and a file ends where
it did for them. After a power cut, or on another mount of the file system below, only what is known
to be on the disk is kept. A file that was changed since, as by a user who has restored it, is left
as it is.

Guarantees: no client is shown an old block as new by way of this mount, whether the file is on a
recovery list that this mount knows or not: the recovery attribute alone decides, and a file that
cannot be finalised cannot be opened. A crash in here leaves files that are finalised, or still have
their attribute.

A backing folder may be a copy or a snapshot of one that is being written at this moment: nothing in
here may touch the files of that one.

May be called from any thread. Lock order: the lock here is taken alone; that of the recovery list
is taken while a file is in hand, never the other way round.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import threading
import time
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING

from mirrorfs.backing import progress_table, recovery_attribute, syscalls, tree
from mirrorfs.backing.paths import show
from mirrorfs.backing.recovery_list import RecoveryList
from mirrorfs.backing.statx import statx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mirrorfs.backing.progress_table import Noted
    from mirrorfs.backing.recovery_attribute import RecoveryAttribute
    from mirrorfs.backing.recovery_list import Entry
    from mirrorfs.backing.statx import Status

log = logging.getLogger(__name__)

_SECOND_NS = 1_000_000_000
_WORD = (1 << 64) - 1
_MAX_SIZE = (1 << 63) - 1
# A change that was under way has moved the time of the file when it began, or not at all, or it was
# seen to be held up (`ProgressTable.note_stalled`). The clock that stamps files runs behind the
# other by one tick at most.
_TICK_NS = 20_000_000
# An attribute is at most so old when the file is changed; see `progress.begin_change`.
_FRESH_SECONDS = recovery_attribute.FRESH_SECONDS + 2


def is_as_left(
    found: RecoveryAttribute, noted: Noted | None, size: int, mtime_ns: int, booted: float
) -> bool:
    """Whether a file that has this size, in bytes, and this time is what a crash has left, as far
    as its attribute tells, and what was `noted` of it in memory. `booted` is when this machine was
    started, in seconds since the epoch.

    Its ctime does not count: to rename an unfinished file, or to give it away, does not make it
    whole.
    """
    if found.mtime is None or (noted is not None and noted.mtime_ns is None):
        return True  # an older version did not note it
    if noted is not None and noted.mtime_ns is not None:
        if not noted.busy_ns:
            return (mtime_ns & _WORD, size) == (noted.mtime_ns, noted.stored_size)
        since = mtime_ns - noted.busy_ns
        is_begun = -_TICK_NS <= since <= progress_table.PROMPT_NS
        is_stalled = noted.stalled_ns == noted.busy_ns and since > 0
        return mtime_ns & _WORD == noted.mtime_ns or is_begun or is_stalled
    second = mtime_ns // _SECOND_NS
    is_of_this_boot = found.mtime < booted - 1 and second >= booted
    return found.mtime <= second <= found.mtime + _FRESH_SECONDS and not is_of_this_boot


class Outcome(Enum):
    """What became of a file that a crash may have left."""

    NOTHING = "nothing"  # it needed nothing
    FINALISED = "finalised"
    LEFT_AS_IT_IS = "left as it is"  # it was changed after the crash


def _log(level: int, text: str) -> None:
    log.log(level, "%s", text)


class Recovery:
    """What a crash has left in the backing folder `root_fd`; `recovery_list` is that of this mount,
    None if it has none. `is_writable` says that files may be changed; `tell` is given what the
    administrator should know, with its level (logging).

    `check` may be called for any file; it costs one call below for those that have no recovery
    attribute.
    """

    def __init__(
        self,
        root_fd: int,
        recovery_list: RecoveryList | None,
        is_writable: bool,
        tell: Callable[[int, str], None] = _log,
    ) -> None:
        self._root_fd = root_fd
        self._recovery_list = recovery_list
        self._is_writable = is_writable
        self._say = tell
        self._condition = threading.Condition()
        self._busy: set[tuple[int, int]] = set()
        self._refused: set[tuple[int, int]] = set()

    def check(self, fd: int, path: Callable[[], bytes]) -> Outcome:
        """Finalise the regular file `fd`, open in any way but O_PATH, if a crash has left it with a
        recovery attribute. `path` gives its path, for log lines. Returns what became of it.

        Raises OSError, EIO, if that is not possible: what is read from the file may then be old.
        """
        if recovery_attribute.read(fd) is None:
            return Outcome.NOTHING
        return self._finish_one(fd, path, is_copied=False)

    def finish(self, entry: Entry) -> Outcome:
        """Finalise the file of an entry on a recovery list; returns what became of it. Raises
        OSError where that is not possible.
        """
        for path_fd in _places(self._root_fd, entry):
            try:
                status = os.fstat(path_fd)
                if not stat.S_ISREG(status.st_mode):
                    continue
                if status.st_ino != entry.ino and not entry.is_copied:
                    continue
                fd = os.open(tree.fd_path(path_fd), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            finally:
                os.close(path_fd)
            try:
                found = recovery_attribute.read(fd)
                if found is not None and entry.is_finalised and found.entry == entry.number:
                    recovery_attribute.remove(fd)
                elif found is not None:
                    return self._finish_one(fd, lambda: entry.path, entry.is_copied)
            finally:
                os.close(fd)
        return Outcome.NOTHING

    def _finish_one(self, reading: int, path: Callable[[], bytes], is_copied: bool) -> Outcome:
        """Finalise the file of the descriptor `reading`, if its attribute is that of a crash."""
        if self._attribute_of_crash(reading) is None:
            return Outcome.NOTHING
        status = statx(reading)
        with self._alone_at((status.dev, status.ino)):
            found, status = self._attribute_of_crash(reading), statx(reading)
            if found is None:
                return Outcome.NOTHING
            if self._is_on_list(found, status, RecoveryList.is_finalised):
                return self._forget(reading, found)
            try:
                if not self._is_writable:
                    raise OSError(errno.EROFS, os.strerror(errno.EROFS))
                fd = os.open(tree.fd_path(reading), os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
                try:
                    outcome = self._finalise(fd, found, status, is_copied)
                finally:
                    os.close(fd)
            except OSError as exc:
                self._log_refused(status, path(), exc)
                raise OSError(errno.EIO, os.strerror(errno.EIO)) from exc
        if outcome is Outcome.FINALISED:
            self._say(logging.INFO, f"{show(path())}: finalised, since a crash left it unfinished")
        elif outcome is Outcome.LEFT_AS_IT_IS:
            self._say(
                logging.WARNING,
                f"{show(path())}: was changed after a crash had left it unfinished; "
                "it is left as it is",
            )
        return outcome

    @contextlib.contextmanager
    def _alone_at(self, key: tuple[int, int]) -> Iterator[None]:
        """Let no other thread be at the same inode; those at others go on."""
        with self._condition:
            self._condition.wait_for(lambda: key not in self._busy)
            self._busy.add(key)
        try:
            yield
        finally:
            with self._condition:
                self._busy.remove(key)
                self._condition.notify_all()

    def _attribute_of_crash(self, fd: int) -> RecoveryAttribute | None:
        """The recovery attribute of a file that this mount is not writing itself. One that was read
        is still there then: it goes before the list forgets the file (`finalising`), which may
        happen at this moment.
        """
        found, before = recovery_attribute.read(fd), None
        while found is not None and found != before:
            if self._is_on_list(found, statx(fd), RecoveryList.is_live):
                return None
            found, before = recovery_attribute.read(fd), found
        return found

    def _finalise(
        self, fd: int, found: RecoveryAttribute, status: Status, is_copied: bool
    ) -> Outcome:
        is_here = recovery_attribute.is_of_this_mount(found, status) and not is_copied
        noted = self._noted(found, status)
        # The file itself, not one in a snapshot.
        is_noted = noted is not None and (noted.dev, noted.ino) == (status.dev, status.ino)
        if is_noted and progress_table.is_in_use(found.table):
            raise OSError(errno.EBUSY, "another mount is writing it, or was a moment ago")
        if not is_here:
            noted = None
        if not is_as_left(found, noted, status.size, status.mtime_ns, _booted()):
            _remove_attribute(fd)
            return Outcome.LEFT_AS_IT_IS
        valid_length, size = _end(found, noted, is_here)
        if max(valid_length, size) > _MAX_SIZE:  # not written by this program
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        if noted is not None and noted.gap_start < noted.gap_end:
            _write_anew(fd, found, min(valid_length, noted.gap_start), size)
            syscalls.punch_hole(fd, noted.gap_start, noted.gap_end)
        _write_anew(fd, found, valid_length, size)
        _cut(fd, status, valid_length, size)
        return Outcome.FINALISED

    def _is_on_list(
        self,
        found: RecoveryAttribute,
        status: Status,
        how: Callable[[RecoveryList, int, int, int], bool],
    ) -> bool:
        """Whether the attribute is of a file that the list of this mount has in this way."""
        known = self._recovery_list
        if known is None or not known.id or known.id != found.state:
            return False
        where = (found.entry, status.dev, status.ino)
        return recovery_attribute.is_of_this_file(found, status) and how(known, *where)

    def _forget(self, fd: int, found: RecoveryAttribute) -> Outcome:
        """Take the attribute from a file that was finalised, which was not possible before."""
        with contextlib.suppress(OSError):
            recovery_attribute.remove(fd)
            if self._recovery_list is not None:
                self._recovery_list.remove(found.entry)
        return Outcome.NOTHING

    def _noted(self, found: RecoveryAttribute, status: Status) -> Noted | None:
        """What was noted in memory of a file with this attribute."""
        if not found.table.strip(b"\0"):
            return None
        number = found.entry
        if not number and self._recovery_list is not None:  # older versions did not write it
            number = self._recovery_list.number_of(status.ino)
        return progress_table.read(found.table, found.place, number)

    def _log_refused(self, status: Status, path: bytes, exc: OSError) -> None:
        """Log that a file cannot be finalised, once for each."""
        if (status.dev, status.ino) not in self._refused:
            self._refused.add((status.dev, status.ino))
            self._say(
                logging.WARNING,
                f"{show(path)}: what a crash has left of it cannot be finalised: {exc.strerror}; "
                "it cannot be opened before that is mended",
            )


def _end(found: RecoveryAttribute, noted: Noted | None, is_here: bool) -> tuple[int, int]:
    """The valid length and the size, in bytes, that the file is to have."""
    if noted is not None:
        return noted.valid_length, noted.size
    if is_here and not found.table.strip(b"\0"):
        return found.valid_length, found.size
    size = found.durable if found.size == found.valid_length else found.size
    return found.durable, size


def _write_anew(fd: int, found: RecoveryAttribute, valid_length: int, size: int) -> None:
    """Write the attribute anew, so that another crash, in the middle of this, finds what is to be
    done.
    """
    syscalls.touch(fd)
    made = replace(
        found,
        durable=min(found.durable, valid_length),
        valid_length=valid_length,
        size=size,
        table=progress_table.NONE,
        place=progress_table.NO_PLACE,
        mtime=os.fstat(fd).st_mtime_ns // _SECOND_NS,
    )
    recovery_attribute.write(fd, made)


def _cut(fd: int, before: Status, valid_length: int, size: int) -> None:
    """Cut off what is old, durably, and keep the mtime; then take the attribute away."""
    os.ftruncate(fd, min(valid_length, before.size))
    os.ftruncate(fd, size)
    with contextlib.suppress(OSError):  # only root and the owner may
        tree.set_times(fd, None, before.mtime_ns)
    os.fsync(fd)
    _remove_attribute(fd)


def _remove_attribute(fd: int) -> None:
    recovery_attribute.remove(fd)
    os.fsync(fd)


def _booted() -> float:
    """When this machine was started, in seconds since the epoch."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def _places(root_fd: int, entry: Entry) -> Iterator[int]:
    """O_PATH descriptors, which become the caller's, of where the file may be: by its handle,
    wherever it was moved to; by its path; and for a user who may not use handles, anywhere.
    """
    by_handle = False
    if entry.handle and not entry.is_copied:
        with contextlib.suppress(OSError):
            found = syscalls.open_by_handle(root_fd, entry.handle)
            by_handle = True
            # On btrfs a handle in a snapshot leads to the subvolume it was made of.
            if os.fstat(found).st_dev == os.fstat(root_fd).st_dev:
                yield found
            else:
                os.close(found)
    with contextlib.suppress(OSError):
        yield syscalls.open_beneath(root_fd, entry.path, os.O_PATH | os.O_NOFOLLOW)
    if not (by_handle or entry.is_copied) and os.geteuid():
        for _, _, names, folder_fd in os.fwalk(".", dir_fd=root_fd):
            for name in names:
                with contextlib.suppress(OSError):
                    if os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_ino == entry.ino:
                        yield tree.open_path(folder_fd, os.fsencode(name))
