"""A file system of ten files whose only purpose is to call the extension: a program for
test_extension.py.

    tiny_fs.py MOUNTPOINT REPORT [--extension FOLDER] [--pyfuse3-first] [--no-bind] [--no-install]
               [--install NAME,...] [--dont-mask]

The offset of an lseek says what is to be done with it, see `Callables`; to look up the name
`answer` answers those that were kept. There are the files file0 to file9, since the kernel lets one
lseek or fallocate of a file wait for another. What callables saw and what
`state()` said is written to REPORT, one JSON value a line. SIGTERM ends it.
"""

# ruff: noqa: ARG002 - handlers of pyfuse3 take what they are given
from __future__ import annotations

import argparse
import copy
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
    from mirrorfs._fuseext import Request

SIZE = 1 << 20
WRITE = 16  # linux/fuse.h
WRITE_IN = struct.Struct("=40xQQIIQII")  # after the header of a request
INODE = 2
DROP, RAISE, TWICE, KEEP, MISFIT, THREAD, WHO, RAISE_SILENTLY = range(1000, 1008)
# What is answered at once to a write at that offset; at any other, the handler answers.
AT_ONCE: dict[int, Any] = {
    1: struct.pack("=II", 3, 0),
    2: bytearray(struct.pack("=II", 3, 0)),
    3: errno.ENOSPC,
    4: "text",
    5: b"short",
    6: bytes(100),
    7: 0,
    8: 512,
    9: -5,
    10: 1 << 70,
}
AT_ONCE_RAISES = 11


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mount_point")
    parser.add_argument("report", type=Path)
    parser.add_argument("--extension", help="the folder of another build of the extension")
    parser.add_argument("--pyfuse3-first", action="store_true")
    parser.add_argument("--no-bind", action="store_true")
    parser.add_argument("--no-install", action="store_true")
    parser.add_argument("--install", default="fallocate,lseek,copy_file_range")
    parser.add_argument("--dont-mask", action="store_true")
    words = parser.parse_args()
    if words.extension:
        import mirrorfs

        mirrorfs.__path__.insert(0, words.extension)
    if words.pyfuse3_first:
        importlib.import_module("pyfuse3")
    from mirrorfs.fuse import extension

    pyfuse3 = importlib.import_module("pyfuse3")

    with words.report.open("a", buffering=1) as file:

        def report(value: object) -> None:
            file.write(json.dumps(value) + "\n")

        def report_unraisable(raised: Any) -> None:
            if not isinstance(raised.exc_value, KeyError):
                report(["unraisable", repr(raised.exc_value)])

        sys.unraisablehook = report_unraisable
        callables = Callables(report)
        found = None if words.no_bind else extension.bind()
        report(["bound", found is not None, extension.reason])
        if found and not words.no_install:
            names = filter(None, words.install.split(","))
            given: Any = {name: partial(getattr(callables, name)) for name in names}
            watches = [weakref.ref(callable) for callable in given.values()]
            from mirrorfs import _fuseext

            found.install(
                **given,
                want=_fuseext.CAP_DONT_MASK if words.dont_mask else 0,
                at_once={WRITE: callables.write_at_once},
                is_idle=lambda: True,
            )
            del given
        pyfuse3.init(make_operations(report, callables), words.mount_point, {"fsname=tiny"})
        trio.run(serve)
        if found:
            report(["state", found.state()])
        pyfuse3.close()
        for request in callables.kept:
            assert request.answered
            assert not request.interrupted
            request.error(errno.EINTR)  # is not sent, and does not raise
        report(["end", len(callables.kept)])
        if found and not words.no_install:
            before = [watch() is None for watch in watches]
            found.install()
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


class Callables:
    """What the extension calls."""

    def __init__(self, report: Any) -> None:
        self.kept: list[Request] = []
        self.report = report

    def lseek(self, request: Request, node: int, fh: int, offset: int, whence: int) -> None:
        if offset == DROP:
            return
        if offset == RAISE:
            raise ZeroDivisionError("told so")
        if offset == TWICE:
            self.answer_twice(request)
        elif offset == KEEP:
            self.kept.append(request)
            self.report(["kept"])
        elif offset == MISFIT:
            self.answer_badly(request)
        elif offset == THREAD:
            threading.Thread(target=self.answer_late, args=[request]).start()
        elif offset == WHO:
            self.report(["who", node, fh, whence, request.uid, request.gid, request.pid])
            request.offset(offset)
        elif offset == RAISE_SILENTLY:
            raise KeyError  # is not reported, since it comes often
        else:
            request.offset(offset + 1)

    def write_at_once(self, _node: int, message: memoryview) -> Any:
        offset = WRITE_IN.unpack_from(message)[1]
        if offset == AT_ONCE_RAISES:
            raise ZeroDivisionError("told so")
        return AT_ONCE.get(offset)

    def answer_twice(self, request: Request) -> None:
        assert not request.answered
        request.offset(1)
        assert request.answered
        for again in (lambda: request.offset(2), lambda: request.error(errno.EIO)):
            try:
                again()
            except RuntimeError as exc:
                self.report(["twice", str(exc)])

    def answer_late(self, request: Request) -> None:
        time.sleep(0.05)
        request.offset(8)

    def answer_kept(self) -> None:
        self.report(["interrupted", [kept.interrupted for kept in self.kept]])
        for kept in self.kept:
            kept.error(errno.EINTR)
        self.kept.clear()

    def answer_badly(self, request: Request) -> None:
        """Nothing of this is an answer, or makes another request."""
        kind: Any = type(request)
        attempts: dict[str, Any] = {
            "error 0": lambda: request.error(0),
            "error 512": lambda: request.error(512),
            "error -5": lambda: request.error(-5),
            "error text": lambda: request.error("5"),  # type: ignore[arg-type]
            "offset -1": lambda: request.offset(-1),
            "offset 2**63": lambda: request.offset(2**63),
            "offset 2**64": lambda: request.offset(2**64),
            "written": lambda: request.written(1),
            "new": lambda: kind(),
            "object.__new__": lambda: object.__new__(kind),
            "copy": lambda: copy.copy(request),
            "subclass": lambda: type("Mine", (kind,), {}),
            "set": lambda: setattr(request, "uid", 0),
        }
        raised = []
        for name, attempt in attempts.items():
            try:
                attempt()
            except (TypeError, ValueError, OverflowError, AttributeError):
                raised.append(name)
        self.report(["misfit", raised == list(attempts)])
        request.offset(7)

    def fallocate(
        self, request: Request, node: int, fh: int, mode: int, offset: int, length: int
    ) -> None:
        self.report(["fallocate", node, fh, mode, offset, length])
        request.error(errno.ENOSPC if offset else 0)

    def copy_file_range(self, request: Request, *numbers: int) -> None:
        self.report(["copy_file_range", *numbers])
        length = numbers[6]
        try:
            request.written(length + 1)
        except ValueError:
            request.written(length // 2)


def make_operations(report: Any, callables: Callables) -> Any:
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
                callables.answer_kept()
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
