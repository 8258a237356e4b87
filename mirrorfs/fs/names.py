"""Handlers for names: lookup, making, linking, removing, renaming.

Lookup counts: lookup, mknod, mkdir, symlink, link and create each add one to the inode they return;
readdir adds one for every entry that the kernel takes, except `.` and `..`; forget takes them away.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from mirrorfs.backing import lookup, tree
from mirrorfs.backing.statx import identify, statx
from mirrorfs.fs.control import ControlFolder
from mirrorfs.fs.digests import may_have_digests
from mirrorfs.fs.entry import refuse
from mirrorfs.fs.exports import Exports
from mirrorfs.fs.pinned_inodes import Pinned
from mirrorfs.mirror import seed_search

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mirrorfs.backing.credentials import Credentials
    from mirrorfs.backing.statx import Status
    from mirrorfs.fs.entries import Entries
    from mirrorfs.fs.entry import Entry
    from mirrorfs.fs.inode import Inode
    from mirrorfs.fs.inodes import InodeTable
    from mirrorfs.fs.late_recovery import LateRecovery
    from mirrorfs.fs.open_files import OpenFiles
    from mirrorfs.fs.policy import Policy
    from mirrorfs.fs.recently_unlinked import RecentlyUnlinked
    from mirrorfs.fs.sessions import Sessions
    from mirrorfs.fs.space import Space
    from mirrorfs.fs.written_files import WrittenFiles
    from mirrorfs.mirror.seed_search import OldFile


class Names:
    """Handlers; each raises OSError."""

    def __init__(
        self,
        inodes: InodeTable,
        entries: Entries,
        open_files: OpenFiles,
        unlinked: RecentlyUnlinked,
        late_recovery: LateRecovery,
        space: Space,
        control: ControlFolder,
        written: WrittenFiles,
        sessions: Sessions,
        policy: Policy,
    ) -> None:
        self._inodes = inodes
        self._devices = inodes.devices
        self._entries = entries
        self._open_files = open_files
        self._unlinked = unlinked
        self._late_recovery = late_recovery
        self._space = space
        self._control = control
        self._written = written
        self._sessions = sessions
        self._policy = policy
        self._exports = Exports(inodes, entries, late_recovery, self.lookup, self.forget_one)

    async def lookup(self, parent_id: int, name: bytes) -> Entry:
        """Find a name in a folder."""
        if name == b"..":
            return await self._exports.look_up_parent(parent_id)
        if ControlFolder.owns(parent_id):
            return self._control.lookup(parent_id, name)
        if name == b".":
            return await self._exports.look_up(parent_id)
        if self._control.reserves(parent_id, name):
            return self._control.lookup_in_root(name)
        async with Pinned(self._inodes, parent_id) as (parent,):
            fd, status = await self.find(parent, name)
            if self._late_recovery.has(status.ino):
                fd, status = await self._find_finished(parent, name, fd, status)
            return self._entries.adopt(parent, name, fd, status)

    async def find(self, parent: Inode, name: bytes) -> tuple[int, Status]:
        """An O_PATH descriptor of `name`, and what is known of its status without a server."""
        device = parent.device
        return await device.threads.run(lookup.look_up, parent.fd, name, device.remote_dev)

    async def _find_finished(
        self, parent: Inode, name: bytes, fd: int, status: Status
    ) -> tuple[int, Status]:
        """A file that a crash has left unfinished, when it has its true size."""
        try:
            await self._late_recovery.finish(status.ino, parent.device)
        finally:
            parent.device.close_fd(fd)
        return await self.find(parent, name)

    async def forget(self, lookups: Iterable[tuple[int, int]]) -> None:
        """Take lookups away: pairs of node id and count."""
        for node_id, count in lookups:
            self.forget_one(node_id, count)

    def forget_one(self, node_id: int, count: int) -> None:
        """Take lookups of one inode away."""
        if ControlFolder.owns(node_id):
            self._control.forget(node_id, count)
            return
        inode = self._inodes.forget(node_id, count)
        if inode is not None:
            self._written.note_forgotten(inode)

    async def readlink(self, node_id: int) -> bytes:
        """The target of a symbolic link."""
        async with Pinned(self._inodes, self._ours_refused(node_id)) as (inode,):
            return await inode.device.threads.run(tree.read_link, inode.fd)

    async def mknod(
        self, parent_id: int, name: bytes, mode: int, rdev: int, caller: Credentials
    ) -> Entry:
        """Make a node of any kind."""
        if ControlFolder.owns(parent_id):
            return self._control.make(parent_id, name, mode, caller)
        return await self._make(parent_id, name, tree.make_node, mode, rdev, caller)

    async def mkdir(self, parent_id: int, name: bytes, mode: int, caller: Credentials) -> Entry:
        """Make a folder."""
        if ControlFolder.owns(parent_id) or self._control.is_state_folder(parent_id, name):
            return self._control.make(parent_id, name, mode | stat.S_IFDIR, caller)
        return await self._make(parent_id, name, tree.make_folder, mode, caller)

    async def symlink(
        self, parent_id: int, name: bytes, target: bytes, caller: Credentials
    ) -> Entry:
        """Make a symbolic link."""
        return await self._make(parent_id, name, tree.make_symlink, target, caller)

    async def _make(
        self, parent_id: int, name: bytes, function: Callable[..., int], *args: object
    ) -> Entry:
        self._control.check_free(parent_id, name)
        async with Pinned(self._inodes, self._ours_refused(parent_id)) as (parent,):
            fd, status = await self._space.retry_after_reclaim(
                parent.device, _make, function, parent.fd, name, *args
            )
            return self._entries.adopt(parent, name, fd, status)

    async def link(self, node_id: int, new_parent_id: int, new_name: bytes) -> Entry:
        """Give a file a further name."""
        self._control.check_free(new_parent_id, new_name)
        ids = self._ours_refused(node_id), self._ours_refused(new_parent_id)
        async with Pinned(self._inodes, *ids) as (inode, parent):
            if inode.device is not parent.device:
                raise refuse(errno.EXDEV)
            await self._finalise(inode)
            with self._sessions.restamping(inode):
                status = await self._space.retry_after_reclaim(
                    parent.device, _link, inode.fd, parent.fd, new_name
                )
            self._sessions.linked(inode.key, parent.path_of(new_name))
            return self._entries.adopt(parent, new_name, -1, status)

    async def unlink(self, parent_id: int, name: bytes) -> None:
        """Remove a name that is no folder's."""
        await self._remove(parent_id, name, is_folder=False)

    async def rmdir(self, parent_id: int, name: bytes) -> None:
        """Remove an empty folder."""
        await self._remove(parent_id, name, is_folder=True)

    async def _remove(self, parent_id: int, name: bytes, is_folder: bool) -> None:
        if ControlFolder.owns(parent_id):
            self._control.remove(parent_id, name)
            return
        if self._control.reserves(parent_id, name):
            raise refuse(errno.EPERM)
        async with Pinned(self._inodes, parent_id) as (parent,):
            device = parent.device
            seeds = not is_folder and self._policy.clones_seeds(self._inodes.abilities(parent))
            fd, status, old = await device.threads.run(
                _remove, parent.fd, name, is_folder, device.remote_dev, seeds
            )
            if old is not None:
                self._unlinked.hold(parent, name, old)
            self._sessions.removed(status, parent.path_of(name), _is_last(status))
            if not _is_last(status):
                self._sessions.restamped(status, statx(fd, ask=False))
            self._lost_name(fd, status)

    def _lost_name(self, fd: int, status: Status) -> None:
        """One name of the inode with `status` (as it was before) is gone; `fd` is a descriptor of
        it.
        """
        is_last = _is_last(status)
        inode = self._inodes.index.find(status)
        if inode is None:
            self._devices.at(status.dev).close_fd(fd)
            if is_last:
                self._written.drop(status.key)
            return
        self._inodes.give(inode, fd)
        if is_last:
            self._inodes.lose_name(inode)

    async def rename(
        self,
        parent_id: int,
        name: bytes,
        new_parent_id: int,
        new_name: bytes,
        flags: int,
        caller: Credentials,
    ) -> None:
        """renameat2(2) with `flags`."""
        if ControlFolder.owns(parent_id) or ControlFolder.owns(new_parent_id):
            self._control.rename(parent_id, name, new_parent_id, new_name)
            return
        if self._control.reserves(parent_id, name):
            raise refuse(errno.EPERM)
        self._control.check_free(new_parent_id, new_name)
        async with Pinned(self._inodes, parent_id, new_parent_id) as (old_parent, new_parent):
            device = old_parent.device
            if device is not new_parent.device:
                raise refuse(errno.EXDEV)
            await self._finalise_name(old_parent, name)
            if flags & tree.RENAME_EXCHANGE:
                await self._finalise_name(new_parent, new_name)
            places = old_parent.fd, name, new_parent.fd, new_name
            moved, now, met = await self._space.retry_after_reclaim(
                device, _rename, *places, flags, caller, device.remote_dev
            )
            if now is not None:
                self._sessions.restamped(moved, now)
            is_same = met is not None and met[1].key == moved.key
            inode = self._inodes.index.find(moved)
            if inode is not None and not is_same:
                inode.parent, inode.name = new_parent, new_name
            paths = old_parent.path_of(name), new_parent.path_of(new_name)
            if met is None:
                self._sessions.moved(moved.key, *paths, None)
                return
            if is_same or flags & tree.RENAME_EXCHANGE:
                if not is_same:
                    self._sessions.exchanged(moved.key, met[1].key, paths)
                    self._sessions.restamped(met[1], statx(met[0], ask=False))
                other = self._inodes.index.find(met[1])
                if other is not None and not is_same:
                    other.parent, other.name = old_parent, name
                device.close_fd(met[0])
            else:
                self._sessions.replaced(met[1], _is_last(met[1]))
                if not _is_last(met[1]):
                    self._sessions.restamped(met[1], statx(met[0], ask=False))
                self._lost_name(*met)
                self._sessions.moved(moved.key, *paths, met[1])

    async def _finalise(self, inode: Inode) -> None:
        """Let the file below be what clients see, if it is a file that is being written."""
        file = self._open_files.get(inode)
        if file is not None:
            await self._open_files.finalise_quietly(inode, file)

    async def _finalise_name(self, parent: Inode, name: bytes) -> None:
        """Finalise what is about to get another name; of a folder, all: the recovery list has their
        paths.
        """
        if not self._open_files.have_stale_tails:
            return
        device = parent.device
        try:
            status = await device.threads.run(lookup.status_of, parent.fd, name, device.remote_dev)
        except OSError:
            return  # and renaming it will say so
        inode = self._inodes.index.find(status)
        if stat.S_ISDIR(status.mode):
            await self._open_files.finalise_all()
        elif inode is not None:
            await self._finalise(inode)

    @staticmethod
    def _ours_refused(node_id: int) -> int:
        """The node id; EPERM for one of the control folder's."""
        if ControlFolder.owns(node_id):
            raise refuse(errno.EPERM)
        return node_id


