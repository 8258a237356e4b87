"""Run a mount in the foreground with faults put in on demand.

    python -m tests.faults.driver ORDERS mirrorfs-words …

ORDERS is a file. While it holds `handler NAME EXCEPTION`, the handler NAME raises that exception
inside the guard; `at_once NAME EXCEPTION` does so before it comes to a handler. While it holds
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

from mirrorfs.backing import tree
from mirrorfs.cli.main import main
from mirrorfs.fs import files, names, open_files, sparse, steps, xattrs
from mirrorfs.fuse import at_once, eager, guard
from mirrorfs.mirror import (
    append_fast_path,
    cutting,
    open_file,
    progress,
    recovery,
    seeding,
    sync,
    writer,
)

pyfuse3 = guard.pyfuse3  # not imported here, since the extension must be loaded before it

EXCEPTIONS: dict[str, type[BaseException]] = {
    "FUSEError": pyfuse3.FUSEError,
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
    if kind == "FUSEError":
        return pyfuse3.FUSEError(errno.EDOM)
    if kind in {"OSError", "PermissionError"}:
        return EXCEPTIONS[kind](errno.EDOM, "injected")
    if kind == "UnicodeDecodeError":
        return UnicodeDecodeError("utf-8", b"\xff", 0, 1, "injected")
    return EXCEPTIONS[kind]("injected")


OWNERS = (
    names.NameOperations,
    xattrs.XattrOperations,
    files.Operations,
    sparse.SparseOperations,
)

AT_ONCE = {
    name: owner
    for owner in (at_once.AtOnce, eager.Eager)
    for name in set(vars(owner)) & {name for handlers in OWNERS for name in vars(handlers)}
    if not name.startswith("_")
}


# All that changes or syncs a file below, for the mirror or for a handler.
MODULES = (
    *(cutting, open_file, append_fast_path, progress, recovery, seeding, sync, writer),
    *(open_files, names, files, sparse, steps, tree, xattrs),
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
    for owner in OWNERS:
        for name, handler in list(vars(owner).items()):
            inner = getattr(handler, "__wrapped__", None)
            if inner is None or name.startswith("_"):
                continue
            setattr(owner, name, wrap(orders, name, inner))

    for name, owner in AT_ONCE.items():
        is_all = owner is at_once.AtOnce
        setattr(owner, name, wrap_at_once(orders, name, getattr(owner, name), is_all))

    seek = sparse.SparseOperations.lseek_at_once

    def faulty_seek(self: Any, *args: Any) -> Any:
        words = orders.words()
        if words[:2] == ["handler", "lseek"]:
            raise make(words[2])
        return seek(self, *args)

    sparse.SparseOperations.lseek_at_once = faulty_seek  # type: ignore[method-assign]


def wrap(orders: Orders, name: str, inner: Any) -> Any:
    @functools.wraps(inner)
    async def faulty(self: Any, *args: Any) -> Any:
        words = orders.words()
        if words[:2] == ["handler", name]:
            raise make(words[2])
        return await inner(self, *args)

    guarded = guard._silent if name in guard._SILENT else guard._guard
    return guarded(name, faulty)


def wrap_at_once(orders: Orders, name: str, inner: Any, is_all: bool) -> Any:
    """`is_all` says that this is all of the answer, and that of no handler."""

    @functools.wraps(inner)
    def faulty(self: Any, *args: Any) -> Any:
        words = orders.words()
        if words[:2] == ["at_once", name]:
            raise make(words[2])
        return None if is_all and words[:2] == ["handler", name] else inner(self, *args)

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
    cut = seeding.cut

    def faulty(*args: Any) -> None:
        words = orders.words()
        if words[:1] == ["cut"]:
            raise OSError(int(words[1]), os.strerror(int(words[1])))
        cut(*args)

    seeding.cut = faulty


if __name__ == "__main__":
    faults = Orders(Path(sys.argv[1]))
    inject(faults)
    inject_cut(faults)
    for module in MODULES:
        module.os = FaultyOs(faults)  # type: ignore[attr-defined]
    sys.exit(main(sys.argv[2:]))
