"""Two threads that take turns, with batons in C and with those of Python's locks."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import pytest

from mirrorfs import _baton  # type: ignore[attr-defined]
from mirrorfs.fs import handoff

KINDS = {"c": (_baton.Baton, _baton.pass_on), "python": (handoff._Handoff, handoff._pass_on)}
ROUNDS = 2000


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]


def test_the_one_in_c_is_what_is_used() -> None:
    assert handoff.Handoff is _baton.Baton


def test_one_that_was_given_is_there_once(kind: Any) -> None:
    make, pass_on = kind
    given = make()
    given.give()
    given.give()
    assert pass_on(None, given, 0.0)
    assert not pass_on(None, given, 0.0)


def test_waiting_has_an_end(kind: Any) -> None:
    make, pass_on = kind
    for seconds in (0.0, 0.00001, 0.05):
        begun = time.monotonic()
        assert not pass_on(None, make(), seconds)
        assert time.monotonic() - begun >= seconds


@pytest.mark.parametrize("after", [0.0, 0.00002, 0.1])
@pytest.mark.parametrize("limit", [-1, 20.0])
def test_whoever_waits_gets_it_awake_or_asleep(kind: Any, after: float, limit: float) -> None:
    make, pass_on = kind
    awaited = make()
    threading.Timer(after, awaited.give).start()
    assert pass_on(None, awaited, limit)


def test_two_take_turns(kind: Any) -> None:
    make, pass_on = kind
    here, there, turns = make(), make(), []

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


def test_waiting_goes_on_over_a_signal(kind: Any) -> None:
    make, pass_on = kind
    seen: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: seen.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        begun = time.monotonic()
        assert not pass_on(None, make(), 0.2)
        assert time.monotonic() - begun >= 0.2
        assert seen == [signal.SIGALRM]
    finally:
        signal.signal(signal.SIGALRM, before)


def test_what_is_no_baton_is_refused() -> None:
    with pytest.raises(TypeError):
        _baton.pass_on(1, _baton.Baton(), 0.0)
    with pytest.raises(TypeError):
        _baton.pass_on(None, None, 0.0)
