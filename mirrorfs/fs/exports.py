"""What a file handle leads to that the kernel has forgotten (name_to_handle_at(2), NFS).

The kernel has the node id, and the generation, which it compares itself: it looks up `.` in the
former, whatever it is, and `..` in a folder, to find its place in the tree (fs/fuse/inode.c,
fuse_get_dentry and fuse_get_parent). ENOENT becomes ESTALE there. Like any lookup, these count.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from mirrorfs.backing import by_number
from mirrorfs.fs.control import ControlFolder
from mirrorfs.fs.entry import refuse
from mirrorfs.fs.inode_numbers import ROOT_ID
from mirrorfs.fs.pinned_inodes import Pinned

if TYPE_CHECKING:
    from mirrorfs.backing.statx import Status
    from mirrorfs.fs.entries import Entries
    from mirrorfs.fs.entry import Entry
    from mirrorfs.fs.forgotten_inodes import Place
    from mirrorfs.fs.inodes import InodeTable
    from mirrorfs.fs.late_recovery import LateRecovery

LookUp = Callable[[int, bytes], Awaitable["Entry"]]
Forget = Callable[[int, int], None]


class Exports:
    """`look_up` finds a name in a folder, `forget` takes lookups away."""

    def __init__(
        self,
        inodes: InodeTable,
        entries: Entries,
        late_recovery: LateRecovery,
        look_up: LookUp,
        forget: Forget,
    ) -> None:
        self._inodes = inodes
        self._entries = entries
        self._late_recovery = late_recovery
        self._look_up = look_up
        self._forget = forget

    async def look_up(self, node_id: int) -> Entry:
        """The entry of a node id that may be forgotten; ENOENT if that is not found again."""
        index = self._inodes.index
        if index.get(node_id) is not None:
            return await self._count(node_id)
        place = index.forgotten.place_of(node_id)
        entry = await (self._by_number(node_id) if place is None else self._at(place))
        if entry.node_id != node_id:
            self._forget(entry.node_id, 1)
            raise refuse(errno.ENOENT)
        return entry

    async def look_up_parent(self, node_id: int) -> Entry:
        """The entry of the folder around another; ENOENT if that is not in the mount."""
        if ControlFolder.owns(node_id):
            return await self._count(ROOT_ID)
        root = self._inodes.root
        async with Pinned(self._inodes, node_id) as (inode,):
            if inode.device is root.device:
                run, root_fd = inode.device.threads.run, self._inodes.root_fd
                fd, status = await run(by_number.open_parent, root_fd, inode.fd)
                if status.dev == inode.device.dev:
                    return await self._adopt(fd, status)
                os.close(fd)
            return await self.look_up((inode.parent or root).node_id)

    async def _by_number(self, node_id: int) -> Entry:
        if not self._inodes.devices.finds_by_number:
            raise refuse(errno.ENOENT)
        device, root_fd = self._inodes.root.device, self._inodes.root_fd
        fd, status = await device.threads.run(by_number.open_number, root_fd, device.kind, node_id)
        return await self._adopt(fd, status)

    async def _at(self, place: Place) -> Entry:
        await self.look_up(place.parent_id)
        try:
            return await self._look_up(place.parent_id, place.name)
        finally:
            self._forget(place.parent_id, 1)

    async def _adopt(self, fd: int, status: Status) -> Entry:
        await self._late_recovery.finish(status.ino, self._inodes.root.device)
        inode = self._inodes.adopt_unnamed(status, fd)
        try:
            return await self._count(inode.node_id)
        finally:
            self._forget(inode.node_id, 1)

    async def _count(self, node_id: int) -> Entry:
        """The entry of an inode that is known, with one lookup more."""
        async with Pinned(self._inodes, node_id) as (inode,):
            entry = await self._entries.attributes(inode)
            inode.lookups += 1
            return entry
