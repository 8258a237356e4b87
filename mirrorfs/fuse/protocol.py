"""The kernel's messages, as far as they are read and written here: linux/fuse.h, fuse(4).

A structure has the name that it has there. Those of a request are unpacked from the whole message,
which begins with a fuse_in_header; what follows them is at their `size`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum

# An errno, what is sent, or "not at once"; to a node id, and a whole request.
Answer = int | bytes | bytearray | None
Handler = Callable[[int, memoryview], Answer]


class Opcode(IntEnum):
    """enum fuse_opcode."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    OPEN = 14
    READ = 15
    WRITE = 16
    RELEASE = 18
    FLUSH = 25
    OPENDIR = 27
    RELEASEDIR = 29
    CREATE = 35
    BATCH_FORGET = 42
    RENAME2 = 45


HEADER_BYTES = 40
REQUESTER = struct.Struct("=24xIII")  # of the header: uid, gid, pid

FH_IN = struct.Struct("=40xQ")  # what several begin with
FORGET_IN = struct.Struct("=40xQ")
BATCH_FORGET_IN = struct.Struct("=40xI4x")
FORGET_ONE = struct.Struct("=QQ")  # after the former, as often as that says
SETATTR_IN = struct.Struct("=40xI4xQQ8xqq8xII4xI4xII4x")
MKDIR_IN = struct.Struct("=40xII")
RENAME_IN = struct.Struct("=40xQ")
RENAME2_IN = struct.Struct("=40xQI4x")
OPEN_IN = struct.Struct("=40xI4x")
CREATE_IN = struct.Struct("=40xIII4x")
READ_IN = struct.Struct("=40xQQI20x")
WRITE_IN = struct.Struct("=40xQQI12xI4x")

FATTR_MODE, FATTR_UID, FATTR_GID, FATTR_SIZE, FATTR_ATIME, FATTR_MTIME = (1 << n for n in range(6))
FATTR_FH = 1 << 6

_ATTR = "QQQqqqIIIIIIIIII"  # struct fuse_attr
ATTR_OUT = struct.Struct("=QI4x" + _ATTR)
ENTRY_OUT = struct.Struct("=QQQQII" + _ATTR)
OPEN_OUT = struct.Struct("=QI4x")
WRITE_OUT = struct.Struct("=I4x")
FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE = 1 << 0, 1 << 1
