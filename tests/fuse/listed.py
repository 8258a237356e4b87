"""What a client finds in an answer to READDIR or READDIRPLUS."""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

from tests.fuse import kernel_messages as kernel


class Listed(NamedTuple):
    """One name."""

    name: bytes
    number: int
    following: int
    kind: int
    entry: bytes  # a struct fuse_entry_out, or nothing


def listed(answer: bytes | bytearray, has_attributes: bool) -> list[Listed]:
    """All names, in order; nothing but padding lies between them."""
    found, data = [], bytes(answer)
    while data:
        assert len(data) % 8 == 0
        size = ctypes.sizeof(kernel.ENTRY_OUT) if has_attributes else 0
        entry, data = data[:size], data[size:]
        head: Any = kernel.DIRENT.from_buffer_copy(data)
        end = ctypes.sizeof(kernel.DIRENT) + head.namelen
        name = data[ctypes.sizeof(kernel.DIRENT) : end]
        padding = -end % 8
        assert data[end : end + padding] == bytes(padding)
        found.append(Listed(name, head.ino, head.off, head.type, entry))
        data = data[end + padding :]
    return found
