"""A file system of ten files, by pyfuse3, with the native module before it as its words say.

    python -m tests.mount.tiny_fs MOUNTPOINT REPORT [words]

Some offsets of lseek and write have a meaning of their own. REPORT gets a line of JSON for each
event. SIGTERM ends it.
"""

# ruff: noqa: ARG002 - handlers of pyfuse3 take what they are given
from __future__ import annotations

import argparse
import errno
import gc
import importlib
import json
import os
import signal
import stat
import struct
import sys
import threading
import time
import weakref
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from mirrorfs._native import Result

INODE, SIZE = 100, 1 << 20
WRITE, INTERRUPT, FALLOCATE, LSEEK = 16, 36, 43, 46  # enum fuse_opcode
HEADER = struct.Struct("=8xQQIII")  # unique, node id, uid, gid, pid
WRITE_IN = struct.Struct("=40xQQ")  # handle, offset
LSEEK_IN = struct.Struct("=40xQQI4x")  # handle, offset, whence
FALLOCATE_IN = struct.Struct("=40xQQQI4x")  # handle, offset, length, mode
INTERRUPT_IN = struct.Struct("=40xQ")  # unique of the other request
LSEEK_OUT = struct.Struct("=Q")
# Offsets of lseek: what is done with the request.
RAISE, RAISE_SILENTLY, KEEP, THREAD, WHO = 1001, 1002, 1003, 1004, 1005
# Offsets of write: what the callable returns for it. None passes it on.
WRITTEN = struct.pack("=I4x", 3)
ANSWERS: dict[int, Any] = {
    1: WRITTEN,
    2: bytearray(WRITTEN),
    3: errno.ENOSPC,
    4: "text",
    5: 0,
    6: -5,
    7: 512,
    8: 1 << 80,
    9: b"",
    10: WRITTEN * 2,
}
WRITE_RAISES = 1001


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mount_point")
    parser.add_argument("report", type=Path)
    parser.add_argument("--native", help="the folder of another build of the native module")
    parser.add_argument("--pyfuse3-first", action="store_true")
    parser.add_argument("--no-bind", action="store_true")
    parser.add_argument("--no-install", action="store_true")
    parser.add_argument("--requests", default=f"{WRITE},{INTERRUPT},{FALLOCATE},{LSEEK}")
    parser.add_argument("--dont-mask", action="store_true")
    words = parser.parse_args()
    if words.native:
        import mirrorfs

        mirrorfs.__path__.insert(0, words.native)
    if words.pyfuse3_first:
        importlib.import_module("pyfuse3")
    from mirrorfs import _native
    from mirrorfs.fuse import extension

    pyfuse3 = importlib.import_module("pyfuse3")

    with words.report.open("a", buffering=1) as file:

        def report(value: object) -> None:
            file.write(json.dumps(value) + "\n")

        def report_unraisable(raised: Any) -> None:
            if not isinstance(raised.exc_value, KeyError):
                report(["unraisable", repr(raised.exc_value)])

        sys.unraisablehook = report_unraisable
        receivers = Receivers(report)
        is_bound = not words.no_bind and extension.bind()
        report(["bound", is_bound, extension.reason])
        watches = []
        if is_bound and not words.no_install:
            wanted = [int(code) for code in words.requests.split(",") if code]
            given: Any = {code: partial(receivers.by_opcode[code]) for code in wanted}
            watches = [weakref.ref(callable) for callable in given.values()]
            _native.install(
                requests=given,
                is_slow=lambda: False,
                want=_native.CAP_DONT_MASK if words.dont_mask else 0,
            )
            del given
        pyfuse3.init(make_operations(report, receivers), words.mount_point, {"fsname=tiny"})
        trio.run(serve)
        if is_bound:
            report(["state", _native.state()])
        pyfuse3.close()
        for number in receivers.kept:
            _native.answer(number, errno.EINTR)  # is not sent, and does not raise
        report(["end", len(receivers.kept)])
        if watches:
            before = [watch() is None for watch in watches]
            _native.install()
            gc.collect()
            report(["released", sum(before), sum(watch() is None for watch in watches)])


