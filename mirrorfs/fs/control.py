"""The control folder: files that are read and written, but lie on no disk.

It can be opened by name and is never listed, so that copies and `rsync --delete` leave it alone.
What a copy of a state folder brings along is taken and dropped there (`dropped`). Texts are made at
the first read, and at each read at offset 0, and then stay, so one reading shows one instant.
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
from mirrorfs.fs import attributes
from mirrorfs.fs.copied_state import CopiedState, Node, is_of_a_state_folder
from mirrorfs.fs.handles import ControlHandle
from mirrorfs.fs.inode_numbers import FIRST_CONTROL_ID

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs.fuse.eager import AnyFields, Context


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
        self._dropped = CopiedState(FIRST_CONTROL_ID + 1 + len(files))

    @staticmethod
    def owns(node_id: int) -> bool:
        """Whether a node id is the control folder's or one of its files'."""
        return node_id >= FIRST_CONTROL_ID

    def lookup(self, parent_id: int, name: bytes) -> pyfuse3.EntryAttributes:
        """What has this name in the control folder, or in a folder that was dropped."""
        if name == b".":  # of a file handle
            return self.entry(parent_id)
        node = self._dropped.find(parent_id, name)
        if node is not None:
            return self._told(node)
        text = os.fsdecode(name)
        if parent_id != FIRST_CONTROL_ID or text not in self._files:
            raise refuse(errno.ENOENT)
        return self.entry(FIRST_CONTROL_ID + 1 + self._names.index(text))

    def entry(self, node_id: int = FIRST_CONTROL_ID) -> pyfuse3.EntryAttributes:
        """The attributes of the folder, or of something in it."""
        node = self._dropped.get(node_id)
        if node is not None:
            return attributes.entry(node_id, node.status, 0)
        now = time.time_ns()
        if node_id == FIRST_CONTROL_ID:
            mode, nlink = stat.S_IFDIR | 0o555, 2
        else:
            mode, nlink = stat.S_IFREG | self._file(node_id).mode, 1
        status = Status(
            mode, nlink, os.geteuid(), os.getegid(), node_id, 0, 0, 4096, now, 0, now, now, 0, 0
        )
        return attributes.entry(node_id, status, timeout=0)

    def _told(self, node: Node) -> pyfuse3.EntryAttributes:
        """The attributes of something that was dropped, for an answer that counts as a lookup."""
        node.lookups += 1
        return self.entry(node.node_id)

    def list(self, folder_id: int, start: int, token: pyfuse3.ReaddirToken) -> None:
        """Answer a listing from entry number `start` on. The ids of the folder and of its own files
        take no part in lookup counts.
        """
        entries = [(b".", folder_id)]
        if folder_id == FIRST_CONTROL_ID:
            ids = range(FIRST_CONTROL_ID + 1, FIRST_CONTROL_ID + 1 + len(self._names))
            entries += zip(map(os.fsencode, self._names), ids, strict=True)
        else:
            entries += [(node.name, node.node_id) for node in self._dropped.within(folder_id)]
        for index, (name, node_id) in enumerate(entries[start:], start + 1):
            if not pyfuse3.readdir_reply(
                token, pyfuse3.FileNameT(name), self.entry(node_id), index
            ):
                return
            node = self._dropped.get(node_id)
            if node is not None and name != b".":
                node.lookups += 1

    def make(self, parent_id: int, name: bytes, mode: int, ctx: Context) -> pyfuse3.EntryAttributes:
        """Take what a copy of a state folder brings along; EPERM for anything else."""
        if parent_id == FIRST_CONTROL_ID and not is_of_a_state_folder(name):
            raise refuse(errno.EPERM)
        return self._told(self._dropped.make(parent_id, name, mode, ctx))

    def remove(self, parent_id: int, name: bytes) -> None:
        """Take away what was dropped. A control file is still there afterwards: who deletes what
        the source of a copy does not have (`rsync --delete`) means none of ours.
        """
        is_ours = parent_id == FIRST_CONTROL_ID and os.fsdecode(name) in self._files
        if not self._dropped.remove(parent_id, name) and not is_ours:
            raise refuse(errno.ENOENT)

    def rename(self, parent_id: int, name: bytes, new_parent_id: int, new_name: bytes) -> None:
        """Give what was dropped another name; EPERM for what is ours."""
        if not (self.owns(parent_id) and self.owns(new_parent_id)):
            raise refuse(errno.EPERM)
        if {os.fsdecode(name), os.fsdecode(new_name)} & set(self._files):
            raise refuse(errno.EPERM)
        self._dropped.rename(parent_id, name, new_parent_id, new_name)

    def set(
        self, node_id: int, fields: AnyFields, attr: pyfuse3.EntryAttributes
    ) -> pyfuse3.EntryAttributes:
        """`echo 1 > reset` truncates first; nothing else of a control file can be set. What a copy
        sets of the folder, or of what was dropped, is taken.
        """
        is_file = FIRST_CONTROL_ID < node_id <= FIRST_CONTROL_ID + len(self._names)
        if is_file and (fields.update_mode or fields.update_uid or fields.update_gid):
            raise refuse(errno.EPERM)
        self._dropped.set(node_id, fields, attr)
        return self.entry(node_id)

    def forget(self, node_id: int, lookups: int) -> None:
        """Take lookups away, as the kernel does."""
        self._dropped.forget(node_id, lookups)

    def open(self, node_id: int, flags: int) -> ControlHandle:
        """EACCES for reading what can only be written, and the other way round, also for root."""
        if self._dropped.get(node_id) is not None:
            return ControlHandle(node_id, "", flags & os.O_ACCMODE != os.O_RDONLY)
        file = self._file(node_id)
        writing = flags & os.O_ACCMODE != os.O_RDONLY
        if (writing and file.accept is None) or (
            flags & os.O_ACCMODE != os.O_WRONLY and file.text is None
        ):
            raise refuse(errno.EACCES)
        return ControlHandle(node_id, self._names[node_id - FIRST_CONTROL_ID - 1], writing)

    def read(self, handle: ControlHandle, offset: int, size: int) -> bytes:
        """Of what was dropped there is nothing to be read."""
        if not handle.name:
            return b""
        make = self._files[handle.name].text
        if make is None:
            raise refuse(errno.EBADF)
        if offset == 0 or not handle.text:
            handle.text = make()
        return handle.text[offset : offset + size]

    def write(self, handle: ControlHandle, offset: int, data: bytes) -> int:
        """Let a control file have what was written, or drop it."""
        if not handle.name:
            self._dropped.note_written(handle.node_id, offset + len(data))
            return len(data)
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
