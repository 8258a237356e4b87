"""Run a mount in the foreground with faults put in on demand.

    python -m tests.faults.driver ORDERS mirrorfs-words …

ORDERS is a file. While it holds `handler NAME EXCEPTION`, the handler NAME raises that exception
inside the guard; `decode NAME EXCEPTION` does so before it comes to a handler. While it holds
`pwrite PERCENT ERRNO`, that share of the backing writes fails, or is cut short where ERRNO is 0;
`fsync ERRNO` fails every fsync; `cut ERRNO` fails to cut off what is old; `stall NAME` delays the
writes to files whose descriptor leads to NAME until there are other orders.
"""

from __future__ import annotations

import errno
import functools
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

from mirrorfs.backing import reader, tree
from mirrorfs.cli.main import main
from mirrorfs.fs import (
    attributes,
    content,
    creation,
    names,
    open_files,
    privileges,
    xattrs,
)
from mirrorfs.fuse import connection, operations
from mirrorfs.mirror import (
    advancing,
    append_fast_path,
    cutting,
    finalising,
    open_file,
    progress,
    recovery,
    resizing,
    seeding,
    sync,
    writer,
)

EXCEPTIONS: dict[str, type[BaseException]] = {
    "OSError": OSError,
    "PermissionError": PermissionError,
    "ValueError": ValueError,
    "KeyError": KeyError,
    "AssertionError": AssertionError,
    "MemoryError": MemoryError,
    "RecursionError": RecursionError,
    "UnicodeDecodeError": UnicodeDecodeError,
}


def make(kind: str) -> BaseException:
    if kind in {"OSError", "PermissionError"}:
        return EXCEPTIONS[kind](errno.EDOM, "injected")
    if kind == "UnicodeDecodeError":
        return UnicodeDecodeError("utf-8", b"\xff", 0, 1, "injected")
    return EXCEPTIONS[kind]("injected")


# All that changes or syncs a file below, for the mirror or for a handler.
MODULES = (
    *(advancing, append_fast_path, cutting, finalising, open_file, progress, recovery, resizing),
    *(seeding, sync, writer),
    *(attributes, content, creation, names, open_files, privileges, reader, tree, xattrs),
)


class Orders:
    def __init__(self, path: Path) -> None:
        self.path = path

    def words(self) -> list[str]:
        try:
            return self.path.read_text().split()
        except OSError:
            return []


def inject(orders: Orders) -> None:
    """Put faults into every row of the table of operations."""
    table = operations.table

    def faulty_table(fs: Any) -> dict[Any, operations.Operation]:
        return {
            opcode: row._replace(
                decode=wrap_call(orders, "decode", row.name, row.decode),
                handler=wrap(orders, row.name, row.handler),
            )
            for opcode, row in table(fs).items()
        }

    connection.table = faulty_table  # type: ignore[attr-defined]


def wrap(orders: Orders, name: str, inner: Any) -> Any:
    @functools.wraps(inner)
    async def faulty(*args: Any) -> Any:
        wrap_call(orders, "handler", name, lambda: None)()
        return await inner(*args)

    return faulty


def wrap_call(orders: Orders, place: str, name: str, inner: Any) -> Any:
    def faulty(*args: Any) -> Any:
        words = orders.words()
        if words[:2] == [place, name]:
            raise make(words[2])
        return inner(*args)

    return faulty


class FaultyOs:
    """The module `os` with pwrite, fsync and fdatasync that follow the orders."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        words = self._orders.words()
        if words[:1] == ["stall"] and os.readlink(f"/proc/self/fd/{fd}").endswith(words[1]):
            while self._orders.words() == words:
                time.sleep(0.01)
            words = []
        if words[:1] == ["pwrite"] and random.random() * 100 < int(words[1]):
            code = int(words[2])
            if code:
                raise OSError(code, os.strerror(code))
            data = data[: max(1, len(data) // 2)]
        return os.pwrite(fd, data, offset)

    def fsync(self, fd: int) -> None:
        self._check_sync()
        os.fsync(fd)

    def fdatasync(self, fd: int) -> None:
        self._check_sync()
        os.fdatasync(fd)

    def _check_sync(self) -> None:
        words = self._orders.words()
        if words[:1] == ["fsync"]:
            raise OSError(int(words[1]), os.strerror(int(words[1])))


def inject_cut(orders: Orders) -> None:
    cut = cutting.cut

    def faulty(*args: Any) -> Any:
        words = orders.words()
        if words[:1] == ["cut"]:
            raise OSError(int(words[1]), os.strerror(int(words[1])))
        return cut(*args)

    setattr(finalising, "cut", faulty)  # noqa: B010 - what it has imported, not what it offers


if __name__ == "__main__":
    faults = Orders(Path(sys.argv[1]))
    inject(faults)
    inject_cut(faults)
    for module in MODULES:
        module.os = FaultyOs(faults)  # type: ignore[attr-defined]
    sys.exit(main(sys.argv[2:]))