async def serve() -> None:
    import pyfuse3

    async with trio.open_nursery() as nursery:

        async def end_at_signal() -> None:
            with trio.open_signal_receiver(signal.SIGTERM) as signals:
                async for _ in signals:
                    pyfuse3.terminate()

        nursery.start_soon(end_at_signal)
        await pyfuse3.main()
        nursery.cancel_scope.cancel()


class Receivers:
    """What the native module shows requests to."""

    def __init__(self, report: Any) -> None:
        from mirrorfs import _native

        self.send = _native.answer
        self.kept: dict[int, bool] = {}  # number of the request: whether it was interrupted
        self.report = report
        self.by_opcode = {
            WRITE: self.write,
            INTERRUPT: self.interrupt,
            FALLOCATE: self.fallocate,
            LSEEK: self.lseek,
        }

    def lseek(self, message: memoryview) -> Result:
        number, node, uid, gid, pid = HEADER.unpack_from(message)
        handle, offset, whence = LSEEK_IN.unpack_from(message)
        if offset == RAISE:
            raise ZeroDivisionError("on purpose")
        if offset == RAISE_SILENTLY:
            raise KeyError  # is not reported, since it comes often
        if offset == KEEP:
            self.kept[number] = False
            self.report(["kept"])
            return ...
        if offset == THREAD:
            threading.Thread(target=self.answer_late, args=[number]).start()
            return ...
        if offset == WHO:
            self.report(["who", node, handle, whence, uid, gid, pid])
        return LSEEK_OUT.pack(offset + 1)

    def write(self, message: memoryview) -> Result:
        offset = WRITE_IN.unpack_from(message)[1]
        if offset == WRITE_RAISES:
            raise ZeroDivisionError("on purpose")
        result: Result = ANSWERS.get(offset)
        return result

    def fallocate(self, message: memoryview) -> Result:
        handle, offset, length, mode = FALLOCATE_IN.unpack_from(message)
        self.report(["fallocate", handle, mode, offset, length])
        return errno.ENOSPC if offset else b""

    def interrupt(self, message: memoryview) -> Result:
        (number,) = INTERRUPT_IN.unpack_from(message)
        if number not in self.kept:
            return None
        self.kept[number] = True
        self.report(["interrupted"])
        return b""

    def answer_late(self, number: int) -> None:
        time.sleep(0.05)
        self.send(number, LSEEK_OUT.pack(8))

    def answer_kept(self) -> None:
        for number in self.kept:
            self.send(number, errno.EINTR)
        self.kept.clear()


def make_operations(report: Any, receivers: Receivers) -> Any:
    import pyfuse3

    class Operations(pyfuse3.Operations):
        """A root with the ten files; new ones are only reported and refused."""

        async def getattr(self, inode: int, ctx: Any = None) -> Any:
            entry = pyfuse3.EntryAttributes()
            entry.st_ino = inode
            entry.st_mode = (stat.S_IFDIR | 0o755) if inode == 1 else (stat.S_IFREG | 0o644)
            entry.st_size = SIZE
            entry.st_nlink = 1
            entry.st_uid, entry.st_gid = os.getuid(), os.getgid()
            return entry

        async def lookup(self, parent: int, name: bytes, ctx: Any = None) -> Any:
            if name == b"answer":
                receivers.answer_kept()
            if not name.startswith(b"file"):
                raise pyfuse3.FUSEError(errno.ENOENT)
            return await self.getattr(INODE + int(name[4:]))

        async def open(self, inode: int, flags: int, ctx: Any) -> Any:
            return pyfuse3.FileInfo(fh=77)

        async def read(self, fh: int, off: int, size: int) -> bytes:
            return b"x" * max(0, min(size, SIZE - off))

        async def write(self, fh: int, off: int, buf: bytes) -> int:
            return len(buf)

        async def mkdir(self, parent: int, name: bytes, mode: int, ctx: Any) -> Any:
            report(["mkdir", mode & 0o7777, ctx.umask])
            raise pyfuse3.FUSEError(errno.EPERM)

        async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: Any) -> Any:
            report(["mknod", mode & 0o7777, ctx.umask])
            raise pyfuse3.FUSEError(errno.EPERM)

        async def create(self, parent: int, name: bytes, mode: int, flags: int, ctx: Any) -> Any:
            report(["create", mode & 0o7777, ctx.umask])
            raise pyfuse3.FUSEError(errno.EPERM)

    return Operations()


if __name__ == "__main__":
    main()
