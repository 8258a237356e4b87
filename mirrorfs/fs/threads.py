"""The calls of one device that may block: made by the receiver that sees the request through, or,
for the main loop, by a thread of the device.

A receiver that makes a call itself wakes no other thread, which costs more than most calls. While
it is away another takes over (`fuse.requests`). So that a device that does not answer uses up no
more than a few receivers, calls on one that is slow move to the main loop, and its threads. A call
that does not end at all, as on a single bad file, says nothing of the others after `_HUNG_SECONDS`.

The thread that has been idle for the shortest time gets the next call: it is still awake.

Each device has threads of its own, so that a stalled one can only use up those, and is only slow
itself. Calls cannot be cancelled: a write that was begun is finished. At the end of a mount the
waiting can be cut off; the threads then stay behind, and so must what they use.
"""

from __future__ import annotations

import errno
import threading
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar, TypeVarTuple

import outcome
import trio

from mirrorfs.fs.entry import refuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs.fs.turn import Turn

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")
# From then on a call is slow. Most are done long before.
_SLOW_SECONDS = 0.001
# From then on a call does not count as slow, but as hung: should all be like it, waiting for the
# next one costs little of that time.
_HUNG_SECONDS = 0.5
# Receivers that may be away on one device.
_MAX_HERE = 16


class Call(Generic[_T]):
    """A function on its way to a thread and back."""

    __slots__ = ("args", "begun", "function", "result", "task", "unclaimed")

    def __init__(self, function: Callable[..., _T], args: tuple[Any, ...]) -> None:
        self.function = function
        self.args = args
        # Popped by the side, thread or loop, that delivers the result to the task that waits.
        self.unclaimed = [True]
        self.begun = time.monotonic()
        self.task: trio.lowlevel.Task | None = None
        self.result: outcome.Outcome[_T] | None = None

    def claim(self) -> bool:
        """Whether the calling side is the one to deliver the result."""
        try:
            return self.unclaimed.pop()
        except IndexError:
            return False


class _Worker:
    """One thread; it ends if it is woken without a `call`."""

    __slots__ = ("call", "wake")

    def __init__(self, call: Call[Any]) -> None:
        self.call: Call[Any] | None = call
        self.wake = threading.Lock()  # released to wake it
        self.wake.acquire()


class Threads:
    """Threads started when needed, up to `limit`, and kept. Used by whoever has the `turn`."""

    def __init__(self, limit: int, turn: Turn) -> None:
        self.busy = 0  # calls whose end a request waits for
        self.is_cut_off = False
        self.turn = turn
        self._limit = limit
        self._threads: list[threading.Thread] = []
        # Guarded by the lock: threads without a call, the last one first in turn; calls without a
        # thread; and whether threads are to end.
        self._idle: list[_Worker] = []
        self._left: deque[Call[Any]] = deque()
        self._is_closing = False
        self._lock = threading.Lock()
        # In the order in which they were begun: calls that tasks wait for, and those that receivers
        # make themselves.
        self._waited_for: dict[Call[Any], None] = {}
        self._here: dict[Call[Any], None] = {}

    @property
    def is_slow(self) -> bool:
        """Whether a call was begun lately that does not end as soon as most do."""
        if not self._here and not self._waited_for:
            return False
        now = time.monotonic()
        calls = (*self._here, *self._waited_for)
        return any(_SLOW_SECONDS < now - call.begun < _HUNG_SECONDS for call in calls)

    @property
    def may_run_here(self) -> bool:
        """Whether whoever has the turn is a receiver, and makes a call itself."""
        is_open = self.turn.is_receiver and not self.is_cut_off
        return is_open and not self.is_slow and len(self._here) < _MAX_HERE

    async def run(self, function: Callable[[*_Args], _T], *args: *_Args) -> _T:
        """Call `function(*args)`, and let others have the turn meanwhile; returns what it returns,
        raises what it raises.

        Raises EIO if the waiting is cut off; the call may then still take effect.
        """
        if self.may_run_here:
            return self._run_here(function, args)
        await self.turn.to_main_loop()
        return await self._run_in_thread(function, args)

    def _run_here(self, function: Callable[..., _T], args: tuple[Any, ...]) -> _T:
        call = Call(function, args)
        self._here[call] = None
        self.busy += 1
        turn = self.turn
        turn.give()
        try:
            return function(*args)
        finally:
            turn.take(is_receiver=True)
            self.busy -= 1
            del self._here[call]

    async def _run_in_thread(self, function: Callable[..., _T], args: tuple[Any, ...]) -> _T:
        if self.is_cut_off:
            raise refuse(errno.EIO)
        call = Call(function, args)
        call.task = trio.lowlevel.current_task()
        wake = self._submit(call)
        self.busy += 1
        self._waited_for[call] = None
        if wake is not None:
            wake.release()
        await trio.lowlevel.wait_task_rescheduled(_not_cancellable)
        self._waited_for.pop(call, None)
        self.busy -= 1
        if call.result is None:
            raise refuse(errno.EIO)
        return call.result.unwrap()

    def start(self, function: Callable[[*_Args], object], *args: *_Args) -> None:
        """Call `function(*args)` in a thread some time soon; its result is dropped."""
        if not self.is_cut_off:
            wake = self._submit(Call(function, args))
            if wake is not None:
                wake.release()

    def cut_off(self) -> Counter[str]:
        """End the waiting of all requests, and take no more calls.

        Returns the names of the functions whose effect is now unknown, and how often each.
        """
        self.is_cut_off = True
        left: Counter[str] = Counter()
        for call in self._waited_for:
            if call.task is not None and call.claim():
                left[call.function.__name__] += 1
                trio.lowlevel.reschedule(call.task)
        left.update(call.function.__name__ for call in self._here)
        return left

    def close(self) -> None:
        """Let the threads end when what was submitted is done."""
        with self._lock:
            self._is_closing = True
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.wake.release()

    def join(self, deadline: float) -> None:
        """Wait until they have ended, or until `deadline` on the monotonic clock, in seconds."""
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _submit(self, call: Call[Any]) -> threading.Lock | None:
        """Find a thread for a call; returns what wakes it, if it sleeps."""
        for may_start in (len(self._threads) < self._limit, False):
            with self._lock:
                if self._idle:
                    worker = self._idle.pop()
                    worker.call = call
                    return worker.wake
                if not may_start:
                    self._left.append(call)
                    break
            if self._start_thread(call):
                break
        return None

    def _start_thread(self, call: Call[Any]) -> bool:
        """Start a thread with a call; returns whether that was possible. EAGAIN if it was not, and
        there are no others.
        """
        name = f"worker-{len(self._threads) + 1}"
        thread = threading.Thread(target=self._work, args=(_Worker(call),), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            if self._threads:
                return False
            raise refuse(errno.EAGAIN) from None
        self._threads.append(thread)
        return True

    def _work(self, worker: _Worker) -> None:
        while (call := worker.call) is not None:
            call.result = outcome.capture(call.function, *call.args)
            if call.task is not None and call.claim():
                try:
                    self.turn.main_loop.run_sync_soon(trio.lowlevel.reschedule, call.task)
                except trio.RunFinishedError:
                    return
            del call
            if not self._find_next(worker):
                worker.wake.acquire()

    def _find_next(self, worker: _Worker) -> bool:
        """Give a thread its next call; returns whether it is to go on at once."""
        with self._lock:
            worker.call = self._left.popleft() if self._left else None
            if worker.call is None and not self._is_closing:
                self._idle.append(worker)
                return False
            return True


def _not_cancellable(_raise_cancel: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED
