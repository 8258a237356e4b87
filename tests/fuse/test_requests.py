"""Handlers that are begun where their request is received: they end there, or wait and go on."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.lowlevel
import trio.testing

from mirrorfs import _native
from mirrorfs.fuse import protocol
from mirrorfs.fuse.guard import Guard
from mirrorfs.fuse.interrupts import Interrupts
from mirrorfs.fuse.operations import Operation
from mirrorfs.fuse.protocol import Opcode
from mirrorfs.fuse.requests import Requests
from mirrorfs.mirror.counters import Account
from tests.fuse import kernel_messages as kernel
from tests.fuse.kernel_messages import NODE, UNIQUE, message

if TYPE_CHECKING:
    from types import EllipsisType

Handler = Callable[[int], Awaitable[object]]
ANSWERS_LATER: EllipsisType = ...
SENT = message()


class Connection:
    """The requests of a session with two operations: READLINK, and LSEEK, which is ours."""

    def __init__(self, handler: Handler, at_once: Callable[[int], object] | None = None) -> None:
        self.account, self.interrupts = Account(), Interrupts()
        rows = {
            Opcode.READLINK: Operation("readlink", decode, handler, encode),
            Opcode.LSEEK: Operation("lseek", decode, handler, encode, True, at_once),
        }
        self.requests = Requests(rows, Guard(self.account), self.interrupts)

    def receive(self, opcode: Opcode = Opcode.READLINK, sent: memoryview = SENT) -> Any:
        """What the native module does with a request: an answer, or None to pass it on."""
        return self.requests.receivers[opcode](sent)

    @property
    def errors(self) -> dict[str, int]:
        return self.account.snapshot().errors


def decode(sent: memoryview) -> tuple[int]:
    (node_id,) = protocol.NODE.unpack_from(sent)
    return (node_id,)


def encode(value: object) -> bytes:
    return f"answer {value}".encode()


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, object]]:
    """What the native module was given to send later: number of the request, and answer."""
    sent: list[tuple[int, object]] = []
    monkeypatch.setattr(_native, "answer", lambda *words: sent.append(words))
    return sent


async def echo(node_id: int) -> int:
    return node_id


async def wait_once(node_id: int) -> int:
    await trio.lowlevel.checkpoint()
    return node_id


async def fail(_node_id: int) -> int:
    raise OSError(errno.EDOM, os.strerror(errno.EDOM))


async def fail_late(_node_id: int) -> int:
    await trio.lowlevel.checkpoint()
    raise OSError(errno.EDOM, os.strerror(errno.EDOM))


async def have_a_bug(_node_id: int) -> int:
    raise ZeroDivisionError


def test_a_handler_that_does_not_wait_is_answered_at_once() -> None:
    session = Connection(echo)
    assert session.receive() == b"answer %d" % NODE
    assert session.requests.take_begun("readlink") is None


def test_what_a_handler_raises_at_once_is_the_errno_of_the_answer() -> None:
    session = Connection(fail)
    assert session.receive() == errno.EDOM
    assert session.errors == {"EDOM": 1}
    assert session.requests.take_begun("readlink") is None


def test_a_bug_in_a_handler_or_a_message_that_cannot_be_decoded_is_eio() -> None:
    session = Connection(have_a_bug)
    assert session.receive() == errno.EIO
    assert session.receive(sent=memoryview(b"short")) == errno.EIO
    assert session.receive(Opcode.LSEEK, memoryview(b"short")) == errno.EIO
    assert session.errors == {"EIO": 3}


def test_an_answer_that_cannot_be_encoded_is_eio() -> None:
    session = Connection(echo)
    rows = {Opcode.READLINK: Operation("readlink", decode, echo, have_no_answer)}
    session.requests = Requests(rows, Guard(session.account), session.interrupts)
    assert session.receive() == errno.EIO


def have_no_answer(_value: object) -> bytes:
    raise TypeError


def test_a_handler_that_waits_is_passed_on_and_taken_by_its_name_once() -> None:
    async def use() -> None:
        session = Connection(wait_once)
        assert session.receive() is None
        begun = session.requests.take_begun("readlink")
        assert begun is not None
        assert session.requests.take_begun("readlink") is None
        assert await begun == NODE

    trio.run(use)


def test_a_handler_that_waits_is_not_taken_by_another_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def use() -> None:
        session = Connection(wait_once)
        assert session.receive() is None
        assert session.requests.take_begun("unlink") is None
        assert session.requests.take_begun("readlink") is None

    trio.run(use)
    assert [record.message for record in caplog.records] == [
        "readlink was begun, but unlink was called"
    ]


def test_a_handler_that_waits_goes_on_in_the_task_in_which_it_is_awaited() -> None:
    tasks = []

    async def handler(_node_id: int) -> str:
        for _ in range(3):
            tasks.append(trio.lowlevel.current_task())
            await trio.lowlevel.checkpoint()
        with trio.move_on_after(0) as scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught
        return "value"

    async def use() -> None:
        session = Connection(handler)
        assert session.receive() is None
        begun = session.requests.take_begun("readlink")
        assert begun is not None
        assert await begun == "value"
        assert set(tasks) == {trio.lowlevel.current_task()}

    trio.run(use)


def test_what_a_handler_raises_after_it_has_waited_is_raised_where_it_is_awaited() -> None:
    async def use() -> None:
        session = Connection(fail_late)
        assert session.receive() is None
        begun = session.requests.take_begun("readlink")
        assert begun is not None
        with pytest.raises(OSError) as caught:
            await begun
        assert caught.value.errno == errno.EDOM

    trio.run(use)


def test_an_operation_of_ours_is_answered_at_once_where_that_is_possible() -> None:
    session = Connection(fail, at_once=lambda node_id: node_id)
    assert session.receive(Opcode.LSEEK) == b"answer %d" % NODE


def test_what_the_quick_way_of_an_operation_of_ours_raises_is_its_answer() -> None:
    def refuse(_node_id: int) -> object:
        raise OSError(errno.EBADF, "")

    assert Connection(echo, at_once=refuse).receive(Opcode.LSEEK) == errno.EBADF


def test_an_operation_of_ours_before_the_session_is_served_is_eio() -> None:
    assert Connection(echo).receive(Opcode.LSEEK) == errno.EIO


@pytest.mark.parametrize("at_once", [None, lambda _node_id: None])
@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        (echo, b"answer %d" % NODE),
        (wait_once, b"answer %d" % NODE),
        (fail_late, errno.EDOM),
        (have_a_bug, errno.EIO),
    ],
)
def test_an_operation_of_ours_is_answered_once_by_a_task(
    answers: list[tuple[int, object]], handler: Handler, at_once: Any, expected: object
) -> None:
    async def use() -> None:
        session = Connection(handler, at_once)
        async with trio.open_nursery() as nursery:
            session.requests.serve_tasks_in(nursery)
            assert session.receive(Opcode.LSEEK) is ANSWERS_LATER
            assert answers == []
        assert answers == [(UNIQUE, expected)]

    trio.run(use)


async def wait_for_ever(_node_id: int) -> int:
    await trio.sleep_forever()
    raise AssertionError


def test_an_operation_of_ours_that_is_cut_off_by_the_end_of_the_mount_is_eio(
    answers: list[tuple[int, object]],
) -> None:
    async def use() -> None:
        session = Connection(wait_for_ever)
        async with trio.open_nursery() as nursery:
            session.requests.serve_tasks_in(nursery)
            assert session.receive(Opcode.LSEEK) is ANSWERS_LATER
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert answers == [(UNIQUE, errno.EIO)]
        assert session.errors == {}
        assert not session.interrupts.note(UNIQUE)

    trio.run(use)


def test_a_signal_for_an_operation_of_ours_is_noted_while_it_runs(
    answers: list[tuple[int, object]],
) -> None:
    seen: list[bool] = []
    interrupt = message(kernel.INTERRUPT_IN, unique=UNIQUE)
    other = message(kernel.INTERRUPT_IN, unique=UNIQUE + 1)

    async def use() -> None:
        async def wait_for_a_signal(_node_id: int) -> int:
            seen.append(session.interrupts.is_interrupted(UNIQUE))
            await has_come.wait()
            seen.append(session.interrupts.is_interrupted(UNIQUE))
            raise InterruptedError(errno.EINTR, "")

        session, has_come = Connection(wait_for_a_signal), trio.Event()
        async with trio.open_nursery() as nursery:
            session.requests.serve_tasks_in(nursery)
            assert session.receive(Opcode.LSEEK) is ANSWERS_LATER
            await trio.testing.wait_all_tasks_blocked()
            assert session.receive(Opcode.INTERRUPT, other) is None  # libfuse's business
            assert session.receive(Opcode.INTERRUPT, interrupt) == b""
            has_come.set()
        assert session.receive(Opcode.INTERRUPT, interrupt) is None
        assert not session.interrupts.is_interrupted(UNIQUE)

    trio.run(use)
    assert seen == [False, True]
    assert answers == [(UNIQUE, errno.EINTR)]
