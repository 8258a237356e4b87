"""Handlers for open folders: opendir, readdir, fsyncdir, releasedir."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from mirrorfs.backing import lookup, tree
from mirrorfs.fs.control import ControlFolder
from mirrorfs.fs.handles import ControlHandle, FolderHandle

if TYPE_CHECKING:
    from mirrorfs.backing.statx import Status
    from mirrorfs.fs.entries import Entries
    from mirrorfs.fs.entry import Entry
    from mirrorfs.fs.handles import HandleTable
    from mirrorfs.fs.inode import Inode
    from mirrorfs.fs.inodes import InodeTable
    from mirrorfs.fs.late_recovery import LateRecovery
    from mirrorfs.options import MountOptions

# Takes a name, its entry (None where it could not be looked at) and the number of the next one;
# False if the answer is full.
Take = Callable[[bytes, "Entry | None", int], bool]
# About half of what fits into an answer: few hops, and few files looked at for nothing.
_LISTED_AT_ONCE = 104
# In a listing the kernel uses nothing but the number of these two, and counts no lookup.
_NOT_LOOKED_UP = frozenset({b".", b".."})


class Folders:
    """Handlers; each raises OSError."""

    def __init__(
        self,
        inodes: InodeTable,
        handles: HandleTable,
        entries: Entries,
        late_recovery: LateRecovery,
        control: ControlFolder,
        options: MountOptions,
    ) -> None:
        self._inodes = inodes
        self._handles = handles
        self._entries = entries
        self._late_recovery = late_recovery
        self._control = control
        self._options = options

    async def open(self, node_id: int, flags: int) -> int:
        """Open a folder with `flags` of open(2); returns the number of its handle."""
        if ControlFolder.owns(node_id):
            return self._handles.add(ControlHandle(node_id))
        inode = self._inodes.get(node_id)
        await self._inodes.pin(inode)
        keeps_atime = self._options.keeps_folder_atime(flags)
        return self._handles.add(FolderHandle(inode, keeps_atime))

    async def read(self, number: int, start: int, take: Take) -> None:
        """List a folder from entry number `start` on. The names are those of when reading began."""
        control = self._handles.any(number)
        if isinstance(control, ControlHandle):
            self._control.list(control.node_id, start, take)
            return
        handle = self._handles.get(number, FolderHandle)
        inode, device = handle.inode, handle.inode.device
        if start == 0 or not handle.names:
            names = await device.threads.run(tree.list_names, inode.fd, handle.keeps_atime)
            shown = (name for name in names if not self._control.reserves(inode.node_id, name))
            handle.names = [b".", b"..", *shown]
        index = start
        while index < len(handle.names):
            names = handle.names[index : index + _LISTED_AT_ONCE]
            found = await device.threads.run(lookup.statuses_of, inode.fd, names, device.remote_dev)
            if await self._late_recovery.finish_listed(found, device):
                continue
            for name, status in zip(names, found, strict=True):
                index += 1
                is_gone = status == errno.ENOENT
                if not is_gone and not self._list(take, inode, name, status, index):
                    return

    def _list(
        self, take: Take, folder: Inode, name: bytes, status: Status | int, index: int
    ) -> bool:
        """One entry of a listing, its status or an errno; False if the answer is full."""
        if isinstance(status, int):
            return take(name, None, index)
        if name in _NOT_LOOKED_UP:
            parent = folder.parent if name == b".." else None
            return take(name, self._entries.entry(parent or folder, status), index)
        is_elsewhere = status.dev != folder.device.dev
        if is_elsewhere:
            status = lookup.top(status)
        inode = self._inodes.adopt(status, folder, name)
        entry = self._entries.entry(inode, status)
        if is_elsewhere:
            # A client that wants to know more of what is mounted here than its type looks it up.
            entry = entry._replace(name_seconds=0, attribute_seconds=0)
        if take(name, entry, index):
            return True
        self._inodes.forget(inode.node_id, 1)
        return False

    async def sync(self, number: int, data_only: bool) -> None:
        """fsync(2) of a folder."""
        if isinstance(self._handles.any(number), ControlHandle):
            return
        inode = self._handles.get(number, FolderHandle).inode
        await inode.device.threads.run(tree.sync_folder, inode.fd, data_only)

    async def release(self, number: int) -> None:
        """The end of a handle."""
        handle = self._handles.pop(number)
        if isinstance(handle, FolderHandle):
            self._inodes.unpin(handle.inode)
