"""What tiny_fs.py does where the native module is not before libfuse."""

# ruff: noqa: ARG002 - handlers of pyfuse3 take what they are given
from __future__ import annotations

import errno
import os
import signal
import stat
from typing import Any

import pyfuse3
import trio

from tests.mount.tiny_callables import HANDLE, INODE, SIZE


class Operations(pyfuse3.Operations):
    """A root with the ten files."""

    async def getattr(self, inode: int, ctx: Any = None) -> Any:
        entry: Any = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = (stat.S_IFDIR | 0o755) if inode == 1 else (stat.S_IFREG | 0o644)
        entry.st_size = SIZE
        entry.st_nlink = 1
        entry.st_uid, entry.st_gid = os.getuid(), os.getgid()
        return entry

    async def lookup(self, parent: int, name: bytes, ctx: Any = None) -> Any:
        if not name.startswith(b"file"):
            raise pyfuse3.FUSEError(errno.ENOENT)
        return await self.getattr(INODE + int(name[4:]))

    async def open(self, inode: int, flags: int, ctx: Any) -> Any:
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(HANDLE))

    async def read(self, fh: int, off: int, size: int) -> bytes:
        return b"x" * max(0, min(size, SIZE - off))


def serve() -> None:
    """Until a signal comes, or the mount ends."""
    trio.run(_serve)


async def _serve() -> None:
    async with trio.open_nursery() as nursery:

        async def end_at_signal() -> None:
            with trio.open_signal_receiver(signal.SIGTERM) as signals:
                async for _ in signals:
                    pyfuse3.terminate()

        nursery.start_soon(end_at_signal)
        await pyfuse3.main()
        nursery.cancel_scope.cancel()
