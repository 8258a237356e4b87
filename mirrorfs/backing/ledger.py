"""Where the frontiers of unsettled files are kept from write to write: a table in memory that
outlives the daemon, but not the machine's restart.

Noting a frontier there costs nothing and waits for nobody, where keeping a mark (`mark`) current
takes a change of the file's inode. So the mark only says which table and which place in it to look
at, and what is sure on the disk.

Guarantees: what `set` has noted is there as long as this machine runs, whatever becomes of the
process; each number is stored whole. The table is a file of its own in a file system in memory
(tmpfs(5)), readable and writable by its user alone. A crash leaves it there: the next mount with
the same state folder reads and removes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import secrets
import stat
import struct
import threading
from dataclasses import dataclass

from mirrorfs.backing.mounts import mount_of

FOLDER = b"/dev/shm"
ID_BYTES = 8
NONE = bytes(ID_BYTES)
_PLACES = 1024
_PLACE = struct.Struct("=QQQ")  # number on the list of unsettled files, frontier, size
_WORDS = _PLACE.size // 8


@dataclass(frozen=True, slots=True)
class Noted:
    """How much clients had written, and the file's size for them, in bytes."""

    frontier: int
    size: int


class Ledger:
    """The table of one daemon; made at its first use. Places are taken and given back from any
    thread; each is set by one thread at a time. `owner` names its state folder (`owner_of`).
    """

    def __init__(self, owner: str, folder: bytes = FOLDER) -> None:
        self.id = NONE
        self._owner = owner
        self._folder = folder
        self._lock = threading.Lock()
        self._words: memoryview | None = None
        self._free: list[int] = []
        self._is_possible = True

    def take(self, entry: int) -> int:
        """A place for the file with the number `entry` on the list, or -1 if there is none."""
        with self._lock:
            if self._words is None and self._is_possible:
                self._make()
            if self._words is None or not self._free:
                return -1
            place = self._free.pop()
            self.set(place, 0, 0)
            self._words[place * _WORDS] = entry
            return place

    def set(self, place: int, frontier: int, size: int) -> None:
        """Note how far a file has come, in bytes."""
        words = self._words
        if words is not None:
            words[place * _WORDS + 1] = frontier
            words[place * _WORDS + 2] = size

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
                remove_all(self._owner, self._folder)

    def _make(self) -> None:
        """Where that is not possible, there is no place for anybody."""
        self._is_possible = False
        made = secrets.token_bytes(ID_BYTES)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(_path(self._owner, made, self._folder), flags, 0o600)
        except OSError:
            return
        try:
            if mount_of(fd).fs_type == "tmpfs":
                # Not ftruncate: memory that is missing must be missed here, not at a store.
                os.posix_fallocate(fd, 0, _PLACES * _PLACE.size)
                self._words = memoryview(mmap.mmap(fd, _PLACES * _PLACE.size)).cast("Q")
                self._free = list(range(_PLACES))[::-1]
                self.id = made
        except OSError:
            pass
        finally:
            os.close(fd)
            if self._words is None:
                remove_all(self._owner, self._folder)


def owner_of(state_folder: bytes) -> str:
    """Names a state folder, which need not exist yet, as long as its parent stays where it is."""
    parent, name = os.path.split(state_folder)
    status = os.stat(parent)
    text = b"%d %d %s" % (status.st_dev, status.st_ino, name)
    return hashlib.blake2b(text, digest_size=ID_BYTES).hexdigest()


def read(owner: str, table: bytes, place: int, entry: int, folder: bytes = FOLDER) -> Noted | None:
    """What a daemon that has died noted of the file with the number `entry` on its list; None if
    that is not known any more.
    """
    found = _read_table(owner, table, folder)[place * _PLACE.size :][: _PLACE.size]
    if len(found) < _PLACE.size:
        return None
    number, frontier, size = _PLACE.unpack(found)
    return Noted(frontier, max(size, frontier)) if number == entry else None


def read_gap(
    owner: str, table: bytes, place: int, entry: int, folder: bytes = FOLDER
) -> tuple[int, int]:
    """Begin and end of the gap of such a file (`mirror.gaps`), which has another place than
    `place`; nothing lies between them if it has none.
    """
    found = _read_table(owner, table, folder)
    for other, (number, start, end) in enumerate(_PLACE.iter_unpack(found)):
        if number == entry and other != place:
            return start, max(start, end)
    return 0, 0


def _read_table(owner: str, table: bytes, folder: bytes) -> bytes:
    """All of a table; nothing if it is not there, or not ours."""
    try:
        fd = os.open(_path(owner, table, folder), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        status = os.fstat(fd)
        if status.st_uid != os.geteuid() or not stat.S_ISREG(status.st_mode):
            return b""
        found = os.pread(fd, _PLACES * _PLACE.size, 0)
        return found[: len(found) - len(found) % _PLACE.size]
    finally:
        os.close(fd)


def remove_all(owner: str, folder: bytes = FOLDER) -> None:
    """Remove the tables of a state folder."""
    names: list[bytes] = []
    with contextlib.suppress(OSError):
        names = os.listdir(folder)
    for name in names:
        if name.startswith(_prefix(owner)):
            with contextlib.suppress(OSError):  # somebody else may have made one, too
                os.unlink(os.path.join(folder, name))


def _prefix(owner: str) -> bytes:
    return f"mirrorfs-{owner}-".encode()


def _path(owner: str, table: bytes, folder: bytes) -> bytes:
    return os.path.join(folder, _prefix(owner) + table.hex().encode())
