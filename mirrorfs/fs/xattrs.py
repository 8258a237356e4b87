"""Handlers for extended attributes. Two are ours: the counters of a file, which lie on no disk, and
the mark of an unsettled file, which is nobody's business.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import TYPE_CHECKING

from mirrorfs.backing import recovery_attribute, tree
from mirrorfs.backing.credentials import Credentials
from mirrorfs.fs import reports, steps
from mirrorfs.fs.control import ControlFolder, refuse
from mirrorfs.fs.names import NameOperations
from mirrorfs.fuse.guard import guarded

if TYPE_CHECKING:
    import pyfuse3


STATS_ATTRIBUTE = b"user.mirrorfs.stats"
ACL_ATTRIBUTE = b"system.posix_acl_access"
_OURS = frozenset({STATS_ATTRIBUTE, recovery_attribute.NAME})


@guarded
class XattrOperations(NameOperations):
    """The handlers for names and attributes."""

    async def getxattr(self, node_id: int, name: bytes, _ctx: object) -> bytes:
        if ControlFolder.owns(node_id):
            raise refuse(errno.ENODATA)
        inode = self.inodes.get(node_id)
        if name == STATS_ATTRIBUTE and inode.kind == stat.S_IFREG:
            return reports.file_json(self.state.account.file(inode.key))
        if name == STATS_ATTRIBUTE and inode is self.inodes.root:
            return self.state.stats_json()
        if name == recovery_attribute.NAME:
            raise refuse(errno.ENODATA)
        # The kernel asks for it before every write; that there is none is believed for a moment.
        if name == tree.CAPABILITY_ATTRIBUTE and time.monotonic() < inode.plain_until:
            raise refuse(errno.ENODATA)
        async with self._held(node_id):
            try:
                return await inode.device.workers.brief(tree.get_xattr, inode.fd, name)
            except OSError as exc:
                if name == tree.CAPABILITY_ATTRIBUTE and exc.errno == errno.ENODATA:
                    inode.plain_until = time.monotonic() + self.state.options.attr_timeout
                raise

    async def listxattr(self, node_id: int, ctx: pyfuse3.RequestContext) -> list[bytes]:
        if ControlFolder.owns(node_id):
            return []
        async with self._held(node_id) as (inode,):
            names = await inode.device.workers.brief(tree.list_xattrs, inode.fd)
        # xattr(7), "Trusted extended attributes": only the privileged see them.
        hidden = () if ctx.uid == 0 else (b"trusted.",)
        return [name for name in names if name not in _OURS and not name.startswith(hidden)]

    async def setxattr(
        self, node_id: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext
    ) -> None:
        if name == recovery_attribute.NAME or ControlFolder.owns(node_id):
            return  # a copy brings it along; it describes another file
        if name in _OURS:
            raise refuse(errno.EPERM)
        async with self._held(node_id) as (inode,):
            inode.plain_until = 0.0
            run = inode.device.workers.brief
            await self.state.with_room(
                inode.device, os.setxattr, tree.fd_path(inode.fd), name, value, brief=True
            )
            mirror = self.mirrors.get(inode)
            if name == tree.CAPABILITY_ATTRIBUTE and mirror is not None:
                mirror.has_capability = True
            if name == ACL_ATTRIBUTE and ctx.uid:
                caller = Credentials(ctx.uid, ctx.gid, ctx.pid)
                await run(steps.drop_foreign_setgid, inode.fd, caller)

    async def removexattr(self, node_id: int, name: bytes, _ctx: object) -> None:
        if ControlFolder.owns(node_id):
            return
        if name in _OURS:
            raise refuse(errno.EPERM)
        async with self._held(node_id) as (inode,):
            await inode.device.workers.brief(os.removexattr, tree.fd_path(inode.fd), name)
