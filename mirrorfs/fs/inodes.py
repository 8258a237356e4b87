"""The table of inodes that the kernel knows, and the descriptors that stand for them.

An inode is (device, inode number, birth time), never a path; only what a mount point leads to is
known by the mount, since a server that does not answer cannot tell a number (`lookup.top`).

Its O_PATH descriptor is kept in an LRU of bounded size; one that was given up is opened again by
file handle (root) or by parent and name, and must then be the same inode, else ESTALE. An inode
that is in use by a request (`pin`), open, or nameless keeps its descriptor.

A descriptor pins the mount that it was opened in. So those in other mounts than the backing
folder's own (`visiting`) are given up soon after their last use, and are then opened again by name
only: a handle would need another descriptor there.

Used by whoever has the turn (`turn`), so no lock is needed; what may block goes by the inode's
device. Lookup counts follow FUSE: each entry handed to the kernel adds one,
`forget` takes them away.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING

from mirrorfs.backing import lookup, syscalls
from mirrorfs.fs.entry import stale
from mirrorfs.fs.inode import Inode
from mirrorfs.fs.inode_index import InodeIndex

if TYPE_CHECKING:
    from mirrorfs.backing.probe import Abilities
    from mirrorfs.backing.statx import Status
    from mirrorfs.fs.devices import Devices

# How long a descriptor in a mount below stays after its last use: long enough that work there does
# not open everything again and again, short enough for an administrator who wants to unmount it.
VISIT_SECONDS = 2.0
_SWEPT_AT_ONCE = 1000  # about a millisecond


def _is_deleted(fd: int) -> bool:
    """Whether the inode of `fd` has no name any more; not, as far as a dead disk can tell."""
    try:
        return os.fstat(fd).st_nlink == 0
    except OSError:
        return False


class InodeTable:
    """All inodes of one mount.

    `root_fd` is a real (not O_PATH) descriptor of the backing folder; `limit` bounds the
    descriptors of inodes that are merely known, those that are visiting apart from the others.
    """

    def __init__(self, root_fd: int, root: Status, devices: Devices, limit: int) -> None:
        self.index = InodeIndex(devices)
        self._kept: OrderedDict[Inode, None] = OrderedDict()
        self._visiting: OrderedDict[Inode, float] = OrderedDict()  # with the time of the last use
        self._limit = limit
        self._looked_at = 0
        self._by_handle = os.geteuid() == 0
        self.root_fd = root_fd
        self._root_mount = root.mount_id
        self.devices = devices
        self.root = Inode(devices.root, root, None, b"")
        self.root_status = root
        self.root.fd = os.open(".", os.O_PATH | os.O_CLOEXEC, dir_fd=root_fd)
        self.root.pins = 1
        self.root.lookups = 1
        self.index.add_root(self.root)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def descriptors(self) -> int:
        """How many descriptors of merely known inodes are kept now."""
        return len(self._kept) + len(self._visiting)

    def get(self, node_id: int) -> Inode:
        """The inode of a node id; ESTALE if the kernel does not know it, or no more."""
        inode = self.index.get(node_id)
        if inode is None:
            raise stale()
        return inode

    def adopt(self, status: Status, parent: Inode, name: bytes, fd: int = -1) -> Inode:
        """Count one lookup of the inode with `status`, making it known if it is new.

        `fd`, if given, is its O_PATH descriptor and becomes the table's.
        """
        inode = self.index.find(status)
        if inode is None:
            inode = self._begin(status, parent, name)
        elif inode is not self.root:
            inode.parent, inode.name = parent, name
        visiting = status.mount_id != self._root_mount or inode.device is not self.devices.root
        if visiting != inode.is_visiting:
            self._note_mount(inode, visiting)
        inode.lookups += 1
        if fd >= 0:
            self.give(inode, fd)
        return inode

    def adopt_unnamed(self, status: Status, fd: int) -> Inode:
        """Count one lookup of an inode on the root's device that was found without a name; what is
        known of its name stays. `fd` as for `adopt`.
        """
        known = self.index.find(status) or self.root
        return self.adopt(status, known.parent or self.root, known.name, fd)

    def _begin(self, status: Status, parent: Inode, name: bytes) -> Inode:
        inode = Inode(self.devices.at(status.dev), status, parent, name)
        inode.device.inodes += 1
        gone = self.index.add(inode)
        if gone is not None:
            self._left(gone)
        return inode

    def _note_mount(self, inode: Inode, visiting: bool) -> None:
        """A descriptor that was opened in another mount than the one it was now found in is given
        up, unless it is in use: it might pin that mount for long.
        """
        if not inode.pins and not inode.nameless:
            if inode.fd >= 0:
                self._unkeep(inode)
                self._give_up(inode)
            inode.is_visiting = visiting

    def give(self, inode: Inode, fd: int) -> None:
        """Hand the table an O_PATH descriptor of `inode`; a second one is closed."""
        if inode.fd >= 0:
            os.close(fd)
            return
        inode.fd = fd
        self._keep(inode)

    def forget(self, node_id: int, lookups: int) -> Inode | None:
        """Take lookups away; returns the inode if it is no longer known."""
        inode = self.index.get(node_id)
        if inode is None or inode is self.root:
            return None
        inode.lookups -= lookups
        if inode.lookups > 0 or inode.pins:
            return None
        self._drop(inode)
        return inode

    async def pin(self, inode: Inode) -> int:
        """The descriptor of `inode`, kept until `unpin`; opened again if it was given up. Raises
        ESTALE.
        """
        inode.pins += 1
        self._unkeep(inode)
        if inode.fd < 0 or inode.device.abilities is None:
            try:
                if inode.fd < 0:
                    await self._reopen(inode)
                if inode.device.abilities is None:
                    await self.devices.probe(inode.device, inode.fd)
            except BaseException:
                self.unpin(inode)
                raise
        return inode.fd

    def unpin(self, inode: Inode) -> None:
        """The end of a `pin`."""
        inode.pins -= 1
        if inode.pins:
            return
        if inode.lookups <= 0 and inode is not self.root:
            self._drop(inode)
        else:
            self._keep(inode)

    def lose_name(self, inode: Inode) -> None:
        """Note that the last name of an inode is gone: only its descriptor leads to it from
        now on.
        """
        inode.nameless = True
        self._unkeep(inode)

    def sweep(self) -> None:
        """Give up descriptors that pin what others want to be rid of: those in other mounts that
        were not used for a moment, and those of files that were deleted beside the mount, whose
        blocks are not free before. Forget the devices of which nothing is known any more.
        """
        latest = time.monotonic() - VISIT_SECONDS
        while self._visiting and next(iter(self._visiting.values())) < latest:
            self._give_up(self._visiting.popitem(last=False)[0])
        for inode in self._next_kept():
            if _is_deleted(inode.fd):
                self._unkeep(inode)
                self._give_up(inode)
        self.devices.sweep()

    def _next_kept(self) -> list[Inode]:
        """The next some of the kept inodes, in turn, if looking at one cannot take long."""
        if not self.devices.root.is_local:
            return []
        if self._looked_at >= len(self._kept):
            self._looked_at = 0
        begun, self._looked_at = self._looked_at, self._looked_at + _SWEPT_AT_ONCE
        return list(islice(self._kept, begun, self._looked_at))

    def close(self) -> None:
        """Close every descriptor."""
        for inode in self.index.pop_all():
            if inode.fd >= 0:
                self._dispose(inode)
        self._kept.clear()
        self._visiting.clear()

    def abilities(self, inode: Inode) -> Abilities:
        """What the file system of `inode`, which is or was pinned, can do."""
        if inode.device.abilities is None:
            raise stale()
        return inode.device.abilities

    def _keep(self, inode: Inode) -> None:
        if inode.pins or inode.nameless or inode.fd < 0:
            return
        if inode.is_visiting:
            self._visiting[inode] = time.monotonic()
            self._visiting.move_to_end(inode)
            if len(self._visiting) > self._limit:
                self._give_up(self._visiting.popitem(last=False)[0])
        else:
            self._kept[inode] = None
            self._kept.move_to_end(inode)
            if len(self._kept) > self._limit:
                self._give_up(self._kept.popitem(last=False)[0])

    def _unkeep(self, inode: Inode) -> None:
        self._kept.pop(inode, None)
        if inode.is_visiting:
            self._visiting.pop(inode, None)

    def _give_up(self, inode: Inode) -> None:
        if self._by_handle and not inode.is_visiting:
            inode.handle = syscalls.file_handle(inode.fd)
        self._dispose(inode)

    def _dispose(self, inode: Inode) -> None:
        """Close the descriptor where that may block (the last one of an unlinked file)."""
        inode.device.close_fd(inode.fd)
        inode.fd = -1

    def _drop(self, inode: Inode) -> None:
        # It may have been dropped before, and have been pinned as another's parent since.
        if self.index.get(inode.node_id) is inode:
            self.index.remove(inode)
            self._left(inode)
        else:
            self._let_go(inode)

    def _left(self, inode: Inode) -> None:
        """An inode is no longer known."""
        inode.device.inodes -= 1
        self._let_go(inode)

    def _let_go(self, inode: Inode) -> None:
        self._unkeep(inode)
        if inode.fd >= 0:
            self._dispose(inode)

    async def _reopen(self, inode: Inode) -> None:
        """Open the descriptor of `inode` again, by handle where there is one, else by parent and
        name, after those of its parents where they were given up, too.
        """
        lost = [inode]
        try:
            while not self._has_way(lost[-1]):
                parent = lost[-1].parent
                if parent is None or lost[-1].nameless:
                    raise stale()
                parent.pins += 1
                self._unkeep(parent)
                lost.append(parent)
            for found in reversed(lost):
                if found.fd < 0:
                    await self._open_again(found)
        finally:
            for parent in lost[1:]:
                self.unpin(parent)

    def _has_way(self, inode: Inode) -> bool:
        return inode.fd >= 0 or (inode.handle is not None and not inode.is_visiting)

    async def _open_again(self, inode: Inode) -> None:
        """By handle, or by name in a parent that has its descriptor."""
        run, key = inode.device.threads.run, inode.key
        fd = -1
        if inode.handle is not None and not inode.is_visiting:
            fd = await run(lookup.open_again_by_handle, self.root_fd, inode.handle, key)
        if fd < 0:
            if inode.parent is None or inode.parent.fd < 0:
                raise stale()
            try:
                place = (inode.parent.fd, inode.name, inode.device.remote_dev)
                fd = await run(lookup.open_again_by_name, *place, key)
            except FileNotFoundError:
                raise stale() from None
        self.give(inode, fd)