def _is_last(status: Status) -> bool:
    """Whether an inode with this status has one name alone."""
    return status.nlink <= 1 or stat.S_ISDIR(status.mode)


def _make(function: Callable[..., int], *args: object) -> tuple[int, Status]:
    """Make an object by a function of `backing.tree`; its O_PATH descriptor and status."""
    fd = function(*args)
    try:
        return fd, identify(fd)
    except OSError:
        os.close(fd)
        raise


def _link(fd: int, parent_fd: int, name: bytes) -> Status:
    """Give the inode of `fd` a further name; its status then."""
    tree.link(fd, parent_fd, name)
    return statx(fd)


def _remove(
    parent_fd: int, name: bytes, is_folder: bool, remote_dev: int | None, seeds: bool
) -> tuple[int, Status, OldFile | None]:
    """unlink or rmdir; the descriptor and status (from before) of what was removed. With `seeds`
    also the file opened, if that was its last name and it is worth it.
    """
    fd, status = lookup.look_up(parent_fd, name, remote_dev)
    old: OldFile | None = None
    try:
        if is_folder:
            os.rmdir(name, dir_fd=parent_fd)
        else:
            if seeds and status.nlink == 1:
                old = seed_search.open_old(fd, status)
            os.unlink(name, dir_fd=parent_fd)
    except OSError:
        os.close(fd)
        if old is not None:
            os.close(old.fd)
        raise
    return fd, status, old


def _rename(
    src_fd: int,
    src: bytes,
    dst_fd: int,
    dst: bytes,
    flags: int,
    caller: Credentials,
    remote_dev: int | None,
) -> tuple[Status, Status | None, tuple[int, Status] | None]:
    """rename; the status of what was moved, before, and of a file that may have digests also now;
    descriptor and status (from before) of what it met there.
    """
    met = None
    moved = lookup.status_of(src_fd, src, remote_dev)
    with contextlib.suppress(FileNotFoundError):
        met = lookup.look_up(dst_fd, dst, remote_dev)
    try:
        tree.rename(src_fd, src, dst_fd, dst, flags, caller)
    except OSError:
        if met:
            os.close(met[0])
        raise
    now = None
    if may_have_digests(moved):
        with contextlib.suppress(OSError):
            now = lookup.status_of(dst_fd, dst, remote_dev)
    return moved, now, met
