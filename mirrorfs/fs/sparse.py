"""Handlers for fallocate, lseek and copy_file_range, which pyfuse3 does not have (`extension`)."""

from __future__ import annotations

import errno
import os
import time
from functools import partial
from typing import TYPE_CHECKING

from mirrorfs.backing.syscalls import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_ZERO_RANGE,
)
from mirrorfs.fs.control import refuse
from mirrorfs.fs.files import Operations
from mirrorfs.fs.handles import FileHandle
from mirrorfs.fuse.guard import guarded
from mirrorfs.mirror import copy_range, discard
from mirrorfs.mirror.view import View

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs.backing.credentials import Credentials
    from mirrorfs.mirror.open_file import OpenFile

# Of the processor. SEEK_HOLE passes all extents of a run of data: 4,000 of them take that.
_LONG_SECONDS = 0.001


@guarded
class SparseOperations(Operations):
    """All handlers of a mount whose extension is loaded."""

    async def fallocate(
        self, fh: int, mode: int, offset: int, length: int, caller: Credentials
    ) -> None:
        """fallocate(2) by `caller`. FUSE forwards preallocation, punching and zeroing."""
        handle, mirror = self._for_writing(fh)
        await self._drop_setid(handle.inode, caller)
        end, keep_size = offset + length, bool(mode & FALLOC_FL_KEEP_SIZE)
        run = partial(self.state.with_room, handle.inode.device)
        kind = mode & ~FALLOC_FL_KEEP_SIZE
        if kind == FALLOC_FL_PUNCH_HOLE or (kind == FALLOC_FL_ZERO_RANGE and mirror.rules.punch):
            await run(discard.discard, mirror, offset, end, keep_size)
            handle.pending.settle(offset, end)
        elif kind == FALLOC_FL_ZERO_RANGE:
            await run(discard.keep_zeros, mirror, offset, end, keep_size)
            handle.pending.settle(offset, end)
        elif kind:
            raise refuse(errno.EOPNOTSUPP)
        elif self.state.options.preallocate == "honour":
            await run(discard.preallocate, mirror, offset, end, keep_size)
        else:
            self.state.note_ignored_preallocation(handle.inode)
            await run(discard.grow_only, mirror, end, keep_size)

    async def copy_file_range(
        self,
        fh_in: int,
        offset_in: int,
        fh_out: int,
        offset_out: int,
        length: int,
        flags: int,
        caller: Credentials,
        is_interrupted: Callable[[], bool],
    ) -> int:
        """copy_file_range(2) by `caller`; may copy less than asked for."""
        handle, mirror = self._for_writing(fh_out)
        reading = self.handles.get(fh_in, FileHandle)
        if flags:
            raise refuse(errno.EINVAL)
        await self._drop_setid(handle.inode, caller)
        inode = reading.inode
        if inode.device is not handle.inode.device:
            # As everywhere else (copy_file_range(2)). The caller reads and writes instead, and a
            # thread waits for one device only.
            raise refuse(errno.EXDEV)
        await self._settle(inode)
        written = self.mirrors.get(inode)
        source = copy_range.Source(
            reading.fd,
            inode.key,
            self.mirrors.is_seek_trusted(reading),
            self.mirrors.is_distrusted(inode),
            written.lock if written is not None else None,
        )
        how = (source, offset_in, mirror, offset_out, length, is_interrupted)
        try:
            taken = await self.state.with_room(inode.device, copy_range.copy, *how)
        except InterruptedError:
            raise
        except OSError as exc:
            handle.pending.note(exc, offset_out)
            raise
        handle.pending.note_taken(offset_out, taken)
        return taken.size

    async def lseek(self, fh: int, offset: int, whence: int) -> int:
        """lseek(2) for SEEK_DATA and SEEK_HOLE; the kernel answers the others."""
        handle = self.handles.get(fh, FileHandle)
        handle.has_sought = True
        return await handle.inode.device.workers.run(self._seek(fh, offset, whence))

    def lseek_at_once(self, fh: int, offset: int, whence: int) -> int | None:
        """The same without waiting; None if something might hold us up: a worker at the file, a
        file system that is not local or has stalled, a file of very many extents, or one whose map
        has yet to be read from the disk.
        """
        handle = self.handles.get(fh, FileHandle)
        if not handle.has_sought or not handle.inode.device.is_prompt or handle.seeks_slowly:
            return None
        mirror = self.mirrors.get(handle.inode)
        if mirror is not None and not mirror.lock.acquire(blocking=False):
            return None
        begun = time.thread_time()
        try:
            return self._seek(fh, offset, whence)()
        finally:
            handle.seeks_slowly = time.thread_time() - begun > _LONG_SECONDS
            if mirror is not None:
                mirror.lock.release()

    def _seek(self, fh: int, offset: int, whence: int) -> Callable[[], int]:
        """The call that answers, for a thread that may wait."""
        handle = self.handles.get(fh, FileHandle)
        if whence not in {os.SEEK_DATA, os.SEEK_HOLE}:
            raise refuse(errno.EINVAL)
        inode = handle.inode
        fd = handle.fd if handle.mirror is None else handle.mirror.fd
        view = View(fd, self.mirrors.is_seek_trusted(handle), self.mirrors.tail_of(inode))
        return partial(view.seek, offset, whence)

    def _for_writing(self, fh: int) -> tuple[FileHandle, OpenFile]:
        """EBADF for a handle that is not open for writing."""
        handle = self.handles.get(fh, FileHandle)
        if handle.mirror is None:
            raise refuse(errno.EBADF)
        return handle, handle.mirror
