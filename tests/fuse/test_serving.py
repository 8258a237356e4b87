"""Requests that move to the main loop, and how a session that is served ends."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.lowlevel
import trio.testing

from mirrorfs.fuse.protocol import Opcode
from tests.fs.gates import Gate
from tests.fs.tables import in_main_loop
from tests.fuse import kernel_messages as kernel
from tests.fuse.kernel_messages import NODE, UNIQUE, message
from tests.fuse.sessions import LONG, Session, wait_until

ANSWER = b"answer %d" % NODE
INTERRUPT = message(kernel.INTERRUPT_IN, unique=UNIQUE)
# A handler, from where it has moved to the main loop.
Rest = Callable[[int], Awaitable[object]]


def moving(monkeypatch: pytest.MonkeyPatch, rest: Rest) -> Session:
    """A session whose handler moves to the main loop."""

    async def handler(node_id: int) -> object:
        assert session.turn.is_receiver
        await session.turn.to_main_loop()
        assert not session.turn.is_receiver
        return await rest(node_id)

    session = Session(monkeypatch, handler)
    return session


async def echo(node_id: int) -> int:
    return node_id


async def wait_once(node_id: int) -> int:
    await trio.lowlevel.checkpoint()
    return node_id


async def fail_late(_node_id: int) -> int:
    await trio.lowlevel.checkpoint()
    raise OSError(errno.EDOM, os.strerror(errno.EDOM))


async def have_a_bug(_node_id: int) -> int:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("rest", "expected", "errors"),
    [
        (echo, ANSWER, {}),
        (wait_once, ANSWER, {}),
        (fail_late, errno.EDOM, {"EDOM": 1}),
        (have_a_bug, errno.EIO, {"EIO": 1}),
    ],
)
@in_main_loop
async def test_a_request_that_moves_to_the_main_loop_is_answered_once_from_there(
    monkeypatch: pytest.MonkeyPatch, rest: Rest, expected: object, errors: dict[str, int]
) -> None:
    session = moving(monkeypatch, rest)
    async with session.served():
        session.send()
        await wait_until(lambda: session.answers)
    assert session.answers == [(UNIQUE, expected)]
    assert session.results == [...]
    assert session.errors == errors


@in_main_loop
async def test_a_request_goes_on_in_one_task_of_the_main_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen, main_thread = [], threading.get_ident()

    async def rest(_node_id: int) -> str:
        for _ in range(3):
            seen.append((trio.lowlevel.current_task(), threading.get_ident()))
            await trio.lowlevel.checkpoint()
        with trio.move_on_after(0) as scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught
        return "value"

    session = moving(monkeypatch, rest)
    async with session.served():
        session.send()
        await wait_until(lambda: session.answers)
    assert session.answers == [(UNIQUE, b"answer value")]
    assert len(set(seen)) == 1
    assert seen[0][1] == main_thread


@in_main_loop
async def test_a_request_that_the_kernel_wants_no_answer_of_gets_none_from_the_main_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = []

    async def rest(_node_id: int) -> None:
        ended.append(True)

    session = moving(monkeypatch, rest)
    async with session.served():
        session.send(Opcode.FORGET)
        await wait_until(lambda: ended)
    assert session.answers == []


@in_main_loop
async def test_each_step_of_a_task_has_the_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(monkeypatch, echo)
    turn = session.turn
    async with session.served():
        for number in range(3):
            assert turn._lock.locked()
            assert not turn.is_receiver
            session.send()
            await session.wait_for_results(number + 1)
    assert session.results == [ANSWER] * 3
    assert not turn._lock.locked()
    session.receive()  # without a session that is served nobody has it


@in_main_loop
async def test_a_signal_is_noted_until_a_copy_that_has_moved_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[bool] = []
    begun, has_come = trio.Event(), trio.Event()

    async def rest(_node_id: int) -> int:
        seen.append(session.interrupts.is_interrupted(UNIQUE))
        begun.set()
        await has_come.wait()
        seen.append(session.interrupts.is_interrupted(UNIQUE))
        raise InterruptedError(errno.EINTR, "")

    session = moving(monkeypatch, rest)
    async with session.served():
        session.send(Opcode.COPY_FILE_RANGE)
        await begun.wait()
        session.send(Opcode.INTERRUPT, INTERRUPT)
        await session.wait_for_results(2)
        has_come.set()
        await wait_until(lambda: session.answers)
        assert not session.interrupts.note(UNIQUE)
    assert seen == [False, True]
    assert session.answers == [(UNIQUE, errno.EINTR)]
    assert session.results == [..., b""]


@in_main_loop
async def test_a_request_that_is_cut_off_in_the_main_loop_is_eio(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def rest(_node_id: int) -> None:
        await trio.sleep_forever()

    session = moving(monkeypatch, rest)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.requests.serve, lambda: True)
        session.send(Opcode.COPY_FILE_RANGE)
        await wait_until(lambda: session.results)
        await trio.testing.wait_all_tasks_blocked()
        assert session.answers == []
        nursery.cancel_scope.cancel()
    await wait_until(lambda: not session.threads[0].is_alive())
    assert not session.turn._lock.locked()
    assert session.answers == [(UNIQUE, errno.EIO)]
    assert session.errors == {}
    assert not session.interrupts.note(UNIQUE)


@in_main_loop
async def test_serving_ends_when_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(monkeypatch, echo)
    ended: list[bool] = []
    async with session.served(ended):
        pass
    assert ended == [False]
    assert not session.threads[0].is_alive()


@in_main_loop
async def test_serving_ends_with_the_mount_and_not_with_one_receiver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = Session(monkeypatch, echo)
    ended: list[bool] = []
    with trio.fail_after(LONG):
        async with trio.open_nursery() as nursery:

            async def serve() -> None:
                ended.append(await session.requests.serve(lambda: True))

            nursery.start_soon(serve)
            session.start_another()
            await wait_until(lambda: len(session.threads) == 2)
            session.spare()
            await wait_until(lambda: not all(map(threading.Thread.is_alive, session.threads)))
            await trio.testing.wait_all_tasks_blocked()
            assert ended == []
            session.send()
            await wait_until(lambda: session.results)
            session.end()
    assert ended == [False]
    assert not any(map(threading.Thread.is_alive, session.threads))
    assert all(thread.daemon for thread in session.threads)


def calling(monkeypatch: pytest.MonkeyPatch, gate: Gate) -> Session:
    """A session whose handler makes a call, then moves to the main loop."""

    async def handler(node_id: int) -> int:
        session.turn.give()
        gate.wait()
        session.turn.take(is_receiver=True)
        await session.turn.to_main_loop()
        return node_id

    session = Session(monkeypatch, handler)
    return session


@in_main_loop
async def test_a_request_that_moves_when_the_end_has_come_is_answered_before_serving_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate, ended = Gate(), list[bool]()
    session = calling(monkeypatch, gate)
    async with session.served(ended):
        session.send()
        await wait_until(lambda: gate.begun)
        session.requests.stop()
        for _ in range(5):
            await trio.testing.wait_all_tasks_blocked()
        assert ended == []
        gate.open()
        await wait_until(lambda: ended)
    assert session.answers == [(UNIQUE, ANSWER)]
    assert ended == [False]


@in_main_loop
async def test_a_receiver_that_is_not_to_be_waited_for_is_left_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = Gate()
    session, may_wait = calling(monkeypatch, gate), [True]
    ended: list[Any] = []

    async def serve() -> None:
        ended.append(await session.requests.serve(lambda: may_wait[0]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        session.send()
        await wait_until(lambda: gate.begun)
        session.requests.stop()
        await trio.testing.wait_all_tasks_blocked()
        assert ended == []
        may_wait[0] = False
    assert ended == [True]
    assert not session.turn._lock.locked()
    gate.open()
    await wait_until(lambda: session.answers)  # what it moves then has no place to go on
    assert session.answers == [(UNIQUE, errno.EIO)]


@in_main_loop
async def test_a_receiver_is_waited_for_no_longer_than_some_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mirrorfs.fuse.requests._JOIN_SECONDS", 0.0)
    gate, ended = Gate(), list[bool]()
    session = calling(monkeypatch, gate)
    async with session.served(ended):
        session.send()
        await wait_until(lambda: gate.begun)
    assert ended == [True]
    gate.open()
    await wait_until(lambda: session.answers)


@in_main_loop
async def test_what_was_left_behind_and_wants_to_wait_as_it_ends_does_not_end_the_main_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = Gate()

    async def handler(_node_id: int) -> None:
        session.turn.give()
        gate.wait()
        session.turn.take(is_receiver=True)
        try:
            await session.turn.to_main_loop()
        finally:
            await session.turn.to_main_loop()

    session = Session(monkeypatch, handler)
    ended: list[Any] = []

    async def serve() -> None:
        ended.append(await session.requests.serve(lambda: False))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        session.send()
        await wait_until(lambda: gate.begun)
        session.requests.stop()
    assert ended == [True]
    gate.open()
    await wait_until(lambda: session.answers)
    await trio.testing.wait_all_tasks_blocked()
    assert session.answers == [(UNIQUE, errno.EIO)]
