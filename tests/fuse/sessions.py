"""Requests of a session without a kernel: a test says what comes, and sees what is answered."""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import TYPE_CHECKING, Any

import trio

from mirrorfs import _native
from mirrorfs.fs.turn import Turn
from mirrorfs.fuse import protocol
from mirrorfs.fuse.guard import Guard
from mirrorfs.fuse.interrupts import Interrupts
from mirrorfs.fuse.operations import Operation
from mirrorfs.fuse.protocol import Opcode
from mirrorfs.fuse.requests import Requests
from mirrorfs.mirror.counters import Account
from tests.fuse.kernel_messages import message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import pytest

LONG = 30.0  # seconds; nothing that works takes so long
SENT = message()


def decode(sent: memoryview) -> tuple[int]:
    """The node id."""
    (node_id,) = protocol.NODE.unpack_from(sent)
    return (node_id,)


def encode(value: object) -> bytes:
    """What can be told from other answers."""
    return f"answer {value}".encode()


async def wait_until(condition: Callable[[], object]) -> None:
    """Return when it holds; the main loop goes on meanwhile."""
    with trio.fail_after(LONG):
        while not condition():  # noqa: ASYNC110 - threads make it so
            await trio.sleep(0.001)


class Session:
    """Its handler is that of three operations: READLINK, FORGET, and COPY_FILE_RANGE, which is
    interruptible. To be made in the main loop. Takes the place of the native module.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, handler: Callable[..., Any]) -> None:
        self.account, self.interrupts, self.turn = Account(), Interrupts(), Turn()
        self.answers: list[tuple[int, object]] = []  # that came later, with the request's number
        self.results: list[Any] = []  # that the receivers have returned
        self.threads: list[threading.Thread] = []  # that have received
        self._sent: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._is_ended = False
        rows = {
            opcode: Operation(name, decode, handler, encode)
            for opcode, name in (
                (Opcode.READLINK, "readlink"),
                (Opcode.FORGET, "forget"),
                (Opcode.COPY_FILE_RANGE, "copy_file_range"),
            )
        }
        self.requests = Requests(rows, self.turn, Guard(self.account), self.interrupts)
        monkeypatch.setattr(_native, "answer", lambda *words: self.answers.append(words))
        monkeypatch.setattr(_native, "serve", self._serve)
        monkeypatch.setattr(_native, "stop", self.end)
        monkeypatch.setattr(_native, "is_ended", lambda: self._is_ended)

    def receive(self, opcode: Opcode = Opcode.READLINK, sent: memoryview = SENT) -> Any:
        """What a receiver returns to the native module, in this thread."""
        result = self.requests.receivers[opcode](sent)
        assert not self.turn._lock.locked()
        return result

    def send(self, opcode: Opcode = Opcode.READLINK, sent: memoryview = SENT) -> None:
        """Let a receiver of the session see to a request."""
        self._sent.put((opcode, sent))

    def spare(self) -> None:
        """Let one receiver end, since there are enough others."""
        self._sent.put(None)

    def end(self) -> None:
        """The mount ends."""
        self._is_ended = True
        for _ in range(len(self.threads) or 1):
            self._sent.put(None)

    def start_another(self) -> None:
        """Let the receiver that is the next one start another."""
        self._sent.put(())

    def _serve(self, start_another: Callable[[], object]) -> None:
        self.threads.append(threading.current_thread())
        while (sent := self._sent.get()) is not None:
            if not sent:
                start_another()
                continue
            opcode, request = sent
            self.results.append(self.requests.receivers[opcode](request))

    async def wait_for_results(self, count: int) -> None:
        """Wait until receivers have seen to so many requests."""
        await wait_until(lambda: len(self.results) >= count)

    @property
    def errors(self) -> dict[str, int]:
        return self.account.snapshot().errors

    @contextlib.asynccontextmanager
    async def served(self, ended: list[bool] | None = None) -> AsyncIterator[None]:
        """`Requests.serve` runs during the block, which has to end it, or is it at its end; `ended`
        gets what it returns.
        """

        async def serve() -> None:
            is_left = await self.requests.serve(lambda: True)
            if ended is not None:
                ended.append(is_left)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await wait_until(lambda: self.threads)
            yield
            self.requests.stop()
