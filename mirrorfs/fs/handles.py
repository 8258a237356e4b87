"""Open files, folders and control files, by the number that the kernel passes back."""

from __future__ import annotations

import errno
import itertools
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from mirrorfs.fs.steps import NO_READER, Reader

if TYPE_CHECKING:
    from mirrorfs.backing.credentials import Credentials
    from mirrorfs.fs.inodes import Inode
    from mirrorfs.fs.threads import Call
    from mirrorfs.mirror.open_file import OpenFile
    from mirrorfs.mirror.writer import Taken

_H = TypeVar("_H")


@dataclass(frozen=True, slots=True)
class BegunWrite:
    """A write of which the first `taken` bytes are done, and the rest is what `call` sees to; None
    if there is no rest.
    """

    taken: int
    call: Call[Taken] | None


FAILED_SYNC = -1  # where a pending error happened that no single write can make good


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

    def note_taken(self, offset: int, taken: Taken) -> None:
        """Note what became of a request to write at `offset`."""
        done = offset + taken.size
        self.settle(offset, done)
        if taken.unrecorded is not None:
            self.note(taken.unrecorded, FAILED_SYNC)
        elif taken.failure is not None:
            self.note(taken.failure, done)

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


@dataclass(slots=True)
class FileHandle:
    """One open of a file. `reader` is for the client's reads (none if it opened write-only),
    `mirror` for its writes.

    `is_direct` and `may_map` are for `direct_writes`; `sync_flags` are those of open(2) with which
    the next write comes, `writer` is who sends it, if that takes setuid. `has_sought` says that
    holes were looked for, `seeks_slowly` that this has taken long. `begun` is what was begun
    already of the write that comes next.
    """

    inode: Inode
    reader: Reader = NO_READER
    mirror: OpenFile | None = None
    synchronous: bool = False
    data_only: bool = False
    is_direct: bool = False
    may_map: bool = False
    sync_flags: int = 0
    writer: Credentials | None = None
    has_sought: bool = False
    seeks_slowly: bool = False
    pending: PendingError = field(default_factory=PendingError)
    begun: BegunWrite | None = None

    @property
    def fd(self) -> int:
        return self.reader.fd


@dataclass(slots=True)
class FolderHandle:
    """One open of a folder: the names as they were when reading began. With `keeps_atime` listing
    moves no time of access.
    """

    inode: Inode
    keeps_atime: bool = False
    names: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class ControlHandle:
    """One open of a control file, with its text as it was at the read at offset 0; without a name,
    of something else that lies on no disk.
    """

    node_id: int
    name: str = ""
    writing: bool = False
    text: bytes = b""


Handle = FileHandle | FolderHandle | ControlHandle


class HandleTable:
    """Numbers are never used twice in a mount."""

    def __init__(self) -> None:
        self._handles: dict[int, Handle] = {}
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._handles)

    def add(self, handle: Handle) -> int:
        number = next(self._numbers)
        self._handles[number] = handle
        return number

    def get(self, number: int, kind: type[_H]) -> _H:
        """The handle with this number; EBADF if it is not open or of another kind."""
        handle = self._handles.get(number)
        if not isinstance(handle, kind):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return handle

    def any(self, number: int) -> Handle | None:
        return self._handles.get(number)

    def pop(self, number: int) -> Handle | None:
        return self._handles.pop(number, None)

    def files(self) -> list[FileHandle]:
        """The open files."""
        return [handle for handle in self._handles.values() if isinstance(handle, FileHandle)]
