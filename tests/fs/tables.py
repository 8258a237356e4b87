"""Tables of a mount without a mount: inodes of a real folder, and a clock that stands still."""

from __future__ import annotations

import contextlib
import functools
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ParamSpec

import trio

from mirrorfs.backing.probe import probe
from mirrorfs.backing.statx import identify, statx
from mirrorfs.fs.devices import Devices
from mirrorfs.fs.inodes import InodeTable
from mirrorfs.fs.turn import Turn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
    from pathlib import Path

    import pytest

    from mirrorfs.fs.inode import Inode

_P = ParamSpec("_P")


def in_main_loop(test: Callable[_P, Awaitable[None]]) -> Callable[_P, None]:
    """Decorator of a test that runs where handlers do."""

    @functools.wraps(test)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        trio.run(functools.partial(test, *args, **kwargs))

    return run


def receive(turn: Turn, handler: Coroutine[Any, Any, Any]) -> object:
    """Begin a handler as a receiver, in this thread; returns what it returns, or for what it waits:
    `MAIN_LOOP`. It is then not gone on with.
    """
    turn.take(is_receiver=True)
    try:
        trap: object = handler.send(None)
    except StopIteration as end:
        return end.value
    finally:
        turn.give()
        handler.close()
    return trap


class Clock:
    """Stands still until a test moves it; in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def set_in(self, monkeypatch: pytest.MonkeyPatch, *modules: str) -> Clock:
        """Let these modules of `mirrorfs` see this clock alone."""
        for module in modules:
            clock = SimpleNamespace(monotonic=lambda: self.now)
            monkeypatch.setattr(f"mirrorfs.{module}.time", clock)
        return self


@contextlib.asynccontextmanager
async def opened_table(folder: Path, limit: int = 100) -> AsyncIterator[InodeTable]:
    """The table of the inodes in a folder, with `limit` descriptors of merely known ones."""
    root_fd = os.open(folder, os.O_RDONLY)
    try:
        root = statx(root_fd)
        devices = Devices(root_fd, root, probe(root_fd, writable=False), Turn(), writable=False)
        table = InodeTable(root_fd, root, devices, limit)
        try:
            yield table
        finally:
            table.close()
            devices.close()
    finally:
        os.close(root_fd)


def look_up(inodes: InodeTable, name: str, parent: Inode | None = None) -> Inode:
    """What a lookup of `name` makes known, in a folder that has its descriptor."""
    parent = parent or inodes.root
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=parent.fd)
    return inodes.adopt(identify(fd), parent, os.fsencode(name), fd)
