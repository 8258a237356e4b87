"""A file system by pyfuse3 that does nothing: what any by pyfuse3 costs at least.

It shows the files of a folder with the attributes they had when it began. What is written into them
is counted and thrown away; an extended attribute of the root tells how many bytes have come.
"""

# ruff: noqa: ARG002 - handlers of pyfuse3 take what they are given
import errno
import os
import sys
from pathlib import Path

import pyfuse3
import trio
from pyfuse3 import ROOT_INODE, EntryAttributes, FUSEError

RECEIVED = "user.received_bytes"
_TIMES = ("st_atime_ns", "st_mtime_ns", "st_ctime_ns")
_FIELDS = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks", *_TIMES)


class Floor(pyfuse3.Operations):
    def __init__(self, backing: bytes) -> None:
        super().__init__()
        names = sorted(os.listdir(backing))
        self._inodes = {name: ROOT_INODE + 1 + at for at, name in enumerate(names)}
        self._known = {ROOT_INODE: _attributes(ROOT_INODE, os.stat(backing))}
        for name, inode in self._inodes.items():
            self._known[inode] = _attributes(inode, os.stat(os.path.join(backing, name)))
        self._received_bytes = 0

    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> EntryAttributes:
        if name not in self._inodes:
            raise FUSEError(errno.ENOENT)
        return self._known[self._inodes[name]]

    async def getattr(
        self, inode: int, ctx: pyfuse3.RequestContext | None = None
    ) -> EntryAttributes:
        return self._known[inode]

    async def setattr(
        self,
        inode: int,
        attr: EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> EntryAttributes:
        """The kernel sends sizes and times; both are shown from then on."""
        known = self._known[inode]
        if fields.update_size:
            known.st_size = attr.st_size
        if fields.update_mtime:
            known.st_mtime_ns = attr.st_mtime_ns
        return known

    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        if inode != ROOT_INODE or name != RECEIVED.encode():
            raise FUSEError(errno.ENODATA)
        return str(self._received_bytes).encode()

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        # Writes that need no copy into the page cache first, as mirrorfs has them.
        is_direct = flags & os.O_ACCMODE == os.O_WRONLY
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(inode), direct_io=is_direct)

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        self._received_bytes += len(buf)
        self._known[fh].st_size = max(self._known[fh].st_size, off + len(buf))
        return len(buf)


def _attributes(inode: int, found: os.stat_result) -> EntryAttributes:
    entry = EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(inode)
    for name in _FIELDS:
        setattr(entry, name, getattr(found, name))
    entry.attr_timeout = entry.entry_timeout = 1
    return entry


def main(backing: str, point: str) -> None:
    """Serve in the foreground until it is unmounted."""
    pyfuse3.init(Floor(os.fsencode(Path(backing))), point, {"fsname=floor", "default_permissions"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
