"""Handlers for attributes: getattr, setattr, statfs."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from mirrorfs.backing import recovery_attribute, tree
from mirrorfs.fs.control import ControlFolder
from mirrorfs.fs.entry import NO_CHANGES
from mirrorfs.fs.pinned_inodes import Pinned
from mirrorfs.fs.privileges import set_owner

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs.backing.credentials import Credentials
    from mirrorfs.fs.entries import Entries
    from mirrorfs.fs.entry import Changes, Entry
    from mirrorfs.fs.inodes import InodeTable
    from mirrorfs.fs.late_recovery import LateRecovery
    from mirrorfs.fs.open_files import OpenFiles
    from mirrorfs.fs.privileges import Privileges
    from mirrorfs.fs.recently_unlinked import RecentlyUnlinked
    from mirrorfs.fs.sessions import Sessions
    from mirrorfs.fs.truncation import Truncation


class Attributes:
    """Handlers; each raises OSError."""

    def __init__(
        self,
        inodes: InodeTable,
        entries: Entries,
        open_files: OpenFiles,
        unlinked: RecentlyUnlinked,
        late_recovery: LateRecovery,
        truncation: Truncation,
        privileges: Privileges,
        control: ControlFolder,
        sessions: Sessions,
    ) -> None:
        self._inodes = inodes
        self._entries = entries
        self._open_files = open_files
        self._unlinked = unlinked
        self._late_recovery = late_recovery
        self._truncation = truncation
        self._privileges = privileges
        self._control = control
        self._sessions = sessions

    async def get(self, node_id: int) -> Entry:
        """stat(2)."""
        if ControlFolder.owns(node_id):
            return self._control.entry(node_id)
        async with Pinned(self._inodes, node_id) as (inode,):
            return await self._entries.attributes(inode)

    async def set(
        self, node_id: int, changes: Changes, handle: int | None, caller: Credentials
    ) -> Entry:
        """chmod(2), chown(2), truncate(2), utimensat(2); `handle` is of the open file by which the
        client does it, None if it does so by name.
        """
        if ControlFolder.owns(node_id):
            return self._control.set(node_id, changes)
        async with Pinned(self._inodes, node_id) as (inode,):
            if changes.size is not None:
                await self._truncation.set_size(inode, handle, changes.size, caller)
            file = self._open_files.get(inode)
            moves_times = changes.atime_ns is not None or changes.mtime_ns is not None
            if file is not None and (moves_times or changes.mode is not None):
                # What is set now must be the last change of it.
                await self._open_files.finalise_quietly(inode, file)
            is_open = self._open_files.get(inode) is not None
            if changes == NO_CHANGES and is_open:
                # The kernel is about to change a file that a client writes (file_remove_privs).
                await self._privileges.drop(inode, caller)
            else:
                check = None if is_open else self._late_recovery.check_of(inode)
                with self._sessions.restamping(inode):
                    await inode.device.threads.run(set_attributes, inode.fd, changes, caller, check)
            if changes.mtime_ns is not None:
                self._sessions.stamped(inode.key, changes.mtime_ns)
            return await self._entries.attributes(inode)

    async def file_system(self) -> os.statvfs_result:
        """statvfs(3) of the file system below."""
        # The client wants to know what is free.
        root = self._inodes.root
        await self._unlinked.give_up_all(root.device)
        await self._open_files.finalise_closed(root.device)
        return await root.device.threads.run(os.fstatvfs, root.fd)


def set_attributes(
    fd: int, changes: Changes, caller: Credentials, check: Callable[[int], None] | None
) -> None:
    """Set owner, mode and times of the inode of the O_PATH descriptor `fd`, all but its size.

    No changes at all stand for a chown(2) that leaves owner and group. `check` is what an open of
    the file checks, if no client writes it: it goes by the mtime, which is to change.
    """
    if check is not None and changes.mtime_ns is not None:
        _check_unopened(fd, check)
    if changes.uid is not None or changes.gid is not None or changes == NO_CHANGES:
        uid = -1 if changes.uid is None else changes.uid
        set_owner(fd, uid, -1 if changes.gid is None else changes.gid, caller)
    if changes.mode is not None:
        os.chmod(tree.fd_path(fd), stat.S_IMODE(changes.mode))
    if changes.atime_ns is not None or changes.mtime_ns is not None:
        tree.set_times(fd, changes.atime_ns, changes.mtime_ns)


def _check_unopened(path_fd: int, check: Callable[[int], None]) -> None:
    """Open a file for `check`, if it has a recovery attribute."""
    is_unfinished = tree.find_xattr(path_fd, recovery_attribute.NAME) is not None
    if is_unfinished and stat.S_ISREG(os.fstat(path_fd).st_mode):
        fd = tree.open_for_reading(path_fd, os.O_NONBLOCK, keeps_atime=True)
        try:
            check(fd)
        finally:
            os.close(fd)
