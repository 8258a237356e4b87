"""Where the frontiers of unsettled files are kept from write to write: a table in memory that
outlives the daemon, but not the machine's restart.

Noting a frontier there costs nothing and waits for nobody, where keeping a mark (`mark`) current
takes a change of the file's inode. So the mark only says which table and which place in it to look
at, and what is sure on the disk.

Beside the frontier stands how the file below was left, so that what somebody does to it after a
crash is told from what the daemon did.

The daemon holds a lock on its table (flock(2)), so that who meets a mark of its files knows that it
lives.

Guarantees: what `set` has noted is there as long as this machine runs, whatever becomes of the
process; each number is stored whole. The table is a file of its own in a file system in memory
(tmpfs(5)), readable and writable by its user alone. A crash leaves it there: the next mount with
the same state folder reads and removes it.
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
# Number on the list of unsettled files, frontier, size, mtime, size below, begin of a change, gap,
# begin of the change that was last seen to be held up, device, inode number.
_PLACE = struct.Struct("=QQQQQQQQQQQ")
_WORDS = _PLACE.size // 8
_OLD_PLACE = struct.Struct("=QQQ")  # of older versions, whose tables have longer ids
_WORD = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Noted:
    """How much clients had written, and the file's size for them, in bytes; and how the file below
    was left: its mtime in ns, modulo 2^64, and its size. None where an older version has not noted
    that. `busy_ns` is when the change began that was under way then (clock_gettime(2),
    CLOCK_REALTIME), 0 if there was none, and `stalled_ns` is equal if that was seen to be held up
    by the file system, as by fsfreeze(8), before it had moved the mtime. `[gap_start, gap_end)` is
    what clients have left out before the frontier (`mirror.gaps`). `dev` and `ino` are the file's.
    """

    frontier: int
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
    """The table of one daemon; made at its first use. Places are taken and given back from any
    thread; each is set by one thread at a time. `owner` names its state folder (`owner_of`).
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
        """A place for the file with the number `entry` on the list, or -1 if there is none."""
        with self._lock:
            if self._words is None and self._is_possible:
                self._make()
            if self._words is None or not self._free:
                return -1
            place = self._free.pop()
            first = place * _WORDS
            for word in range(1, _WORDS):
                self._words[first + word] = 0
            self._words[first + 9], self._words[first + 10] = dev, ino
            self._words[first] = entry
            return place

    def begin(self, place: int) -> None:
        """Note that a file is about to be changed below."""
        words = self._words
        if words is not None:
            words[place * _WORDS + 5] = time.time_ns()

    def set(self, place: int, frontier: int, size: int, below: os.stat_result) -> None:
        """Note how far a file has come, in bytes, and its status below: the end of the change."""
        words = self._words
        if words is not None:
            first = place * _WORDS
            words[first + 1] = frontier
            words[first + 2] = size
            words[first + 3] = below.st_mtime_ns & _WORD
            words[first + 4] = below.st_size
            words[first + 5] = 0

    def note_stalled(self, place: int, fd: int) -> None:
        """Note it if the change of the file `fd` that is under way has taken longer than changes
        do, and has not even moved the mtime. For another thread than the one that changes it:
        whatever that notes meanwhile stands.
        """
        words = self._words
        if words is None or not (busy := words[place * _WORDS + 5]):
            return
        is_old = time.time_ns() - busy > PROMPT_NS
        if is_old and os.fstat(fd).st_mtime_ns & _WORD == words[place * _WORDS + 3]:
            words[place * _WORDS + 8] = busy

    def set_gap(self, place: int, start: int, end: int) -> None:
        """Note what clients have left out before the frontier; nothing if `end` is 0."""
        words = self._words
        if words is not None:
            words[place * _WORDS + 6] = start
            words[place * _WORDS + 7] = end

    def give_back(self, place: int) -> None:
        """The file is settled."""
        with self._lock:
            if place >= 0 and self._words is not None:
                self._words[place * _WORDS] = 0
                self._free.append(place)

    def close(self) -> None:
        """Remove the table, if no place in it is in use: nobody will look for it."""
        with self._lock:
            if self._words is not None and len(self._free) == _PLACES:
                self._remove()

    def remove_others(self) -> None:
        """Remove the tables that daemons before this one have left: nobody will look for them."""
        with self._lock:
            remove_all(self._owner, self._folder, keep=self.id)

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(_path(self._owner, self.id, self._folder))
        os.close(self._fd)
        self._fd = -1

    def _make(self) -> None:
        """Where that is not possible, there is no place for anybody."""
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
    """Names a state folder, which need not exist yet, as long as its parent stays where it is."""
    parent, name = os.path.split(state_folder)
    status = os.stat(parent)
    text = b"%d %d %s" % (status.st_dev, status.st_ino, name)
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def read(table: bytes, place: int, entry: int, folder: bytes = FOLDER) -> Noted | None:
    """What a daemon that has died noted of the file with the number `entry` on its list; None if
    that is not known any more.
    """
    form = _PLACE if len(table) == ID_BYTES else _OLD_PLACE
    for path in _tables(table, folder):
        found = _read(path, form, place)
        if found and found[0] == entry:
            _, frontier, size, *below = found
            return Noted(frontier, max(size, frontier), *below)
    return None


def _tables(table: bytes, folder: bytes) -> list[bytes]:
    """The paths of those with this id."""
    end = b"-" + table.hex().encode()
    names = _names(folder)
    found = [name for name in names if name.startswith(_PREFIX) and name.endswith(end)]
    return [os.path.join(folder, name) for name in found]


def _read(path: bytes, form: struct.Struct, place: int) -> tuple[int, ...]:
    """The words of a place in a table of ours; none if there is no such table, or no such place."""
    found = b""
    with contextlib.suppress(OSError), _opened(path) as fd:
        found = os.pread(fd, form.size, place * form.size)
    return form.unpack(found) if len(found) == form.size else ()


def is_in_use(table: bytes, folder: bytes = FOLDER) -> bool:
    """Whether the daemon that has this table lives, or has died, but with a thread that is still
    changing something.
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
    """A descriptor of a table of ours. Raises OSError if it is none."""
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
    """Remove the tables of a state folder, but for the one with the id `keep`."""
    kept = _path(owner, keep, folder)
    for name in _names(folder):
        path = os.path.join(folder, name)
        if name.startswith(_prefix(owner)) and path != kept:
            with contextlib.suppress(OSError):  # somebody else may have made one, too
                os.unlink(path)


def _prefix(owner: str) -> bytes:
    return _PREFIX + f"{owner}-".encode()


def _path(owner: str, table: bytes, folder: bytes) -> bytes:
    return os.path.join(folder, _prefix(owner) + table.hex().encode())
