"""Scrubs and the damage that they have found, as the catalog has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mirrorfs.catalog import ranges, scrubs, sessions
from mirrorfs.catalog.scrubs import Counts, Place, Scrub
from mirrorfs.catalog.session import Ending, Session

if TYPE_CHECKING:
    import sqlite3

ME = (1 << 63 | 5, 77)  # inode and time of birth


def found(db: sqlite3.Connection) -> list[tuple[bytes, int, ranges.Ranges, ranges.Ranges]]:
    return [(one.path, one.left_chunks, one.damaged, one.unreadable) for one in scrubs.damage(db)]


def session(path: bytes, repaired: int, key: tuple[int, int] = ME) -> Session:
    return Session(
        path,
        1,
        "rsync",
        0,
        inode=key[0],
        born_ns=key[1],
        end_ns=2,
        ended=Ending.CLOSED,
        repaired_chunks=repaired,
    )


def test_a_scrub_comes_back_as_it_was_noted(db: sqlite3.Connection) -> None:
    scrub = Scrub(b"a", 1, 2, None, Counts(*range(11)), Place(b"a/b", 7, "5 6"))
    scrubs.note(db, scrub)
    assert scrubs.last(db, b"a") == scrub
    assert scrubs.last(db, b"") is None
    scrub.ended, scrub.next, scrub.end_ns = scrubs.COMPLETE, None, 9
    scrubs.note(db, scrub)
    assert scrubs.last(db, b"a") == scrub
    assert db.execute("SELECT count(*) FROM scrubs").fetchone() == (1,)
    assert scrubs.last_complete_ns(db) is None  # it was one of a part
    scrubs.note(db, Scrub(b"", 1, 4, scrubs.COMPLETE))
    assert scrubs.last_complete_ns(db) == 4


def test_damage_is_noted_span_by_span(db: sqlite3.Connection) -> None:
    scrubs.note_damage(db, b"vm", ME, (0, 10), [(2, 4), (8, 9)], [(9, 10)])
    assert found(db) == [(b"vm", 4, [(2, 4), (8, 9)], [(9, 10)])]
    scrubs.note_damage(db, b"vm", ME, (10, 20), [], [(10, 11)])
    assert found(db) == [(b"vm", 5, [(2, 4), (8, 9)], [(9, 11)])]
    scrubs.note_damage(db, b"vm", ME, (0, 10), [(3, 4)], [])
    assert found(db) == [(b"vm", 2, [(3, 4)], [(10, 11)])]
    scrubs.note_damage(db, b"vm", ME, (0, 20), [], [])
    assert found(db) == []


def test_damage_is_of_one_file(db: sqlite3.Connection) -> None:
    scrubs.note_damage(db, b"vm", ME, (0, 10), [(2, 4)], [])
    scrubs.note_damage(db, b"vm", (6, 77), (5, 6), [(5, 6)], [])
    assert found(db) == [(b"vm", 1, [(5, 6)], [])]
    sessions.end(db, session(b"vm", 0, (6, 77)))
    assert found(db)
    sessions.end(db, session(b"vm", 0))
    assert found(db) == []


def test_sessions_make_it_good(db: sqlite3.Connection) -> None:
    scrubs.note_damage(db, b"vm", ME, (0, 10), [(2, 5)], [])
    sessions.end(db, session(b"vm", 2))
    assert [left for _, left, _, _ in found(db)] == [1]
    sessions.end(db, session(b"vm", 1))
    assert found(db) == []


def test_it_goes_where_the_file_goes(db: sqlite3.Connection) -> None:
    for path in (b"a/vm", b"a/other", b"ab", b"b/vm"):
        scrubs.note_damage(db, path, ME, (0, 10), [(2, 5)], [])
    sessions.note_moved(db, b"a", b"c")
    assert [path for path, *_ in found(db)] == [b"ab", b"b/vm", b"c/other", b"c/vm"]
    sessions.note_moved(db, b"ab", b"b/vm")
    assert [path for path, *_ in found(db)] == [b"b/vm", b"c/other", b"c/vm"]
    sessions.note_removed(db, [b"c/vm"])
    assert [path for path, *_ in found(db)] == [b"b/vm", b"c/other"]
    scrubs.keep_damage(db, b"c", [b"b/vm"])
    assert [path for path, *_ in found(db)] == [b"b/vm"]
    scrubs.keep_damage(db, b"", [])
    assert found(db) == []


@pytest.mark.parametrize(
    ("one", "first", "stop", "left"),
    [
        ([(0, 10)], 3, 5, [(0, 3), (5, 10)]),
        ([(0, 3), (5, 10)], 2, 6, [(0, 2), (6, 10)]),
        ([(3, 5)], 0, 10, []),
        ([(3, 5)], 5, 9, [(3, 5)]),
        ([], 5, 9, []),
    ],
)
def test_ranges_without_a_span(
    one: ranges.Ranges, first: int, stop: int, left: ranges.Ranges
) -> None:
    assert ranges.without(one, first, stop) == left


def test_ranges_united() -> None:
    assert ranges.united([(5, 6), (0, 2)], [(2, 3), (9, 10)]) == [(0, 3), (5, 6), (9, 10)]
    assert ranges.united([], []) == []
