"""A pyfuse3 program that answers and does nothing: what any file system in pyfuse3 pays at least.

Names, kinds and sizes are kept in memory; content is thrown away and read as zeros. Extended
attributes are refused with ENOSYS, once, so the kernel stops asking for security.capability before
every write. It is no file system to keep anything in, and checks nothing.

    python null.py MOUNTPOINT
"""

import errno
import os
import stat
import sys
from collections import defaultdict
from collections.abc import Sequence

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, ReaddirToken, RequestContext, SetattrFields

_ZEROS = bytes(1 << 20)
_TIMEOUT_SECONDS = 1  # as passthrough_ll and mirrorfs have it


class Nothing(pyfuse3.Operations):
    """Inode numbers serve as file handles: there is no state to an open file.

    Attributes are made once and handed out again and again. getxattr is pyfuse3's own.
    """

    supports_dot_lookup = False

    def __init__(self) -> None:
        super().__init__()
        self._last = int(pyfuse3.ROOT_INODE) - 1
        self._attributes: dict[int, EntryAttributes] = {}
        self._children: dict[int, dict[bytes, int]] = defaultdict(dict)
        self._listed: dict[int, list[tuple[bytes, int]]] = {}
        self._new(stat.S_IFDIR | 0o755)

    def _new(self, mode: int) -> EntryAttributes:
        self._last += 1
        made = self._attributes[self._last] = EntryAttributes()
        made.st_ino, made.st_mode, made.st_nlink, made.st_blksize = self._last, mode, 1, 4096
        made.st_uid, made.st_gid = os.getuid(), os.getgid()
        made.entry_timeout = made.attr_timeout = _TIMEOUT_SECONDS
        return made

    def _add(self, parent: int, name: bytes, mode: int) -> EntryAttributes:
        made = self._new(mode)
        self._children[parent][name] = made.st_ino
        return made

    async def lookup(self, parent: int, name: bytes, _ctx: RequestContext) -> EntryAttributes:
        found = self._children[parent].get(name)
        if found is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._attributes[found]

    async def getattr(self, inode: int, _ctx: RequestContext) -> EntryAttributes:
        return self._attributes[inode]

    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, *_: object
    ) -> EntryAttributes:
        if fields.update_size:
            self._attributes[inode].st_size = attr.st_size
        return self._attributes[inode]

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for inode, _count in inode_list:
            # The kernel forgets an inode as a whole; one that has a name still may come back.
            if not self._attributes[inode].st_nlink:
                del self._attributes[inode]

    async def open(self, inode: int, flags: int, _ctx: RequestContext) -> FileInfo:
        if flags & os.O_TRUNC:
            self._attributes[inode].st_size = 0
        return FileInfo(fh=inode)

    async def create(
        self, parent: int, name: bytes, mode: int, *_: object
    ) -> tuple[FileInfo, EntryAttributes]:
        made = self._add(parent, name, stat.S_IFREG | stat.S_IMODE(mode))
        return FileInfo(fh=made.st_ino), made

    async def mkdir(self, parent: int, name: bytes, mode: int, *_: object) -> EntryAttributes:
        return self._add(parent, name, stat.S_IFDIR | stat.S_IMODE(mode))

    async def unlink(self, parent: int, name: bytes, _ctx: RequestContext) -> None:
        self._attributes[self._children[parent].pop(name)].st_nlink = 0

    async def read(self, fh: int, off: int, size: int) -> bytes:
        size = min(size, max(self._attributes[fh].st_size - off, 0))
        return _ZEROS if size == len(_ZEROS) else _ZEROS[:size]

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        own, end = self._attributes[fh], off + len(buf)
        if end > own.st_size:
            own.st_size = end
        return len(buf)

    async def opendir(self, inode: int, _ctx: RequestContext) -> int:
        self._listed[inode] = list(self._children[inode].items())
        return inode

    async def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        for place, (name, inode) in enumerate(self._listed[fh][start_id:], start_id + 1):
            if not pyfuse3.readdir_reply(token, name, self._attributes[inode], place):
                return

    async def flush(self, _fh: int) -> None:
        return

    async def release(self, _fh: int) -> None:
        return

    async def releasedir(self, _fh: int) -> None:
        return


if __name__ == "__main__":
    pyfuse3.init(Nothing(), sys.argv[1], {*pyfuse3.default_options, "fsname=null"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()
