"""Handlers that deal with names and attributes: lookup, listing, making, removing, renaming,
extended attributes.

Lookup counts: lookup, mknod, mkdir, symlink, link and create each add one to the inode they return;
readdir adds one for every entry whose reply was taken, except `.` and `..`; forget takes them away.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyfuse3

from mirrorfs.backing import syscalls, tree
from mirrorfs.mount import attributes, reports, steps
from mirrorfs.mount.control import ControlFolder, refuse
from mirrorfs.mount.guard import guarded
from mirrorfs.mount.handles import ControlHandle, FolderHandle
from mirrorfs.mount.inodes import ROOT_ID, Inode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mirrorfs.backing.syscalls import Status
    from mirrorfs.mount.state import State

STATS_ATTRIBUTE = b"user.mirrorfs.stats"
# The kernel asks for this one before every write; that a file has none is believed for a moment.
CAPABILITY_ATTRIBUTE = b"security.capability"
ACL_ATTRIBUTE = b"system.posix_acl_access"
_LISTED_AT_ONCE = 32


@guarded
class NameOperations(pyfuse3.Operations):
    """The half of the handlers that never touches a file's content."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = True

    def __init__(self, state: State) -> None:
        super().__init__()
        self.state = state
        self.inodes = state.inodes
        self.handles = state.handles
        self.workers = state.workers

    def count_error(self, code: int) -> None:
        self.state.account.add_error(code)

    def _entry(self, inode: Inode, status: Status) -> pyfuse3.EntryAttributes:
        return attributes.entry(inode.node_id, status, self.state.options.attr_timeout)

    def _is_control(self, parent_id: int, name: bytes) -> bool:
        return parent_id == ROOT_ID and name == self.state.control.name

    @contextmanager
    def _held(self, *node_ids: int) -> Iterator[list[int]]:
        """The O_PATH descriptors of these inodes, kept while the block runs."""
        if any(ControlFolder.owns(node_id) for node_id in node_ids):
            raise refuse(errno.EPERM)
        held: list[Inode] = []
        try:
            fds = []
            for node_id in node_ids:
                inode = self.inodes.get(node_id)
                fds.append(self.inodes.hold(inode))
                held.append(inode)
            yield fds
        finally:
            for inode in held:
                self.inodes.release(inode)

    async def _adopt(
        self, parent_id: int, name: bytes, fd: int, status: Status
    ) -> pyfuse3.EntryAttributes:
        if status.dev not in self.inodes.devices:
            self.inodes.meet_device(status, fd)
        inode = self.inodes.adopt(status, self.inodes.get(parent_id), name, fd)
        return self._entry(inode, status)

    async def lookup(self, parent_id: int, name: bytes, _ctx: object) -> pyfuse3.EntryAttributes:
        if ControlFolder.owns(parent_id):
            return self.state.control.lookup(parent_id, name)
        if self._is_control(parent_id, name):
            return self.state.control.entry()
        with self._held(parent_id) as (parent_fd,):
            try:
                fd, status = steps.with_status(
                    syscalls.open_cached(parent_fd, name, os.O_PATH | os.O_NOFOLLOW)
                )
            except OSError as exc:
                if exc.errno == errno.ENOENT:
                    raise
                fd, status = await self.workers.run(steps.look_up, parent_fd, name)
            return await self._adopt(parent_id, name, fd, status)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for node_id, lookups in inode_list:
            gone = self.inodes.forget(node_id, lookups)
            if gone is not None:
                self.state.left(gone)

    async def getattr(self, node_id: int, _ctx: object) -> pyfuse3.EntryAttributes:
        if ControlFolder.owns(node_id):
            return self.state.control.entry(node_id)
        inode = self.inodes.get(node_id)
        fd = self.inodes.hold(inode)
        try:
            return self._entry(inode, syscalls.statx(fd))
        finally:
            self.inodes.release(inode)

    async def readlink(self, node_id: int, _ctx: object) -> bytes:
        with self._held(node_id) as (fd,):
            return tree.read_link(fd)

    async def opendir(self, node_id: int, _ctx: object) -> int:
        if ControlFolder.owns(node_id):
            return self.handles.add(ControlHandle("", writing=False))
        inode = self.inodes.get(node_id)
        self.inodes.hold(inode)
        return self.handles.add(FolderHandle(inode))

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        if isinstance(self.handles.any(fh), ControlHandle):
            self.state.control.list(start_id, token)
            return
        handle = self.handles.get(fh, FolderHandle)
        inode = handle.inode
        if start_id == 0:
            names = await self.workers.run(steps.list_folder, inode.fd)
            if inode is self.inodes.root:
                names = [name for name in names if name != self.state.control.name]
            handle.names = [b".", b"..", *names]
        index = start_id
        while index < len(handle.names):
            names = handle.names[index : index + _LISTED_AT_ONCE]
            for name, status in zip(
                names, await self.workers.run(steps.stat_names, inode.fd, names), strict=True
            ):
                index += 1
                if status is not None and not await self._reply(token, inode, name, status, index):
                    return

    async def _reply(
        self, token: pyfuse3.ReaddirToken, folder: Inode, name: bytes, status: Status, index: int
    ) -> bool:
        """One entry of a listing; False if the reply is full."""
        if name in {b".", b".."}:
            # The kernel takes no lookup for these two, and asks for nothing but the number.
            known = (
                self.inodes.find(status)
                if name == b".." and folder is not self.inodes.root
                else folder
            )
            entry = self._entry(known or folder, status)
            return pyfuse3.readdir_reply(token, pyfuse3.FileNameT(name), entry, index)
        if status.dev not in self.inodes.devices:
            fd, status = await self.workers.run(steps.look_up, folder.fd, name)
            self.inodes.meet_device(status, fd)
            os.close(fd)
        inode = self.inodes.adopt(status, folder, name)
        if pyfuse3.readdir_reply(token, pyfuse3.FileNameT(name), self._entry(inode, status), index):
            return True
        self.inodes.forget(inode.node_id, 1)
        return False

    async def releasedir(self, fh: int) -> None:
        handle = self.handles.pop(fh)
        if isinstance(handle, FolderHandle):
            self.inodes.release(handle.inode)

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        if isinstance(self.handles.any(fh), ControlHandle):
            return
        handle = self.handles.get(fh, FolderHandle)
        await self.workers.run(tree.sync_folder, handle.inode.fd, datasync)

    async def _make(
        self, parent_id: int, name: bytes, function: object, *args: object
    ) -> pyfuse3.EntryAttributes:
        if self._is_control(parent_id, name):
            raise refuse(errno.EEXIST)
        with self._held(parent_id) as (parent_fd,):
            fd, status = await self.workers.run(steps.make, function, parent_fd, name, *args)
            return await self._adopt(parent_id, name, fd, status)

    async def mknod(
        self, parent_id: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return await self._make(
            parent_id, name, tree.make_node, mode, rdev, tree.Caller(ctx.uid, ctx.gid, ctx.umask)
        )

    async def mkdir(
        self, parent_id: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return await self._make(
            parent_id, name, tree.make_folder, mode, tree.Caller(ctx.uid, ctx.gid, ctx.umask)
        )

    async def symlink(
        self, parent_id: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return await self._make(
            parent_id, name, tree.make_symlink, target, tree.Caller(ctx.uid, ctx.gid, ctx.umask)
        )

    async def link(
        self, node_id: int, new_parent_id: int, new_name: bytes, _ctx: object
    ) -> pyfuse3.EntryAttributes:
        if self._is_control(new_parent_id, new_name):
            raise refuse(errno.EEXIST)
        with self._held(node_id, new_parent_id) as (fd, parent_fd):
            status = await self.workers.run(steps.link, fd, parent_fd, new_name)
            return await self._adopt(new_parent_id, new_name, -1, status)

    async def unlink(self, parent_id: int, name: bytes, _ctx: object) -> None:
        await self._remove(parent_id, name, folder=False)

    async def rmdir(self, parent_id: int, name: bytes, _ctx: object) -> None:
        await self._remove(parent_id, name, folder=True)

    async def _remove(self, parent_id: int, name: bytes, folder: bool) -> None:
        if self._is_control(parent_id, name):
            raise refuse(errno.EPERM)
        with self._held(parent_id) as (parent_fd,):
            self._lost_name(*await self.workers.run(steps.remove, parent_fd, name, folder))

    def _lost_name(self, fd: int, status: Status) -> None:
        """One name of the inode with `status` (as it was before) is gone; `fd` is a descriptor of
        it.
        """
        last = status.nlink <= 1 or stat.S_ISDIR(status.mode)
        inode = self.inodes.find(status)
        if inode is None:
            self.workers.start(os.close, fd)
            if last:
                self.state.account.drop(status.key)
            return
        self.inodes.give(inode, fd)
        if last:
            self.inodes.lose_name(inode)

    async def rename(
        self,
        parent_id: int,
        name: bytes,
        new_parent_id: int,
        new_name: bytes,
        flags: int,
        _ctx: object,
    ) -> None:
        if self._is_control(parent_id, name):
            raise refuse(errno.EPERM)
        if self._is_control(new_parent_id, new_name):
            raise refuse(errno.EEXIST)
        with self._held(parent_id, new_parent_id) as (src_fd, dst_fd):
            moved, met = await self.workers.run(steps.rename, src_fd, name, dst_fd, new_name, flags)
            old_parent, new_parent = self.inodes.get(parent_id), self.inodes.get(new_parent_id)
            same = met is not None and met[1].key == moved.key
            inode = self.inodes.find(moved)
            if inode is not None and not same:
                self.inodes.renamed(inode, new_parent, new_name)
            if met is None:
                return
            if same or flags & steps.RENAME_EXCHANGE:
                other = self.inodes.find(met[1])
                if other is not None and not same:
                    self.inodes.renamed(other, old_parent, name)
                os.close(met[0])
            else:
                self._lost_name(*met)

    async def statfs(self, _ctx: object) -> pyfuse3.StatvfsData:
        return await self.workers.run(attributes.file_system, self.inodes.root.fd)

    async def getxattr(self, node_id: int, name: bytes, _ctx: object) -> bytes:
        if ControlFolder.owns(node_id):
            raise refuse(errno.ENODATA)
        inode = self.inodes.get(node_id)
        if name == STATS_ATTRIBUTE and inode.kind == stat.S_IFREG:
            return reports.file_json(self.state.account.file(inode.key))
        if name == STATS_ATTRIBUTE and inode is self.inodes.root:
            return self.state.stats_json()
        if name == CAPABILITY_ATTRIBUTE and time.monotonic() < inode.plain_until:
            raise refuse(errno.ENODATA)
        fd = self.inodes.hold(inode)
        try:
            return tree.get_xattr(fd, name)
        except OSError as exc:
            if name == CAPABILITY_ATTRIBUTE and exc.errno == errno.ENODATA:
                inode.plain_until = time.monotonic() + self.state.options.attr_timeout
            raise
        finally:
            self.inodes.release(inode)

    async def listxattr(self, node_id: int, ctx: pyfuse3.RequestContext) -> list[bytes]:
        if ControlFolder.owns(node_id):
            return []
        with self._held(node_id) as (fd,):
            names = [os.fsencode(name) for name in os.listxattr(tree.fd_path(fd))]
        # xattr(7), "Trusted extended attributes": only the privileged see them.
        hidden = () if ctx.uid == 0 else (b"trusted.",)
        return [name for name in names if name != STATS_ATTRIBUTE and not name.startswith(hidden)]

    async def setxattr(
        self, node_id: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext
    ) -> None:
        if name == STATS_ATTRIBUTE:
            raise refuse(errno.EPERM)
        with self._held(node_id) as (fd,):
            self.inodes.get(node_id).plain_until = 0.0
            await self.workers.run(os.setxattr, tree.fd_path(fd), name, value)
            if name == ACL_ATTRIBUTE and ctx.uid:
                await self.workers.run(steps.drop_foreign_setgid, fd, ctx.pid, ctx.gid)

    async def removexattr(self, node_id: int, name: bytes, _ctx: object) -> None:
        if name == STATS_ATTRIBUTE:
            raise refuse(errno.EPERM)
        with self._held(node_id) as (fd,):
            await self.workers.run(os.removexattr, tree.fd_path(fd), name)
