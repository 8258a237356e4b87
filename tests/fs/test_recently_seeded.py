"""Files whose stale tail has just ended: for how long that is known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from mirrorfs.fs.recently_seeded import RecentlySeeded
from tests.fs.tables import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock().set_in(monkeypatch, "fs.recently_seeded")


def inode(number: int, node_id: int = 0) -> Any:
    return cast("Any", SimpleNamespace(node_id=node_id or number, key=(1, number, 0)))


def known(seeded: RecentlySeeded, file: Any) -> tuple[bool, bool]:
    """Whether a status may be old, and whether its recovery attribute may be on the disk."""
    return seeded.has(file), seeded.may_be_marked(file)


def test_a_status_may_be_old_for_seconds_and_the_attribute_be_there_for_minutes(
    clock: Clock,
) -> None:
    seeded, file = RecentlySeeded(), inode(5)
    assert known(seeded, file) == (False, False)
    seeded.note(file)
    for seconds, expected in [
        (4.9, (True, True)),
        (0.2, (False, True)),
        (594.8, (False, True)),
        (0.2, (False, False)),
    ]:
        clock.now += seconds
        seeded.sweep()
        assert known(seeded, file) == expected, seconds


@pytest.mark.usefixtures("clock")
def test_a_file_that_the_kernel_met_anew_may_still_have_its_attribute() -> None:
    seeded = RecentlySeeded()
    seeded.note(inode(5))
    assert known(seeded, inode(5, node_id=77)) == (False, True)


def test_a_file_that_had_a_stale_tail_twice_is_known_since_the_second(clock: Clock) -> None:
    seeded, first, second = RecentlySeeded(), inode(5), inode(6)
    seeded.note(first)
    clock.now += 1
    seeded.note(second)
    clock.now += 500
    seeded.note(first)
    clock.now += 100
    seeded.sweep()
    assert known(seeded, second) == (False, False)
    assert known(seeded, first) == (False, True)
