"""The recovery list: the files with a stale tail, noted in the state folder, so that the next mount
finds what a crash has left without walking the tree.

Guarantees: a file that `add` has returned for is on the list as long as this machine runs, and for
good once `make_durable` has returned. What a crash leaves beyond that are entries of files that are
finalised already, which carry no recovery attribute, and perhaps a last line that is cut off and
says nothing. A list that was forged or damaged names files without the attribute, which recovery
leaves alone.

The state folder is made at the first use. Lock order: the lock here is below the files' locks.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import quote_from_bytes, unquote_to_bytes

from mirrorfs.backing import progress_table, state_folder, syscalls
from mirrorfs.backing.paths import show
from mirrorfs.backing.progress_table import ProgressTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

log = logging.getLogger(__name__)

LIST = b"unsettled"
_MAX_LIST_BYTES = 64 << 20
_MAX_NUMBER = (1 << 32) - 1
# The list is written anew when it is twice as long as it need be, and longer than this.
_FEW_LINES = 128


@dataclass(frozen=True, slots=True)
class Entry:
    """One file on the list: its inode number, its handle (open_by_handle_at(2)) where there are
    handles, and its path below the backing folder when it was noted.

    `is_copied` says that the list is a copy of the one in which the file was noted, made together
    with the backing folder: number and handle are those of the file that was copied. `is_finalised`
    says that the file has no stale tail any more, but its recovery attribute could not be taken
    away. `dev` is its device, 0 where the entry was read from a list: the number of a device may
    change.
    """

    number: int
    ino: int
    handle: bytes
    path: bytes
    is_copied: bool = False
    is_finalised: bool = False
    dev: int = 0

    def is_of(self, dev: int, ino: int) -> bool:
        """Whether the entry is of the file with this device and inode number, so far as known."""
        return self.ino == ino and self.dev in {0, dev}


class RecoveryList:
    """The list of one mount, in the state folder `folder`, a path whose parent exists. `left` are
    the entries that a crash has left on it. Every method may be called from any thread.

    `progress_table` is where the valid lengths of its files are noted; `id` names the state folder,
    and is empty as long as there is none. `refusal` says why the folder cannot be used, and is
    empty if it can, as far as is known.

    The parent is opened by `__init__` (OSError if that fails): later its path may lead through the
    mount itself.
    """

    def __init__(self, folder: bytes, left: Sequence[Entry] = ()) -> None:
        self.folder = folder
        self.progress_table = ProgressTable(progress_table.owner_of(folder))
        self.refusal = ""
        parent, self._name = os.path.split(folder)
        self._parent_fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.id = state_folder.id_of(self._parent_fd, self._name)
        self._lock = threading.Lock()
        self._folder_fd = self._fd = -1
        self._left = {entry.number: entry for entry in left}
        self._live: dict[int, Entry] = {}
        self._next = max(self._left, default=0) + 1
        self._lines = len(self._left)
        self._is_durable = True

    def add(self, fd: int, path: bytes) -> int:
        """Put the file `fd` on the list, with its path below the backing folder; returns its number
        there. Raises OSError, as where the state folder cannot be made.
        """
        handle = syscalls.file_handle(fd) or b""
        with self._lock:
            self._open()
            status = os.fstat(fd)
            entry = Entry(self._next, status.st_ino, handle, path, dev=status.st_dev)
            if self._lines >= max(_FEW_LINES, 2 * len(self._left) + 2 * len(self._live)):
                self._write_anew()
            self._append(_line(entry, os.fstat(self._fd).st_ino))
            self._next = self._next % _MAX_NUMBER + 1
            self._live[entry.number] = entry
            self._is_durable = False
            return entry.number

    def make_durable(self) -> None:
        """Let the list outlive a power cut as it is now (fsync(2)). Raises OSError."""
        with self._lock:
            if not self._is_durable:
                os.fsync(self._fd)
                os.fsync(self._folder_fd)  # where it was written anew
                self._is_durable = True

    def keep_finalised(self, number: int) -> None:
        """Note, durably, that the file `number` is finalised but still has its recovery attribute.

        Raises OSError.
        """
        with self._lock:
            self._append(_finalised_line(number))
            os.fsync(self._fd)
            self._left[number] = replace(self._live.pop(number), is_finalised=True)

    def remove(self, number: int) -> None:
        """Take the file `number`, which is finalised now, from the list."""
        with self._lock:
            self._live.pop(number, None)
            self._left.pop(number, None)
            # Should the line not be written: a file without a recovery attribute may stay listed.
            with contextlib.suppress(OSError):
                self._open()
                if self._live or self._left:
                    self._append(b"- %d\n" % number)
                else:
                    os.ftruncate(self._fd, 0)
                    self._lines = 0

    def end_recovery(self) -> None:
        """Remove what earlier daemons have noted in memory, if all that a crash has left on the
        list is finalised.
        """
        if not self._left:
            self.progress_table.remove_others()

    def is_beside(self, status: os.stat_result) -> bool:
        """Whether the list is in the file system of the file with this status."""
        return os.fstat(self._fd).st_dev == status.st_dev

    def is_live(self, number: int, dev: int, ino: int) -> bool:
        """Whether this mount has given this number to the file with this device and inode number,
        and has not finalised it yet.
        """
        entry = self._live.get(number)
        return entry is not None and entry.is_of(dev, ino)

    def is_finalised(self, number: int, dev: int, ino: int) -> bool:
        """Whether the file with this device and inode number is on the list by this number, but
        noted as finalised (`keep_finalised`).
        """
        entry = self._left.get(number)
        return entry is not None and entry.is_of(dev, ino) and entry.is_finalised

    def number_of(self, ino: int) -> int:
        """The number that a crash has left for the file with this inode number; 0 if none."""
        with self._lock:
            numbers = (entry.number for entry in self._left.values() if entry.ino == ino)
            return next(numbers, 0)

    def close(self) -> None:
        """Close the descriptors of a list to which nothing is added any more."""
        with self._lock:
            for fd in (self._fd, self._folder_fd, self._parent_fd):
                if fd >= 0:
                    os.close(fd)
            self._fd = self._folder_fd = self._parent_fd = -1

    def _open(self) -> None:
        """Open the list; makes the state folder where there is none. One line in the log says why
        a folder or a list cannot be used.
        """
        if self._fd >= 0:
            return
        folder_fd = -1
        try:
            folder_fd, self.id = state_folder.open_or_make(self._parent_fd, self._name)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            fd = state_folder.open_file(folder_fd, LIST, flags)
            os.fsync(folder_fd)
            os.fsync(self._parent_fd)
        except OSError as exc:
            if folder_fd >= 0:
                os.close(folder_fd)
            refusal = f"the state folder {show(self.folder)} cannot be used: {exc.strerror}"
            if exc.errno not in syscalls.NO_SPACE and refusal != self.refusal:
                self.refusal = refusal
                log.warning("files get no seeds: %s", refusal)
            raise
        self._folder_fd, self._fd, self.refusal = folder_fd, fd, ""

    def _append(self, line: bytes) -> None:
        """Append all of `line`, or nothing: a part of it, as a full disk leaves, would spoil the
        next line.
        """
        taken = os.write(self._fd, line)
        if taken < len(line):
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - taken)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._lines += 1

    def _write_anew(self) -> None:
        """Replace the list by one without the files that are finalised; where that fails, it grows
        on.
        """
        temporary = LIST + b"." + secrets.token_hex(8).encode()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        fd = -1
        try:
            fd = state_folder.open_file(self._folder_fd, temporary, flags)
            entries = [*self._left.values(), *self._live.values()]
            text = b"".join(_line(entry, os.fstat(fd).st_ino) for entry in entries)
            if os.write(fd, text) < len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(fd)
            os.rename(temporary, LIST, src_dir_fd=self._folder_fd, dst_dir_fd=self._folder_fd)
        except OSError:
            if fd >= 0:
                os.close(fd)
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=self._folder_fd)
            self._lines //= 2  # not to be tried again at once
            return
        os.close(self._fd)
        self._fd, self._lines = fd, len(entries)


def read_list(folder_fd: int) -> list[Entry]:
    """The entries of the list in the state folder `folder_fd`; none where there is no list.

    Raises OSError, as for a list that `state_folder.open_file` refuses.
    """
    try:
        fd = state_folder.open_file(folder_fd, LIST, os.O_RDONLY)
    except FileNotFoundError:
        return []
    with open(fd, "rb") as file:
        lines = file.read(_MAX_LIST_BYTES).split(b"\n")[:-1]
        return _parse(lines, os.fstat(fd).st_ino)


def clear(folder_fd: int) -> None:
    """Empty the list in the state folder `folder_fd`, if there is one, durably. Raises OSError."""
    try:
        fd = state_folder.open_file(folder_fd, LIST, os.O_WRONLY)
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
    made_in = 0 if entry.is_copied else list_ino
    added = f"+ {' '.join(words)} {quote_from_bytes(entry.path)} {made_in}\n".encode()
    return added + _finalised_line(entry.number) if entry.is_finalised else added


def _finalised_line(number: int) -> bytes:
    return b"= %d\n" % number


def _parse(lines: Iterable[bytes], list_ino: int) -> list[Entry]:
    """The entries that were added and not removed; a line that makes no sense is passed over.

    Older versions do not say in which list (by inode number) they noted a file.
    """
    entries: dict[int, Entry] = {}
    for line in lines:
        words = line.split(b" ")
        try:
            number = int(words[1])
            if words[0] == b"-":
                entries.pop(number, None)
            elif words[0] == b"=" and number in entries:
                entries[number] = replace(entries[number], is_finalised=True)
            elif words[0] == b"+" and 0 < number <= _MAX_NUMBER:
                handle = b"" if words[3] == b"-" else bytes.fromhex(words[3].decode())
                path = unquote_to_bytes(words[4])
                is_copied = len(words) > 5 and int(words[5]) != list_ino
                entries[number] = Entry(number, int(words[2]), handle, path, is_copied)
        except (IndexError, ValueError):
            continue
    return list(entries.values())
