"""Whom the main loop waits for itself, and whom it lets come back to it."""

from __future__ import annotations

import threading

import pytest
import trio
import trio.testing

from mirrorfs.fs import threads as thread_pool
from mirrorfs.fs.threads import Threads

CALLS = 20


@pytest.mark.parametrize(
    ("hung_after", "rescheduled"),
    [pytest.param(60.0, CALLS, id="slow"), pytest.param(0.0, 0, id="hung")],
)
def test_calls_beside_one_that_hangs_are_waited_for_again(
    monkeypatch: pytest.MonkeyPatch, hung_after: float, rescheduled: int
) -> None:
    """Beside one that is slow, others may be slow, too, and nobody must wait for them."""
    monkeypatch.setattr(thread_pool, "_HUNG_SECONDS", hung_after)
    monkeypatch.setattr(thread_pool, "_BRIEF_SECONDS", 0.0)
    waited: list[object] = []
    wait = trio.lowlevel.wait_task_rescheduled

    def count(abort: object) -> object:
        waited.append(abort)
        return wait(abort)  # type: ignore[arg-type]

    async def use() -> None:
        threads, over = Threads(4), threading.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(threads.run, over.wait)
            await trio.testing.wait_all_tasks_blocked()
            monkeypatch.setattr(thread_pool, "_BRIEF_SECONDS", 30.0)
            monkeypatch.setattr(trio.lowlevel, "wait_task_rescheduled", count)
            for number in range(CALLS):
                assert await threads.run(lambda n=number: n + 1) == number + 1  # type: ignore[misc]
            over.set()
        assert not threads.busy
        threads.close()

    trio.run(use)
    assert len(waited) <= rescheduled
    assert rescheduled == 0 or waited
