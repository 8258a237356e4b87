"""Handlers for the content of open files: read and write.

Used by whoever has the turn (`turn`), which is given away around each call below.
"""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

from mirrorfs.fs.entry import refuse
from mirrorfs.fs.handles import ControlHandle, FileHandle, is_data_only
from mirrorfs.mirror import writer
from mirrorfs.mirror.counters import Counters

if TYPE_CHECKING:
    from mirrorfs.fs.control import ControlFolder
    from mirrorfs.fs.entry import WriteRequest
    from mirrorfs.fs.handles import HandleTable
    from mirrorfs.fs.kernel import Kernel
    from mirrorfs.fs.open_files import OpenFiles
    from mirrorfs.fs.privileges import Privileges
    from mirrorfs.fs.quiet_log import QuietLog
    from mirrorfs.fs.sessions import Sessions
    from mirrorfs.fs.space import Space
    from mirrorfs.fs.threads import Threads
    from mirrorfs.mirror.counters import Account
    from mirrorfs.mirror.open_file import OpenFile


class Content:
    """Handlers; each raises OSError."""

    def __init__(
        self,
        handles: HandleTable,
        open_files: OpenFiles,
        privileges: Privileges,
        space: Space,
        control: ControlFolder,
        account: Account,
        sessions: Sessions,
        quiet_log: QuietLog,
        kernel: Kernel,
        texts: Threads,
    ) -> None:
        self._handles = handles
        self._open_files = open_files
        self._privileges = privileges
        self._space = space
        self._control = control
        self._account = account
        self._sessions = sessions
        self._log = quiet_log
        self._kernel = kernel
        self._texts = texts  # make those of control files that take long

    async def read(self, number: int, offset: int, size: int) -> bytes:
        """Up to `size` bytes at `offset`, fewer only at the end of the file."""
        handle = self._handles.any(number)
        if isinstance(handle, ControlHandle):
            return await self._control.read(handle, offset, size, self._texts)
        handle = self._handles.get(number, FileHandle)
        inode = handle.inode
        data: bytes | None = None
        while data is None:
            view = self._open_files.view(handle)
            data = await inode.device.threads.run(view.read, offset, size)
            if view.stale_tail is None and self._open_files.stale_tail_of(inode) is not None:
                data = None  # it began meanwhile, and what was read may be old
        self._account.add_read(inode.key, len(data))
        return data

    async def write(self, request: WriteRequest) -> int:
        """Put data where it belongs; returns how many bytes were taken."""
        handle = self._handles.any(request.handle)
        if isinstance(handle, ControlHandle):
            return self._control.write(handle, request.offset, bytes(request.data))
        if not isinstance(handle, FileHandle) or handle.open_file is None:
            raise refuse(errno.EBADF)
        file, data = handle.open_file, bytes(request.data)
        self._sessions.begin(handle.inode, file, request.writer)
        if request.takes_setid:
            await self._privileges.drop(handle.inode, request.writer)
        try:
            if request.appends:
                taken = await self._append(handle, file, request.offset, data)
            else:
                taken = await self._write(handle, file, request.offset, data)
        except OSError as exc:
            if not handle.pending.code:  # from no writer: no thread, or none that answers
                handle.pending.note(exc, request.offset)
            self._failed(handle, exc)
            raise
        if taken < len(data) and handle.pending.code:  # else another write made it good
            self._failed(handle, refuse(handle.pending.code))
        if handle.synchronous:
            await self._open_files.sync(handle.inode, file, handle.data_only)
        elif request.sync_flags and handle.is_direct:
            await self._open_files.sync(handle.inode, file, is_data_only(request.sync_flags))
        return taken

    def _failed(self, handle: FileHandle, error: OSError) -> None:
        self._log.failure(handle.inode, error.errno or errno.EIO)
        self._sessions.note_error(handle.inode.key, error)

    async def _write(self, handle: FileHandle, file: OpenFile, offset: int, data: bytes) -> int:
        """Write; where the disk is full, once more what is left, when space was reclaimed. What may
        come next is read ahead. Raises OSError if nothing was taken.
        """
        device, since = handle.inode.device, self._space.reclaimed
        if file.compares and file.reads_old and file.ahead.note(offset, offset + len(data)):
            _read_ahead(device.threads, file)
        taken, failure = await self._try_write(handle, file, offset, data)
        code = failure.errno if failure is not None else 0
        if taken < len(data) and await self._space.reclaim(device, code, since):
            # The request goes on: it has not failed yet, and is not counted twice.
            file.count(Counters(failed_bytes=taken - len(data)))
            rest = data[taken:]
            more, failure = await self._try_write(handle, file, offset + taken, rest, requests=0)
            taken += more
        if failure is not None and not taken:
            raise failure
        return taken

    async def _try_write(
        self, handle: FileHandle, file: OpenFile, offset: int, data: bytes, requests: int = 1
    ) -> tuple[int, OSError | None]:
        """One attempt of a thread: how many bytes were taken, and what stopped it. The handle keeps
        what fsync and close are to report.
        """
        run = handle.inode.device.threads.run
        try:
            result = await run(writer.write, file, offset, data, requests)
        except OSError as exc:
            handle.pending.note(exc, offset)
            return 0, exc
        handle.pending.note_taken(offset, result)
        return result.size, result.failure

    async def _append(self, handle: FileHandle, file: OpenFile, offset: int, data: bytes) -> int:
        """Write at the end as it is below; the kernel's `offset` is the end as it last saw it."""
        device, since = handle.inode.device, self._space.reclaimed
        try:
            try:
                where, result = await device.threads.run(writer.append, file, data)
            except OSError as exc:
                if not await self._space.reclaim(device, exc.errno, since):
                    raise
                # The request goes on: it has not failed yet, and is not counted twice.
                file.count(Counters(failed_bytes=-len(data)))
                where, result = await device.threads.run(writer.append, file, data, 0)
        except OSError as exc:
            handle.pending.note(exc, file.size if device.is_local else offset)
            raise
        handle.pending.note_taken(where, result)
        if where != offset:
            # The kernel has put the data into its cache at the wrong place. It waits for this
            # answer before it lets go of that page, so another thread has it dropped.
            node_id = handle.inode.node_id
            threading.Thread(target=self._kernel.drop_content, args=(node_id,), daemon=True).start()
        return result.size


def _read_ahead(threads: Threads, file: OpenFile) -> None:
    try:
        fd = os.dup(file.fd)  # it may be at work when the file is closed
    except OSError:  # there are too many; the write does without
        file.ahead.not_now()
        return
    threads.start(file.ahead.read, fd, file.is_seek_trusted)
