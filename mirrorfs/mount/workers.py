"""The one way from the main loop to a thread and back, for what may block.

Like trio.to_thread.run_sync, but a hop costs about half: the threads stay, and nothing is copied
into a context. Calls cannot be cancelled: a write that was begun is finished.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import outcome
import trio

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Job = tuple[Callable[..., Any], tuple[Any, ...], "trio.lowlevel.Task | None"]


class Workers:
    """Threads started when needed, up to `limit`, and kept. Made and used in the main loop's
    thread.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._busy = 0
        self._token = trio.lowlevel.current_trio_token()

    @property
    def busy(self) -> int:
        """Calls that are running or waiting for a thread."""
        return self._busy

    async def run(self, function: Callable[..., _T], *args: Any) -> _T:  # noqa: ANN401 - passed on as they are
        """Call `function(*args)` in a thread; returns what it returns, raises what it raises."""
        self._submit(function, args, trio.lowlevel.current_task())
        result: _T = await trio.lowlevel.wait_task_rescheduled(_not_cancellable)
        return result

    def start(self, function: Callable[..., object], *args: object) -> None:
        """Call `function(*args)` in a thread some time soon; nobody waits for it."""
        self._submit(function, args, None)

    def close(self) -> None:
        """End the threads when what was submitted is done."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _submit(
        self, function: Callable[..., Any], args: tuple[Any, ...], task: trio.lowlevel.Task | None
    ) -> None:
        self._busy += 1
        if self._busy > len(self._threads) and len(self._threads) < self._limit:
            thread = threading.Thread(
                target=self._work, name=f"worker-{len(self._threads) + 1}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        self._jobs.put((function, args, task))

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            function, args, task = job
            result = outcome.capture(function, *args)
            try:
                self._token.run_sync_soon(self._done, task, result)
            except trio.RunFinishedError:
                return
            del job, function, args, task, result

    def _done(self, task: trio.lowlevel.Task | None, result: outcome.Outcome[Any]) -> None:
        self._busy -= 1
        if task is not None:
            trio.lowlevel.reschedule(task, result)


def _not_cancellable(_raise_cancel: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED
