"""The control folder: files that are read and written, but lie on no disk.

It can be opened by name and is never listed, so that copies and `rsync --delete` leave it alone.
Texts are made at the first read, and at each read at offset 0, and then stay, so one reading shows
one instant.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyfuse3

from mirrorfs.backing.statx import Status
from mirrorfs.mount import attributes
from mirrorfs.mount.handles import ControlHandle
from mirrorfs.mount.numbers import FIRST_CONTROL_ID

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class ControlFile:
    """Permission bits, the function that makes the text, and the one that takes what is written."""

    mode: int
    text: Callable[[], bytes] | None = None
    accept: Callable[[bytes], None] | None = None


def refuse(code: int) -> OSError:
    return OSError(code, os.strerror(code))


class ControlFolder:
    """`files` by name. Node ids are FIRST_CONTROL_ID for the folder, then one for each file in
    order.
    """

    def __init__(self, name: bytes, files: dict[str, ControlFile]) -> None:
        self.name = name
        self._files = files
        self._names = list(files)

    @staticmethod
    def owns(node_id: int) -> bool:
        """Whether a node id is the control folder's or one of its files'."""
        return node_id >= FIRST_CONTROL_ID

    def lookup(self, parent_id: int, name: bytes) -> pyfuse3.EntryAttributes:
        if name == b".":  # of a file handle
            return self.entry(parent_id)
        text = os.fsdecode(name)
        if parent_id != FIRST_CONTROL_ID or text not in self._files:
            raise refuse(errno.ENOENT)
        return self.entry(FIRST_CONTROL_ID + 1 + self._names.index(text))

    def entry(self, node_id: int = FIRST_CONTROL_ID) -> pyfuse3.EntryAttributes:
        now = time.time_ns()
        if node_id == FIRST_CONTROL_ID:
            mode, nlink = stat.S_IFDIR | 0o555, 2
        else:
            mode, nlink = stat.S_IFREG | self._file(node_id).mode, 1
        status = Status(
            mode, nlink, os.geteuid(), os.getegid(), node_id, 0, 0, 4096, now, 0, now, now, 0, 0
        )
        return attributes.entry(node_id, status, timeout=0)

    def list(self, start: int, token: pyfuse3.ReaddirToken) -> None:
        """Answer a listing of the folder from entry number `start` on. Its ids take no part in
        lookup counts.
        """
        ids = [FIRST_CONTROL_ID + 1 + index for index in range(len(self._names))]
        entries = [(b".", FIRST_CONTROL_ID), *zip(map(os.fsencode, self._names), ids, strict=True)]
        for index, (name, node_id) in enumerate(entries[start:], start + 1):
            if not pyfuse3.readdir_reply(
                token, pyfuse3.FileNameT(name), self.entry(node_id), index
            ):
                return

    def open(self, node_id: int, flags: int) -> ControlHandle:
        """EACCES for reading what can only be written, and the other way round, also for root."""
        file = self._file(node_id)
        writing = flags & os.O_ACCMODE != os.O_RDONLY
        if (writing and file.accept is None) or (
            flags & os.O_ACCMODE != os.O_WRONLY and file.text is None
        ):
            raise refuse(errno.EACCES)
        return ControlHandle(self._names[node_id - FIRST_CONTROL_ID - 1], writing)

    def read(self, handle: ControlHandle, offset: int, size: int) -> bytes:
        make = self._files[handle.name].text
        if make is None:
            raise refuse(errno.EBADF)
        if offset == 0 or not handle.text:
            handle.text = make()
        return handle.text[offset : offset + size]

    def write(self, handle: ControlHandle, data: bytes) -> int:
        accept = self._files[handle.name].accept
        if accept is None:
            raise refuse(errno.EBADF)
        accept(data)
        return len(data)

    def _file(self, node_id: int) -> ControlFile:
        index = node_id - FIRST_CONTROL_ID - 1
        if not 0 <= index < len(self._names):
            raise refuse(errno.ESTALE)
        return self._files[self._names[index]]
