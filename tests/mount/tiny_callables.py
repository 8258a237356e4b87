"""What the native module shows requests to in tiny_fs.py. What an lseek or a write makes them do is
said by its offset.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import threading
from typing import TYPE_CHECKING, Any

from mirrorfs.backing.statx import Status
from mirrorfs.fs.entry import Entry, Opened
from mirrorfs.fuse import messages, protocol
from mirrorfs.fuse.protocol import Opcode

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs._native import Result

INODE, SIZE, HANDLE = 100, 1 << 20, 77
# Offsets of lseek.
RAISE, RAISE_SILENTLY, KEEP, THREAD, WHO, WAIT, GO, WAIT_AGAIN, COUNT, CHECK = range(1001, 1011)
# Offsets of write.
WRITE_RAISES, AFTER, AFTER_AT_ONCE, AFTER_RAISES, AFTER_NO_ANSWER, KEEP_DATA = range(1001, 1007)
WRITTEN = struct.pack("=I4x", 3)
ANSWERS: dict[int, Any] = {
    1: WRITTEN,
    2: bytearray(WRITTEN),
    3: errno.ENOSPC,
    # These are no answers.
    4: "text",
    5: 0,
    6: -5,
    7: 512,
    8: 1 << 80,
    9: b"",
    10: WRITTEN * 2,
    11: None,
    12: (WRITTEN,),
    13: (WRITTEN, print, print),
}
NO_ANSWERS = range(4, 14)
LONG = 60.0  # seconds; nothing that works takes so long


def entry(node_id: int) -> Entry:
    """The root, or one of the files."""
    mode = (stat.S_IFDIR | 0o755) if node_id == 1 else (stat.S_IFREG | 0o644)
    status = Status(mode, 1, os.getuid(), os.getgid(), node_id, SIZE, *[0] * 8)
    return Entry(node_id, status, 300.0, 300.0)


class Callables:
    """By opcode. `count` says how many receivers there are."""

    def __init__(self, report: Callable[..., None], count: Callable[[], int]) -> None:
        from mirrorfs import _native  # the build that the words ask for

        self.send = _native.answer
        self.kept: dict[int, bool] = {}  # number of the request: whether it was interrupted
        self.data: list[tuple[int, memoryview, bytes]] = []  # kept: number, lent, and a copy
        self.report = report
        self.may_go = threading.Event()
        self.count = count
        refused = errno.ENOSYS
        self.by_opcode: dict[int, Callable[[memoryview], Result]] = {
            **dict.fromkeys(Opcode, lambda _: refused),
            Opcode.LOOKUP: self.lookup,
            Opcode.FORGET: lambda _: b"",
            Opcode.BATCH_FORGET: lambda _: b"",
            Opcode.GETATTR: self.getattr,
            Opcode.OPEN: lambda _: messages.opened_out(Opened(HANDLE)),
            Opcode.RELEASE: lambda _: b"",
            Opcode.FLUSH: lambda _: b"",
            Opcode.READ: self.read,
            Opcode.WRITE: self.write,
            Opcode.CREATE: lambda message: self.refuse("create", messages.create_in(message)),
            Opcode.MKNOD: lambda message: self.refuse("mknod", messages.mknod_in(message)),
            Opcode.INTERRUPT: self.interrupt,
            Opcode.FALLOCATE: self.fallocate,
            Opcode.LSEEK: self.lseek,
        }

    def lookup(self, message: memoryview) -> Result:
        name: bytes = messages.node_name_in(message)[1]
        if name == b"answer":
            for number in self.kept:
                self.send(number, errno.EINTR)
            self.kept.clear()
        if not name.startswith(b"file"):
            return errno.ENOENT
        return messages.entry_out(entry(INODE + int(name[4:])))

    def getattr(self, message: memoryview) -> Result:
        (node_id,) = messages.node_in(message)
        return messages.attributes_out(entry(node_id))

    def read(self, message: memoryview) -> Result:
        _, offset, size = messages.read_in(message)
        count: int = max(0, min(size, SIZE - offset))
        return b"x" * count

    def refuse(self, name: str, arguments: tuple[Any, ...]) -> Result:
        self.report(name, arguments[2] & 0o7777, arguments[-1].umask)
        return errno.EPERM

    def fallocate(self, message: memoryview) -> Result:
        handle, mode, offset, length, _ = messages.fallocate_in(message)
        self.report("fallocate", handle, mode, offset, length)
        return errno.ENOSPC if offset else b""

    def interrupt(self, message: memoryview) -> Result:
        (number,) = protocol.INTERRUPT_IN.unpack_from(message)
        if number in self.kept:
            self.kept[number] = True
            self.report("interrupted")
        return b""

    def lseek(self, message: memoryview) -> Result:
        (number,) = protocol.UNIQUE.unpack_from(message)
        handle, offset, whence = messages.lseek_in(message)
        result = offset + 1
        if offset == RAISE:
            raise ZeroDivisionError("on purpose")
        if offset == RAISE_SILENTLY:
            raise KeyError  # is not reported, since it comes often
        if offset == KEEP:
            self.kept[number] = False
            self.report("kept")
            return ...
        if offset == THREAD:
            answer = protocol.LSEEK_OUT.pack(8)
            threading.Thread(target=self.send, args=(number, answer)).start()
            return ...
        if offset == WHO:
            caller = protocol.CALLER.unpack_from(message)
            self.report("who", *messages.node_in(message), handle, whence, *caller)
        elif offset == WAIT:
            self.report("waits")
            assert self.may_go.wait(LONG)
        elif offset == GO:
            self.may_go.set()
        elif offset == WAIT_AGAIN:
            self.may_go.clear()
        elif offset == COUNT:
            result = self.count()
        elif offset == CHECK:
            result = sum(lent == copy for _, lent, copy in self.data)
            for number, *_ in self.data:
                self.send(number, WRITTEN)
            self.data.clear()
        return protocol.LSEEK_OUT.pack(result)

    def write(self, message: memoryview) -> Result:
        (request,) = messages.write_in(message)
        offset = request.offset
        if offset == WRITE_RAISES:
            raise ZeroDivisionError("on purpose")
        if offset == KEEP_DATA:
            (number,) = protocol.UNIQUE.unpack_from(message)
            self.data.append((number, message, bytes(message)))
            self.report("kept data")
            return ...
        if offset == AFTER:
            return WRITTEN, self.after
        if offset == AFTER_AT_ONCE:
            return WRITTEN, threading.get_ident
        if offset == AFTER_RAISES:
            return WRITTEN, self.fail
        if offset == AFTER_NO_ANSWER:
            return "text", lambda: self.report("after")  # type: ignore[return-value]
        result: Result = ANSWERS.get(offset, messages.count_out(len(request.data)))
        return result

    def after(self) -> None:
        """Waits, so that the request would wait if it were not answered before."""
        self.report("answered")
        assert self.may_go.wait(LONG)
        self.report("after")

    def fail(self) -> None:
        raise ZeroDivisionError("after the answer")
