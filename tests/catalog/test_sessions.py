"""Sessions and files in the catalog."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mirrorfs.catalog import sessions
from mirrorfs.catalog.session import Ending, Session
from mirrorfs.mirror.counters import NAMES, Counters

if TYPE_CHECKING:
    import sqlite3

    import pytest

DAY = 86_400 * 10**9


def add(
    db: sqlite3.Connection,
    path: bytes,
    ended: Ending = Ending.CLOSED,
    at: int = 1,
    program: str = "rsync",
    is_stamped: bool = False,
) -> Session:
    begun = Session(path, at * DAY, program, 0)
    number = sessions.begin(db, begun)
    over = replace(begun, number=number, end_ns=at * DAY + 5, ended=ended, is_stamped=is_stamped)
    sessions.end(db, over)
    return over


def test_a_session_is_read_as_it_was_noted(db: sqlite3.Connection) -> None:
    counters = Counters(**{name: 3 + place for place, name in enumerate(NAMES)})
    counters.read_bytes = 0  # belongs to no session
    begun = Session(b"a/vm\xff.img", 5, "cp", 1000, 77, (1 << 64) - 2, 9, size_before=4)
    number = sessions.begin(db, begun)
    assert sessions.under_way(db) == [replace(begun, number=number)]
    over = replace(
        begun,
        number=number,
        written_as=b"a/.tmp",
        end_ns=8,
        ended=Ending.KILLED,
        size_after=1 << 62,
        allocated_before=0,
        allocated_after=4096,
        counters=counters,
        changed_chunks=3,
        zeroed_bytes=1,
        is_stamped=True,
        errors="EIO 1, ENOSPC 2",
        unusual="99 % of its data is gone",
        ranges=b"\x00\x01",
    )
    sessions.end(db, over)
    assert sessions.recent(db, 9) == [over]
    assert sessions.under_way(db) == []
    assert over.as_dict()["errors"] == {"EIO": 1, "ENOSPC": 2}


def test_a_file_has_its_last_session_and_its_last_good_one(db: sqlite3.Connection) -> None:
    good, killed = add(db, b"vm.img"), add(db, b"vm.img", Ending.KILLED, at=2)
    never = add(db, b"new.img", Ending.FAILED)
    found = list(sessions.files(db))
    expected = [(b"new.img", never, None), (b"vm.img", killed, good)]
    assert [one[:3] for one in found] == expected
    assert all(one.last.is_incomplete for one in found)
    again = add(db, b"vm.img", at=3)
    assert list(sessions.files(db))[1][:3] == (b"vm.img", again, again)


def test_a_file_that_is_renamed_takes_its_history_along(db: sqlite3.Connection) -> None:
    first = add(db, b"a/old.img")
    replaced = add(db, b"b/new.img", at=2)
    sessions.note_moved(db, b"a/old.img", b"b/new.img")
    assert [one.path for one in sessions.files(db)] == [b"b/new.img"]
    assert sessions.of_file(db, b"b/new.img", 9) == [replaced, first]
    assert sessions.of_file(db, b"a/old.img", 9) == []


def test_a_folder_that_is_renamed_takes_its_files_along(db: sqlite3.Connection) -> None:
    for path in (b"daily.0/x", b"daily.0/sub/y", b"daily.00/z", b"daily.1/gone"):
        add(db, path)
    sessions.note_moved(db, b"daily.0", b"daily.1")
    found = [one.path for one in sessions.files(db)]
    assert found == [b"daily.00/z", b"daily.1/sub/y", b"daily.1/x"]


def test_files_that_change_places_keep_their_histories(db: sqlite3.Connection) -> None:
    one, other = add(db, b"one"), add(db, b"other", at=2)
    sessions.note_exchanged(db, b"one", b"other")
    assert sessions.of_file(db, b"one", 9) == [other]
    assert sessions.of_file(db, b"other", 9) == [one]


def test_what_is_removed_is_gone_until_it_is_written_again(db: sqlite3.Connection) -> None:
    first = add(db, b"vm.img")
    sessions.note_removed(db, [b"vm.img"])
    assert list(sessions.files(db)) == []
    assert sessions.of_file(db, b"vm.img", 9) == [first]
    second = add(db, b"vm.img", Ending.KILLED, at=2)
    assert [one[:3] for one in sessions.files(db)] == [(b"vm.img", second, first)]


def test_sessions_are_selected_by_path_time_and_ending(db: sqlite3.Connection) -> None:
    old, new = add(db, b"a/vm.img"), add(db, b"a/vm.img", Ending.FAILED, at=5)
    other = add(db, b"ab", at=7)
    assert list(sessions.select(db, None, 0, False)) == [other, new, old]
    assert list(sessions.select(db, b"a", 0, False)) == [new, old]
    assert list(sessions.select(db, b"a/vm.img", 2 * DAY, False)) == [new]
    assert list(sessions.select(db, None, 0, True)) == [new]


def test_whether_a_program_sets_times_is_known_by_its_good_sessions(
    db: sqlite3.Connection,
) -> None:
    assert sessions.habit(db, b"vm.img", "rsync", 9) == sessions.Habit(None, ())
    add(db, b"vm.img", is_stamped=True)
    add(db, b"vm.img")  # one that was called good by mistake
    add(db, b"vm.img", program="qemu", at=2)
    add(db, b"vm.img", Ending.UNSTAMPED, at=3)
    assert sessions.habit(db, b"vm.img", "rsync", 9) == sessions.Habit(True, (0.0, 0.0, 0.0))
    assert sessions.habit(db, b"vm.img", "qemu", 1) == sessions.Habit(False, (0.0,))


def test_old_sessions_go_but_for_what_says_how_a_file_stands(db: sqlite3.Connection) -> None:
    add(db, b"vm.img")
    good, last = add(db, b"vm.img", at=2), add(db, b"vm.img", Ending.KILLED, at=3)
    add(db, b"gone.img")
    sessions.note_removed(db, [b"gone.img"])
    assert sessions.prune(db, 100 * DAY) == 2
    assert sessions.recent(db, 9) == [last, good]
    assert db.execute("SELECT count(*) FROM files").fetchone() == (1,)
    assert sessions.prune(db, 100 * DAY) == 0


def test_no_more_than_so_many_are_kept(
    db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 3)
    every = [add(db, b"vm.img", at=day) for day in range(1, 7)]
    assert sessions.prune(db, 0) == 3
    assert sessions.recent(db, 9) == every[:2:-1]


def test_a_session_whose_beginning_was_lost_is_noted_all_the_same(db: sqlite3.Connection) -> None:
    other = add(db, b"other.img", at=5)
    lost = Session(b"vm.img", 7, "cp", 0, number=other.number, end_ns=8, ended=Ending.CLOSED)
    sessions.end(db, lost)
    assert sessions.recent(db, 9) == [replace(lost, number=other.number + 1), other]
    assert [one.path for one in sessions.files(db)] == [b"other.img", b"vm.img"]


def test_many_are_pruned_in_several_steps(
    db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "_MANY", 2)
    for day in range(1, 7):
        add(db, b"vm.img", at=day)
    steps = [sessions.prune(db, 100 * DAY) for _ in range(3)]
    assert steps == [2, 2, 1]


def test_the_counters_of_all_mounts_are_kept(db: sqlite3.Connection) -> None:
    assert sessions.life(db) == {}
    sessions.set_life(db, {"received_bytes": 5})
    sessions.set_life(db, {"received_bytes": 7, "read_bytes": 1})
    assert sessions.life(db) == {"received_bytes": 7, "read_bytes": 1}


def test_a_session_takes_less_than_a_kibibyte(db: sqlite3.Connection) -> None:
    db.execute("BEGIN")
    for number in range(4000):
        path = b"images/customers/some-machine-%d.qcow2" % (number % 100)
        begun = Session(path, 10**18 + number, "rsync", 0, 64769, 10**7, 10**18)
        over = replace(
            begun,
            number=sessions.begin(db, begun),
            end_ns=10**18 + 10**10,
            ended=Ending.CLOSED,
            size_before=50 << 30,
            size_after=50 << 30,
            allocated_before=10 << 30,
            allocated_after=10 << 30,
            counters=Counters(50 << 30, 1 << 30, 9 << 30, 1 << 20, 40 << 30, 0, 0, 0, 50_000),
            changed_chunks=5000,
            is_stamped=True,
        )
        sessions.end(db, over)
    db.execute("COMMIT")
    pages, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size")
    )
    assert pages * size < 4000 * 1024
