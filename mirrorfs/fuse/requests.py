"""Requests on their way from the kernel to a handler, before pyfuse3 sees them.

A request that goes through pyfuse3 costs a coroutine and a turn of the event loop, and the next one
finds no thread awake. Most handlers come to their end without that, because a thread's call that
takes a moment is waited for (`fs.threads`). So the native module shows each request here, and its
handler is begun by hand.

A handler that has to wait after all is left where it stands (`Begun`), and the request is passed on
to pyfuse3, which then calls the handler of that name in `handlers`: in the same task, and before
any other task can run (pyfuse3, internal.pxi, _session_loop). There it goes on with what was begun.
So what a handler waits with, cancel scopes included, belongs to the right task from the start.

Operations for which pyfuse3 has no handler become a task of their own instead, and are answered
from there, each exactly once: with EIO if the task is cut off by the end of the mount.
"""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, Any

from mirrorfs import _native
from mirrorfs.fuse import protocol
from mirrorfs.fuse.protocol import Opcode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    import trio

    from mirrorfs._native import Result
    from mirrorfs.fuse.guard import Guard
    from mirrorfs.fuse.interrupts import Interrupts
    from mirrorfs.fuse.operations import Operation

log = logging.getLogger(__name__)


class Begun:
    """A handler that waits for something: to be awaited once, in the task in which it was begun."""

    __slots__ = ("_coroutine", "_trap", "operation")

    def __init__(self, operation: Operation, coroutine: Any, trap: object) -> None:  # noqa: ANN401
        self.operation = operation
        self._coroutine = coroutine
        self._trap = trap  # what it has given the event loop, which has yet to get it

    def __await__(self) -> Generator[Any, Any, Any]:
        trap = self._trap
        while True:
            received = yield trap
            try:
                trap = self._coroutine.send(received)
            except StopIteration as end:
                return end.value


class Requests:
    """The requests of one session, which are shown to `receivers` by opcode."""

    def __init__(
        self, operations: dict[Opcode, Operation], guard: Guard, interrupts: Interrupts
    ) -> None:
        self._guard = guard
        self._interrupts = interrupts
        self._begun: Begun | None = None
        self._nursery: trio.Nursery | None = None
        self.receivers: dict[int, Callable[[memoryview], Result]] = {
            opcode: self._task_of(operation) if operation.is_ours else self._begin_of(operation)
            for opcode, operation in operations.items()
        }
        self.receivers[Opcode.INTERRUPT] = self._interrupt

    def serve_tasks_in(self, nursery: trio.Nursery) -> None:
        """Run the tasks of long requests in `nursery`, from now on."""
        self._nursery = nursery

    def take_begun(self, name: str) -> Awaitable[Any] | None:
        """What was begun of the request for which pyfuse3 calls the handler `name` now."""
        begun, self._begun = self._begun, None
        if begun is None or begun.operation.name == name:
            return begun
        log.error("%s was begun, but %s was called", begun.operation.name, name)
        return None

    def _begin_of(self, operation: Operation) -> Callable[[memoryview], Result]:
        """Begins the handler of an operation, which mostly ends there."""
        name, decode, handler, encode, *_ = operation
        errno_of = self._guard.errno_of

        def receive(message: memoryview) -> Result:
            try:
                coroutine: Any = handler(*decode(message))
                try:
                    trap = coroutine.send(None)
                except StopIteration as end:
                    return encode(end.value)
            except Exception as exc:
                return errno_of(name, exc)
            self._begun = Begun(operation, coroutine, trap)
            return None

        return receive

    def _task_of(self, operation: Operation) -> Callable[[memoryview], Result]:
        """Answers at once, or starts the task of a long request."""
        name, decode, _, encode, _, at_once = operation
        errno_of = self._guard.errno_of

        def receive(message: memoryview) -> Result:
            try:
                arguments = decode(message)
                result = None if at_once is None else at_once(*arguments)
                if result is not None:
                    return encode(result)
                if self._nursery is None:
                    return errno.EIO
                (number,) = protocol.UNIQUE.unpack_from(message)
                self._nursery.start_soon(self._run, operation, number, arguments)
                self._interrupts.watch(number)
            except Exception as exc:
                return errno_of(name, exc)
            return ...

        return receive

    async def _run(self, operation: Operation, number: int, arguments: tuple[Any, ...]) -> None:
        answer: int | bytes | bytearray = errno.EIO
        try:
            answer = operation.encode(await operation.handler(*arguments))
        except Exception as exc:
            answer = self._guard.errno_of(operation.name, exc)
        finally:
            self._interrupts.forget(number)
            _native.answer(number, answer)

    def _interrupt(self, message: memoryview) -> Result:
        """FUSE_INTERRUPT: of a request of ours, or else libfuse's business."""
        (number,) = protocol.INTERRUPT_IN.unpack_from(message)
        return b"" if self._interrupts.note(number) else None
