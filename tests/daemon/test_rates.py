"""Rates from two readings, and which files are the busiest."""

from __future__ import annotations

import pytest

from mirrorfs.daemon import rates
from mirrorfs.daemon.rates import FilesReading, Moved, Rates, Reading

DAEMON = (1, 10.0)


def reading(
    seconds: float, moved: Moved, daemon: tuple[int, float] = DAEMON, **errors: int
) -> Reading:
    return Reading(seconds, daemon, moved, errors)


def test_rates_are_differences_by_the_time_between() -> None:
    before = reading(100.0, Moved(1000, 500, 70))
    after = reading(102.0, Moved(1400, 600, 70))
    found = rates.of_mount(before, after)
    assert found == Rates(200, 50, 0)
    assert found is not None
    assert found.not_written == 0.75


def test_nothing_received_is_no_share() -> None:
    assert Rates(0, 0, 5).not_written is None
    # What was received before may be written now.
    assert Rates(10, 20, 0).not_written == 0


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, None),
        (None, reading(1, Moved(1, 1, 1))),
        (reading(1, Moved(1, 1, 1)), None),
        (reading(1, Moved(1, 1, 1)), reading(2, Moved(9, 9, 9), (2, 10.0))),
        (reading(1, Moved(1, 1, 1)), reading(2, Moved(9, 9, 9), (1, 11.0))),
        (reading(1, Moved(1, 1, 1)), reading(1, Moved(9, 9, 9))),
        (reading(1, Moved(5, 1, 1)), reading(2, Moved(4, 1, 1))),
    ],
)
def test_there_are_no_rates_without_two_readings_of_one_daemon(
    before: Reading | None, after: Reading | None
) -> None:
    assert rates.of_mount(before, after) is None


def test_errors_are_those_since_mount_and_the_new_ones() -> None:
    moved = Moved(0, 0, 0)
    before, after = reading(1, moved, EIO=1), reading(2, moved, EIO=2, ENOSPC=3)
    assert rates.errors(before, after) == (5, 4)
    assert rates.errors(None, after) == (5, 0)
    assert rates.errors(reading(1, moved, (2, 3.0), EIO=1), after) == (5, 0)
    assert rates.errors(before, None) == (0, 0)


def busiest(before: dict[str, Moved], after: dict[str, Moved]) -> list[tuple[str, Rates]]:
    return rates.busiest(FilesReading(1.0, before), FilesReading(3.0, after))


def test_the_busiest_file_is_the_first_and_idle_ones_are_left_out() -> None:
    before = {name: Moved(10, 10, 10) for name in ("idle", "read", "written", "a", "b")}
    after = {
        "idle": Moved(10, 10, 10),
        "b": Moved(12, 10, 10),
        "a": Moved(12, 10, 10),
        "written": Moved(50, 20, 10),
        "read": Moved(10, 10, 110),
        "new": Moved(6, 6, 0),
    }
    assert busiest(before, after) == [
        ("read", Rates(0, 0, 50)),
        ("written", Rates(20, 5, 0)),
        ("new", Rates(3, 3, 0)),
        ("a", Rates(1, 0, 0)),
        ("b", Rates(1, 0, 0)),
    ]


def test_a_file_that_gets_its_final_name_goes_on() -> None:
    before = {".vm.img.x7": Moved(1000, 900, 0), "gone": Moved(5000, 5000, 0)}
    after = {"vm.img": Moved(1100, 960, 0)}
    assert busiest(before, after) == [("vm.img", Rates(50, 30, 0))]
    # It cannot be one that had more of something.
    before = {"gone": Moved(1000, 900, 8)}
    assert busiest(before, after) == [("vm.img", Rates(550, 480, 0))]
    # Each that is gone is one file at most.
    before = {"one": Moved(100, 0, 0), "two": Moved(90, 0, 0)}
    after = {"1": Moved(100, 0, 0), "2": Moved(100, 0, 0), "3": Moved(100, 0, 0)}
    assert busiest(before, after) == [("3", Rates(50, 0, 0)), ("2", Rates(5, 0, 0))]


def test_counters_that_are_none_are_refused() -> None:
    counted = {"received_bytes": 3, "written_bytes": 2, "read_bytes": 1, "more": 0}
    assert Moved.parse(counted) == Moved(3, 2, 1)
    with pytest.raises(KeyError):
        Moved.parse({"received_bytes": 3})
    with pytest.raises(TypeError):
        Moved.parse({"received_bytes": None, "written_bytes": 2, "read_bytes": 1})
