"""Handlers that deal with a file's content: open, create, read, write, truncate, sync, close."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from typing import TYPE_CHECKING

import pyfuse3

from mirrorfs.backing import tree
from mirrorfs.mirror import elision, fresh, reader, writer
from mirrorfs.mirror import file as mirror_file
from mirrorfs.mount import extension, steps
from mirrorfs.mount.control import ControlFolder, refuse
from mirrorfs.mount.guard import guarded
from mirrorfs.mount.handles import ControlHandle, FileHandle
from mirrorfs.mount.names import NameOperations

if TYPE_CHECKING:
    from mirrorfs.backing.syscalls import Status
    from mirrorfs.mirror.file import MirrorFile
    from mirrorfs.mount.inodes import Inode

_TAGS = extension.KILLS_SETID | extension.APPENDS
FAILED_SYNC = -1  # where a pending error happened that no single write can make good


@guarded
class Operations(NameOperations):
    """All handlers of a mount."""

    async def open(self, node_id: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        if ControlFolder.owns(node_id):
            handle = self.state.control.open(node_id, flags)
            return pyfuse3.FileInfo(
                fh=pyfuse3.FileHandleT(self.handles.add(handle)), direct_io=True
            )
        inode = self.inodes.get(node_id)
        await self.inodes.hold(inode)
        try:
            fh = await self._open_held(inode, flags, ctx.uid)
        except BaseException:
            self.inodes.release(inode)
            raise
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(fh))

    async def _open_held(self, inode: Inode, flags: int, caller: int) -> int:
        """Open an inode that is held; the hold becomes the handle's."""
        mode = flags & os.O_ACCMODE
        handle = _new_handle(inode, flags)
        fh = self.handles.add(handle)
        try:
            if mode != os.O_WRONLY:
                handle.fd = await inode.device.workers.run(steps.open_reader, inode.fd)
            if mode != os.O_RDONLY:
                handle.mirror = await self._share(inode)
                if handle.mirror.append_only and not flags & os.O_APPEND:
                    raise refuse(errno.EPERM)
            if flags & os.O_TRUNC:
                await self._set_size(inode, fh, 0, caller)
        except BaseException:
            self.handles.pop(fh)
            await self._close_files(handle)
            raise
        return fh

    async def _share(self, inode: Inode) -> MirrorFile:
        """The one mirror file of an inode, opened if need be; counted as used once more."""
        mirror = self.state.mirrors.get(inode.node_id)
        if mirror is None:
            abilities = self.inodes.abilities(inode)
            mine = await inode.device.workers.run(
                mirror_file.open_mirror_file,
                inode.fd,
                inode.key,
                abilities,
                self.state.rules(abilities),
            )
            # Another open may have come first while this one was with the worker.
            mirror = self.state.mirrors.setdefault(inode.node_id, mine)
            if mirror is mine:
                mirror.distrusted = inode.key in self.state.distrusted
                mirror.reserved = inode.key in self.state.reserved
                self.state.remember_path(inode)
            else:
                inode.device.workers.start(os.close, mine.fd)
        mirror.handles += 1
        return mirror

    async def create(
        self, parent_id: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        if self._is_control(parent_id, name):
            raise refuse(errno.EEXIST)
        async with self._held(parent_id) as (parent,):
            abilities = self.inodes.abilities(parent)
            caller = tree.Caller(ctx.uid, ctx.gid, ctx.umask)
            rules = self.state.rules(abilities)
            try:
                made = await parent.device.workers.run(
                    steps.create, parent.fd, name, mode, caller, flags, abilities, rules
                )
            except FileExistsError:
                # It was made beside the mount since the kernel looked.
                if flags & os.O_EXCL:
                    raise
                fd, status = await self._existing(parent, name)
                entry = self._adopt(parent, name, fd, status)
            else:
                entry = self._adopt(parent, name, made.fd, made.status)
                fh = await self._handle_of(self.inodes.get(entry.st_ino), flags, made)
                return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(fh)), entry
        try:
            return await self.open(entry.st_ino, flags, ctx), entry
        except BaseException:
            await self.forget([(entry.st_ino, 1)])
            raise

    async def _handle_of(self, inode: Inode, flags: int, made: steps.Created) -> int:
        """The handle of a file that was just made, and opened already."""
        await self.inodes.hold(inode)
        handle = _new_handle(inode, flags)
        handle.fd, handle.mirror = made.reader_fd, made.mirror
        if made.mirror is not None:
            made.mirror.handles = 1
            self.state.mirrors[inode.node_id] = made.mirror
            self.state.remember_path(inode)
        return self.handles.add(handle)

    async def _existing(self, parent: Inode, name: bytes) -> tuple[int, Status]:
        fd, status = await self._find(parent, name)
        if not stat.S_ISREG(status.mode):
            os.close(fd)
            raise refuse(errno.ESTALE)
        return fd, status

    async def read(self, fh: int, off: int, size: int) -> bytes:
        handle = self.handles.any(fh)
        if isinstance(handle, ControlHandle):
            return self.state.control.read(handle, off, size)
        handle = self.handles.get(fh, FileHandle)
        fd = handle.fd if handle.fd >= 0 or handle.mirror is None else handle.mirror.fd
        abilities = self.inodes.abilities(handle.inode)
        data: bytes | None = None
        if handle.inode.device.is_local:
            data = reader.read_cached(fd, off, size, abilities.no_wait_flags)
        if data is None:
            trusted = abilities.trusted_seek
            data = await handle.inode.device.workers.run(reader.read, fd, off, size, trusted)
        self.state.account.add_read(handle.inode.key, len(data))
        return data

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        tags = fh & _TAGS
        handle = self.handles.any(fh ^ tags)
        if isinstance(handle, ControlHandle):
            return self.state.control.write(handle, buf)
        handle = self.handles.get(fh ^ tags, FileHandle)
        mirror = handle.mirror
        if mirror is None:
            raise refuse(errno.EBADF)
        if tags & extension.KILLS_SETID:
            await self._drop_setid(handle.inode)
        taken = 0
        try:
            taken = await self._take(handle, mirror, bool(tags & extension.APPENDS), off, buf)
        finally:
            if taken < len(buf):
                self.state.note_failure(handle.inode, handle.pending.code)
        if handle.synchronous:
            await self._sync(handle.inode, mirror, handle.data_only)
        return taken

    async def _take(
        self, handle: FileHandle, mirror: MirrorFile, appends: bool, offset: int, data: bytes
    ) -> int:
        """Put what was received where it belongs; returns how many bytes were taken."""
        account, device = self.state.account, handle.inode.device
        if appends:
            return await self._append(handle, mirror, offset, data)
        if device.is_local and elision.elide(mirror, handle.pending, offset, data, account):
            return len(data)
        taken = 0
        if device.is_prompt:
            taken = fresh.extend(mirror, handle.pending, offset, data, account)
            if taken == len(data):
                return taken
        try:
            rest = data[taken:] if taken else data
            return taken + await device.workers.run(
                writer.write, mirror, handle.pending, offset + taken, rest, account
            )
        except OSError:
            if not taken:
                raise
            return taken

    async def _drop_setid(self, inode: Inode) -> None:
        """Take setuid and setgid from a file that somebody without privileges changes.

        The kernel leaves it to us, if it does, and does not look at the mode again by itself.
        """
        if (await self._status(inode)).mode & (stat.S_ISUID | stat.S_ISGID):
            await inode.device.workers.run(steps.drop_setid, inode.fd)
            pyfuse3.invalidate_inode(pyfuse3.InodeT(inode.node_id), attr_only=True)

    async def _append(
        self, handle: FileHandle, mirror: MirrorFile, offset: int, data: bytes
    ) -> int:
        """Write at the end as it is below; the kernel's `offset` is the end as it last saw it."""
        workers = handle.inode.device.workers
        where, taken = await workers.run(
            writer.append, mirror, handle.pending, data, self.state.account
        )
        if where != offset:
            # The kernel has put the data into its cache at the wrong place. It waits for this
            # answer before it lets go of that page, so a thread that nobody waits for tells it.
            node_id = pyfuse3.InodeT(handle.inode.node_id)
            threading.Thread(target=_invalidate, args=(node_id,), daemon=True).start()
        return taken

    async def setattr(
        self,
        node_id: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        if ControlFolder.owns(node_id):
            return self._set_control(node_id, fields)
        async with self._held(node_id) as (inode,):
            if fields.update_size:
                await self._set_size(inode, fh, attr.st_size, ctx.uid)
            await inode.device.workers.run(steps.set_attributes, inode.fd, fields, attr)
            return self._entry(inode, await self._status(inode))

    def _set_control(self, node_id: int, fields: pyfuse3.SetattrFields) -> pyfuse3.EntryAttributes:
        """`echo 1 > reset` truncates first; nothing else of a control file can be set."""
        if fields.update_mode or fields.update_uid or fields.update_gid:
            raise refuse(errno.EPERM)
        return self.state.control.entry(node_id)

    async def _set_size(self, inode: Inode, fh: int | None, size: int, caller: int) -> None:
        """Truncate or grow a file for the user `caller`."""
        if caller:
            await self._drop_setid(inode)
        handle = self.handles.any(fh) if fh is not None else None
        if isinstance(handle, FileHandle) and handle.mirror is not None:
            await self._truncate(handle.inode, handle.mirror, size)
            return
        mirror = await self._share(inode)
        try:
            await self._truncate(inode, mirror, size)
        finally:
            await self._unshare(inode, mirror)

    async def _truncate(self, inode: Inode, mirror: MirrorFile, size: int) -> None:
        await inode.device.workers.run(mirror_file.truncate, mirror, size, self.state.account)
        for handle in self.handles.files():
            if handle.mirror is mirror:
                handle.pending.cut(size)
        if size == 0:
            self.state.distrusted.discard(mirror.key)

    async def flush(self, fh: int) -> None:
        handle = self.handles.any(fh)
        if isinstance(handle, FileHandle) and handle.mirror is not None:
            if not handle.mirror.abilities.trusted_seek:
                # Only a file system that is not local holds errors back until close.
                await handle.inode.device.workers.run(steps.flush, handle.mirror.fd)
            handle.pending.check()

    async def fsync(self, fh: int, datasync: bool) -> None:
        handle = self.handles.any(fh)
        if not isinstance(handle, FileHandle):
            return
        if handle.mirror is None:
            await handle.inode.device.workers.run(steps.sync_reader, handle.fd, datasync)
        else:
            await self._sync(handle.inode, handle.mirror, datasync)
        handle.pending.check()

    async def _sync(self, inode: Inode, mirror: MirrorFile, data_only: bool) -> None:
        """Make a file durable. A failure is kept for every handle that is open for writing now."""
        try:
            if await inode.device.workers.run(mirror_file.sync, mirror, data_only):
                self._believe_again(mirror)
        except OSError as exc:
            self.state.distrusted.add(mirror.key)
            self.state.note_failure(inode, exc.errno or errno.EIO)
            for handle in self.handles.files():
                if handle.mirror is mirror:
                    handle.pending.code = exc.errno or errno.EIO
                    handle.pending.offset = FAILED_SYNC
            raise

    def _believe_again(self, mirror: MirrorFile) -> None:
        """The end of what a failed fsync began."""
        self.state.distrusted.discard(mirror.key)
        for handle in self.handles.files():
            if handle.mirror is mirror and handle.pending.offset == FAILED_SYNC:
                handle.pending.code = 0

    async def release(self, fh: int) -> None:
        if isinstance(self.handles.any(fh), ControlHandle):
            self.handles.pop(fh)
        else:
            await self._close(fh)

    async def _close(self, fh: int) -> None:
        handle = self.handles.pop(fh)
        if not isinstance(handle, FileHandle):
            return
        try:
            await self._close_files(handle)
        finally:
            self.inodes.release(handle.inode)

    async def _close_files(self, handle: FileHandle) -> None:
        try:
            if handle.fd >= 0:
                await handle.inode.device.workers.run(os.close, handle.fd)
        finally:
            if handle.mirror is not None:
                await self._unshare(handle.inode, handle.mirror)

    async def _unshare(self, inode: Inode, mirror: MirrorFile) -> None:
        mirror.handles -= 1
        if not mirror.handles:
            self.state.mirrors.pop(inode.node_id, None)
            await inode.device.workers.run(os.close, mirror.fd)


def _invalidate(node_id: pyfuse3.InodeT) -> None:
    with contextlib.suppress(OSError):  # the kernel has forgotten it, or the mount has ended
        pyfuse3.invalidate_inode(node_id)


def _new_handle(inode: Inode, flags: int) -> FileHandle:
    handle = FileHandle(inode, synchronous=bool(flags & os.O_DSYNC))
    handle.data_only = not flags & (os.O_SYNC & ~os.O_DSYNC)
    return handle
