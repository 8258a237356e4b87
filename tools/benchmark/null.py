"""A pyfuse3 program that answers and does nothing: what any file system in pyfuse3 pays at least.

Names, kinds and sizes are kept in memory; content is thrown away and read as zeros. Extended
attributes are refused with ENOSYS, once, so the kernel stops asking for security.capability before
every write. It is no file system to keep anything in, and checks nothing.

    python null.py MOUNTPOINT
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyfuse3
import trio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyfuse3 import (
        EntryAttributes,
        FileInfo,
        ReaddirToken,
        RequestContext,
        SetattrFields,
        StatvfsData,
    )

_ZEROS = bytes(1 << 20)
_TIMEOUT_SECONDS = 1  # as passthrough_ll and mirrorfs have it
_BLOCK = 4096


@dataclass(slots=True)
class _Node:
    """A file or a folder. Its attributes are made once and handed out again and again."""

    attributes: EntryAttributes
    children: dict[bytes, int] = field(default_factory=dict)


class Nothing(pyfuse3.Operations):
    """Inode numbers serve as file handles: there is no state to an open file."""

    supports_dot_lookup = False

    def __init__(self) -> None:
        super().__init__()
        self._nodes: dict[int, _Node] = {}
        self._last = int(pyfuse3.ROOT_INODE) - 1
        self._listed: dict[int, list[tuple[bytes, int]]] = {}
        self._new(stat.S_IFDIR | 0o755)

    def _new(self, mode: int) -> _Node:
        self._last += 1
        made = pyfuse3.EntryAttributes()
        made.st_ino = self._last
        made.st_mode = mode
        made.st_nlink = 1
        made.st_uid, made.st_gid = os.getuid(), os.getgid()
        made.st_blksize = _BLOCK
        made.entry_timeout = made.attr_timeout = _TIMEOUT_SECONDS
        node = self._nodes[self._last] = _Node(made)
        return node

    def _add(self, parent: int, name: bytes, mode: int) -> EntryAttributes:
        made = self._new(mode).attributes
        self._nodes[parent].children[name] = made.st_ino
        return made

    async def lookup(self, parent_inode: int, name: bytes, _ctx: RequestContext) -> EntryAttributes:
        found = self._nodes[parent_inode].children.get(name)
        if found is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._nodes[found].attributes

    async def getattr(self, inode: int, _ctx: RequestContext) -> EntryAttributes:
        return self._nodes[inode].attributes

    async def setattr(
        self,
        inode: int,
        attr: EntryAttributes,
        fields: SetattrFields,
        _fh: int | None,
        _ctx: RequestContext,
    ) -> EntryAttributes:
        own = self._nodes[inode].attributes
        if fields.update_size:
            own.st_size = attr.st_size
        return own

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for inode, _count in inode_list:
            # The kernel forgets an inode as a whole; one that has a name still may come back.
            node = self._nodes.get(inode)
            if node is not None and not node.attributes.st_nlink:
                del self._nodes[inode]

    async def open(self, inode: int, flags: int, _ctx: RequestContext) -> FileInfo:
        if flags & os.O_TRUNC:
            self._nodes[inode].attributes.st_size = 0
        return pyfuse3.FileInfo(fh=inode)

    async def create(
        self,
        parent_inode: int,
        name: bytes,
        mode: int,
        _flags: int,
        _ctx: RequestContext,
    ) -> tuple[FileInfo, EntryAttributes]:
        made = self._add(parent_inode, name, stat.S_IFREG | stat.S_IMODE(mode))
        return pyfuse3.FileInfo(fh=made.st_ino), made

    async def mknod(
        self,
        parent_inode: int,
        name: bytes,
        mode: int,
        _rdev: int,
        _ctx: RequestContext,
    ) -> EntryAttributes:
        return self._add(parent_inode, name, mode)

    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, _ctx: RequestContext
    ) -> EntryAttributes:
        return self._add(parent_inode, name, stat.S_IFDIR | stat.S_IMODE(mode))

    async def unlink(self, parent_inode: int, name: bytes, _ctx: RequestContext) -> None:
        inode = self._nodes[parent_inode].children.pop(name, None)
        if inode is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        self._nodes[inode].attributes.st_nlink = 0

    async def read(self, fh: int, off: int, size: int) -> bytes:
        size = min(size, max(self._nodes[fh].attributes.st_size - off, 0))
        return _ZEROS if size == len(_ZEROS) else _ZEROS[:size]

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        own, end = self._nodes[fh].attributes, off + len(buf)
        if end > own.st_size:
            own.st_size = end
        return len(buf)

    async def flush(self, _fh: int) -> None:
        return

    async def release(self, _fh: int) -> None:
        return

    async def fsync(self, _fh: int, _datasync: bool) -> None:
        return

    async def opendir(self, inode: int, _ctx: RequestContext) -> int:
        return inode

    async def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        if not start_id or fh not in self._listed:
            self._listed[fh] = list(self._nodes[fh].children.items())
        names = self._listed[fh]
        for place in range(start_id, len(names)):
            name, inode = names[place]
            node = self._nodes.get(inode)
            if node is not None and not pyfuse3.readdir_reply(
                token, name, node.attributes, place + 1
            ):
                return

    async def releasedir(self, fh: int) -> None:
        self._listed.pop(fh, None)

    async def statfs(self, _ctx: RequestContext) -> StatvfsData:
        found = pyfuse3.StatvfsData()
        found.f_bsize = found.f_frsize = _BLOCK
        found.f_blocks = found.f_bfree = found.f_bavail = found.f_files = 1 << 30
        found.f_ffree = found.f_favail = 1 << 30
        return found


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python null.py MOUNTPOINT", file=sys.stderr)
        return 2
    # getxattr is not overridden: pyfuse3's own raises ENOSYS.
    pyfuse3.init(Nothing(), sys.argv[1], {*pyfuse3.default_options, "fsname=null"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
