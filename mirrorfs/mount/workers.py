"""The one way from the main loop to a thread and back, for what may block.

A hop through the event loop costs about 80 µs, most of it for waking the loop. Most calls are done
sooner than that, so the main loop waits for a call's end itself for a moment (`_BRIEF_SECONDS`),
which costs half; only a call that takes longer goes through the loop. That moment is also the
longest time for which a stalled disk can hold up other requests, and while a call is known to be
slow nobody is waited for. One that does not come to an end at all, as on a single bad file, says
nothing of the others any more.

There is one such object for each device, so that a stalled one can only use up its own threads, and
is only slow itself. Calls cannot be cancelled: a write that was begun is finished. At the end of a
mount the waiting can be cut off; the threads then stay behind, and so must what they use.
"""

from __future__ import annotations

import errno
import os
import queue
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import outcome
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")
_BRIEF_SECONDS = 0.001
# From then on a call does not count as slow, but as hung: should all be like it, waiting for the
# next one costs little of that time.
_HUNG_SECONDS = 0.5


class Call(Generic[_T]):
    """A function on its way. `unclaimed` is popped by whoever, thread or loop, delivers the
    result.
    """

    __slots__ = ("args", "begun", "finished", "function", "is_done", "result", "task", "unclaimed")

    def __init__(self, function: Callable[..., _T], args: tuple[Any, ...]) -> None:
        self.is_done = False
        self.function = function
        self.args = args
        self.finished = threading.Lock()
        self.finished.acquire()
        self.unclaimed = [True]
        self.begun = 0.0
        self.task: trio.lowlevel.Task | None = None
        self.result: outcome.Outcome[_T] | None = None

    def claim(self) -> bool:
        try:
            return self.unclaimed.pop()
        except IndexError:
            return False


class Workers:
    """Threads started when needed, up to `limit`, and kept. Used in the main loop's thread."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._calls: queue.SimpleQueue[Call[Any] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._busy = 0
        self._under_way = 0  # calls that have not ended, whether somebody waits for them or not
        self._counting = threading.Lock()
        self._waited_for: dict[Call[Any], None] = {}  # in the order in which they were begun
        self._token = trio.lowlevel.current_trio_token()
        self.is_cut_off = False

    @property
    def busy(self) -> int:
        """Calls that are running or waiting for a thread."""
        return self._busy

    @property
    def is_slow(self) -> bool:
        """Whether a call was begun lately that is not done as soon as most are."""
        if not self._waited_for:
            return False
        latest = next(reversed(self._waited_for))
        return time.monotonic() < latest.begun + _HUNG_SECONDS

    async def run(self, function: Callable[..., _T], *args: Any) -> _T:  # noqa: ANN401 - passed on
        """Call `function(*args)` in a thread; returns what it returns, raises what it raises.

        Raises EIO if the waiting is cut off; the call may then still take effect.
        """
        return await self.finish(self.begin(function, *args))

    def begin(self, function: Callable[..., _T], *args: Any) -> Call[_T]:  # noqa: ANN401 - passed on
        """Begin such a call, and wait for a moment; `finish`, which must follow, waits for the
        rest. Raises EIO if it is too late for that.
        """
        if self.is_cut_off:
            raise _cut_off()
        call = Call(function, args)
        is_quick = not self.is_slow
        self._submit(call)
        if is_quick and call.finished.acquire(timeout=_BRIEF_SECONDS):
            call.claim()
            call.is_done = True
        return call

    async def finish(self, call: Call[_T]) -> _T:
        """Wait for the end of a call; returns and raises as `run` does."""
        if not call.is_done:
            call.task = trio.lowlevel.current_task()
            if not (call.finished.acquire(blocking=False) and call.claim()):
                call.begun = time.monotonic()
                self._waited_for[call] = None
                await trio.lowlevel.wait_task_rescheduled(_not_cancellable)
                self._waited_for.pop(call, None)
        return self.result(call)

    def result(self, call: Call[_T]) -> _T:
        """What a call that is done returned; raises what it raised. To be asked for once."""
        self._busy -= 1
        if call.result is None:
            raise _cut_off()
        return call.result.unwrap()

    def start(self, function: Callable[..., object], *args: object) -> None:
        """Call `function(*args)` in a thread some time soon; nobody waits for it."""
        if not self.is_cut_off:
            self._submit(Call(function, args))
            self._busy -= 1

    def cut_off(self) -> Counter[str]:
        """Let nobody wait any longer, and take no more calls.

        Returns the names of the functions whose effect is now unknown, and how often each.
        """
        self.is_cut_off = True
        left: Counter[str] = Counter()
        for call in self._waited_for:
            if call.task is not None and call.claim():
                left[call.function.__name__] += 1
                trio.lowlevel.reschedule(call.task)
        return left

    def close(self) -> None:
        """Let the threads end when what was submitted is done."""
        for _ in self._threads:
            self._calls.put(None)

    def join(self, deadline: float) -> None:
        """Wait until they have ended, or until `deadline` on the monotonic clock."""
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _submit(self, call: Call[Any]) -> None:
        self._busy += 1
        with self._counting:
            self._under_way += 1
        if self._under_way > len(self._threads) and len(self._threads) < self._limit:
            name = f"worker-{len(self._threads) + 1}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        self._calls.put(call)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call.result = outcome.capture(call.function, *call.args)
            with self._counting:
                self._under_way -= 1
            call.finished.release()
            if call.task is not None and call.claim():
                try:
                    self._token.run_sync_soon(trio.lowlevel.reschedule, call.task)
                except trio.RunFinishedError:
                    return
            del call


def _cut_off() -> OSError:
    return OSError(errno.EIO, os.strerror(errno.EIO))


def _not_cancellable(_raise_cancel: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED
