"""Calls of the threads of a device: one that waits for the test, and one that fails."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from tests.commands import wait_for

if TYPE_CHECKING:
    from mirrorfs.fs.threads import Threads

LONG = 30.0  # seconds; nothing that works takes so long


class Gate:
    """A call that waits in its thread until the test lets it go on."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._is_open = threading.Event()

    def wait(self, name: str = "") -> str:
        """The call; returns its argument."""
        self.begun.append(name)
        assert self._is_open.wait(LONG)
        return name

    def wait_for_begun(self, count: int) -> None:
        """Wait until threads have begun so many calls."""
        wait_for(lambda: len(self.begun) >= count)

    def open(self) -> None:
        """Let all calls end."""
        self._is_open.set()


def fail(code: int) -> None:
    """A call that fails."""
    raise OSError(code, os.strerror(code))


async def code_of(threads: Threads, function: object, *args: object) -> int:
    """The errno with which a call ends."""
    assert callable(function)
    with pytest.raises(OSError) as caught:
        await threads.run(function, *args)
    return caught.value.errno or -1
