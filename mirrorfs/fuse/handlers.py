"""pyfuse3's class of handlers: pyfuse3's arguments become those of the handlers in the table, and
what those return becomes pyfuse3's objects.

Used where the native module cannot be put before libfuse; where it can, requests do not come this
way (`requests`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyfuse3
from pyfuse3 import FUSEError

from mirrorfs.backing.credentials import Credentials
from mirrorfs.fs.entry import Changes, WriteRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from mirrorfs.fs.entry import Entry, Opened
    from mirrorfs.fs.filesystem import Filesystem
    from mirrorfs.fuse.guard import Guard
    from mirrorfs.fuse.operations import Operation

_NO_NODE_ID = (1 << 64) - 1  # the C library passes over names without a number


class Handlers(pyfuse3.Operations):
    """The handlers of one mount. What a handler guarantees is said in `fs`."""

    supports_dot_lookup = True  # FUSE_EXPORT_SUPPORT
    enable_writeback_cache = False
    enable_acl = True

    def __init__(self, fs: Filesystem, operations: list[Operation], guard: Guard) -> None:
        super().__init__()
        self._fs = fs
        self._by_name = {operation.name: operation.handler for operation in operations}
        self._guard = guard

    async def _run(self, name: str, *args: object) -> Any:  # noqa: ANN401 - the handler's own
        """Call the handler of this name in the table."""
        return await self._guarded(name, self._by_name[name](*args))

    async def _guarded(self, name: str, answer: Awaitable[Any]) -> Any:  # noqa: ANN401 - as above
        try:
            return await answer
        except Exception as exc:
            code = self._guard.errno_of(name, exc)
        raise FUSEError(code)

    async def _run_silently(self, name: str, *args: object) -> None:
        """For those of which the kernel wants no answer; what they raise would end the mount."""
        try:
            await self._run(name, *args)
        except FUSEError:
            return

    async def lookup(self, parent_inode: int, name: bytes, _ctx: object) -> pyfuse3.EntryAttributes:
        return _attributes(await self._run("lookup", parent_inode, name))

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        await self._run_silently("forget", inode_list)

    async def getattr(self, inode: int, _ctx: object) -> pyfuse3.EntryAttributes:
        return _attributes(await self._run("getattr", inode))

    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        changes = _changes(attr, fields)
        return _attributes(await self._run("setattr", inode, changes, fh, _caller(ctx)))

    async def readlink(self, inode: int, _ctx: object) -> bytes:
        target: bytes = await self._run("readlink", inode)
        return target

    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        made = await self._run("mknod", parent_inode, name, mode, rdev, _caller(ctx))
        return _attributes(made)

    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return _attributes(await self._run("mkdir", parent_inode, name, mode, _caller(ctx)))

    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return _attributes(await self._run("symlink", parent_inode, name, target, _caller(ctx)))

    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, _ctx: object
    ) -> pyfuse3.EntryAttributes:
        return _attributes(await self._run("link", inode, new_parent_inode, new_name))

    async def unlink(self, parent_inode: int, name: bytes, _ctx: object) -> None:
        await self._run("unlink", parent_inode, name)

    async def rmdir(self, parent_inode: int, name: bytes, _ctx: object) -> None:
        await self._run("rmdir", parent_inode, name)

    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        old, new = (parent_inode_old, name_old), (parent_inode_new, name_new)
        await self._run("rename", *old, *new, flags, _caller(ctx))

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        return _file_info(await self._run("open", inode, flags, _caller(ctx)))

    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        made = await self._run("create", parent_inode, name, mode, flags, _caller(ctx))
        return _file_info(made[1]), _attributes(made[0])

    async def read(self, fh: int, off: int, size: int) -> bytes:
        return bytes(await self._run("read", fh, off, size))

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        count: int = await self._run("write", WriteRequest(fh, off, buf))
        return count

    async def flush(self, fh: int) -> None:
        await self._run("flush", fh, Credentials(0, 0))  # pyfuse3 does not say who

    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._run("fsync", fh, datasync)

    async def release(self, fh: int) -> None:
        await self._run_silently("release", fh)

    async def opendir(self, inode: int, _ctx: object) -> int:
        handle: int = await self._run("opendir", inode, 0)  # pyfuse3 does not pass the flags on
        return handle

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        def take(name: bytes, entry: Entry | None, following: int) -> bool:
            attributes = _unknown() if entry is None else _attributes(entry)
            return pyfuse3.readdir_reply(token, pyfuse3.FileNameT(name), attributes, following)

        await self._guarded("readdir", self._fs.folders.read(fh, start_id, take))

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self._run("fsyncdir", fh, datasync)

    async def releasedir(self, fh: int) -> None:
        await self._run_silently("releasedir", fh)

    async def statfs(self, _ctx: object) -> pyfuse3.StatvfsData:
        below = await self._guarded("statfs", self._fs.attributes.file_system())
        data = pyfuse3.StatvfsData()
        data.f_bsize, data.f_frsize = below.f_bsize, below.f_frsize
        data.f_blocks, data.f_bfree, data.f_bavail = below.f_blocks, below.f_bfree, below.f_bavail
        data.f_files, data.f_ffree, data.f_favail = below.f_files, below.f_ffree, below.f_favail
        data.f_namemax = below.f_namemax
        return data

    async def getxattr(self, inode: int, name: bytes, _ctx: object) -> bytes:
        value: bytes = await self._guarded("getxattr", self._fs.xattrs.get(inode, name))
        return value

    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> list[bytes]:
        names: list[bytes] = await self._guarded(
            "listxattr", self._fs.xattrs.list(inode, _caller(ctx))
        )
        return names

    async def setxattr(
        self, inode: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext
    ) -> None:
        await self._guarded("setxattr", self._fs.xattrs.set(inode, name, value, _caller(ctx)))

    async def removexattr(self, inode: int, name: bytes, _ctx: object) -> None:
        await self._guarded("removexattr", self._fs.xattrs.remove(inode, name))


def _caller(ctx: pyfuse3.RequestContext) -> Credentials:
    return Credentials(ctx.uid, ctx.gid, ctx.pid, ctx.umask)


def _changes(attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields) -> Changes:
    return Changes(
        attr.st_mode if fields.update_mode else None,
        attr.st_uid if fields.update_uid else None,
        attr.st_gid if fields.update_gid else None,
        attr.st_size if fields.update_size else None,
        attr.st_atime_ns if fields.update_atime else None,
        attr.st_mtime_ns if fields.update_mtime else None,
    )


def _file_info(opened: Opened) -> pyfuse3.FileInfo:
    return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(opened.handle), direct_io=opened.is_direct)


def _attributes(entry: Entry) -> pyfuse3.EntryAttributes:
    (
        mode, nlink, uid, gid, _, size, blocks, blksize, atime_ns, _, ctime_ns, mtime_ns, rdev, *_,
    ) = entry.status  # fmt: skip
    attr = pyfuse3.EntryAttributes()
    attr.st_ino = pyfuse3.InodeT(entry.node_id)
    attr.generation = entry.generation
    attr.entry_timeout, attr.attr_timeout = entry.name_seconds, entry.attribute_seconds
    attr.st_mode = pyfuse3.ModeT(mode)
    attr.st_nlink = nlink
    attr.st_uid = uid
    attr.st_gid = gid
    attr.st_rdev = rdev
    attr.st_size = size
    attr.st_blksize = blksize
    attr.st_blocks = blocks
    attr.st_atime_ns = atime_ns
    attr.st_mtime_ns = mtime_ns
    attr.st_ctime_ns = ctime_ns
    return attr


def _unknown() -> pyfuse3.EntryAttributes:
    """For a name in a listing that could not be looked at. No type is 0, so the kernel takes the
    name alone (fs/fuse/readdir.c), forgets the number, and looks the name up for a client that
    wants to know more, which then gets the error.
    """
    attr = pyfuse3.EntryAttributes()
    attr.st_ino = pyfuse3.InodeT(_NO_NODE_ID)
    attr.st_mode = pyfuse3.ModeT(0)
    return attr
