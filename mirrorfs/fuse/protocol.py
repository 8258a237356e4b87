"""The kernel's messages, as far as they are read and written here: linux/fuse.h, fuse(4).

A structure has the name that it has there. Those of a request are unpacked from the whole message,
which begins with a fuse_in_header; what follows them is at their `size`.
"""

from __future__ import annotations

import struct
from enum import IntEnum


class Opcode(IntEnum):
    """enum fuse_opcode."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    POLL = 40
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47


HEADER_BYTES = 40
NODE = struct.Struct("=16xQ")  # of the header: the node id
CALLER = struct.Struct("=24xIII")  # of the header: uid, gid, pid
UNIQUE = struct.Struct("=8xQ")  # of the header: the number of the request

FH_IN = struct.Struct("=40xQ")  # what several begin with
FORGET_IN = struct.Struct("=16xQ16xQ")  # node id, lookups
BATCH_FORGET_IN = struct.Struct("=40xI4x")
FORGET_ONE = struct.Struct("=QQ")  # after the former, as often as that says
# node id, uid, gid, pid; valid, fh, size, atime, mtime, their ns, mode, uid, gid
SETATTR_IN = struct.Struct("=16xQIII4xI4xQQ8xqq8xII4xI4xII4x")
MKNOD_IN = struct.Struct("=40xIII4x")
MKDIR_IN = struct.Struct("=40xII")
RENAME_IN = struct.Struct("=40xQ")
RENAME2_IN = struct.Struct("=40xQI4x")
LINK_IN = struct.Struct("=40xQ")
OPEN_IN = struct.Struct("=40xI4x")
CREATE_IN = struct.Struct("=40xIII4x")
READ_IN = struct.Struct("=40xQQI20x")
# uid, gid, pid; fh, offset, size, write_flags, flags
WRITE_IN = struct.Struct("=24xIII4xQQII8xI4x")
GETXATTR_IN = struct.Struct("=40xI4x")  # the size of the answer, 0 if that is wanted
SETXATTR_IN = struct.Struct("=40xII")  # size, flags; as it is without FUSE_SETXATTR_EXT
FSYNC_IN = struct.Struct("=40xQI4x")
INTERRUPT_IN = struct.Struct("=40xQ")
FALLOCATE_IN = struct.Struct("=40xQQQI4x")
LSEEK_IN = struct.Struct("=40xQqI4x")  # a client may seek to a negative offset
COPY_FILE_RANGE_IN = struct.Struct("=40xQQQQQQQ")

FATTR_MODE, FATTR_UID, FATTR_GID, FATTR_SIZE, FATTR_ATIME, FATTR_MTIME = (1 << n for n in range(6))
FATTR_FH = 1 << 6
FUSE_WRITE_KILL_SUIDGID = 1 << 2
FUSE_FSYNC_FDATASYNC = 1 << 0

_ATTR = "QQQqqqIIIIIIIIII"  # struct fuse_attr
ATTR_OUT = struct.Struct("=QI4x" + _ATTR)
ENTRY_OUT = struct.Struct("=QQQQII" + _ATTR)
STATFS_OUT = struct.Struct("=QQQQQIII28x")  # struct fuse_kstatfs
GETXATTR_OUT = struct.Struct("=I4x")
DIRENT = struct.Struct("=QQII")  # inode number, number of the next entry, length of the name, type
OPEN_OUT = struct.Struct("=QI4x")
WRITE_OUT = struct.Struct("=I4x")
LSEEK_OUT = struct.Struct("=Q")
FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE = 1 << 0, 1 << 1
