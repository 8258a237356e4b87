"""The list of files whose end is not settled, in the state folder: the next mount finds what a
crash has left without walking the tree.

Guarantees: a file that `add` has returned for is on the list as long as this machine runs, and for
good once `make_durable` has returned. What a crash leaves beyond that are entries of files that are
settled already, which carry no mark, and perhaps a last line that is cut off and says nothing.

The state folder is made at the first use. Lock order: the lock here is below the files' locks.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote_from_bytes, unquote_to_bytes

from mirrorfs.backing import ledger, syscalls
from mirrorfs.backing.paths import show
from mirrorfs.backing.places import FORMAT_FILE
from mirrorfs.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Iterable

FOLDER = b".mirrorfs"
LIST = b"unsettled"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """One unsettled file: its inode number, its handle (open_by_handle_at(2)) where there are
    handles, and its path below the backing folder when it was noted.

    `is_copied` says that the list is a copy of the one in which this was noted, made together with
    the backing folder: number and handle are those of the file that was copied.
    """

    number: int
    ino: int
    handle: bytes
    path: bytes
    is_copied: bool = False


class Unsettled:
    """The list of one mount, in the folder `folder`, a path whose parent exists. Every method may
    be called from any thread. `ledger` is where the frontiers of its files are noted.

    The parent is opened at once: later its path may lead through the mount itself.
    """

    def __init__(self, folder: bytes) -> None:
        self.folder = folder
        self.ledger = ledger.Ledger(ledger.owner_of(folder))
        parent, self._name = os.path.split(folder)
        self._parent_fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._lock = threading.Lock()
        self._fd = -1
        self._listed: set[int] = set()
        self._next = 1
        self._is_durable = True

    def add(self, fd: int, path: bytes) -> int:
        """Put the file `fd` on the list; returns its number there. Raises OSError."""
        handle = syscalls.file_handle(fd) or b""
        with self._lock:
            if self._fd < 0:
                self._fd = _open(self._parent_fd, self._name)
            entry = Entry(self._next, os.fstat(fd).st_ino, handle, path)
            self._append(_line(entry, os.fstat(self._fd).st_ino))
            self._next += 1
            self._listed.add(entry.number)
            self._is_durable = False
            return entry.number

    def make_durable(self) -> None:
        """Let the list outlive a power cut as it is now."""
        with self._lock:
            if not self._is_durable:
                os.fsync(self._fd)
                self._is_durable = True

    def remove(self, number: int) -> None:
        """Take a file, which is settled now, from the list."""
        with self._lock:
            self._listed.discard(number)
            # A settled file may stay on the list: it has no mark.
            with contextlib.suppress(OSError):
                if self._listed:
                    self._append(b"- %d\n" % number)
                else:
                    os.ftruncate(self._fd, 0)

    def is_beside(self, status: os.stat_result) -> bool:
        """Whether the list is in the file system of the file with this status."""
        return os.fstat(self._fd).st_dev == status.st_dev

    def _append(self, line: bytes) -> None:
        """All of `line`, or nothing: a part of it, as a full disk leaves, would spoil the next."""
        taken = os.write(self._fd, line)
        if taken < len(line):
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - taken)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _open(parent_fd: int, name: bytes) -> int:
    """The list for writing; makes the state folder, and its marker file, where there is none."""
    if not _exists(parent_fd, name):
        _make_folder(parent_fd, name)
    folder_fd = _open_folder(parent_fd, name)
    try:
        if not _exists(folder_fd, FORMAT_FILE):
            _write_marker(folder_fd)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(LIST, flags, 0o600, dir_fd=folder_fd)
        os.fsync(folder_fd)
        os.fsync(parent_fd)
        return fd
    finally:
        os.close(folder_fd)


def _make_folder(parent_fd: int, name: bytes) -> None:
    """Atomically, with its marker: without it the next mount would take it for somebody else's."""
    temporary = name + b".new"
    with contextlib.suppress(FileExistsError):
        os.mkdir(temporary, 0o700, dir_fd=parent_fd)
    folder_fd = _open_folder(parent_fd, temporary)
    try:
        _write_marker(folder_fd)
        os.fsync(folder_fd)
        os.rename(temporary, name, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)
    except OSError:
        for left in (FORMAT_FILE, FORMAT_FILE + b".new"):
            with contextlib.suppress(OSError):
                os.unlink(left, dir_fd=folder_fd)
        with contextlib.suppress(OSError):
            os.rmdir(temporary, dir_fd=parent_fd)
        raise
    finally:
        os.close(folder_fd)


def _open_folder(parent_fd: int, name: bytes) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, dir_fd=parent_fd)


def _exists(folder_fd: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _write_marker(folder_fd: int) -> None:
    """Atomically: by another name first."""
    text = json.dumps({"program": "mirrorfs", "format": _FORMAT}).encode() + b"\n"
    temporary = FORMAT_FILE + b".new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o600, dir_fd=folder_fd)
    try:
        os.write(fd, text)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(temporary, FORMAT_FILE, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)


def check_format(folder: bytes) -> None:
    """Refuse a state folder that a newer mirrorfs has made. One that does not exist is fine.

    Raises StateError.
    """
    path = os.path.join(folder, FORMAT_FILE)
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read())["format"]
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise StateError(
            f"{show(path)}: cannot be read ({exc}); the state folder is damaged. It may be "
            "removed: what is remembered there is lost, the files in the backing folder are not"
        ) from None
    if not isinstance(found, int) or found > _FORMAT:
        raise StateError(
            f"{show(folder)}: was made by a newer mirrorfs (format {found}, this one knows "
            f"{_FORMAT}); use that one, or pass -o state=DIR with another folder"
        )


def read_list(folder: bytes) -> list[Entry]:
    """The files that are on the list; none where there is no list. Raises OSError."""
    try:
        with open(os.path.join(folder, LIST), "rb") as file:
            return _parse(file.read().split(b"\n")[:-1], os.fstat(file.fileno()).st_ino)
    except FileNotFoundError:
        return []


def clear(folder: bytes) -> None:
    """Empty the list, if there is one, durably."""
    try:
        fd = os.open(os.path.join(folder, LIST), os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if os.fstat(fd).st_size:
            os.ftruncate(fd, 0)
            os.fsync(fd)
    finally:
        os.close(fd)


def _line(entry: Entry, list_ino: int) -> bytes:
    words = (str(entry.number), str(entry.ino), entry.handle.hex() or "-")
    return f"+ {' '.join(words)} {quote_from_bytes(entry.path)} {list_ino}\n".encode()


def _parse(lines: Iterable[bytes], list_ino: int) -> list[Entry]:
    """What was added and not removed; a line that makes no sense says nothing. Older versions do
    not say in which list they noted it.
    """
    entries: dict[int, Entry] = {}
    for line in lines:
        words = line.split(b" ")
        try:
            number = int(words[1])
            if words[0] == b"-":
                entries.pop(number, None)
            elif words[0] == b"+":
                handle = b"" if words[3] == b"-" else bytes.fromhex(words[3].decode())
                path = unquote_to_bytes(words[4])
                is_copied = len(words) > 5 and int(words[5]) != list_ino
                entries[number] = Entry(number, int(words[2]), handle, path, is_copied)
        except (IndexError, ValueError):
            continue
    return list(entries.values())
