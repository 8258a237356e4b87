"""Sessions come back from the catalog as they were noted, and take little room there."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from mirrorfs.catalog import sessions
from mirrorfs.catalog.session import Ending, Session
from mirrorfs.mirror.counters import Counters

if TYPE_CHECKING:
    import sqlite3

MAX_BYTES = 1024


def note(db: sqlite3.Connection, session: Session) -> Session:
    session = replace(session, number=sessions.begin(db, session))
    sessions.end(db, session)
    return session


def session(path: bytes = b"vm.img", ended: Ending = Ending.CLOSED, **more: Any) -> Session:
    return Session(path, 1_800_000_000 * 10**9, "rsync", 0, ended=ended, **more)


def test_every_field_comes_back(db: sqlite3.Connection) -> None:
    counted = {one.name: 1000 + n for n, one in enumerate(fields(Counters))}
    counters = Counters(**{**counted, "read_bytes": 0})
    full = Session(
        path=b"a\xff.img",
        begin_ns=1,
        program="rsync",
        uid=2,
        device=3,
        inode=(1 << 64) - 4,
        born_ns=-5,
        written_as=b".a\xff.img.AbC123",
        end_ns=6,
        ended=Ending.ABANDONED,
        size_before=7,
        size_after=8,
        allocated_before=9,
        allocated_after=10,
        counters=counters,
        changed_chunks=11,
        zeroed_bytes=12,
        is_stamped=True,
        errors="EIO 1",
        unusual="much",
        ranges=b"\x01\x02",
    )
    assert all(getattr(full, one.name) is not None for one in fields(Session))
    full = note(db, full)
    (seen,) = sessions.recent(db, 10)
    assert seen == full
    assert isinstance(seen.ended, Ending)
    assert sessions.of_file(db, full.path, 10) == [full]
    (known,) = sessions.files(db)
    assert known[:3] == (full.path, replace(full, ranges=b""), None)


def test_a_file_is_known_by_its_last_session_and_its_last_good_one(
    db: sqlite3.Connection,
) -> None:
    good = note(db, session())
    assert [one[:3] for one in sessions.files(db)] == [(b"vm.img", good, good)]
    killed = note(db, session(ended=Ending.KILLED))
    torn = note(db, session(b"torn.img", Ending.KILLED))
    assert [one[:3] for one in sessions.files(db)] == [
        (b"torn.img", torn, None),
        (b"vm.img", killed, good),
    ]


def test_a_session_takes_less_than_a_kibibyte(db: sqlite3.Connection) -> None:
    count = 5000
    db.execute("BEGIN")
    for number in range(count):
        counters = Counters(*(number << 20 for _ in fields(Counters)))
        path = b"machines/customer-%04d/disk.qcow2" % (number % 500)
        note(db, session(path, end_ns=1, size_after=number << 30, counters=counters))
    db.commit()
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    page_bytes = db.execute("PRAGMA page_size").fetchone()[0]
    assert pages * page_bytes / count < MAX_BYTES
