"""The threads of a device, which make the calls of the main loop."""

from __future__ import annotations

import errno
import threading
import time
from typing import TYPE_CHECKING

import pytest
import trio
import trio.lowlevel
import trio.testing

from mirrorfs.fs import threads as thread_pool
from mirrorfs.fs.threads import Threads
from mirrorfs.fs.turn import Turn
from tests.commands import wait_for
from tests.fs.gates import LONG, Gate, code_of, fail
from tests.fs.tables import Clock, in_main_loop

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open()


@pytest.fixture
def no_thread_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)


@in_main_loop
async def test_a_call_returns_and_raises_what_its_function_does() -> None:
    threads = Threads(2, Turn())
    assert await threads.run(max, 3, 4) == 4
    assert await code_of(threads, fail, errno.EDOM) == errno.EDOM
    assert threads.busy == 0
    threads.close()


@in_main_loop
async def test_a_call_is_not_made_in_the_thread_of_the_main_loop() -> None:
    threads = Threads(2, Turn())
    assert await threads.run(threading.get_ident) != threading.get_ident()
    threads.close()


@in_main_loop
async def test_the_thread_that_was_idle_for_the_shortest_time_gets_the_next_call(
    gate: Gate,
) -> None:
    threads = Threads(3, Turn())
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(threads.run, gate.wait)  # type: ignore[arg-type]
        await trio.testing.wait_all_tasks_blocked()
        gate.open()
    used = set()
    for _ in range(5):
        wait_for(lambda: len(threads._idle) == 3)
        used.add(await threads.run(threading.get_ident))
    assert len(used) == 1
    threads.close()


@pytest.mark.parametrize("limit", [1, 2])
@in_main_loop
async def test_more_calls_than_threads_wait_their_turn(gate: Gate, limit: int) -> None:
    threads, ended = Threads(limit, Turn()), []

    async def call(name: str) -> None:
        ended.append(await threads.run(gate.wait, name))

    async with trio.open_nursery() as nursery:
        for name in "abcde":
            nursery.start_soon(call, name)
            await trio.testing.wait_all_tasks_blocked()
        gate.wait_for_begun(limit)
        assert sorted(gate.begun) == ["a", "b"][:limit]
        assert threads.busy == 5
        gate.open()
    assert sorted(gate.begun) == sorted(ended) == ["a", "b", "c", "d", "e"]
    if limit == 1:
        assert gate.begun == sorted(gate.begun)
    assert threads.busy == 0
    threads.close()


@pytest.mark.usefixtures("no_thread_starts")
@in_main_loop
async def test_a_call_for_which_no_thread_can_be_started_is_to_be_tried_again() -> None:
    threads = Threads(2, Turn())
    assert await code_of(threads, max, 3, 4) == errno.EAGAIN
    assert threads.busy == 0
    threads.close()


@in_main_loop
async def test_a_call_waits_for_a_thread_that_is_there_where_no_other_can_be_started(
    gate: Gate, request: pytest.FixtureRequest
) -> None:
    threads, ended = Threads(2, Turn()), []

    async def call(name: str) -> None:
        ended.append(await threads.run(gate.wait, name))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call, "a")
        await trio.testing.wait_all_tasks_blocked()
        request.getfixturevalue("no_thread_starts")
        nursery.start_soon(call, "b")
        await trio.testing.wait_all_tasks_blocked()
        gate.wait_for_begun(1)
        assert gate.begun == ["a"]
        gate.open()
    assert gate.begun == sorted(ended) == ["a", "b"]
    threads.close()


@in_main_loop
async def test_a_call_that_was_begun_is_not_cancelled(gate: Gate) -> None:
    threads, ended = Threads(2, Turn()), []

    async def call(scope: trio.CancelScope) -> None:
        with scope:
            ended.append(await threads.run(gate.wait, "done"))

    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call, scope)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert ended == []
        gate.open()
    assert ended == ["done"]
    threads.close()


@in_main_loop
async def test_cutting_off_ends_all_waiting_with_eio_and_names_the_functions(gate: Gate) -> None:
    threads, codes = Threads(2, Turn()), []

    def stalled() -> None:
        gate.wait("stalled")

    async def call(function: object, *args: object) -> None:
        codes.append(await code_of(threads, function, *args))

    async with trio.open_nursery() as nursery:
        for function in (gate.wait, stalled, gate.wait):  # of which the last one has no thread
            nursery.start_soon(call, function)
            await trio.testing.wait_all_tasks_blocked()
        assert threads.cut_off() == {"wait": 2, "stalled": 1}
    assert codes == [errno.EIO] * 3
    assert threads.busy == 0
    assert threads.is_cut_off


@in_main_loop
async def test_threads_that_were_cut_off_take_no_more_calls(gate: Gate) -> None:
    threads = Threads(2, Turn())
    threads.cut_off()
    assert await code_of(threads, gate.wait) == errno.EIO
    threads.start(gate.wait)
    assert gate.begun == []
    assert threads.busy == 0


@in_main_loop
async def test_a_call_that_ends_after_it_was_cut_off_wakes_nothing(gate: Gate) -> None:
    threads, ended = Threads(1, Turn()), []

    async def call() -> None:
        ended.append(await code_of(threads, gate.wait))
        await trio.lowlevel.checkpoint()
        ended.append(0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        threads.cut_off()
        await trio.testing.wait_all_tasks_blocked()
        gate.open()
        threads.close()
        threads.join(time.monotonic() + LONG)
    assert ended == [errno.EIO, 0]


@in_main_loop
async def test_closing_lets_threads_end_when_what_was_submitted_is_done(gate: Gate) -> None:
    threads, workers = Threads(2, Turn()), []

    def work() -> None:
        gate.wait()
        workers.append(threading.current_thread())

    for _ in range(4):
        threads.start(work)
    threads.close()
    threads.join(time.monotonic())  # returns, although they are at work
    assert workers == []
    gate.open()
    threads.join(time.monotonic() + LONG)
    assert len(workers) == 4
    assert not any(worker.is_alive() for worker in workers)


@in_main_loop
async def test_closing_ends_idle_threads() -> None:
    threads = Threads(2, Turn())
    worker = await threads.run(threading.current_thread)
    threads.close()
    threads.join(time.monotonic() + LONG)
    assert not worker.is_alive()


@in_main_loop
async def test_an_error_of_a_call_for_which_nothing_waits_is_dropped() -> None:
    threads = Threads(1, Turn())
    threads.start(fail, errno.EIO)
    assert await threads.run(max, 3, 4) == 4
    assert threads.busy == 0
    threads.close()


@in_main_loop
async def test_threads_are_slow_while_the_latest_call_is_neither_done_nor_hung(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock().set_in(monkeypatch, "fs.threads")
    threads = Threads(4, Turn())
    assert not threads.is_slow
    async with trio.open_nursery() as nursery:
        seen = []
        for _ in range(2):
            nursery.start_soon(threads.run, gate.wait)  # type: ignore[arg-type]
            await trio.testing.wait_all_tasks_blocked()
            seen.append(threads.is_slow)
            clock.now += 2 * thread_pool._SLOW_SECONDS
            seen.append(threads.is_slow)
            clock.now += thread_pool._HUNG_SECONDS
            seen.append(threads.is_slow)
        assert seen == [False, True, False] * 2
        gate.open()
    assert not threads.is_slow
    threads.close()
