"""The threads that receive requests: one that waits holds up nothing, and all of them end."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.commands import run, wait_for
from tests.mount import tiny_callables as tiny_fs

if TYPE_CHECKING:
    from tests.mount.tiny_mounts import Tiny

FILES = 9  # beside the one that is open
SPARE = 4  # see native/receive.c
GO_ON = tiny_fs.GO + 1


def let_wait(tiny: Tiny, count: int) -> None:
    """Let so many receivers wait."""
    for number in range(count):
        tiny.begin(number + 1, "seek", tiny_fs.WAIT)
    tiny.reported("waits", count)


def test_a_receiver_that_waits_holds_up_no_other_request(tiny: Tiny) -> None:
    let_wait(tiny, 1)
    assert tiny.seek(5) == 6
    assert tiny.write(1) == 3
    assert tiny.results == []
    assert tiny.seek(tiny_fs.GO) == GO_ON
    assert tiny.finish() == [tiny_fs.WAIT + 1]
    assert tiny.seek(5) == 6


def test_many_receivers_may_wait_and_few_are_left_when_they_have_ended(tiny: Tiny) -> None:
    let_wait(tiny, FILES)
    count = tiny.seek(tiny_fs.COUNT)
    assert isinstance(count, int)
    assert count > FILES
    assert tiny.seek(tiny_fs.GO) == GO_ON
    assert tiny.finish() == [tiny_fs.WAIT + 1] * FILES
    wait_for(lambda: int(tiny.seek(tiny_fs.COUNT)) <= SPARE + 1)
    assert tiny.seek(5) == 6


def test_receivers_that_are_left_are_used_again(tiny: Tiny) -> None:
    for _ in range(20):
        let_wait(tiny, 2)
        assert tiny.seek(tiny_fs.GO) == GO_ON
        assert tiny.finish() == [tiny_fs.WAIT + 1] * 2
        assert tiny.seek(tiny_fs.WAIT_AGAIN) == tiny_fs.WAIT_AGAIN + 1
        tiny.report.write_text("")
    wait_for(lambda: int(tiny.seek(tiny_fs.COUNT)) <= SPARE + 1)
    tiny.end()


def test_idle_receivers_end_when_they_are_stopped(tiny: Tiny) -> None:
    let_wait(tiny, FILES)
    tiny.seek(tiny_fs.GO)
    tiny.finish()
    tiny.end()
    (started,) = tiny.reported("served")[0]
    assert started > FILES


def test_a_receiver_that_waits_when_they_are_stopped_sees_its_request_through(tiny: Tiny) -> None:
    let_wait(tiny, 1)
    tiny.server.send_signal(signal.SIGTERM)
    tiny.reported("stopped")
    tiny.server.send_signal(signal.SIGUSR1)  # lets it go on
    tiny.close()
    tiny.expect_end()
    assert len(tiny.reported("stopped")) == 1
    assert tiny.finish() == [tiny_fs.WAIT + 1]


def test_receivers_end_with_the_mount(tiny: Tiny) -> None:
    assert tiny.seek(5) == 6
    tiny.close()
    run("umount", tiny.path)
    tiny.expect_end()
    (started,) = tiny.reported("served")[0]
    assert started >= 2
    assert tiny.reported("released") == [[0, 0]]


def test_a_call_after_the_answer_does_not_hold_it_up(tiny: Tiny) -> None:
    assert tiny.write(tiny_fs.AFTER) == 3
    tiny.reported("answered")
    assert tiny.seek(5) == 6
    assert tiny.seek(tiny_fs.GO) == GO_ON
    assert tiny.reported("after") == [[]]


def test_an_exception_of_a_call_after_the_answer_is_reported(tiny: Tiny) -> None:
    assert tiny.write(tiny_fs.AFTER_RAISES) == 3
    assert tiny.reported("unraisable") == [["ZeroDivisionError('after the answer')"]]
    assert tiny.write(1) == 3


def test_a_call_comes_after_a_result_that_is_no_answer_too(tiny: Tiny) -> None:
    assert tiny.write(tiny_fs.AFTER_NO_ANSWER) == "EIO"
    assert tiny.reported("after") == [[]]
    assert "TypeError" in tiny.reported("unraisable")[0][0]


@pytest.mark.parametrize("count", [1, 3])
def test_a_message_that_is_kept_stays_as_it_is(tiny: Tiny, count: int) -> None:
    for number in range(count):
        tiny.begin(number + 1, "write", tiny_fs.KEEP_DATA)
    tiny.reported("kept data", count)
    for size in (1, 3, 5000, 1 << 20):
        assert os.pwrite(tiny.fd, os.urandom(size), 1 << 16) == size
    assert tiny.seek(5) == 6
    assert tiny.seek(tiny_fs.CHECK) == count
    assert tiny.finish() == [3] * count
