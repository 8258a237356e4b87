"""The kernel's messages as C lays them out: structures of linux/fuse.h, written down once more and
apart from `mirrorfs.fuse.protocol`. `test_protocol` compares them with the header itself.
"""

from __future__ import annotations

import ctypes
from typing import Any

U32, U64, I64 = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int64


def struct(name: str, **fields: Any) -> type[ctypes.Structure]:
    """A structure by the name that it has in the header; fields that begin with _ are padding, or
    have other names in other versions of it.
    """
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


IN_HEADER = struct(
    "fuse_in_header",
    len=U32, opcode=U32, unique=U64, nodeid=U64, uid=U32, gid=U32, pid=U32, _more=U32,
)  # fmt: skip
FORGET_IN = struct("fuse_forget_in", nlookup=U64)
BATCH_FORGET_IN = struct("fuse_batch_forget_in", count=U32, _dummy=U32)
FORGET_ONE = struct("fuse_forget_one", nodeid=U64, nlookup=U64)
SETATTR_IN = struct(
    "fuse_setattr_in",
    valid=U32, _padding=U32, fh=U64, size=U64, lock_owner=U64, atime=U64, mtime=U64, ctime=U64,
    atimensec=U32, mtimensec=U32, ctimensec=U32, mode=U32, _unused4=U32, uid=U32, gid=U32,
    _unused5=U32,
)  # fmt: skip
MKNOD_IN = struct("fuse_mknod_in", mode=U32, rdev=U32, umask=U32, _padding=U32)
MKDIR_IN = struct("fuse_mkdir_in", mode=U32, umask=U32)
RENAME_IN = struct("fuse_rename_in", newdir=U64)
RENAME2_IN = struct("fuse_rename2_in", newdir=U64, flags=U32, _padding=U32)
LINK_IN = struct("fuse_link_in", oldnodeid=U64)
OPEN_IN = struct("fuse_open_in", flags=U32, _open_flags=U32)
CREATE_IN = struct("fuse_create_in", flags=U32, mode=U32, umask=U32, _open_flags=U32)
READ_IN = struct(
    "fuse_read_in",
    fh=U64, offset=U64, size=U32, read_flags=U32, lock_owner=U64, flags=U32, _padding=U32,
)  # fmt: skip
WRITE_IN = struct(
    "fuse_write_in",
    fh=U64, offset=U64, size=U32, write_flags=U32, lock_owner=U64, flags=U32, _padding=U32,
)  # fmt: skip
FLUSH_IN = struct("fuse_flush_in", fh=U64, _unused=U32, _padding=U32, lock_owner=U64)
RELEASE_IN = struct("fuse_release_in", fh=U64, flags=U32, release_flags=U32, lock_owner=U64)
# In newer headers it has two more fields, which are sent if FUSE_SETXATTR_EXT was negotiated.
SETXATTR_IN = struct("fuse_setxattr_in", size=U32, flags=U32)
GETXATTR_IN = struct("fuse_getxattr_in", size=U32, _padding=U32)
FSYNC_IN = struct("fuse_fsync_in", fh=U64, fsync_flags=U32, _padding=U32)
INTERRUPT_IN = struct("fuse_interrupt_in", unique=U64)
FALLOCATE_IN = struct("fuse_fallocate_in", fh=U64, offset=U64, length=U64, mode=U32, _padding=U32)
LSEEK_IN = struct("fuse_lseek_in", fh=U64, offset=U64, whence=U32, _padding=U32)
COPY_FILE_RANGE_IN = struct(
    "fuse_copy_file_range_in",
    fh_in=U64, off_in=U64, nodeid_out=U64, fh_out=U64, off_out=U64, len=U64, flags=U64,
)  # fmt: skip
ATTR = struct(
    "fuse_attr",
    ino=U64, size=U64, blocks=U64, atime=I64, mtime=I64, ctime=I64, atimensec=U32, mtimensec=U32,
    ctimensec=U32, mode=U32, nlink=U32, uid=U32, gid=U32, rdev=U32, blksize=U32, _flags=U32,
)  # fmt: skip
ATTR_OUT = struct("fuse_attr_out", attr_valid=U64, attr_valid_nsec=U32, _dummy=U32, attr=ATTR)
ENTRY_OUT = struct(
    "fuse_entry_out",
    nodeid=U64, generation=U64, entry_valid=U64, attr_valid=U64, entry_valid_nsec=U32,
    attr_valid_nsec=U32, attr=ATTR,
)  # fmt: skip
KSTATFS = struct(
    "fuse_kstatfs",
    blocks=U64, bfree=U64, bavail=U64, files=U64, ffree=U64, bsize=U32, namelen=U32, frsize=U32,
    _padding=U32, _spare=U32 * 6,
)  # fmt: skip
STATFS_OUT = struct("fuse_statfs_out", st=KSTATFS)
GETXATTR_OUT = struct("fuse_getxattr_out", size=U32, _padding=U32)
DIRENT = struct("fuse_dirent", ino=U64, off=U64, namelen=U32, type=U32)  # then the name
OPEN_OUT = struct("fuse_open_out", fh=U64, open_flags=U32, _padding=U32)
WRITE_OUT = struct("fuse_write_out", size=U32, _padding=U32)
LSEEK_OUT = struct("fuse_lseek_out", offset=U64)

STRUCTS = [value for value in list(vars().values()) if isinstance(value, type(ctypes.Structure))]

UNIQUE, NODE, UID, GID, PID = 1 << 50, (1 << 63) + 7, 1000, 1001, 4321


def message(
    kind: type[ctypes.Structure] | None = None, text: bytes = b"", **values: Any
) -> memoryview:
    """A request: the header, a structure with these values and others that are never 0, text."""
    body = b""
    if kind is not None:
        body = b"\xee" * ctypes.sizeof(kind)
        filled = kind.from_buffer_copy(body)
        for name, value in values.items():
            setattr(filled, name, value)
        body = bytes(filled)
    size = ctypes.sizeof(IN_HEADER) + len(body) + len(text)
    header = IN_HEADER(
        len=size, opcode=99, unique=UNIQUE, nodeid=NODE, uid=UID, gid=GID, pid=PID, _more=77
    )
    return memoryview(bytes(header) + body + text)
