"""Open files, folders and control files, by the number that the kernel passes back."""

from __future__ import annotations

import errno
import itertools
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from mirrorfs.backing.reader import NO_READER, Reader
from mirrorfs.catalog.session import Ending
from mirrorfs.fs.entry import refuse

if TYPE_CHECKING:
    from mirrorfs.fs.inode import Inode
    from mirrorfs.mirror.open_file import OpenFile
    from mirrorfs.mirror.writer import Taken

_H = TypeVar("_H")
_NOWHERE = -1  # where an error happened that no single write can make good


@dataclass(slots=True)
class PendingError:
    """The error of a write that no later one has made good: fsync and close report it again. Each
    handle has its own, as a client knows only of its own writes.
    """

    code: int = 0  # errno; 0 for none
    offset: int = 0  # in bytes, where it happened

    def note(self, error: OSError, offset: int) -> None:
        """Let `error`, which happened at `offset`, be reported."""
        self.code, self.offset = error.errno or errno.EIO, offset

    def note_taken(self, offset: int, taken: Taken) -> None:
        """Note what became of a write at `offset`."""
        end = offset + taken.size
        self.make_good(offset, end)
        if taken.unrecorded is not None:
            self.note_failed_sync(taken.unrecorded.errno or errno.EIO)
        elif taken.failure is not None:
            self.note(taken.failure, end)

    def note_failed_sync(self, code: int) -> None:
        """Let the errno of a failed fsync be reported, whatever is written next."""
        self.code, self.offset = code, _NOWHERE

    def make_good(self, start: int, end: int) -> None:
        """Forget the error if `[start, end)`, just written, covers the place where it happened."""
        if self.code and start <= self.offset < end:
            self.code = 0

    def cut(self, size: int) -> bool:
        """Forget the error if the place where it happened is beyond the new end, in bytes; returns
        whether data is missing for it.
        """
        is_cut = bool(self.code) and (not size or self.offset >= size)
        if is_cut:
            self.code = 0
        return is_cut and size > 0

    def forget_failed_sync(self) -> None:
        """Forget the error of a failed fsync: all of the file has been written anew and synced."""
        if self.offset == _NOWHERE:
            self.code = 0

    def check(self) -> None:
        """Raise the pending error, if there is one."""
        if self.code:
            raise refuse(self.code)


@dataclass(slots=True, eq=False)
class FileHandle:
    """One open of a file."""

    inode: Inode
    reader: Reader = NO_READER  # for reads; none if it was opened write-only
    open_file: OpenFile | None = None  # for writes; None if it was opened read-only
    pending: PendingError = field(default_factory=PendingError)
    # How the process that closed it last ended, and how much the file had received then, in bytes.
    closed: Ending = Ending.CLOSED
    closed_at: int = 0
    # O_DSYNC or O_SYNC: each write is durable when it is answered; with O_DSYNC alone, its data.
    synchronous: bool = False
    data_only: bool = False
    # See `direct_writes`.
    is_direct: bool = False
    may_map: bool = False

    @property
    def fd(self) -> int:
        """The descriptor for reads, -1 if there is none."""
        return self.reader.fd


@dataclass(slots=True, eq=False)
class FolderHandle:
    """One open of a folder."""

    inode: Inode
    keeps_atime: bool = False  # listing it moves no time of access
    names: list[bytes] = field(default_factory=list)  # as they were when reading began


@dataclass(slots=True, eq=False)
class ControlHandle:
    """One open of a control file, or, without a name, of what is accepted and dropped."""

    node_id: int
    name: str = ""
    writing: bool = False
    text: bytes = b""  # as it was at the read at offset 0


Handle = FileHandle | FolderHandle | ControlHandle


class HandleTable:
    """The handles of a mount. Numbers are never used twice."""

    def __init__(self) -> None:
        self._handles: dict[int, Handle] = {}
        self._by_inode: dict[Inode, list[FileHandle]] = {}
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._handles)

    def add(self, handle: Handle) -> int:
        """Take a new handle in; returns its number."""
        number = next(self._numbers)
        self._handles[number] = handle
        if isinstance(handle, FileHandle):
            self._by_inode.setdefault(handle.inode, []).append(handle)
        return number

    def get(self, number: int, kind: type[_H]) -> _H:
        """The handle with this number; EBADF if it is not open or of another kind."""
        handle = self._handles.get(number)
        if not isinstance(handle, kind):
            raise refuse(errno.EBADF)
        return handle

    def any(self, number: int) -> Handle | None:
        """The handle with this number, of any kind; None if it is not open."""
        return self._handles.get(number)

    def pop(self, number: int) -> Handle | None:
        """Take a handle out; returns it, or None if it is not open."""
        handle = self._handles.pop(number, None)
        if isinstance(handle, FileHandle):
            same = self._by_inode[handle.inode]
            same.remove(handle)
            if not same:
                del self._by_inode[handle.inode]
        return handle

    def of(self, inode: Inode) -> list[FileHandle]:
        """The open handles of a file."""
        return self._by_inode.get(inode, [])

    def files(self) -> list[FileHandle]:
        """The handles of all open files."""
        return [handle for handle in self._handles.values() if isinstance(handle, FileHandle)]


def is_data_only(flags: int) -> bool:
    """Whether `flags` of open(2), with O_DSYNC in them, are those of O_DSYNC alone."""
    return not flags & (os.O_SYNC & ~os.O_DSYNC)
