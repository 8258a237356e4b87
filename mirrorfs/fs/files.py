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
from mirrorfs.backing.credentials import Credentials
from mirrorfs.fs import direct_writes, steps
from mirrorfs.fs.control import ControlFolder, refuse
from mirrorfs.fs.handles import ControlHandle, FileHandle
from mirrorfs.fs.xattrs import XattrOperations
from mirrorfs.fuse import at_once, extension
from mirrorfs.fuse.guard import guarded
from mirrorfs.mirror import basis, seed_rules, seed_search, writer
from mirrorfs.mirror.counters import Counters
from mirrorfs.mirror.truncate import truncate
from mirrorfs.mirror.view import View
from mirrorfs.mirror.writer import Taken

if TYPE_CHECKING:
    from mirrorfs.backing.statx import Status
    from mirrorfs.fs.inodes import Inode
    from mirrorfs.fs.threads import Call
    from mirrorfs.fuse.eager import AnyFields, Context
    from mirrorfs.mirror.open_file import OpenFile
    from mirrorfs.mirror.stale_tail import StaleTail


@guarded
class Operations(XattrOperations):
    """All handlers of a mount."""

    async def open(self, node_id: int, flags: int, ctx: Context) -> pyfuse3.FileInfo:
        if ControlFolder.owns(node_id):
            handle = self.state.control.open(node_id, flags)
            return pyfuse3.FileInfo(
                fh=pyfuse3.FileHandleT(self.handles.add(handle)), direct_io=True
            )
        inode = self.inodes.get(node_id)
        await self.inodes.hold(inode)
        try:
            fh = await self._open_held(inode, flags, _caller(ctx))
        except BaseException:
            self.inodes.release(inode)
            raise
        return self._file_info(fh)

    def _file_info(self, fh: int) -> pyfuse3.FileInfo:
        is_direct = self.handles.get(fh, FileHandle).is_direct
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(fh), direct_io=is_direct)

    async def _open_held(self, inode: Inode, flags: int, caller: Credentials) -> int:
        """Open an inode that is held; the hold becomes the handle's."""
        mode = flags & os.O_ACCMODE
        handle = self._new_handle(inode, flags)
        fh = self.handles.add(handle)
        try:
            if mode != os.O_WRONLY:
                keeps, check = (
                    self.state.options.keeps_atime(flags),
                    self.state.leftovers.checked(inode),
                )
                reading = (steps.open_reader, inode.fd, keeps, self.inodes.abilities(inode), check)
                handle.reader = await inode.device.workers.run(*reading)
            if mode != os.O_RDONLY:
                handle.mirror = await self.mirrors.share(inode, flags)
                if handle.mirror.append_only and not flags & os.O_APPEND:
                    raise refuse(errno.EPERM)
            if handle.is_direct and mode == os.O_WRONLY:
                run = inode.device.workers.brief
                if await run(tree.find_xattr, inode.fd, tree.CAPABILITY_ATTRIBUTE) is not None:
                    direct_writes.leave(handle)
            if flags & os.O_TRUNC:
                await self._set_size(inode, fh, 0, caller)
        except BaseException:
            self.handles.pop(fh)
            await self._close_files(handle)
            raise
        return fh

    async def create(
        self, parent_id: int, name: bytes, mode: int, flags: int, ctx: Context
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        if ControlFolder.owns(parent_id):
            entry = self.state.control.make(parent_id, name, mode | stat.S_IFREG, ctx)
            return await self.open(entry.st_ino, flags, ctx), entry
        if self._is_ours(parent_id, name):
            raise refuse(errno.EEXIST)
        async with self._held(parent_id) as (parent,):
            abilities = self.inodes.abilities(parent)
            caller = Credentials(ctx.uid, ctx.gid, umask=ctx.umask)
            rules = self.state.rules(abilities)
            run = parent.device.workers.run
            try:
                keeps = self.state.options.keeps_atime(flags)
                how = (name, mode, caller, flags, abilities, rules, self.state.account, keeps)
                made = await self.state.with_room(parent.device, steps.create, parent.fd, *how)
            except FileExistsError:
                # It was made beside the mount since the kernel looked.
                if flags & os.O_EXCL:
                    raise
                fd, status = await self._existing(parent, name)
                entry = self._adopt(parent, name, fd, status)
            else:
                names = seed_rules.replaced_names(name)
                if made.mirror is not None and self.state.clones_seeds(abilities):
                    old = self.state.old_files.take(parent, name)
                    if old is not None or names:
                        made.mirror.seed_fd = await run(
                            seed_search.find, parent.fd, old, names, _caller(ctx)
                        )
                entry = self._adopt(parent, name, made.fd, made.status)
                inode = self.inodes.get(entry.st_ino)
                fh = await self._handle_of(inode, flags, made, is_copy=bool(names))
                return self._file_info(fh), entry
        try:
            return await self.open(entry.st_ino, flags, ctx), entry
        except BaseException:
            await self.forget([(entry.st_ino, 1)])
            raise

    async def _handle_of(self, inode: Inode, flags: int, made: steps.Created, is_copy: bool) -> int:
        """The handle of a file that was just made, and opened already."""
        await self.inodes.hold(inode)
        handle = self._new_handle(inode, flags, is_copy)
        handle.reader, handle.mirror = made.reader, made.mirror
        if made.mirror is not None:
            self.mirrors.adopt(inode, made.mirror)
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
        tail = self.mirrors.tail_of(handle.inode)
        if tail is not None:
            return await self._read_seeded(handle, tail, fd, off, size)
        found: bytearray | None = None
        if handle.fd >= 0 and at_once.may_read(handle):
            flags = self.inodes.abilities(handle.inode).no_wait_flags
            found = basis.read_cached(fd, off, off + size, flags)
        if found is not None:
            data = bytes(found)
        else:
            view = View(fd, self.mirrors.is_seek_trusted(handle))
            data = await handle.inode.device.workers.run(view.read, off, size)
        tail = self.mirrors.tail_of(handle.inode)
        if tail is not None:  # it began meanwhile, and what was read may be old
            return await self._read_seeded(handle, tail, fd, off, size)
        self.state.account.add_read(handle.inode.key, len(data))
        return data

    async def _read_seeded(
        self, handle: FileHandle, tail: StaleTail, fd: int, offset: int, size: int
    ) -> bytes:
        inode, view = handle.inode, View(fd, self.mirrors.is_seek_trusted(handle), tail)
        data = await inode.device.workers.run(view.read, offset, size)
        self.state.account.add_read(inode.key, len(data))
        return data

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        tags = fh & extension.TAGS
        handle = self.handles.any(fh ^ tags)
        if isinstance(handle, ControlHandle):
            return self.state.control.write(handle, off, buf)
        handle = self.handles.get(fh ^ tags, FileHandle)
        mirror = handle.mirror
        if mirror is None:
            raise refuse(errno.EBADF)
        if tags & extension.KILLS_SETID:
            writer, handle.writer = handle.writer, None
            await self._drop_setid(handle.inode, writer)
        try:
            taken = await self._take(handle, mirror, bool(tags & extension.APPENDS), off, buf)
        except OSError as exc:
            if not handle.pending.code:  # it comes from no writer: no thread, or none that answers
                handle.pending.note(exc, off)
            self.state.note_failure(handle.inode, exc.errno or errno.EIO)
            raise
        if taken < len(buf) and handle.pending.code:  # else another write has made it good
            self.state.note_failure(handle.inode, handle.pending.code)
        sync_flags, handle.sync_flags = handle.sync_flags, 0
        if handle.synchronous:
            await self.mirrors.sync(handle.inode, mirror, handle.data_only)
        elif sync_flags:
            await self.mirrors.sync(handle.inode, mirror, _is_data_only(sync_flags))
        return taken

    async def _take(
        self, handle: FileHandle, mirror: OpenFile, appends: bool, offset: int, data: bytes
    ) -> int:
        """Put what was received where it belongs; returns how many bytes were taken."""
        if appends:
            return await self._append(handle, mirror, offset, data)
        begun, handle.begun = handle.begun, None
        if begun is None:
            begun = at_once.begin_write(handle, mirror, offset, data)
        taken = begun.taken
        if begun.call is None:
            return taken
        try:
            rest = data[taken:]
            return taken + await self._finish(handle, mirror, offset + taken, rest, begun.call)
        except OSError:
            if not taken:
                raise
            return taken

    async def _finish(
        self, handle: FileHandle, mirror: OpenFile, offset: int, data: bytes, call: Call[Taken]
    ) -> int:
        """Wait for the thread that writes `data`; where the disk is full, write once more what is
        left, when what seeds hold has been given up.
        """
        device = handle.inode.device
        workers, since = device.workers, self.state.rooms_made
        failure: OSError | None = None
        try:
            result = await workers.finish(call)
        except OSError as exc:
            failure, result = exc, Taken(0, exc)
        handle.pending.note_taken(offset, result)
        taken, code = result.size, result.failure.errno if result.failure else 0
        if taken == len(data) or not await self.state.make_room(device, code, since):
            if failure is not None:
                raise failure
            return taken
        # The same request goes on: it has not failed yet, and is not counted twice.
        self.state.account.add(mirror.key, Counters(failed_bytes=taken - len(data)))
        where, rest = offset + taken, data[taken:]
        try:
            result = await workers.run(writer.write, mirror, where, rest, 0)
        except OSError as exc:
            handle.pending.note(exc, where)
            if not taken:
                raise
            return taken
        handle.pending.note_taken(where, result)
        return taken + result.size

    async def _drop_setid(self, inode: Inode, caller: Credentials | None = None) -> None:
        """Take setuid and setgid from a file that `caller` changes; None is somebody unprivileged.
        The kernel leaves it to us, if it does, and does not look at the mode again by itself.
        """
        if (await self._status(inode)).mode & (stat.S_ISUID | stat.S_ISGID):
            await inode.device.workers.brief(steps.drop_setid, inode.fd, caller)
            pyfuse3.invalidate_inode(pyfuse3.InodeT(inode.node_id), attr_only=True)

    async def _append(self, handle: FileHandle, mirror: OpenFile, offset: int, data: bytes) -> int:
        """Write at the end as it is below; the kernel's `offset` is the end as it last saw it."""
        where, result = await self.state.with_room(handle.inode.device, writer.append, mirror, data)
        handle.pending.note_taken(where, result)
        if where != offset:
            # The kernel has put the data into its cache at the wrong place. It waits for this
            # answer before it lets go of that page, so a thread that nobody waits for tells it.
            node_id = pyfuse3.InodeT(handle.inode.node_id)
            threading.Thread(target=_invalidate, args=(node_id,), daemon=True).start()
        return result.size

    async def setattr(
        self,
        node_id: int,
        attr: pyfuse3.EntryAttributes,
        fields: AnyFields,
        fh: int | None,
        ctx: Context,
    ) -> pyfuse3.EntryAttributes:
        if ControlFolder.owns(node_id):
            return self.state.control.set(node_id, fields, attr)
        async with self._held(node_id) as (inode,):
            caller, brief = _caller(ctx), inode.device.workers.brief
            if fields.update_size:
                await self._set_size(inode, fh, attr.st_size, caller)
            if fields.update_atime or fields.update_mtime or fields.update_mode:
                # What is set now must be the last change of it.
                await self._settle(inode)
            if steps.sets_nothing(fields) and self.mirrors.get(inode) is not None:
                # The kernel is about to change a file that somebody writes (file_remove_privs).
                await self._drop_setid(inode, caller)
            else:
                is_open = self.mirrors.get(inode) is not None
                check = None if is_open else self.state.leftovers.checked(inode)
                await brief(steps.set_attributes, inode.fd, fields, attr, caller, check)
            return self._entry(inode, await self._status(inode))

    async def _set_size(self, inode: Inode, fh: int | None, size: int, caller: Credentials) -> None:
        """Truncate or grow a file for `caller`, who is likely to write next if it is open."""
        handle = self.handles.any(fh) if fh is not None else None
        if isinstance(handle, FileHandle) and handle.mirror is not None:
            seeds = handle.mirror.recovery_list is not None and await self._may_read(inode, caller)
            await self._truncate(handle.inode, handle.mirror, size, seeds, is_open=True)
        else:
            mirror = await self.mirrors.share(inode, os.O_WRONLY)
            try:
                await self._truncate(inode, mirror, size, seeds=False, is_open=False)
            finally:
                await self.mirrors.unshare(inode, mirror)
        await self._drop_setid(inode, caller)

    async def _may_read(self, inode: Inode, caller: Credentials) -> bool:
        if caller.uid == 0:
            return True
        run, status = inode.device.workers.run, await self._status(inode)
        return await run(seed_search.may_read, inode.fd, status, caller)

    async def _truncate(
        self, inode: Inode, mirror: OpenFile, size: int, seeds: bool, is_open: bool
    ) -> None:
        await self.state.with_room(inode.device, truncate, mirror, size, seeds, is_open)
        for handle in self.handles.files():
            if handle.mirror is mirror:
                handle.pending.cut(size)

    async def flush(self, fh: int) -> None:
        handle = self.handles.any(fh)
        if isinstance(handle, FileHandle) and handle.mirror is not None:
            if not handle.inode.device.is_local:
                # Only a file system that is not local holds errors back until close.
                await self.mirrors.flush(handle.inode, handle.mirror)
            tail = handle.mirror.stale_tail
            if tail is not None and tail.written and not tail.awaits_more:
                # Some tools close a file before they write, or after a header: they come back.
                await self.mirrors.settle(handle.inode, handle.mirror)
            self.mirrors.tell_failed_sync(handle.inode, handle.mirror)
            handle.pending.check()

    async def fsync(self, fh: int, datasync: bool) -> None:
        handle = self.handles.any(fh)
        if not isinstance(handle, FileHandle):
            return
        # Whoever asks, what others have written is to be durable, and what fails is remembered.
        await self.mirrors.sync(handle.inode, handle.mirror, datasync, handle.fd)
        handle.pending.check()

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

    def _new_handle(self, inode: Inode, flags: int, is_copy: bool = False) -> FileHandle:
        handle = FileHandle(inode, synchronous=bool(flags & os.O_DSYNC))
        handle.data_only = _is_data_only(flags)
        direct_writes.choose(handle, flags, self.state.writes_directly, is_copy)
        return handle

    async def _close_files(self, handle: FileHandle) -> None:
        direct_writes.leave(handle)
        if handle.fd >= 0:
            handle.inode.device.workers.close_fd(handle.fd)
        if handle.mirror is not None:
            await self.mirrors.unshare(handle.inode, handle.mirror)


def _invalidate(node_id: pyfuse3.InodeT) -> None:
    with contextlib.suppress(OSError):  # the kernel has forgotten it, or the mount has ended
        pyfuse3.invalidate_inode(node_id)


def _caller(ctx: Context) -> Credentials:
    return Credentials(ctx.uid, ctx.gid, ctx.pid)


def _is_data_only(flags: int) -> bool:
    return not flags & (os.O_SYNC & ~os.O_DSYNC)
