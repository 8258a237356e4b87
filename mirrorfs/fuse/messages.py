"""Decode requests of the kernel into the arguments of handlers, and encode what those return.

A decoder gets the whole message, which is lent: nothing that it returns refers to it but the data
of a write (`WriteRequest`).
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

from mirrorfs.backing.credentials import Credentials
from mirrorfs.fs.entry import Changes, CopyRequest, Entry, Opened, WriteRequest, refuse
from mirrorfs.fuse import protocol

if TYPE_CHECKING:
    from mirrorfs.backing.statx import Status

_NS = 1_000_000_000
# For a name in a listing that could not be looked at. No type is 0, so the kernel takes the name
# alone (fs/fuse/readdir.c), forgets the number, and looks the name up for a client that wants to
# know more, which then gets the error.
_NO_NODE_ID = (1 << 64) - 1  # the C library passes over names without a number
_UNKNOWN_ENTRY = protocol.ENTRY_OUT.pack(_NO_NODE_ID, *[0] * 5, _NO_NODE_ID, *[0] * 15)
Arguments = tuple[Any, ...]


def node_in(message: memoryview) -> Arguments:
    """A request that says nothing but its node id."""
    return protocol.NODE.unpack_from(message)


def node_name_in(message: memoryview) -> Arguments:
    """Node id of a folder, and a name."""
    return _node(message), _text(message, protocol.HEADER_BYTES)


def forget_in(message: memoryview) -> Arguments:
    """Pairs of node id and lookups: one."""
    return ([protocol.FORGET_IN.unpack_from(message)],)


def batch_forget_in(message: memoryview) -> Arguments:
    """Pairs of node id and lookups: many."""
    begin, one = protocol.BATCH_FORGET_IN, protocol.FORGET_ONE
    (count,) = begin.unpack_from(message)
    places = range(begin.size, begin.size + count * one.size, one.size)
    return ([one.unpack_from(message, place) for place in places],)


def setattr_in(message: memoryview) -> Arguments:
    """Node id, changes, handle or None, credentials."""
    (
        node_id, *who, valid, fh, size, atime, mtime, atime_ns, mtime_ns, mode, uid, gid,
    ) = protocol.SETATTR_IN.unpack_from(message)  # fmt: skip
    # A time that is to be now is in the request, too, by the clock that stamps files.
    changes = Changes(
        mode if valid & protocol.FATTR_MODE else None,
        uid if valid & protocol.FATTR_UID else None,
        gid if valid & protocol.FATTR_GID else None,
        size if valid & protocol.FATTR_SIZE else None,
        atime * _NS + atime_ns if valid & protocol.FATTR_ATIME else None,
        mtime * _NS + mtime_ns if valid & protocol.FATTR_MTIME else None,
    )
    return node_id, changes, fh if valid & protocol.FATTR_FH else None, Credentials(*who)


def mknod_in(message: memoryview) -> Arguments:
    """Node id, name, mode, device number, credentials."""
    mode, rdev, umask = protocol.MKNOD_IN.unpack_from(message)
    name = _text(message, protocol.MKNOD_IN.size)
    return _node(message), name, mode, rdev, _caller(message, umask)


def mkdir_in(message: memoryview) -> Arguments:
    """Node id, name, mode, credentials."""
    mode, umask = protocol.MKDIR_IN.unpack_from(message)
    name = _text(message, protocol.MKDIR_IN.size)
    return _node(message), name, mode, _caller(message, umask)


def symlink_in(message: memoryview) -> Arguments:
    """Node id, name, target, credentials."""
    name = _text(message, protocol.HEADER_BYTES)
    target = _text(message, protocol.HEADER_BYTES + len(name) + 1)
    return _node(message), name, target, _caller(message)


def link_in(message: memoryview) -> Arguments:
    """Node id, that of the new folder, new name."""
    (node_id,) = protocol.LINK_IN.unpack_from(message)
    return node_id, _node(message), _text(message, protocol.LINK_IN.size)


def rename_in(message: memoryview) -> Arguments:
    """Folder and name, new folder and name, flags, credentials."""
    (new_parent_id,) = protocol.RENAME_IN.unpack_from(message)
    return _rename(message, protocol.RENAME_IN.size, new_parent_id, 0)


def rename2_in(message: memoryview) -> Arguments:
    """Folder and name, new folder and name, flags, credentials."""
    new_parent_id, flags = protocol.RENAME2_IN.unpack_from(message)
    return _rename(message, protocol.RENAME2_IN.size, new_parent_id, flags)


def _rename(message: memoryview, start: int, new_parent_id: int, flags: int) -> Arguments:
    old = _text(message, start)
    new = _text(message, start + len(old) + 1)
    return _node(message), old, new_parent_id, new, flags, _caller(message)


def open_in(message: memoryview) -> Arguments:
    """Node id, flags of open(2), credentials."""
    (flags,) = protocol.OPEN_IN.unpack_from(message)
    return _node(message), flags, _caller(message)


def opendir_in(message: memoryview) -> Arguments:
    """Node id, flags of open(2)."""
    return _node(message), *protocol.OPEN_IN.unpack_from(message)


def create_in(message: memoryview) -> Arguments:
    """Node id, name, mode, flags of open(2), credentials."""
    flags, mode, umask = protocol.CREATE_IN.unpack_from(message)
    name = _text(message, protocol.CREATE_IN.size)
    return _node(message), name, mode, flags, _caller(message, umask)


def handle_in(message: memoryview) -> Arguments:
    """A handle."""
    return protocol.FH_IN.unpack_from(message)


def flush_in(message: memoryview) -> Arguments:
    """A handle, credentials."""
    return *protocol.FH_IN.unpack_from(message), _caller(message)


def none_in(_message: memoryview) -> Arguments:
    """Nothing."""
    return ()


def setxattr_in(message: memoryview) -> Arguments:
    """Node id, name, value, credentials, flags."""
    begin = protocol.SETXATTR_IN
    size, flags = begin.unpack_from(message)
    name = _text(message, begin.size)
    start = begin.size + len(name) + 1
    value = bytes(message[start : start + size])
    return _node(message), name, value, _caller(message), flags


def getxattr_in(message: memoryview) -> Arguments:
    """Size of the answer, node id, name."""
    (size,) = protocol.GETXATTR_IN.unpack_from(message)
    return size, _node(message), _text(message, protocol.GETXATTR_IN.size)


def listxattr_in(message: memoryview) -> Arguments:
    """Size of the answer, node id, credentials."""
    (size,) = protocol.GETXATTR_IN.unpack_from(message)
    return size, _node(message), _caller(message)


def fsync_in(message: memoryview) -> Arguments:
    """Handle, and whether data alone is to be durable."""
    fh, flags = protocol.FSYNC_IN.unpack_from(message)
    return fh, bool(flags & protocol.FUSE_FSYNC_FDATASYNC)


def read_in(message: memoryview) -> Arguments:
    """Handle, offset, size."""
    return protocol.READ_IN.unpack_from(message)


def write_in(message: memoryview) -> Arguments:
    """One WriteRequest, whose data lies in the message."""
    begin = protocol.WRITE_IN
    uid, gid, pid, fh, offset, _, write_flags, flags = begin.unpack_from(message)
    takes_setid = bool(write_flags & protocol.FUSE_WRITE_KILL_SUIDGID)
    request = WriteRequest(
        fh,
        offset,
        message[begin.size :],
        Credentials(uid, gid, pid),
        takes_setid,
        bool(flags & os.O_APPEND),
        flags & os.O_SYNC,
    )
    return (request,)


def fallocate_in(message: memoryview) -> Arguments:
    """Handle, mode, offset, length, credentials."""
    fh, offset, length, mode = protocol.FALLOCATE_IN.unpack_from(message)
    return fh, mode, offset, length, _caller(message)


def lseek_in(message: memoryview) -> Arguments:
    """Handle, offset, whence."""
    return protocol.LSEEK_IN.unpack_from(message)


def copy_file_range_in(message: memoryview) -> Arguments:
    """One CopyRequest."""
    (number,) = protocol.UNIQUE.unpack_from(message)
    source, offset, _, target, target_offset, length, flags = (
        protocol.COPY_FILE_RANGE_IN.unpack_from(message)
    )
    caller = _caller(message)
    return (CopyRequest(number, source, offset, target, target_offset, length, flags, caller),)


def _node(message: memoryview) -> int:
    node_id: int = protocol.NODE.unpack_from(message)[0]
    return node_id


def _caller(message: memoryview, umask: int = 0) -> Credentials:
    uid, gid, pid = protocol.CALLER.unpack_from(message)
    return Credentials(uid, gid, pid, umask)


def _text(message: memoryview, start: int) -> bytes:
    """The text at `start`, which ends with a zero."""
    return bytes(message[start:]).partition(b"\0")[0]


def nothing_out(_result: None) -> bytes:
    """The success of a request that returns nothing."""
    return b""


def data_out(data: bytes | bytearray) -> bytes | bytearray:
    """What was read, or the target of a link."""
    return data


def count_out(count: int) -> bytes:
    """How many bytes were written, or copied."""
    return protocol.WRITE_OUT.pack(count)


def xattr_out(value: bytes | list[bytes], size: int) -> bytes:
    """An extended attribute, or their names: in `size` bytes, ERANGE if that is not enough; or how
    many it takes, if `size` is 0.
    """
    data = value if isinstance(value, bytes) else b"".join(name + b"\0" for name in value)
    if not size:
        return protocol.GETXATTR_OUT.pack(len(data))
    if len(data) > size:
        raise refuse(errno.ERANGE)
    return data


def statfs_out(below: os.statvfs_result) -> bytes:
    """What statvfs(3) says of a file system."""
    return protocol.STATFS_OUT.pack(
        below.f_blocks,
        below.f_bfree,
        below.f_bavail,
        below.f_files,
        below.f_ffree,
        below.f_bsize,
        below.f_namemax,
        below.f_frsize,
    )


class Listing:
    """Entries of a folder, no more than fit into `size_bytes`; with attributes (readdirplus), or
    without.
    """

    def __init__(self, size_bytes: int, has_attributes: bool) -> None:
        self.data = bytearray()
        self._size_bytes = size_bytes
        self._has_attributes = has_attributes

    def take(self, name: bytes, entry: Entry | None, following: int) -> bool:
        """See `fs.folders.Take`."""
        number, mode = (_NO_NODE_ID, 0) if entry is None else (entry.node_id, entry.status.mode)
        head = protocol.DIRENT.pack(number, following, len(name), mode >> 12)
        if self._has_attributes:
            head = (_UNKNOWN_ENTRY if entry is None else entry_out(entry)) + head
        made = head + name + bytes(-len(head + name) % 8)
        if len(self.data) + len(made) > self._size_bytes:
            return False
        self.data += made
        return True


def offset_out(offset: int) -> bytes:
    """Where lseek has found what it looked for."""
    return protocol.LSEEK_OUT.pack(offset)


def folder_out(handle: int) -> bytes:
    """An open folder."""
    return protocol.OPEN_OUT.pack(handle, 0)


def opened_out(opened: Opened) -> bytes:
    """An open file."""
    flags = protocol.FOPEN_KEEP_CACHE | (protocol.FOPEN_DIRECT_IO if opened.is_direct else 0)
    return protocol.OPEN_OUT.pack(opened.handle, flags)


def created_out(created: tuple[Entry, Opened]) -> bytes:
    """A new file, opened."""
    entry, opened = created
    return entry_out(entry) + opened_out(opened)


def entry_out(entry: Entry) -> bytes:
    """An entry that was looked up, or made."""
    seconds, ns = divmod(round(entry.name_seconds * _NS), _NS)
    attr_seconds, attr_ns = divmod(round(entry.attribute_seconds * _NS), _NS)
    return protocol.ENTRY_OUT.pack(
        entry.node_id,
        entry.generation,
        seconds,
        attr_seconds,
        ns,
        attr_ns,
        *_attributes(entry.node_id, entry.status),
    )


def attributes_out(entry: Entry) -> bytes:
    """Attributes alone."""
    seconds, ns = divmod(round(entry.attribute_seconds * _NS), _NS)
    return protocol.ATTR_OUT.pack(seconds, ns, *_attributes(entry.node_id, entry.status))


def _attributes(node_id: int, status: Status) -> tuple[int, ...]:
    """A struct fuse_attr."""
    (
        mode, nlink, uid, gid, _, size, blocks, blksize, atime_ns, _, ctime_ns, mtime_ns, rdev, *_,
    ) = status  # fmt: skip
    a, a_ns = divmod(atime_ns, _NS)
    m, m_ns = divmod(mtime_ns, _NS)
    c, c_ns = divmod(ctime_ns, _NS)
    return (
        node_id, size, blocks, a, m, c, a_ns, m_ns, c_ns, mode, nlink, uid, gid,
        rdev & 0xFFFFFFFF, blksize, 0,
    )  # fmt: skip
