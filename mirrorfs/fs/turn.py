"""The turn: whoever has it may run handlers, and touch the tables. A thread that waits for a disk
gives it away meanwhile.

Two kinds of threads take turns: receivers, of which each sees one request through after the other
(`fuse.requests`), and the main loop, at each step of a task. A handler that has to wait for more
than its own call, or for one on a device that is slow, moves to the main loop (`to_main_loop`).

Guarantees: between two calls that give the turn away nobody else changes what a handler sees, as
between two `await` of a single thread. A thread that waits for the turn gets it when the one that
has it gives it away, however soon that one wants it back.
"""

from __future__ import annotations

import threading
import types
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

# What a coroutine yields that wants to go on as a task of the main loop.
MAIN_LOOP = object()


class Turn:
    """`is_receiver` says whether the thread that has the turn is a receiver. To be made in the main
    loop's thread.
    """

    __slots__ = ("_lock", "_next", "_then", "is_receiver", "main_loop")

    def __init__(self) -> None:
        self.is_receiver = False
        self.main_loop = trio.lowlevel.current_trio_token()
        self._lock = threading.Lock()
        self._next = threading.Lock()  # of the thread that waits for the first one
        self._then: list[Callable[[], object]] = []

    def take(self, is_receiver: bool) -> None:
        """Wait for the turn."""
        with self._next:
            self._lock.acquire()
        self.is_receiver = is_receiver

    def give(self) -> None:
        """Give it away."""
        self._lock.release()

    def then(self, call: Callable[[], object]) -> None:
        """Have a receiver call something when one has answered and given the turn away; it must not
        touch the tables.
        """
        self._then.append(call)

    def take_then(self) -> list[Callable[[], object]]:
        """What there is to be called (`then`), once."""
        calls, self._then = self._then, []
        return calls

    async def to_main_loop(self) -> None:
        """Go on as a task of the main loop, where tasks can wait for each other."""
        if self.is_receiver:
            await _move()


@types.coroutine
def _move() -> Generator[object, None, None]:
    yield MAIN_LOOP
