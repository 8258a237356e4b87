"""What a client sees of an inode, and how inodes that were found become known to the kernel.

Runs in the thread that has the turn (`turn`).
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from mirrorfs.backing.lookup import top
from mirrorfs.backing.statx import statx
from mirrorfs.fs.entry import Entry

if TYPE_CHECKING:
    from mirrorfs.backing.statx import Status
    from mirrorfs.fs.inode import Inode
    from mirrorfs.fs.inodes import InodeTable
    from mirrorfs.fs.open_files import OpenFiles


class Entries:
    """`seconds` is for how long the kernel may keep names and attributes."""

    def __init__(self, inodes: InodeTable, open_files: OpenFiles, seconds: float) -> None:
        self._inodes = inodes
        self._open_files = open_files
        self._seconds = seconds

    def entry(self, inode: Inode, status: Status) -> Entry:
        """An inode as a client sees it; `status` is true below."""
        status = self._open_files.visible(inode, status)
        return Entry(inode.node_id, status, self._seconds, self._seconds, inode.generation)

    def adopt(self, parent: Inode, name: bytes, fd: int, status: Status) -> Entry:
        """The entry of what was found as `name`, with one lookup counted. `fd`, -1 for none, is its
        O_PATH descriptor and becomes the table's.
        """
        if status.dev == parent.device.dev:
            return self.entry(self._inodes.adopt(status, parent, name, fd), status)
        try:
            is_local = self._inodes.devices.meet(status, fd).is_local
        except BaseException:
            os.close(fd)
            raise
        # The kernel keeps the folder locked while it looks up a name in it, so this must not wait
        # for what is mounted there: attributes that are not certain are looked at when used.
        if stat.S_ISDIR(status.mode) or not is_local:
            status = top(status)
        entry = self.entry(self._inodes.adopt(status, parent, name, fd), status)
        return entry if is_local else entry._replace(attribute_seconds=0)

    async def status(self, inode: Inode) -> Status:
        """The status of an inode that is pinned; of the root as it was, where the disk is dead, so
        that a mount is still seen to be one: a job would else fill the folder below it.
        """
        try:
            if inode.device.is_local:
                return statx(inode.fd, ask=False)
            return await inode.device.threads.run(statx, inode.fd)
        except OSError:
            if inode is not self._inodes.root:
                raise
            return self._inodes.root_status

    async def attributes(self, inode: Inode) -> Entry:
        """The entry of an inode that is pinned, as it is now."""
        return self.entry(inode, await self.status(inode))
