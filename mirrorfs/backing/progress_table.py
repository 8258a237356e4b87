"""The progress table: how far clients have written each file with a stale tail, in memory that
outlives the daemon, but not the machine's restart.

Noting a valid length there costs a store and waits for nothing. The recovery attribute of the file
(`recovery_attribute`) costs a change of the inode for each value; so it only says which table and
which place in it hold the newest values, and what is durable.

Beside the valid length stands how the daemon left the file below, so that recovery can tell what
was changed there after a crash from what the daemon did.

The daemon holds a lock on its table (flock(2)): a recovery attribute that leads to a locked table
belongs to a daemon that lives.

Guarantees: what `set` has noted is there as long as this machine runs, whatever becomes of the
process; each number is stored whole. The table is a file of its own in a file system in memory
(tmpfs(5)), readable and writable by its user alone. A crash leaves it there: the next mount with
this state folder reads and removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
import secrets
import stat
import struct
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirrorfs.backing.mounts import mount_of

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = b"/dev/shm"
ID_BYTES = 4
NONE = bytes(ID_BYTES)
_PREFIX = b"mirrorfs-"
NO_PLACE = -1
_PLACES = 1024
# A change that is not held up has moved the mtime by then.
PROMPT_NS = 100_000_000
# The words of a place. `_ENTRY`, the number on the recovery list, is 0 in a place that is free.
_ENTRY, _VALID_LENGTH, _SIZE, _MTIME, _STORED_SIZE = range(5)
_BUSY, _GAP_START, _GAP_END, _STALLED, _DEV, _INO = range(5, 11)
_WORDS = 11
_PLACE = struct.Struct("=11Q")
_OLD_PLACE = struct.Struct("=QQQ")  # of older versions, whose tables have longer ids
_WORD = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Noted:
    """What a daemon had noted of one file.

    Clients had written `valid_length` bytes, and saw a file of `size` bytes. The daemon left the
    file below with `stored_size` bytes and `mtime_ns` (ns, modulo 2^64; None where an older version
    noted neither). `[gap_start, gap_end)`, in bytes, is what clients have left out before the valid
    length (`mirror.gaps`). `dev` and `ino` are the file's.

    `busy_ns` is when the change began that was under way (clock_gettime(2), CLOCK_REALTIME), 0 if
    there was none. `stalled_ns` is equal to it if the file system held that change up, as
    fsfreeze(8) does, before it had moved the mtime.
    """

    valid_length: int
    size: int
    mtime_ns: int | None = None
    stored_size: int = 0
    busy_ns: int = 0
    gap_start: int = 0
    gap_end: int = 0
    stalled_ns: int = 0
    dev: int = 0
    ino: int = 0


class ProgressTable:
    """The table of one daemon; made at its first use. `owner` names its state folder (`owner_of`).

    Places are taken and given back from any thread; one thread at a time sets a place.
    """

    def __init__(self, owner: str, folder: bytes = FOLDER) -> None:
        self.id = NONE
        self._owner = owner
        self._folder = folder
        self._lock = threading.Lock()
        self._fd = -1
        self._words: memoryview | None = None
        self._free: list[int] = []
        self._is_possible = True

    def take(self, entry: int, dev: int, ino: int) -> int:
        """A place for the file with the number `entry` on the recovery list; NO_PLACE if none is
        free, or there can be no table.
        """
        with self._lock:
            if self._words is None and self._is_possible:
                self._make()
            if self._words is None or not self._free:
                return NO_PLACE
            place = self._free.pop()
            first = place * _WORDS
            for word in range(_ENTRY + 1, _WORDS):
                self._words[first + word] = 0
            self._words[first + _DEV], self._words[first + _INO] = dev, ino
            self._words[first + _ENTRY] = entry
            return place

    def begin(self, place: int) -> None:
        """Note that the calling thread is about to change the file of `place` below."""
        words = self._words
        if words is not None:
            words[place * _WORDS + _BUSY] = time.time_ns()

    def set(self, place: int, valid_length: int, size: int, below: os.stat_result) -> None:
        """Note valid length and logical size of a file, in bytes, and its status below. That ends
        the change which `begin` has noted.
        """
        words = self._words
        if words is not None:
            first = place * _WORDS
            words[first + _VALID_LENGTH] = valid_length
            words[first + _SIZE] = size
            words[first + _MTIME] = below.st_mtime_ns & _WORD
            words[first + _STORED_SIZE] = below.st_size
            words[first + _BUSY] = 0

    def note_stalled(self, place: int, fd: int) -> None:
        """Note it if the change of the file `fd` that is under way has taken longer than changes
        do (`PROMPT_NS`), and has not even moved the mtime.

        Called by another thread than the one that changes the file; what that thread notes
        meanwhile stands.
        """
        words = self._words
        if words is None or not (busy := words[place * _WORDS + _BUSY]):
            return
        is_old = time.time_ns() - busy > PROMPT_NS
        if is_old and os.fstat(fd).st_mtime_ns & _WORD == words[place * _WORDS + _MTIME]:
            words[place * _WORDS + _STALLED] = busy

    def set_gap(self, place: int, start: int, end: int) -> None:
        """Note that clients have left out `[start, end)`, in bytes, before the valid length; an
        `end` of 0 says that they have left out nothing.
        """
        words = self._words
        if words is not None:
            words[place * _WORDS + _GAP_START] = start
            words[place * _WORDS + _GAP_END] = end

    def give_back(self, place: int) -> None:
        """Free the place of a file that is finalised; NO_PLACE is passed over."""
        with self._lock:
            if place != NO_PLACE and self._words is not None:
                self._words[place * _WORDS + _ENTRY] = 0
                self._free.append(place)

    def close(self) -> None:
        """Remove the table, if no place in it is in use: no recovery attribute leads to it then."""
        with self._lock:
            if self._words is not None and len(self._free) == _PLACES:
                self._remove()

    def remove_others(self) -> None:
        """Remove the tables that earlier daemons of this state folder have left. For when no
        recovery attribute leads to them any more.
        """
        with self._lock:
            remove_all(self._owner, self._folder, keep=self.id)

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(_path(self._owner, self.id, self._folder))
        os.close(self._fd)
        self._fd = -1

    def _make(self) -> None:
        """Make the table, or note that it is not possible: then `take` has no place to give."""
        self._is_possible = False
        made = secrets.token_bytes(ID_BYTES)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(_path(self._owner, made, self._folder), flags, 0o600)
        except OSError:
            return
        self.id, self._fd = made, fd
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if mount_of(fd).fs_type == "tmpfs":
                # Not ftruncate: memory that is missing must be missed here, not at a store.
                os.posix_fallocate(fd, 0, _PLACES * _PLACE.size)
                self._words = memoryview(mmap.mmap(fd, _PLACES * _PLACE.size)).cast("Q")
                self._free = list(range(_PLACES))[::-1]
        except OSError:
            pass
        finally:
            if self._words is None:
                self._remove()
                self.id = NONE


def owner_of(state_folder: bytes) -> str:
    """What names the tables of a state folder, as long as its parent stays where it is.

    The folder need not exist yet. Raises OSError if there is no parent.
    """
    parent, name = os.path.split(state_folder)
    status = os.stat(parent)
    text = b"%d %d %s" % (status.st_dev, status.st_ino, name)
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def read(table: bytes, place: int, entry: int, folder: bytes = FOLDER) -> Noted | None:
    """What a daemon that has died noted at `place` of the table with the id `table`, if that is of
    the file with the number `entry` on its recovery list; else None.
    """
    form = _PLACE if len(table) == ID_BYTES else _OLD_PLACE
    for path in _tables(table, folder):
        found = _read(path, form, place)
        if found and found[0] == entry:
            _, valid_length, size, *below = found
            return Noted(valid_length, max(size, valid_length), *below)
    return None


def _tables(table: bytes, folder: bytes) -> list[bytes]:
    """The paths of the tables with the id `table`, whatever state folder they are of."""
    end = b"-" + table.hex().encode()
    names = _names(folder)
    found = [name for name in names if name.startswith(_PREFIX) and name.endswith(end)]
    return [os.path.join(folder, name) for name in found]


def _read(path: bytes, form: struct.Struct, place: int) -> tuple[int, ...]:
    """The words of a place in a table of this user's; none if there is no such table or place."""
    found = b""
    with contextlib.suppress(OSError), _opened(path) as fd:
        found = os.pread(fd, form.size, place * form.size)
    return form.unpack(found) if len(found) == form.size else ()


