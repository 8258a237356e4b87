"""Two threads that take turns by a handoff in C."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from mirrorfs._native import Handoff, pass_on

ROUNDS = 2000


def test_a_handoff_that_was_given_twice_is_there_once() -> None:
    given = Handoff()
    given.give()
    given.give()
    assert pass_on(None, given, 0.0)
    assert not pass_on(None, given, 0.0)


def test_waiting_for_a_handoff_has_an_end() -> None:
    for seconds in (0.0, 0.00001, 0.05):
        begun = time.monotonic()
        assert not pass_on(None, Handoff(), seconds)
        assert time.monotonic() - begun >= seconds


@pytest.mark.parametrize("after", [0.0, 0.00002, 0.1])
@pytest.mark.parametrize("limit", [-1, 20.0])
def test_a_thread_that_waits_gets_the_handoff_awake_or_asleep(after: float, limit: float) -> None:
    awaited = Handoff()
    threading.Timer(after, awaited.give).start()
    assert pass_on(None, awaited, limit)


def test_two_threads_take_turns() -> None:
    here, there, turns = Handoff(), Handoff(), []

    def other() -> None:
        given = None
        for number in range(ROUNDS):
            assert pass_on(given, there, 20.0)
            turns.append(number)
            given = here
        here.give()

    thread = threading.Thread(target=other)
    thread.start()
    for number in range(ROUNDS):
        assert pass_on(there, here, 20.0)
        assert turns[-1] == number
        assert len(turns) == number + 1
    thread.join(20)


def test_waiting_for_a_handoff_goes_on_over_a_signal() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: seen.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        begun = time.monotonic()
        assert not pass_on(None, Handoff(), 0.2)
        assert time.monotonic() - begun >= 0.2
        assert seen == [signal.SIGALRM]
    finally:
        signal.signal(signal.SIGALRM, before)


def test_what_is_no_handoff_is_refused() -> None:
    with pytest.raises(TypeError):
        pass_on(1, Handoff(), 0.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        pass_on(None, None, 0.0)  # type: ignore[arg-type]
