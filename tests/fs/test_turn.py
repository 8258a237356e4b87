"""The turn: who gets it, and what a receiver does when it has given it away."""

from __future__ import annotations

import threading
import time

import pytest
import trio

from mirrorfs.fs.turn import MAIN_LOOP, Turn
from tests.commands import wait_for
from tests.fs.gates import LONG
from tests.fs.tables import in_main_loop, receive

ROUNDS = 50


def join(*threads: threading.Thread) -> None:
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()


@in_main_loop
async def test_only_one_thread_has_the_turn() -> None:
    turn, inside, met = Turn(), list[int](), list[int]()

    def work() -> None:
        for _ in range(ROUNDS):
            turn.take(is_receiver=True)
            met.extend(inside)
            inside.append(threading.get_ident())
            time.sleep(0)  # lets others run, if they can
            inside.pop()
            turn.give()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    join(*threads)
    assert met == []


@in_main_loop
async def test_a_thread_that_waits_gets_the_turn_before_one_that_wants_it_back_at_once() -> None:
    turn, order = Turn(), []

    def wait() -> None:
        turn.take(is_receiver=True)
        order.append("waited")
        turn.give()

    for _ in range(ROUNDS):
        turn.take(is_receiver=True)
        thread = threading.Thread(target=wait)
        thread.start()
        wait_for(turn._next.locked)  # it is the next
        turn.give()
        turn.take(is_receiver=True)
        order.append("took it back")
        turn.give()
        join(thread)
    assert order == ["waited", "took it back"] * ROUNDS


@pytest.mark.parametrize("is_receiver", [True, False])
@in_main_loop
async def test_the_turn_says_whether_a_receiver_has_it(is_receiver: bool) -> None:
    turn = Turn()
    assert not turn.is_receiver
    for one in (not is_receiver, is_receiver):
        turn.take(one)
        turn.give()
    assert turn.is_receiver is is_receiver


@in_main_loop
async def test_a_handler_moves_to_the_main_loop_from_a_receiver_alone() -> None:
    turn, after = Turn(), []

    async def handler() -> str:
        await turn.to_main_loop()
        after.append(threading.get_ident())
        return "done"

    assert receive(turn, handler()) is MAIN_LOOP
    assert after == []
    turn.take(is_receiver=False)
    with trio.CancelScope() as scope:
        scope.cancel()
        assert await handler() == "done"  # without a checkpoint
    turn.give()
    assert after == [threading.get_ident()]


@in_main_loop
async def test_what_is_to_be_called_then_is_there_once_and_in_order() -> None:
    turn, called = Turn(), []
    assert turn.take_then() == []
    turn.then(lambda: called.append(1))
    turn.then(lambda: called.append(2))
    calls = turn.take_then()
    assert called == []
    assert turn.take_then() == []
    for call in calls:
        call()
    assert called == [1, 2]


@in_main_loop
async def test_the_turn_knows_the_main_loop_in_which_it_was_made() -> None:
    assert Turn().main_loop is trio.lowlevel.current_trio_token()


def test_a_turn_cannot_be_made_without_a_main_loop() -> None:
    with pytest.raises(RuntimeError):
        Turn()
