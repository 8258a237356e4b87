"""Handlers for fallocate, lseek and copy_file_range, for which pyfuse3 has none."""

from __future__ import annotations

import errno
import os
from functools import partial
from typing import TYPE_CHECKING

from mirrorfs.backing.syscalls import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_ZERO_RANGE,
)
from mirrorfs.fs.entry import refuse
from mirrorfs.fs.handles import ControlHandle, FileHandle
from mirrorfs.mirror import copy_range, discard

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs.backing.credentials import Credentials
    from mirrorfs.fs.entry import CopyRequest
    from mirrorfs.fs.handles import HandleTable
    from mirrorfs.fs.kernel import Kernel
    from mirrorfs.fs.open_files import OpenFiles
    from mirrorfs.fs.privileges import Privileges
    from mirrorfs.fs.quiet_log import QuietLog
    from mirrorfs.fs.sessions import Sessions
    from mirrorfs.fs.space import Space
    from mirrorfs.mirror.open_file import OpenFile


class Sparse:
    """Handlers; each raises OSError."""

    def __init__(
        self,
        handles: HandleTable,
        open_files: OpenFiles,
        privileges: Privileges,
        space: Space,
        sessions: Sessions,
        quiet_log: QuietLog,
        kernel: Kernel,
        preallocates: bool,
    ) -> None:
        self._handles = handles
        self._open_files = open_files
        self._privileges = privileges
        self._space = space
        self._sessions = sessions
        self._log = quiet_log
        self._kernel = kernel
        self._preallocates = preallocates

    async def fallocate(
        self, number: int, mode: int, offset: int, length: int, caller: Credentials
    ) -> None:
        """fallocate(2). FUSE forwards preallocation, punching and zeroing."""
        handle, file = self._for_writing(number)
        device = handle.inode.device
        async with device.long_call():
            self._sessions.begin(handle.inode, file, caller)
            await self._privileges.drop(handle.inode, caller)
            end, keep_size = offset + length, bool(mode & FALLOC_FL_KEEP_SIZE)
            run = partial(self._space.retry_after_reclaim, device)
            kind = mode & ~FALLOC_FL_KEEP_SIZE
            if kind == FALLOC_FL_PUNCH_HOLE or (kind == FALLOC_FL_ZERO_RANGE and file.rules.punch):
                await run(discard.discard, file, offset, end, keep_size)
            elif kind == FALLOC_FL_ZERO_RANGE:
                await run(discard.keep_zeros, file, offset, end, keep_size)
            elif kind:
                raise refuse(errno.EOPNOTSUPP)
            elif self._preallocates:
                await run(discard.preallocate, file, offset, end, keep_size)
            else:
                self._log.ignored_preallocation(handle.inode)
                await run(discard.grow_only, file, end, keep_size)
            if kind:
                handle.pending.make_good(offset, end)

    async def copy_file_range(self, request: CopyRequest) -> int:
        """copy_file_range(2); may copy less than was wanted."""
        handle, file = self._for_writing(request.target)
        reading = self._handles.get(request.source, FileHandle)
        if request.flags:
            raise refuse(errno.EINVAL)
        inode = reading.inode
        if inode.device is not handle.inode.device:
            # As everywhere else (copy_file_range(2)). The client reads and writes instead, and a
            # thread waits for one device only.
            raise refuse(errno.EXDEV)
        async with inode.device.long_call():
            self._sessions.begin(handle.inode, file, request.caller)
            await self._privileges.drop(handle.inode, request.caller)
            written = self._open_files.get(inode)
            if written is not None:
                await self._open_files.finalise_quietly(inode, written)
                written = self._open_files.get(inode)
            source = copy_range.Source(
                reading.fd,
                inode.key,
                self._open_files.view(reading).is_seek_trusted,
                self._open_files.is_writeback_failed(inode),
                written.lock if written is not None else None,
            )
            try:
                copied = await self._space.retry_after_reclaim(
                    inode.device,
                    copy_range.copy,
                    source,
                    request.source_offset,
                    file,
                    request.target_offset,
                    request.length,
                    partial(self._kernel.is_interrupted, request.number),
                )
            except OSError as exc:
                if exc.errno != errno.EINTR:  # nothing was tried then
                    handle.pending.note(exc, request.target_offset)
                    self._sessions.note_error(handle.inode.key, exc)
                raise
        handle.pending.note_taken(request.target_offset, copied)
        return copied.size

    async def lseek(self, number: int, offset: int, whence: int) -> int:
        """lseek(2) for SEEK_DATA and SEEK_HOLE; the kernel answers the others."""
        handle = self._handles.get(number, FileHandle)
        async with handle.inode.device.long_call():
            return await handle.inode.device.threads.run(self._seek(handle, offset, whence))

    def _seek(self, handle: FileHandle, offset: int, whence: int) -> Callable[[], int]:
        """The call that answers, for a thread that may wait."""
        if whence not in {os.SEEK_DATA, os.SEEK_HOLE}:
            raise refuse(errno.EINVAL)
        return partial(self._open_files.view(handle).seek, offset, whence)

    def _for_writing(self, number: int) -> tuple[FileHandle, OpenFile]:
        """EOPNOTSUPP for a control file, EBADF for a handle that is not open for writing."""
        if isinstance(self._handles.any(number), ControlHandle):
            raise refuse(errno.EOPNOTSUPP)
        handle = self._handles.get(number, FileHandle)
        if handle.open_file is None:
            raise refuse(errno.EBADF)
        return handle, handle.open_file
