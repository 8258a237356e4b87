"""Handlers that deal with names and attributes: lookup, listing, making, removing, renaming.

Lookup counts: lookup, mknod, mkdir, symlink, link and create each add one to the inode they return;
readdir adds one for every entry whose reply was taken, except `.` and `..`; forget takes them away.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pyfuse3

from mirrorfs.backing import atime, tree
from mirrorfs.backing.credentials import Credentials
from mirrorfs.backing.statx import statx
from mirrorfs.fs import attributes, exports, steps
from mirrorfs.fs.control import ControlFolder, refuse
from mirrorfs.fs.handles import ControlHandle, FolderHandle
from mirrorfs.fs.inode_numbers import ROOT_ID
from mirrorfs.fs.pinned_inodes import Pinned
from mirrorfs.fuse.guard import guarded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirrorfs.backing.statx import Status
    from mirrorfs.fs.filesystem import State
    from mirrorfs.fs.inodes import Inode
    from mirrorfs.fuse.eager import Begun, Context

# About half of what fits into an answer: few hops, and few files looked at for nothing.
_LISTED_AT_ONCE = 104
# In a listing the kernel asks for nothing but the number of these two.
_NOT_LOOKED_UP = frozenset({b".", b".."})


@guarded
class NameOperations(pyfuse3.Operations):
    """The handlers that never touch a file's content."""

    supports_dot_lookup = True  # FUSE_EXPORT_SUPPORT
    enable_writeback_cache = False
    enable_acl = True

    def __init__(self, state: State) -> None:
        super().__init__()
        self.state = state
        self.inodes = state.inodes
        self.devices = state.inodes.devices
        self.handles = state.handles
        self.mirrors = state.mirrors
        self.begun: Begun | None = None

    def count_error(self, code: int) -> None:
        self.state.account.add_error(code)

    def _entry(self, inode: Inode, status: Status) -> pyfuse3.EntryAttributes:
        status = self.mirrors.visible(inode, status)
        timeout = self.state.options.attr_timeout
        return attributes.entry(inode.node_id, status, timeout, inode.generation)

    async def _settle(self, inode: Inode) -> None:
        """Let the file below be what clients see, if it is a file that is being written."""
        mirror = self.mirrors.get(inode)
        if mirror is not None:
            await self.mirrors.settle_quietly(inode, mirror)

    async def _settle_name(self, parent: Inode, name: bytes) -> None:
        """The same for what is about to get another name; in a folder, for all: the list of
        unsettled files has their paths.
        """
        if not self.mirrors.has_tails:
            return
        device = parent.device
        try:
            status = await device.workers.brief(steps.status_of, parent.fd, name, device.asks)
        except OSError:
            return  # and renaming it will say so
        inode = self.inodes.find(status)
        if stat.S_ISDIR(status.mode):
            await self.mirrors.settle_all()
        elif inode is not None:
            await self._settle(inode)

    def _is_ours(self, parent_id: int, name: bytes) -> bool:
        """Whether a name stands for the control folder, or for our state folder."""
        return parent_id == ROOT_ID and name in self.state.own_names

    def _held(self, *node_ids: int) -> Pinned:
        """These inodes, with their O_PATH descriptors, kept while the block runs."""
        if any(ControlFolder.owns(node_id) for node_id in node_ids):
            raise refuse(errno.EPERM)
        return Pinned(self.inodes, node_ids)

    def _adopt(
        self, parent: Inode, name: bytes, fd: int, status: Status
    ) -> pyfuse3.EntryAttributes:
        if status.dev == parent.device.dev:
            return self._entry(self.inodes.adopt(status, parent, name, fd), status)
        try:
            is_local = self.devices.meet(status, fd).is_local
        except BaseException:
            os.close(fd)
            raise
        # The kernel keeps the folder locked while it looks up a name in it, so this must not wait
        # for what is mounted there: attributes that are not certain are asked for at their use.
        if stat.S_ISDIR(status.mode) or not is_local:
            status = steps.top(status)
        entry = self._entry(self.inodes.adopt(status, parent, name, fd), status)
        if not is_local:
            entry.attr_timeout = 0
        return entry

    async def _status(self, inode: Inode) -> Status:
        """The status of an inode that is held; of the root as it was, where the disk is dead, so
        that a mount is still seen to be one: a job would else fill the folder below it.
        """
        try:
            if inode.device.is_local:
                return statx(inode.fd, ask=False)
            return await inode.device.workers.run(statx, inode.fd)
        except OSError:
            if inode is not self.inodes.root:
                raise
            return self.inodes.root_status

    async def lookup(self, parent_id: int, name: bytes, _ctx: object) -> pyfuse3.EntryAttributes:
        if name == b"..":
            return await exports.lookup_parent(self, parent_id)
        if ControlFolder.owns(parent_id):
            return self.state.control.lookup(parent_id, name)
        if name == b".":
            return await exports.lookup(self, parent_id)
        if self._is_ours(parent_id, name):
            if name != self.state.control.name:
                return self.state.control.lookup(parent_id, name)
            return self.state.control.entry()
        async with self._held(parent_id) as (parent,):
            fd, status = await self._find(parent, name)
            if self.state.leftovers.has(status.ino):
                fd, status = await self._find_finished(parent, name, fd, status)
            return self._adopt(parent, name, fd, status)

    async def _find_finished(
        self, parent: Inode, name: bytes, fd: int, status: Status
    ) -> tuple[int, Status]:
        """The same of a file that a crash has left unfinished, when it has its true size."""
        try:
            await self.state.leftovers.finish(status.ino, parent.device)
        finally:
            parent.device.workers.close_fd(fd)
        return await self._find(parent, name)

    async def _find(self, parent: Inode, name: bytes) -> tuple[int, Status]:
        """An O_PATH descriptor of `name`, and what is known of its status without asking others."""
        device = parent.device
        if device.is_local:
            try:
                return steps.look_up_cached(parent.fd, name)
            except OSError as exc:
                if exc.errno == errno.ENOENT:
                    raise
        return await device.workers.brief(steps.look_up, parent.fd, name, device.asks)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for node_id, lookups in inode_list:
            self.state.forget(node_id, lookups)

    async def getattr(self, node_id: int, _ctx: object) -> pyfuse3.EntryAttributes:
        if ControlFolder.owns(node_id):
            return self.state.control.entry(node_id)
        async with self._held(node_id) as (inode,):
            return self._entry(inode, await self._status(inode))

    async def readlink(self, node_id: int, _ctx: object) -> bytes:
        async with self._held(node_id) as (inode,):
            if inode.device.is_prompt and not atime.is_due(inode.fd, os.ST_RELATIME):
                return tree.read_link(inode.fd)
            return await inode.device.workers.run(tree.read_link, inode.fd)

    async def opendir(self, node_id: int, _ctx: object, flags: int = 0) -> int:
        """`flags` are those of open(2), which pyfuse3 does not tell (`eager` does)."""
        if ControlFolder.owns(node_id):
            return self.handles.add(ControlHandle(node_id))
        inode = self.inodes.get(node_id)
        await self.inodes.hold(inode)
        keeps_atime = self.state.options.keeps_folder_atime(flags)
        return self.handles.add(FolderHandle(inode, keeps_atime))

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        control = self.handles.any(fh)
        if isinstance(control, ControlHandle):
            self.state.control.list(control.node_id, start_id, token)
            return
        handle = self.handles.get(fh, FolderHandle)
        inode = handle.inode
        device = inode.device
        if start_id == 0 or not handle.names:
            names = await device.workers.run(steps.list_folder, inode.fd, handle.keeps_atime)
            if inode is self.inodes.root:
                names = [name for name in names if name not in self.state.own_names]
            handle.names = [b".", b"..", *names]
        index = start_id
        while index < len(handle.names):
            names = handle.names[index : index + _LISTED_AT_ONCE]
            found = await device.workers.brief(steps.stat_names, inode.fd, names, device.asks)
            if await self.state.leftovers.finish_these(found, device):
                continue
            for name, status in zip(names, found, strict=True):
                index += 1
                is_gone = status == errno.ENOENT
                if not is_gone and not self._reply(token, inode, name, status, index):
                    return

    def _reply(
        self,
        token: pyfuse3.ReaddirToken,
        folder: Inode,
        name: bytes,
        status: Status | int,
        index: int,
    ) -> bool:
        """One entry of a listing, its status or an errno; False if the reply is full."""
        if isinstance(status, int):
            return pyfuse3.readdir_reply(token, name, attributes.unknown(), index)
        if name in _NOT_LOOKED_UP:
            parent = folder.parent if name == b".." else None
            entry = self._entry(parent or folder, status)
            return pyfuse3.readdir_reply(token, name, entry, index)
        is_elsewhere = status.dev != folder.device.dev
        if is_elsewhere:
            status = steps.top(status)
        inode = self.inodes.adopt(status, folder, name)
        entry = self._entry(inode, status)
        if is_elsewhere:
            # Who wants to know more of what is mounted here than its type has to look it up.
            entry.entry_timeout = entry.attr_timeout = 0
        if pyfuse3.readdir_reply(token, name, entry, index):
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
        inode = handle.inode
        await inode.device.workers.run(tree.sync_folder, inode.fd, datasync)

    async def _make(
        self, parent_id: int, name: bytes, function: object, *args: object
    ) -> pyfuse3.EntryAttributes:
        if self._is_ours(parent_id, name):
            raise refuse(errno.EEXIST)
        async with self._held(parent_id) as (parent,):
            fd, status = await self.state.with_room(
                parent.device, steps.make, function, parent.fd, name, *args, brief=True
            )
            return self._adopt(parent, name, fd, status)

    async def mknod(
        self, parent_id: int, name: bytes, mode: int, rdev: int, ctx: Context
    ) -> pyfuse3.EntryAttributes:
        if ControlFolder.owns(parent_id):
            return self.state.control.make(parent_id, name, mode, ctx)
        return await self._make(
            parent_id,
            name,
            tree.make_node,
            mode,
            rdev,
            Credentials(ctx.uid, ctx.gid, umask=ctx.umask),
        )

    async def mkdir(
        self, parent_id: int, name: bytes, mode: int, ctx: Context
    ) -> pyfuse3.EntryAttributes:
        is_state = self._is_ours(parent_id, name) and name != self.state.control.name
        if ControlFolder.owns(parent_id) or is_state:
            return self.state.control.make(parent_id, name, mode | stat.S_IFDIR, ctx)
        return await self._make(
            parent_id, name, tree.make_folder, mode, Credentials(ctx.uid, ctx.gid, umask=ctx.umask)
        )

    async def symlink(
        self, parent_id: int, name: bytes, target: bytes, ctx: Context
    ) -> pyfuse3.EntryAttributes:
        return await self._make(
            parent_id,
            name,
            tree.make_symlink,
            target,
            Credentials(ctx.uid, ctx.gid, umask=ctx.umask),
        )

    async def link(
        self, node_id: int, new_parent_id: int, new_name: bytes, _ctx: object
    ) -> pyfuse3.EntryAttributes:
        if self._is_ours(new_parent_id, new_name):
            raise refuse(errno.EEXIST)
        async with self._held(node_id, new_parent_id) as (inode, parent):
            if inode.device is not parent.device:
                raise refuse(errno.EXDEV)
            await self._settle(inode)
            status = await self.state.with_room(
                parent.device, steps.link, inode.fd, parent.fd, new_name, brief=True
            )
            return self._adopt(parent, new_name, -1, status)

    async def unlink(self, parent_id: int, name: bytes, _ctx: object) -> None:
        await self._remove(parent_id, name, folder=False)

    async def rmdir(self, parent_id: int, name: bytes, _ctx: object) -> None:
        await self._remove(parent_id, name, folder=True)

    async def _remove(self, parent_id: int, name: bytes, folder: bool) -> None:
        if ControlFolder.owns(parent_id):
            self.state.control.remove(parent_id, name)
            return
        if self._is_ours(parent_id, name):
            raise refuse(errno.EPERM)
        async with self._held(parent_id) as (parent,):
            device = parent.device
            seeds = not folder and self.state.clones_seeds(self.inodes.abilities(parent))
            fd, status, old = await device.workers.brief(
                steps.remove, parent.fd, name, folder, device.asks, seeds
            )
            if old is not None:
                self.state.old_files.hold(parent, name, old)
            self._lost_name(fd, status)

    def _lost_name(self, fd: int, status: Status) -> None:
        """One name of the inode with `status` (as it was before) is gone; `fd` is a descriptor of
        it.
        """
        last = status.nlink <= 1 or stat.S_ISDIR(status.mode)
        inode = self.inodes.find(status)
        if inode is None:
            self.devices.at(status.dev).workers.close_fd(fd)
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
        ctx: Context,
    ) -> None:
        if ControlFolder.owns(parent_id) or ControlFolder.owns(new_parent_id):
            self.state.control.rename(parent_id, name, new_parent_id, new_name)
            return
        if self._is_ours(parent_id, name):
            raise refuse(errno.EPERM)
        if self._is_ours(new_parent_id, new_name):
            raise refuse(errno.EEXIST)
        async with self._held(parent_id, new_parent_id) as (old_parent, new_parent):
            device = old_parent.device
            if device is not new_parent.device:
                raise refuse(errno.EXDEV)
            await self._settle_name(old_parent, name)
            if flags & tree.RENAME_EXCHANGE:
                await self._settle_name(new_parent, new_name)
            moved, met = await self.state.with_room(
                device,
                steps.rename,
                old_parent.fd,
                name,
                new_parent.fd,
                new_name,
                flags,
                Credentials(ctx.uid, ctx.gid),
                device.asks,
                brief=True,
            )
            same = met is not None and met[1].key == moved.key
            inode = self.inodes.find(moved)
            if inode is not None and not same:
                self.inodes.renamed(inode, new_parent, new_name)
            if met is None:
                return
            if same or flags & tree.RENAME_EXCHANGE:
                other = self.inodes.find(met[1])
                if other is not None and not same:
                    self.inodes.renamed(other, old_parent, name)
                device.workers.close_fd(met[0])
            else:
                self._lost_name(*met)

    async def statfs(self, _ctx: object) -> pyfuse3.StatvfsData:
        # Whoever asks wants to know what is free.
        await self.state.old_files.give_up_all(self.devices.root)
        await self.mirrors.settle_closed(self.devices.root)
        return await self.devices.root.workers.run(attributes.file_system, self.inodes.root.fd)
