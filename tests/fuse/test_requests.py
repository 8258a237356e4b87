"""Requests that a receiver sees through itself, and what it says to the native module."""

from __future__ import annotations

import errno
import logging
import os
import threading
from typing import TYPE_CHECKING, Any

import trio
import trio.lowlevel

from mirrorfs.fuse.operations import Operation
from mirrorfs.fuse.protocol import Opcode
from mirrorfs.fuse.requests import Requests
from tests.fs.tables import in_main_loop
from tests.fuse import kernel_messages as kernel
from tests.fuse.kernel_messages import NODE, UNIQUE, message
from tests.fuse.sessions import Session, decode, wait_until

if TYPE_CHECKING:
    import pytest

    from mirrorfs.fs.turn import Turn

ANSWER = b"answer %d" % NODE
INTERRUPT = message(kernel.INTERRUPT_IN, unique=UNIQUE)
OTHER_INTERRUPT = message(kernel.INTERRUPT_IN, unique=UNIQUE + 1)


async def echo(node_id: int) -> int:
    return node_id


async def fail(_node_id: int) -> int:
    raise OSError(errno.EDOM, os.strerror(errno.EDOM))


async def have_a_bug(_node_id: int) -> int:
    raise ZeroDivisionError


async def wait_outside_of_a_task(node_id: int) -> int:
    await trio.lowlevel.checkpoint()
    return node_id


def have_no_answer(_value: object) -> bytes:
    raise TypeError


@in_main_loop
async def test_a_handler_that_does_not_wait_is_answered_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    async def handler(node_id: int) -> int:
        seen.append((threading.get_ident(), session.turn.is_receiver, session.turn._lock.locked()))
        return node_id

    session = Session(monkeypatch, handler)
    assert session.receive() == ANSWER
    assert seen == [(threading.get_ident(), True, True)]
    assert session.answers == []
    assert session.errors == {}


@in_main_loop
async def test_what_a_handler_raises_is_the_errno_of_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = Session(monkeypatch, fail)
    assert session.receive() == errno.EDOM
    assert session.errors == {"EDOM": 1}


@in_main_loop
async def test_a_bug_in_a_handler_or_a_message_that_cannot_be_decoded_is_eio(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = Session(monkeypatch, have_a_bug)
    assert session.receive() == errno.EIO
    assert session.receive(sent=memoryview(b"short")) == errno.EIO
    assert session.errors == {"EIO": 2}


@in_main_loop
async def test_an_answer_that_cannot_be_encoded_is_eio(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(monkeypatch, echo)
    rows = {Opcode.READLINK: Operation("readlink", decode, echo, have_no_answer)}
    session.requests = Requests(rows, session.turn, session.requests._guard, session.interrupts)
    assert session.receive() == errno.EIO
    assert session.errors == {"EIO": 1}


@in_main_loop
async def test_a_handler_that_waits_for_more_than_a_call_without_moving_is_a_bug(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    session = Session(monkeypatch, wait_outside_of_a_task)
    assert session.receive() == errno.EIO
    assert session.errors == {"EIO": 1}
    (record,) = caplog.records
    assert record.exc_info is not None
    assert "readlink waits for" in str(record.exc_info[1])
    assert session.answers == []


def test_a_handler_that_moves_after_the_end_of_the_main_loop_is_closed_and_eio(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed: list[bool] = []

    async def handler(_node_id: int) -> None:
        try:
            await session.turn.to_main_loop()
        finally:
            closed.append(True)

    async def make() -> Session:
        return Session(monkeypatch, handler)

    session = trio.run(make)
    assert session.receive() == errno.EIO
    assert closed == [True]
    assert session.answers == []


@in_main_loop
async def test_access_and_poll_are_left_to_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(monkeypatch, echo)
    assert session.receive(Opcode.ACCESS) == session.receive(Opcode.POLL) == errno.ENOSYS
    assert session.errors == {}


class After:
    """A handler that has two calls made after the answer."""

    def __init__(self, turn: Turn | None = None, error: Exception | None = None) -> None:
        self.turn = turn
        self.called: list[object] = []
        self._error = error
        self.moves = False

    def call(self) -> None:
        assert self.turn is not None
        self.called.append(self.turn._lock.locked())
        if self._error is not None:
            raise self._error

    async def handler(self, node_id: int) -> int:
        assert self.turn is not None
        self.turn.then(self.call)
        self.turn.then(self.call)
        if self.moves:
            await self.turn.to_main_loop()
        if node_id == 0:
            raise OSError(errno.EDOM, "")
        return node_id


@in_main_loop
async def test_calls_that_are_to_come_then_are_made_after_the_answer_without_the_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    after = After()
    session = Session(monkeypatch, after.handler)
    after.turn = session.turn
    answer, then = session.receive()
    assert answer == ANSWER
    assert after.called == []
    then()
    assert after.called == [False, False]
    assert session.turn.take_then() == []


@in_main_loop
async def test_calls_that_are_to_come_then_come_after_an_error_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    after = After()
    session = Session(monkeypatch, after.handler)
    after.turn = session.turn
    answer, then = session.receive(sent=memoryview(bytes(48)))
    assert answer == errno.EDOM
    then()
    assert after.called == [False, False]


@in_main_loop
async def test_calls_that_are_to_come_then_are_made_at_once_where_the_answer_comes_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    after = After()
    after.moves = True
    session = Session(monkeypatch, after.handler)
    after.turn = session.turn
    async with session.served():
        session.send()
        await wait_until(lambda: session.answers and session.results)
        assert session.results == [...]
        assert len(after.called) == 2


@in_main_loop
async def test_an_error_of_a_call_that_was_to_come_then_does_not_keep_others_from_coming(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    after = After(error=OSError(errno.EIO, "injected"))
    session = Session(monkeypatch, after.handler)
    after.turn = session.turn
    with caplog.at_level(logging.DEBUG):
        session.receive()[1]()
    assert len(after.called) == 2
    assert len([one for one in caplog.records if "injected" in one.getMessage()]) == 2


@in_main_loop
async def test_a_signal_for_a_copy_is_noted_while_a_receiver_sees_it_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[bool] = []

    async def handler(node_id: int) -> int:
        for sent in (OTHER_INTERRUPT, INTERRUPT):
            session.turn.give()  # as while a call is made
            assert session.receive(Opcode.INTERRUPT, sent) == b""
            session.turn.take(is_receiver=True)
            seen.append(session.interrupts.is_interrupted(UNIQUE))
        return node_id

    session = Session(monkeypatch, handler)
    assert session.receive(Opcode.COPY_FILE_RANGE) == ANSWER
    assert seen == [False, True]
    assert not session.interrupts.note(UNIQUE)
    assert session.receive(Opcode.INTERRUPT, INTERRUPT) == b""
    assert not session.interrupts.is_interrupted(UNIQUE)


@in_main_loop
async def test_a_signal_for_a_copy_that_failed_is_noted_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for handler in fail, have_a_bug:
        session = Session(monkeypatch, handler)
        assert session.receive(Opcode.COPY_FILE_RANGE) in {errno.EDOM, errno.EIO}
        assert not session.interrupts.note(UNIQUE)


@in_main_loop
async def test_a_signal_for_another_request_is_not_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[Any] = []

    async def handler(node_id: int) -> int:
        noted.append(session.interrupts.note(UNIQUE))
        return node_id

    session = Session(monkeypatch, handler)
    assert session.receive() == ANSWER
    assert noted == [False]
