"""The control folder: files that are read and written, but lie on no disk.

It can be opened by name and is never listed, so that copies and `rsync --delete` leave it alone.
What a copy of a state folder brings along is accepted and dropped there (`copied_state`). Texts are
made at the first read, and at each read at offset 0, and then stay, so one reading shows one
instant. One that takes long is made without the turn.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirrorfs.backing import state_folder
from mirrorfs.backing.statx import Status
from mirrorfs.fs.copied_state import CopiedState, Node, is_of_a_state_folder
from mirrorfs.fs.entry import Entry, refuse
from mirrorfs.fs.handles import ControlHandle
from mirrorfs.fs.inode_numbers import FIRST_CONTROL_ID, ROOT_ID

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs.backing.credentials import Credentials
    from mirrorfs.fs.entry import Changes
    from mirrorfs.fs.threads import Threads

_FOLDER_ID = FIRST_CONTROL_ID


@dataclass(frozen=True, slots=True)
class ControlFile:
    """One file of the folder."""

    mode: int  # permission bits
    text: Callable[[], bytes] | None = None  # makes what is read
    accept: Callable[[bytes], None] | None = None  # takes what is written
    takes_long: bool = False  # to make the text, which any thread can do


class ControlFolder:
    """`files` by name. Node ids are FIRST_CONTROL_ID for the folder, then one for each file in
    order. `state_name` is the name of the state folder in the root, None if it is elsewhere.
    """

    def __init__(
        self, name: bytes, files: dict[str, ControlFile], state_name: bytes | None = None
    ) -> None:
        self._name = name
        self._reserved = {name} if state_name is None else {name, state_name}
        self._files = files
        self._names = list(files)
        self._copied = CopiedState(_FOLDER_ID + 1 + len(files))

    @staticmethod
    def owns(node_id: int) -> bool:
        """Whether a node id is the control folder's or one of its files'."""
        return node_id >= FIRST_CONTROL_ID

    def reserves(self, parent_id: int, name: bytes) -> bool:
        """Whether a name stands for the control folder, or for the state folder."""
        if parent_id != ROOT_ID:
            return False
        return name in self._reserved or state_folder.is_being_made(name)

    def is_state_folder(self, parent_id: int, name: bytes) -> bool:
        """Whether a name stands for the state folder alone."""
        return name != self._name and self.reserves(parent_id, name)

    def check_free(self, parent_id: int, name: bytes) -> None:
        """Raise EEXIST for a name that is reserved."""
        if self.reserves(parent_id, name):
            raise refuse(errno.EEXIST)

    def lookup_in_root(self, name: bytes) -> Entry:
        """What has this reserved name in the root of the mount; ENOENT for the state folder, but
        for a copy of one.
        """
        return self.entry() if name == self._name else self.lookup(ROOT_ID, name)

    def lookup(self, parent_id: int, name: bytes) -> Entry:
        """What has this name in the control folder, or in a folder that was dropped."""
        if name == b".":  # of a file handle
            return self.entry(parent_id)
        node = self._copied.find(parent_id, name)
        if node is not None:
            return self._counted(node)
        text = os.fsdecode(name)
        if parent_id != _FOLDER_ID or text not in self._files:
            raise refuse(errno.ENOENT)
        return self.entry(_FOLDER_ID + 1 + self._names.index(text))

    def entry(self, node_id: int = _FOLDER_ID) -> Entry:
        """The attributes of the folder, or of something in it."""
        node = self._copied.get(node_id)
        if node is not None:
            return Entry(node_id, node.status, 0, 0)
        now = time.time_ns()
        if node_id == _FOLDER_ID:
            mode, nlink = stat.S_IFDIR | 0o555, 2
        else:
            mode, nlink = stat.S_IFREG | self._file(node_id).mode, 1
        status = Status(
            mode, nlink, os.geteuid(), os.getegid(), node_id, 0, 0, 4096, now, 0, now, now, 0, 0
        )
        return Entry(node_id, status, 0, 0)

    def _counted(self, node: Node) -> Entry:
        """The attributes of something that was dropped, for an answer that counts as a lookup."""
        node.lookups += 1
        return self.entry(node.node_id)

    def list(
        self, folder_id: int, start: int, take: Callable[[bytes, Entry | None, int], bool]
    ) -> None:
        """List a folder from entry number `start` on (`folders.Take`). The ids of the folder and of
        its own files take no part in lookup counts.
        """
        entries = [(b".", folder_id)]
        if folder_id == _FOLDER_ID:
            ids = range(_FOLDER_ID + 1, _FOLDER_ID + 1 + len(self._names))
            entries += zip(map(os.fsencode, self._names), ids, strict=True)
        else:
            entries += [(node.name, node.node_id) for node in self._copied.within(folder_id)]
        for index, (name, node_id) in enumerate(entries[start:], start + 1):
            if not take(name, self.entry(node_id), index):
                return
            node = self._copied.get(node_id)
            if node is not None and name != b".":
                node.lookups += 1

    def make(self, parent_id: int, name: bytes, mode: int, caller: Credentials) -> Entry:
        """Accept what a copy of a state folder brings along; EPERM for anything else."""
        if parent_id == _FOLDER_ID and not is_of_a_state_folder(name):
            raise refuse(errno.EPERM)
        return self._counted(self._copied.make(parent_id, name, mode, caller))

    def remove(self, parent_id: int, name: bytes) -> None:
        """Remove what was dropped. A control file is still there afterwards: a tool that deletes
        what the source of a copy does not have (`rsync --delete`) means none of ours.
        """
        is_ours = parent_id == _FOLDER_ID and os.fsdecode(name) in self._files
        if not self._copied.remove(parent_id, name) and not is_ours:
            raise refuse(errno.ENOENT)

    def rename(self, parent_id: int, name: bytes, new_parent_id: int, new_name: bytes) -> None:
        """Give what was dropped another name; EPERM for what is ours."""
        if not (self.owns(parent_id) and self.owns(new_parent_id)):
            raise refuse(errno.EPERM)
        if {os.fsdecode(name), os.fsdecode(new_name)} & set(self._files):
            raise refuse(errno.EPERM)
        self._copied.rename(parent_id, name, new_parent_id, new_name)

    def set(self, node_id: int, changes: Changes) -> Entry:
        """`echo 1 > reset` truncates first; nothing else of a control file can be set. What a copy
        sets of the folder, or of what was dropped, is accepted.
        """
        is_file = _FOLDER_ID < node_id <= _FOLDER_ID + len(self._names)
        if is_file and (changes.mode, changes.uid, changes.gid) != (None, None, None):
            raise refuse(errno.EPERM)
        self._copied.set(node_id, changes)
        return self.entry(node_id)

    def forget(self, node_id: int, lookups: int) -> None:
        """Take lookups away, as the kernel does."""
        self._copied.forget(node_id, lookups)

    def open(self, node_id: int, flags: int) -> ControlHandle:
        """EACCES for reading what can only be written, and the other way round, also for root."""
        writing = flags & os.O_ACCMODE != os.O_RDONLY
        if self._copied.get(node_id) is not None:
            return ControlHandle(node_id, "", writing)
        file = self._file(node_id)
        if (writing and file.accept is None) or (
            flags & os.O_ACCMODE != os.O_WRONLY and file.text is None
        ):
            raise refuse(errno.EACCES)
        return ControlHandle(node_id, self._names[node_id - _FOLDER_ID - 1], writing)

    async def read(self, handle: ControlHandle, offset: int, size: int, threads: Threads) -> bytes:
        """A part of a control file's text, which `threads` make if that takes long; nothing of what
        was dropped.
        """
        if not handle.name:
            return b""
        file = self._files[handle.name]
        if file.text is None:
            raise refuse(errno.EBADF)
        if offset == 0 or not handle.text:
            handle.text = await threads.run(file.text) if file.takes_long else file.text()
        return handle.text[offset : offset + size]

    def write(self, handle: ControlHandle, offset: int, data: bytes) -> int:
        """Let a control file have what was written, or drop it."""
        if not handle.name:
            self._copied.note_written(handle.node_id, offset + len(data))
            return len(data)
        accept = self._files[handle.name].accept
        if accept is None:
            raise refuse(errno.EBADF)
        accept(data)
        return len(data)

    def _file(self, node_id: int) -> ControlFile:
        index = node_id - _FOLDER_ID - 1
        if not 0 <= index < len(self._names):
            raise refuse(errno.ESTALE)
        return self._files[self._names[index]]
