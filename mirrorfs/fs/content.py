"""Handlers for the content of open files: read and write.

A handler runs in the main loop's thread, and comes to its end there where memory answers; only a
call that may wait is a thread's.
"""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

from mirrorfs.backing import atime
from mirrorfs.fs.entry import refuse
from mirrorfs.fs.handles import ControlHandle, FileHandle, is_data_only
from mirrorfs.mirror import append_fast_path, basis, unchanged_fast_path, writer
from mirrorfs.mirror.counters import Counters
from mirrorfs.mirror.unchanged_fast_path import Done

if TYPE_CHECKING:
    from mirrorfs.fs.control import ControlFolder
    from mirrorfs.fs.devices import Device
    from mirrorfs.fs.entry import WriteRequest
    from mirrorfs.fs.handles import HandleTable
    from mirrorfs.fs.inodes import InodeTable
    from mirrorfs.fs.kernel import Kernel
    from mirrorfs.fs.open_files import OpenFiles
    from mirrorfs.fs.privileges import Privileges
    from mirrorfs.fs.quiet_log import QuietLog
    from mirrorfs.fs.space import Space
    from mirrorfs.fs.threads import Threads
    from mirrorfs.mirror.counters import Account
    from mirrorfs.mirror.open_file import OpenFile
    from mirrorfs.mirror.plan import Data


class Content:
    """Handlers; each raises OSError."""

    def __init__(
        self,
        inodes: InodeTable,
        handles: HandleTable,
        open_files: OpenFiles,
        privileges: Privileges,
        space: Space,
        control: ControlFolder,
        account: Account,
        quiet_log: QuietLog,
        kernel: Kernel,
    ) -> None:
        self._inodes = inodes
        self._handles = handles
        self._open_files = open_files
        self._privileges = privileges
        self._space = space
        self._control = control
        self._account = account
        self._log = quiet_log
        self._kernel = kernel

    async def read(self, number: int, offset: int, size: int) -> bytes | bytearray:
        """Up to `size` bytes at `offset`, fewer only at the end of the file.

        A bytearray is lent: it is good until this is called again.
        """
        handle = self._handles.any(number)
        if isinstance(handle, ControlHandle):
            return self._control.read(handle, offset, size)
        handle = self._handles.get(number, FileHandle)
        inode = handle.inode
        data: bytes | bytearray | None = self._read_cached(handle, offset, size)
        while data is None:
            view = self._open_files.view(handle)
            data = await inode.device.threads.run(view.read, offset, size)
            if view.stale_tail is None and self._open_files.stale_tail_of(inode) is not None:
                data = None  # it began meanwhile, and what was read may be old
        self._account.add_read(inode.key, len(data))
        return data

    def _read_cached(self, handle: FileHandle, offset: int, size: int) -> bytearray | None:
        """What the page cache below holds, if that can be had without waiting, and is all."""
        fd, flags, _ = handle.reader
        inode = handle.inode
        if fd < 0 or not inode.device.is_local or atime.is_due(fd, flags):
            return None
        if self._open_files.stale_tail_of(inode) is not None:
            return None
        no_wait_flags = self._inodes.abilities(inode).no_wait_flags
        data = basis.read_cached(fd, offset, offset + size, no_wait_flags)
        # A thread may have begun a stale tail meanwhile, and what was read be old.
        return None if self._open_files.stale_tail_of(inode) is not None else data

    async def write(self, request: WriteRequest) -> int:
        """Put data where it belongs; returns how many bytes were taken."""
        handle = self._handles.any(request.handle)
        if isinstance(handle, ControlHandle):
            return self._control.write(handle, request.offset, bytes(request.data))
        if not isinstance(handle, FileHandle) or handle.open_file is None:
            raise refuse(errno.EBADF)
        file, data = handle.open_file, request.data
        if request.takes_setid:
            data = bytes(data)  # what follows may wait
            await self._privileges.drop(handle.inode, request.writer)
        try:
            if request.appends:
                taken = await self._append(handle, file, request.offset, bytes(data))
            else:
                taken = await self._write(handle, file, request.offset, data)
        except OSError as exc:
            if not handle.pending.code:  # from no writer: no thread, or none that answers
                handle.pending.note(exc, request.offset)
            self._log.failure(handle.inode, exc.errno or errno.EIO)
            raise
        if taken < len(request.data) and handle.pending.code:  # else another write made it good
            self._log.failure(handle.inode, handle.pending.code)
        if handle.synchronous:
            await self._open_files.sync(handle.inode, file, handle.data_only)
        elif request.sync_flags and handle.is_direct:
            await self._open_files.sync(handle.inode, file, is_data_only(request.sync_flags))
        return taken

    async def _write(self, handle: FileHandle, file: OpenFile, offset: int, data: Data) -> int:
        """Take what can be taken of a write without waiting, and have a thread do the rest. Another
        reads ahead what may come next.
        """
        size, device = len(data), handle.inode.device
        if file.compares and file.ahead.note(offset, offset + size):
            _read_ahead(device.threads, file)
        done = _take_unchanged(device, file, offset, data)
        if done is Done.ALL:
            handle.pending.make_good(offset, offset + size)
            return size
        if done is Done.BUT_TIMES:
            handle.pending.make_good(offset, offset + size)
            await self._stamp(handle, file, offset, size)
            return size
        taken = _extend(device, file, offset, data)
        if taken:
            handle.pending.make_good(offset, offset + taken)
            if taken == size:
                return size
        try:
            rest = bytes(data[taken:])
            return taken + await self._write_in_thread(handle, file, offset + taken, rest)
        except OSError:
            if not taken:
                raise
            return taken

    async def _stamp(self, handle: FileHandle, file: OpenFile, offset: int, size: int) -> None:
        """Move the times of a file to which a write has changed nothing. It is counted by now:
        fsync and close report what goes wrong.
        """
        try:
            stamped = await handle.inode.device.threads.run(writer.stamp, file, size)
            failure = stamped.failure
        except OSError as exc:  # no thread
            failure = exc
        if failure is not None:
            handle.pending.note(failure, offset + size)

    async def _write_in_thread(
        self, handle: FileHandle, file: OpenFile, offset: int, data: bytes
    ) -> int:
        """Have a thread write; where the disk is full, once more what is left, when space was
        reclaimed. Raises OSError if nothing was taken.
        """
        device, since = handle.inode.device, self._space.reclaimed
        taken, failure = await self._try_write(handle, file, offset, data)
        code = failure.errno if failure is not None else 0
        if taken < len(data) and await self._space.reclaim(device, code, since):
            # The request goes on: it has not failed yet, and is not counted twice.
            self._account.add(file.key, Counters(failed_bytes=taken - len(data)))
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
                self._account.add(file.key, Counters(failed_bytes=-len(data)))
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


def _take_unchanged(device: Device, file: OpenFile, offset: int, data: Data) -> Done:
    if not device.is_local:
        return Done.NOTHING
    try:
        return unchanged_fast_path.take(file, offset, data, device.is_prompt)
    except OSError:  # a thread will meet it, too, and knows what to do about it
        return Done.NOTHING


def _extend(device: Device, file: OpenFile, offset: int, data: Data) -> int:
    if not device.is_prompt:
        return 0
    try:
        return append_fast_path.extend(file, offset, data)
    except OSError:  # as above
        return 0
