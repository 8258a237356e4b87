"""Every operation, declared once: how its request is decoded, which handler answers, and how the
answer is encoded. Both ways from the kernel to a handler go by this table (`requests`, `handlers`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from mirrorfs.fuse import messages
from mirrorfs.fuse.protocol import Opcode

if TYPE_CHECKING:
    from mirrorfs.fs.filesystem import Filesystem

Decode = Callable[[memoryview], tuple[Any, ...]]
Handler = Callable[..., Awaitable[Any]]
Encode = Callable[[Any], bytes | bytearray]


class Operation(NamedTuple):
    """One operation."""

    name: str  # as pyfuse3 calls it
    decode: Decode
    handler: Handler
    encode: Encode

    @property
    def is_answered(self) -> bool:
        """Whether the kernel waits for an answer."""
        return self.name != "forget"

    @property
    def is_interruptible(self) -> bool:
        """Whether its handler asks if a signal waits for the client."""
        return self.name == "copy_file_range"


def table(fs: Filesystem) -> dict[Opcode, Operation]:
    """The operations of a mount by opcode."""
    names, files, sparse, xattrs = fs.names, fs.files, fs.sparse, fs.xattrs
    entry, nothing = messages.entry_out, messages.nothing_out
    attributes, name = messages.attributes_out, messages.node_name_in
    data = messages.data_out
    op = Operation
    getxattr, listxattr = _sized(xattrs.get), _sized(xattrs.list)
    return {
        Opcode.LOOKUP: op("lookup", name, names.lookup, entry),
        Opcode.FORGET: op("forget", messages.forget_in, names.forget, nothing),
        Opcode.BATCH_FORGET: op("forget", messages.batch_forget_in, names.forget, nothing),
        Opcode.GETATTR: op("getattr", messages.node_in, fs.attributes.get, attributes),
        Opcode.SETATTR: op("setattr", messages.setattr_in, fs.attributes.set, attributes),
        Opcode.READLINK: op("readlink", messages.node_in, names.readlink, data),
        Opcode.SYMLINK: op("symlink", messages.symlink_in, names.symlink, entry),
        Opcode.MKNOD: op("mknod", messages.mknod_in, names.mknod, entry),
        Opcode.MKDIR: op("mkdir", messages.mkdir_in, names.mkdir, entry),
        Opcode.UNLINK: op("unlink", name, names.unlink, nothing),
        Opcode.RMDIR: op("rmdir", name, names.rmdir, nothing),
        Opcode.RENAME: op("rename", messages.rename_in, names.rename, nothing),
        Opcode.RENAME2: op("rename", messages.rename2_in, names.rename, nothing),
        Opcode.LINK: op("link", messages.link_in, names.link, entry),
        Opcode.OPEN: op("open", messages.open_in, files.open, messages.opened_out),
        Opcode.CREATE: op("create", messages.create_in, fs.creation.create, messages.created_out),
        Opcode.READ: op("read", messages.read_in, fs.content.read, data),
        Opcode.WRITE: op("write", messages.write_in, fs.content.write, messages.count_out),
        Opcode.STATFS: op(
            "statfs", messages.none_in, fs.attributes.file_system, messages.statfs_out
        ),
        Opcode.FLUSH: op("flush", messages.flush_in, files.flush, nothing),
        Opcode.FSYNC: op("fsync", messages.fsync_in, files.fsync, nothing),
        Opcode.RELEASE: op("release", messages.handle_in, files.release, nothing),
        Opcode.OPENDIR: op("opendir", messages.opendir_in, fs.folders.open, messages.folder_out),
        Opcode.READDIR: op("readdir", messages.read_in, _listing(fs.folders.read, False), data),
        Opcode.READDIRPLUS: op("readdir", messages.read_in, _listing(fs.folders.read, True), data),
        Opcode.FSYNCDIR: op("fsyncdir", messages.fsync_in, fs.folders.sync, nothing),
        Opcode.RELEASEDIR: op("releasedir", messages.handle_in, fs.folders.release, nothing),
        Opcode.SETXATTR: op("setxattr", messages.setxattr_in, xattrs.set, nothing),
        Opcode.GETXATTR: op("getxattr", messages.getxattr_in, getxattr, data),
        Opcode.LISTXATTR: op("listxattr", messages.listxattr_in, listxattr, data),
        Opcode.REMOVEXATTR: op("removexattr", name, xattrs.remove, nothing),
        Opcode.FALLOCATE: op("fallocate", messages.fallocate_in, sparse.fallocate, nothing),
        Opcode.LSEEK: op("lseek", messages.lseek_in, sparse.lseek, messages.offset_out),
        Opcode.COPY_FILE_RANGE: op(
            "copy_file_range",
            messages.copy_file_range_in,
            sparse.copy_file_range,
            messages.count_out,
        ),
    }


def _listing(read: Handler, has_attributes: bool) -> Handler:
    """The handler of a listing that fits into the answer."""

    async def listing(handle: int, start: int, size: int) -> bytearray:
        made = messages.Listing(size, has_attributes)
        await read(handle, start, made.take)
        return made.data

    return listing


def _sized(handler: Handler) -> Handler:
    """A handler for extended attributes whose answer is no larger than the client wants, or says
    how large it would be (getxattr(2)).
    """

    async def sized(size: int, *arguments: Any) -> bytes:  # noqa: ANN401 - the handler's own
        return messages.xattr_out(await handler(*arguments), size)

    return sized