def is_in_use(table: bytes, folder: bytes = FOLDER) -> bool:
    """Whether the daemon that has made the table with the id `table` lives, or has died with a
    thread that still waits in a change.
    """
    for path in _tables(table, folder):
        try:
            with _opened(path) as fd:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            continue
    return False


@contextlib.contextmanager
def _opened(path: bytes) -> Iterator[int]:
    """A descriptor of the table `path`. OSError if that is no regular file of this user's."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if status.st_uid != os.geteuid() or not stat.S_ISREG(status.st_mode):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        yield fd
    finally:
        os.close(fd)


def _names(folder: bytes) -> list[bytes]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def remove_all(owner: str, folder: bytes = FOLDER, keep: bytes = NONE) -> None:
    """Remove the tables of the state folder that `owner` names, but for the one with the id `keep`.

    What cannot be removed is passed over.
    """
    kept = _path(owner, keep, folder)
    for name in _names(folder):
        path = os.path.join(folder, name)
        if name.startswith(_prefix(owner)) and path != kept:
            with contextlib.suppress(OSError):  # another user may have made one by such a name
                os.unlink(path)


def _prefix(owner: str) -> bytes:
    return _PREFIX + f"{owner}-".encode()


def _path(owner: str, table: bytes, folder: bytes) -> bytes:
    return os.path.join(folder, _prefix(owner) + table.hex().encode())
