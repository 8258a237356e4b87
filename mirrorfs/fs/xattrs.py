"""Handlers for extended attributes. Three are ours: the counters of a file, which lie on no disk;
the recovery attribute, which clients never see; and one that has holes dug.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from mirrorfs.backing import acl, recovery_attribute, tree
from mirrorfs.fs import reports
from mirrorfs.fs.control import ControlFolder
from mirrorfs.fs.entry import refuse
from mirrorfs.fs.pinned_inodes import Pinned
from mirrorfs.fs.privileges import drop_foreign_setgid
from mirrorfs.fs.sparsifier import SPARSIFY_ATTRIBUTE, Sparsifier

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs.backing.credentials import Credentials
    from mirrorfs.fs.inode import Inode
    from mirrorfs.fs.inodes import InodeTable
    from mirrorfs.fs.open_files import OpenFiles
    from mirrorfs.fs.sessions import Sessions
    from mirrorfs.fs.space import Space
    from mirrorfs.mirror.counters import Account

STATS_ATTRIBUTE = b"user.mirrorfs.stats"
_OURS = frozenset({STATS_ATTRIBUTE, SPARSIFY_ATTRIBUTE, recovery_attribute.NAME})


class Xattrs:
    """Handlers; each raises OSError. `stats` makes the text of the mount's own counters."""

    def __init__(
        self,
        inodes: InodeTable,
        open_files: OpenFiles,
        space: Space,
        account: Account,
        sessions: Sessions,
        stats: Callable[[], bytes],
    ) -> None:
        self._inodes = inodes
        self._open_files = open_files
        self._space = space
        self._account = account
        self._sessions = sessions
        self._stats = stats
        self._sparsifier = Sparsifier(inodes, open_files, sessions)

    async def get(self, node_id: int, name: bytes) -> bytes:
        """getxattr(2)."""
        if ControlFolder.owns(node_id) or name == recovery_attribute.NAME:
            raise refuse(errno.ENODATA)
        inode = self._inodes.get(node_id)
        if name == STATS_ATTRIBUTE and inode.kind == stat.S_IFREG:
            return reports.file_json(self._account.file(inode.key))
        if name == STATS_ATTRIBUTE and inode is self._inodes.root:
            return self._stats()
        if name == SPARSIFY_ATTRIBUTE:
            return self._sparsifier.block(inode)
        async with Pinned(self._inodes, node_id):
            return await inode.device.threads.run(tree.get_xattr, inode.fd, name)

    async def list(self, node_id: int, caller: Credentials) -> list[bytes]:
        """listxattr(2)."""
        if ControlFolder.owns(node_id):
            return []
        async with Pinned(self._inodes, node_id) as (inode,):
            names = await inode.device.threads.run(tree.list_xattrs, inode.fd)
        # xattr(7), "Trusted extended attributes": only the privileged see them.
        hidden = () if caller.uid == 0 else (b"trusted.",)
        return [name for name in names if name not in _OURS and not name.startswith(hidden)]

    async def set(
        self, node_id: int, name: bytes, value: bytes, caller: Credentials, flags: int = 0
    ) -> None:
        """setxattr(2)."""
        if name == recovery_attribute.NAME or ControlFolder.owns(node_id):
            return  # a copy brings it along; it describes another file
        if name == SPARSIFY_ATTRIBUTE:
            async with Pinned(self._inodes, node_id) as (inode,):
                await self._sparsifier.dig(inode, value, caller)
            return
        if name in _OURS:
            raise refuse(errno.EPERM)
        async with Pinned(self._inodes, node_id) as (inode,):
            with self._sessions.restamping(inode):
                await self._set(inode, name, value, caller, flags)

    async def _set(
        self, inode: Inode, name: bytes, value: bytes, caller: Credentials, flags: int
    ) -> None:
        await self._space.retry_after_reclaim(
            inode.device, os.setxattr, tree.fd_path(inode.fd), name, value, flags
        )
        file = self._open_files.get(inode)
        if name == tree.CAPABILITY_ATTRIBUTE and file is not None:
            file.has_capability = True
        if name == acl.ACCESS.encode() and caller.uid:
            await inode.device.threads.run(drop_foreign_setgid, inode.fd, caller)

    async def remove(self, node_id: int, name: bytes) -> None:
        """removexattr(2)."""
        if ControlFolder.owns(node_id):
            return
        if name in _OURS:
            raise refuse(errno.EPERM)
        async with Pinned(self._inodes, node_id) as (inode,):
            with self._sessions.restamping(inode):
                await inode.device.threads.run(os.removexattr, tree.fd_path(inode.fd), name)
