"""The attribute by which a command has a mount dig holes into a file: its value says where."""

from __future__ import annotations

import errno
import re
import stat
from typing import TYPE_CHECKING

from mirrorfs.backing.statx import statx
from mirrorfs.fs.entry import refuse
from mirrorfs.mirror import sparsifying

if TYPE_CHECKING:
    from mirrorfs.backing.credentials import Credentials
    from mirrorfs.fs.inode import Inode
    from mirrorfs.fs.inodes import InodeTable
    from mirrorfs.fs.open_files import OpenFiles
    from mirrorfs.fs.sessions import Sessions

# Its value, when read, is the size of the blocks (bytes): so a command knows that it is served.
SPARSIFY_ATTRIBUTE = b"user.mirrorfs.sparsify"
_RANGE = re.compile(rb"(\d{1,19}):(\d{1,19})")
_READ_WRITE = 2  # O_RDWR, of open(2)


class Sparsifier:
    """Answers it; used by whoever has the turn."""

    def __init__(self, inodes: InodeTable, open_files: OpenFiles, sessions: Sessions) -> None:
        self._inodes = inodes
        self._open_files = open_files
        self._sessions = sessions

    def block(self, inode: Inode) -> bytes:
        """What the attribute is read as."""
        if inode.kind != stat.S_IFREG:
            raise refuse(errno.ENODATA)
        return b"%d" % self._inodes.abilities(inode).unit_bytes

    async def dig(self, inode: Inode, value: bytes, caller: Credentials) -> None:
        """Dig holes in the range `START:END` (bytes) of an inode that is pinned. Raises OSError:
        EPERM for all but root and the owner, EINVAL for a range that is none or too large, and as
        `mirror.sparsifying`.
        """
        match = _RANGE.fullmatch(value)
        if match is None or inode.kind != stat.S_IFREG:
            raise refuse(errno.EINVAL)
        start, end = int(match[1]), int(match[2])
        if not start < end <= start + sparsifying.MAX_BYTES:
            raise refuse(errno.EINVAL)
        status = await inode.device.threads.run(statx, inode.fd)
        if caller.uid not in {0, status.uid}:
            raise refuse(errno.EPERM)
        if self._open_files.stale_tail_of(inode) is not None:
            raise refuse(errno.EBUSY)  # to open it would tell that its writer has come back
        file = await self._open_files.share(inode, _READ_WRITE)
        try:
            async with inode.device.long_call():
                run = inode.device.threads.run
                await run(sparsifying.sparsify, file, start, end, self._sessions.restamped)
        finally:
            await self._open_files.unshare(inode, file)
