"""Handlers for open files: open, flush, fsync, release."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from mirrorfs.backing.reader import open_reader
from mirrorfs.fs import direct_writes
from mirrorfs.fs.control import ControlFolder
from mirrorfs.fs.entry import Opened, refuse
from mirrorfs.fs.handles import FileHandle, is_data_only

if TYPE_CHECKING:
    from mirrorfs.backing.credentials import Credentials
    from mirrorfs.backing.reader import Reader
    from mirrorfs.fs.handles import HandleTable
    from mirrorfs.fs.inode import Inode
    from mirrorfs.fs.inodes import InodeTable
    from mirrorfs.fs.kernel import Kernel
    from mirrorfs.fs.late_recovery import LateRecovery
    from mirrorfs.fs.open_files import OpenFiles
    from mirrorfs.fs.privileges import Privileges
    from mirrorfs.fs.sessions import Sessions
    from mirrorfs.fs.truncation import Truncation
    from mirrorfs.mirror.open_file import OpenFile
    from mirrorfs.options import MountOptions


class Files:
    """Handlers; each raises OSError."""

    def __init__(
        self,
        inodes: InodeTable,
        handles: HandleTable,
        open_files: OpenFiles,
        late_recovery: LateRecovery,
        truncation: Truncation,
        privileges: Privileges,
        control: ControlFolder,
        sessions: Sessions,
        options: MountOptions,
        kernel: Kernel,
    ) -> None:
        self._inodes = inodes
        self._handles = handles
        self._open_files = open_files
        self._late_recovery = late_recovery
        self._truncation = truncation
        self._privileges = privileges
        self._control = control
        self._sessions = sessions
        self._options = options
        self._kernel = kernel

    async def open(self, node_id: int, flags: int, caller: Credentials) -> Opened:
        """open(2) with `flags`."""
        if ControlFolder.owns(node_id):
            return Opened(self._handles.add(self._control.open(node_id, flags)), is_direct=True)
        inode = self._inodes.get(node_id)
        await self._inodes.pin(inode)
        try:
            return await self._open_pinned(inode, flags, caller)
        except BaseException:
            self._inodes.unpin(inode)
            raise

    async def _open_pinned(self, inode: Inode, flags: int, caller: Credentials) -> Opened:
        """Open an inode that is pinned; the pin becomes the handle's."""
        mode = flags & os.O_ACCMODE
        handle = self._new_handle(inode, flags)
        number = self._handles.add(handle)
        try:
            if mode != os.O_WRONLY:
                keeps_atime = self._options.keeps_atime(flags)
                check = self._late_recovery.check_of(inode)
                abilities = self._inodes.abilities(inode)
                handle.reader = await inode.device.threads.run(
                    open_reader, inode.fd, keeps_atime, abilities, check
                )
            if mode != os.O_RDONLY:
                handle.open_file = await self._open_files.share(inode, flags)
                if handle.open_file.append_only and not flags & os.O_APPEND:
                    raise refuse(errno.EPERM)
            if handle.is_direct and mode == os.O_WRONLY:
                handle.is_direct = not await self._privileges.has_capability(inode)
            if flags & os.O_TRUNC:
                await self._truncation.set_size(inode, number, 0, caller)
        except BaseException:
            self._handles.pop(number)
            await self._close(handle)
            raise
        return Opened(number, handle.is_direct)

    async def flush(self, number: int, caller: Credentials) -> None:
        """close(2) of one of the descriptors of a handle: what is not good is reported."""
        handle = self._handles.any(number)
        if not isinstance(handle, FileHandle) or handle.open_file is None:
            return
        inode, file = handle.inode, handle.open_file
        self._sessions.flushed(handle, caller.pid)
        if not inode.device.is_local:
            # Only a file system that is not local holds errors back until close.
            await self._open_files.flush(inode, file)
        tail = file.stale_tail
        if tail is not None and tail.written and not tail.awaits_more:
            # Some tools close a file before they write, or after a header: they come back.
            await self._open_files.finalise(inode, file)
        self._open_files.report_failed_sync(inode, file)
        handle.pending.check()

    async def fsync(self, number: int, data_only: bool) -> None:
        """fsync(2), fdatasync(2)."""
        handle = self._handles.any(number)
        if not isinstance(handle, FileHandle):
            return
        # By any handle, what others have written is made durable, and what fails is remembered.
        await self._open_files.sync(handle.inode, handle.open_file, data_only, handle.fd)
        handle.pending.check()

    async def release(self, number: int) -> None:
        """The end of a handle."""
        handle = self._handles.pop(number)
        if not isinstance(handle, FileHandle):
            return
        if handle.open_file is not None:
            self._sessions.released(handle)
        try:
            await self._close(handle)
        finally:
            self._inodes.unpin(handle.inode)

    async def open_new(
        self, inode: Inode, flags: int, reader: Reader, file: OpenFile | None, is_copy: bool
    ) -> Opened:
        """The handle of a file that was just made, and opened with `flags` already; `is_copy` if it
        has a temporary name of a copy tool.
        """
        await self._inodes.pin(inode)
        handle = self._new_handle(inode, flags, is_copy)
        handle.reader, handle.open_file = reader, file
        if file is not None:
            self._open_files.adopt(inode, file)
        return Opened(self._handles.add(handle), handle.is_direct)

    def _new_handle(self, inode: Inode, flags: int, is_copy: bool = False) -> FileHandle:
        handle = FileHandle(
            inode, synchronous=bool(flags & os.O_DSYNC), data_only=is_data_only(flags)
        )
        if self._kernel.writes_directly():
            direct_writes.choose(handle, self._handles.of(inode), flags, is_copy)
        return handle

    async def _close(self, handle: FileHandle) -> None:
        if handle.fd >= 0:
            handle.inode.device.close_fd(handle.fd)
        if handle.open_file is not None:
            await self._open_files.unshare(handle.inode, handle.open_file)
