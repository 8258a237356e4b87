"""Sizes set by clients: ftruncate(2), truncate(2), and open(2) with O_TRUNC.

Runs in the thread that has the turn (`turn`).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mirrorfs.fs.handles import FileHandle
from mirrorfs.mirror import seed_search
from mirrorfs.mirror.truncate import truncate

if TYPE_CHECKING:
    from mirrorfs.backing.credentials import Credentials
    from mirrorfs.fs.entries import Entries
    from mirrorfs.fs.handles import HandleTable
    from mirrorfs.fs.inode import Inode
    from mirrorfs.fs.open_files import OpenFiles
    from mirrorfs.fs.privileges import Privileges
    from mirrorfs.fs.sessions import Sessions
    from mirrorfs.fs.space import Space
    from mirrorfs.mirror.open_file import OpenFile


class Truncation:
    """Sets sizes."""

    def __init__(
        self,
        handles: HandleTable,
        open_files: OpenFiles,
        entries: Entries,
        privileges: Privileges,
        space: Space,
        sessions: Sessions,
    ) -> None:
        self._handles = handles
        self._open_files = open_files
        self._entries = entries
        self._privileges = privileges
        self._space = space
        self._sessions = sessions

    async def set_size(
        self, inode: Inode, number: int | None, size: int, caller: Credentials
    ) -> None:
        """Set the size, in bytes, of a file that is pinned, for `caller`, who is likely to write
        next if they have it open (by the handle with this number). Raises OSError.
        """
        handle = self._handles.any(number) if number is not None else None
        if isinstance(handle, FileHandle) and handle.open_file is not None:
            file = handle.open_file
            self._sessions.begin(inode, file, caller)
            seeds = file.recovery_list is not None and await self._may_read(inode, caller)
            await self._truncate(handle.inode, file, size, seeds, is_open=True)
        else:
            file = await self._open_files.share(inode, os.O_WRONLY)
            self._sessions.begin(inode, file, caller)
            try:
                await self._truncate(inode, file, size, seeds=False, is_open=False)
            finally:
                await self._open_files.unshare(inode, file)
        await self._privileges.drop(inode, caller)

    async def _may_read(self, inode: Inode, caller: Credentials) -> bool:
        if caller.uid == 0:
            return True
        status = await self._entries.status(inode)
        return await inode.device.threads.run(seed_search.may_read, inode.fd, status, caller)

    async def _truncate(
        self, inode: Inode, file: OpenFile, size: int, seeds: bool, is_open: bool
    ) -> None:
        await self._space.retry_after_reclaim(inode.device, truncate, file, size, seeds, is_open)
        for handle in self._handles.of(inode):
            if handle.open_file is file and handle.pending.cut(size):
                self._sessions.note_lost(inode.key)
