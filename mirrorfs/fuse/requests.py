"""Requests on their way from the kernel to a handler and back, without pyfuse3.

Each is seen through by one thread, a receiver (native/receive.c): it decodes the message, runs the
handler, which makes its calls itself (`fs.threads`), encodes the answer and sends it. A receiver
that is away for a millisecond is replaced by another; handlers take turns (`fs.turn`).

A handler that has to wait for something else than a call of its own goes on as a task of the main
loop, and is answered from there, exactly once: with EIO if the task is cut off by the end
of the mount.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
import time
import types
from functools import partial
from types import EllipsisType
from typing import TYPE_CHECKING, Any

import trio

from mirrorfs import _native
from mirrorfs.fs.turn import MAIN_LOOP
from mirrorfs.fuse import protocol
from mirrorfs.fuse.protocol import Opcode

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from mirrorfs._native import Answer, Result
    from mirrorfs.fs.turn import Turn
    from mirrorfs.fuse.guard import Guard
    from mirrorfs.fuse.interrupts import Interrupts
    from mirrorfs.fuse.operations import Operation

log = logging.getLogger(__name__)
_JOIN_SECONDS = 10.0
_LOOK_SECONDS = 0.1


class Requests:
    """The requests of one session, which are shown to `receivers` by opcode."""

    def __init__(
        self,
        operations: dict[Opcode, Operation],
        turn: Turn,
        guard: Guard,
        interrupts: Interrupts,
    ) -> None:
        self._turn = turn
        self._guard = guard
        self._interrupts = interrupts
        self._nursery: trio.Nursery | None = None
        self._ended = trio.Event()
        self._threads: list[threading.Thread] = []
        self.receivers: dict[int, Callable[[memoryview], Result]] = {
            opcode: self._receiver_of(operation) for opcode, operation in operations.items()
        }
        self.receivers[Opcode.INTERRUPT] = self._interrupt
        self.receivers |= dict.fromkeys((Opcode.ACCESS, Opcode.POLL), lambda _: errno.ENOSYS)

    async def serve(self, may_wait: Callable[[], bool]) -> bool:
        """Receive requests until the mount ends, or `stop` was called, and see those through that
        have come. Returns whether threads were left behind, as they are when they do not end within
        some seconds, or `may_wait` is false.
        """
        turn = self._turn
        steps = _Steps(turn)
        turn.take(is_receiver=False)
        trio.lowlevel.add_instrument(steps)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._start_thread()
                await self._ended.wait()
                # What they see through until they end may move to the nursery.
                return await trio.to_thread.run_sync(self._join, may_wait)
        finally:
            _native.stop()
            trio.lowlevel.remove_instrument(steps)
            turn.give()

    def stop(self) -> None:
        """Let `serve` return. To be called in the main loop's thread."""
        _native.stop()
        self._ended.set()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._serve, name="receiver", daemon=True)
        self._threads = [*(one for one in self._threads if one.is_alive()), thread]
        thread.start()

    def _serve(self) -> None:
        _native.serve(self._start_thread)
        try:
            self._turn.main_loop.run_sync_soon(self._note_end)
        except trio.RunFinishedError:
            return

    def _note_end(self) -> None:
        if _native.is_ended():
            self._ended.set()

    def _join(self, may_wait: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + _JOIN_SECONDS
        while alive := [thread for thread in self._threads if thread.is_alive()]:
            if not may_wait() or time.monotonic() >= deadline:
                break
            alive[0].join(_LOOK_SECONDS)
        return bool(alive)

    def _receiver_of(self, operation: Operation) -> Callable[[memoryview], Result]:
        """Sees a request of one operation through."""
        name, decode, handler, encode = operation
        turn, errno_of = self._turn, self._guard.errno_of

        def receive(message: memoryview) -> Result:
            answer: Answer | EllipsisType
            turn.take(is_receiver=True)
            try:
                coroutine: Any = handler(*decode(message))
                try:
                    trap = coroutine.send(None)
                except StopIteration as end:
                    answer = encode(end.value)
                else:
                    answer = self._move(operation, coroutine, trap, message)
            except Exception as exc:
                answer = errno_of(name, exc)
            finally:
                then = turn.take_then()
                turn.give()
            if not then:
                return answer
            if isinstance(answer, EllipsisType):
                _call_all(then)
                return answer
            return answer, partial(_call_all, then)

        return self._watched(receive) if operation.is_interruptible else receive

    def _watched(self, receive: Callable[[memoryview], Result]) -> Callable[[memoryview], Result]:
        """Have signals for a request noted while it is seen through."""
        interrupts = self._interrupts

        def receive_watched(message: memoryview) -> Result:
            (number,) = protocol.UNIQUE.unpack_from(message)
            interrupts.watch(number)
            result = receive(message)
            if not isinstance(result, EllipsisType):
                interrupts.forget(number)
            return result

        return receive_watched

    def _move(
        self,
        operation: Operation,
        coroutine: Any,  # noqa: ANN401 - of any handler
        trap: object,
        message: memoryview,
    ) -> Answer | EllipsisType:
        """Have the main loop go on with what a receiver has begun."""
        if trap is not MAIN_LOOP:
            coroutine.throw(RuntimeError(f"{operation.name} waits for {trap} outside of a task"))
        (number,) = protocol.UNIQUE.unpack_from(message)
        try:
            self._turn.main_loop.run_sync_soon(self._start_task, operation, coroutine, number)
        except trio.RunFinishedError:
            coroutine.close()
            return errno.EIO
        return ...

    def _start_task(self, operation: Operation, coroutine: Any, number: int) -> None:  # noqa: ANN401
        assert self._nursery is not None
        try:
            self._nursery.start_soon(self._finish, operation, coroutine, number)
        except RuntimeError:  # the mount has ended, and left a receiver behind
            if operation.is_answered:
                _native.answer(number, errno.EIO)
            with contextlib.suppress(RuntimeError):  # it may want to wait once more as it ends
                coroutine.close()

    async def _finish(self, operation: Operation, coroutine: Any, number: int) -> None:  # noqa: ANN401
        answer: Answer = errno.EIO
        try:
            answer = operation.encode(await _go_on(coroutine))
        except Exception as exc:
            answer = self._guard.errno_of(operation.name, exc)
        finally:
            self._interrupts.forget(number)
            if operation.is_answered:
                _native.answer(number, answer)

    def _interrupt(self, message: memoryview) -> Result:
        """FUSE_INTERRUPT."""
        (number,) = protocol.INTERRUPT_IN.unpack_from(message)
        self._turn.take(is_receiver=True)
        self._interrupts.note(number)
        self._turn.give()
        return b""


@types.coroutine
def _go_on(coroutine: Any) -> Generator[Any, Any, Any]:  # noqa: ANN401 - of any handler
    """Await what was begun."""
    return (yield from coroutine.__await__())


def _call_all(calls: list[Callable[[], object]]) -> None:
    for call in calls:
        try:
            call()
        except OSError as exc:
            log.debug("%s: %s", call, exc)


class _Steps(trio.abc.Instrument):
    """Has the main loop take the turn for each step of a task."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - trio's
        """Called by trio."""
        self._turn.take(is_receiver=False)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - trio's
        """Called by trio."""
        self._turn.give()
