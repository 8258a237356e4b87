"""Receivers make their calls themselves, unless a device is slow, without the turn."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from mirrorfs.fs import threads as thread_pool
from mirrorfs.fs.devices import Device
from mirrorfs.fs.threads import Threads
from mirrorfs.fs.turn import MAIN_LOOP, Turn
from tests.commands import wait_for
from tests.fs.gates import LONG, Gate, code_of, fail
from tests.fs.tables import Clock, in_main_loop, receive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Receivers:
    """Threads that each see to one request."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.answers: list[object] = []
        self._threads: list[threading.Thread] = []

    def begin(self, handler: Callable[..., Any], *args: object) -> None:
        def see_to_it() -> None:
            self.answers.append(receive(self.turn, handler(*args)))

        self._threads.append(threading.Thread(target=see_to_it))
        self._threads[-1].start()

    def join(self) -> list[object]:
        """The answers of all, in the order in which they were ready."""
        for thread in self._threads:
            thread.join(LONG)
            assert not thread.is_alive()
        return self.answers


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock().set_in(monkeypatch, "fs.threads")


@contextlib.contextmanager
def under_way(threads: Threads, count: int = 1) -> Iterator[Gate]:
    """So many receivers have begun a call, which ends with the block."""
    gate, receivers = Gate(), Receivers(threads.turn)
    for _ in range(count):
        receivers.begin(threads.run, gate.wait, "done")
    gate.wait_for_begun(count)
    try:
        yield gate
    finally:
        gate.open()
    assert receivers.join() == ["done"] * count
    assert threads.busy == 0


@in_main_loop
async def test_a_receiver_makes_its_call_in_its_own_thread() -> None:
    threads = Threads(2, Turn())
    assert receive(threads.turn, threads.run(threading.get_ident)) == threading.get_ident()
    assert receive(threads.turn, code_of(threads, fail, errno.EDOM)) == errno.EDOM
    assert (threads.busy, threads.is_slow) == (0, False)
    assert threads._threads == []


@in_main_loop
async def test_others_have_the_turn_while_a_receiver_makes_a_call_and_it_has_it_again_then() -> (
    None
):
    threads, gate, seen = Threads(2, Turn()), Gate(), []
    turn = threads.turn

    async def handler() -> str:
        seen.append("begins")
        word = await threads.run(gate.wait, "done")
        seen.append("goes on")
        assert turn.is_receiver
        assert turn._lock.locked()
        return word

    receivers = Receivers(turn)
    receivers.begin(handler)
    gate.wait_for_begun(1)
    turn.take(is_receiver=False)
    assert threads.busy == 1
    gate.open()
    seen.append("other")
    turn.give()
    assert receivers.join() == ["done"]
    assert seen == ["begins", "other", "goes on"]
    assert threads.busy == 0


@in_main_loop
async def test_a_receiver_has_the_turn_again_after_a_call_that_failed() -> None:
    threads = Threads(2, Turn())

    async def handler() -> bool:
        await code_of(threads, fail, errno.EDOM)
        return threads.turn.is_receiver and threads.turn._lock.locked()

    assert receive(threads.turn, handler()) is True
    assert not threads.turn._lock.locked()


@in_main_loop
async def test_a_call_moves_to_the_main_loop_while_another_is_slow(clock: Clock) -> None:
    threads = Threads(2, Turn())
    with under_way(threads):
        assert receive(threads.turn, threads.run(max, 3, 4)) == 4
        clock.now += 2 * thread_pool._SLOW_SECONDS
        assert receive(threads.turn, threads.run(max, 3, 4)) is MAIN_LOOP
    assert receive(threads.turn, threads.run(max, 3, 4)) == 4


@in_main_loop
async def test_a_call_does_not_move_for_one_that_hangs(clock: Clock) -> None:
    threads = Threads(2, Turn())
    with under_way(threads):
        clock.now += thread_pool._HUNG_SECONDS
        assert receive(threads.turn, threads.run(max, 3, 4)) == 4


@in_main_loop
async def test_only_so_many_receivers_are_away_on_one_device(clock: Clock) -> None:
    threads = Threads(2, Turn())
    with under_way(threads, 16):
        clock.now += thread_pool._HUNG_SECONDS
        assert receive(threads.turn, threads.run(max, 3, 4)) is MAIN_LOOP
        other = Threads(2, threads.turn)
        assert receive(threads.turn, other.run(max, 3, 4)) == 4
    assert receive(threads.turn, threads.run(max, 3, 4)) == 4


@in_main_loop
async def test_a_call_moves_to_the_main_loop_when_the_device_was_cut_off() -> None:
    threads = Threads(2, Turn())
    threads.cut_off()
    assert receive(threads.turn, threads.run(max, 3, 4)) is MAIN_LOOP
    assert threads.busy == 0


@pytest.mark.usefixtures("clock")
@in_main_loop
async def test_cutting_off_names_the_calls_of_receivers_which_go_on() -> None:
    threads = Threads(2, Turn())
    with under_way(threads, 2):
        assert threads.cut_off() == {"wait": 2}
        assert threads.busy == 2


@in_main_loop
async def test_a_call_that_has_moved_is_made_by_a_thread_of_the_device() -> None:
    threads = Threads(2, Turn())
    assert not threads.turn.is_receiver
    assert await threads.run(threading.get_ident) != threading.get_ident()
    threads.close()


@in_main_loop
async def test_a_receiver_closes_a_descriptor_when_it_has_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed: list[int] = []
    monkeypatch.setattr("mirrorfs.fs.devices.os.close", closed.append)
    device = Device(5, Turn())
    turn = device.threads.turn
    turn.take(is_receiver=True)
    device.close_fd(1001)
    assert closed == []
    then = turn.take_then()
    turn.give()
    for call in then:
        call()
    assert closed == [1001]
    turn.take(is_receiver=False)
    device.close_fd(1002)
    turn.give()
    assert turn.take_then() == []
    wait_for(lambda: closed == [1001, 1002])
    device.threads.cut_off()
    device.close_fd(1003)
    assert closed == [1001, 1002]
    device.threads.close()


@in_main_loop
async def test_no_more_than_some_receivers_close_files_of_a_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On one whose disk hangs each may be away for good."""
    closed: list[int] = []
    monkeypatch.setattr(os, "close", closed.append)
    turn = Turn()
    device = Device(5, turn)
    turn.take(is_receiver=True)
    for fd in range(1000, 1010):
        device.close_fd(fd)
    then = turn.take_then()
    turn.give()
    wait_for(lambda: sorted(closed) == [1008, 1009])
    for call in then:
        call()
    assert sorted(closed) == list(range(1000, 1010))
    assert not device.closing
    device.threads.close()


@in_main_loop
async def test_a_receiver_takes_no_place_among_the_long_calls_of_the_main_loop() -> None:
    device = Device(5, Turn())

    async def handler() -> int:
        async with device.long_call():
            return device.long_calls.borrowed_tokens

    assert receive(device.threads.turn, handler()) == 0
    device.threads.turn.is_receiver = False
    assert await handler() == 1
    assert device.long_calls.borrowed_tokens == 0


@in_main_loop
async def test_a_long_call_on_a_slow_device_takes_its_place_in_the_main_loop(clock: Clock) -> None:
    device = Device(5, Turn())
    threads = device.threads

    async def handler() -> int:
        async with device.long_call():
            return device.long_calls.borrowed_tokens

    with under_way(threads):
        clock.now += 2 * thread_pool._SLOW_SECONDS
        assert receive(threads.turn, handler()) is MAIN_LOOP
    assert receive(threads.turn, handler()) == 0
