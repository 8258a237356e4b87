"""The sessions in the catalog, and the files that they are of: written by one thread of the daemon,
read by that and by commands.

A file is known by its path. When it is renamed, its history goes along, and joins that of a file
that it replaces.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

from mirrorfs.catalog import scrubs
from mirrorfs.catalog.database import signed
from mirrorfs.catalog.session import GOOD, Ending, Session
from mirrorfs.mirror.counters import Counters

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence

# What clients read belongs to no session.
_COUNTERS = [one.name for one in fields(Counters) if one.name != "read_bytes"]
_PLAIN = [one.name for one in fields(Session) if one.name not in {"counters", "number"}]
_COLUMNS = [*_PLAIN, *_COUNTERS]
_SELECTED = ", ".join(f"s.{name}" for name in ["number", *_COLUMNS])
_ASSIGNED = ", ".join(f"{name}=?" for name in _COLUMNS)
_INSERTED = f"({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
_GOOD = ", ".join(f"'{ending}'" for ending in sorted(GOOD))
_MANY = 1000
MAX_SESSIONS = 1_000_000  # some 300 MB
_ENDINGS = {str(ending): ending for ending in Ending}
_COUNTERS_AT = 1 + len(_PLAIN)
_INODE, _STAMPED, _ENDED = (_PLAIN.index(name) for name in ("inode", "is_stamped", "ended"))
_BEFORE = [one.name for one in fields(Session)].index("counters")
_READ = [one.name for one in fields(Counters)].index("read_bytes")


class File(NamedTuple):
    """A file that the catalog knows, with its last session and its last good one; and of how many
    chunks the digest is known, None if none are kept.
    """

    path: bytes
    last: Session
    good: Session | None
    known_chunks: int | None


def begin(db: sqlite3.Connection, session: Session) -> int:
    """Note a session that has begun; returns its number."""
    cursor = db.execute(
        "INSERT INTO sessions (path, begin_ns, program, uid, device, inode, born_ns, size_before,"
        " allocated_before) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            session.path,
            session.begin_ns,
            session.program,
            session.uid,
            session.device,
            signed(session.inode),
            session.born_ns,
            session.size_before,
            session.allocated_before,
        ),
    )
    return int(cursor.lastrowid or 0)


def end(db: sqlite3.Connection, session: Session) -> None:
    """Note how a session ended; its `number` is what `begin` returned, 0 where its beginning was
    not noted. It gets another where what `begin` noted was lost.
    """
    values = [getattr(session, name) for name in _PLAIN]
    values[_INODE] = signed(session.inode)
    values += [getattr(session.counters, name) for name in _COUNTERS]
    number = session.number
    # The number may be that of another session by now.
    where = "number=? AND begin_ns=? AND ended IS NULL"
    if (
        not number
        or not db.execute(
            f"UPDATE sessions SET {_ASSIGNED} WHERE {where}", [*values, number, session.begin_ns]
        ).rowcount
    ):
        number = db.execute(f"INSERT INTO sessions {_INSERTED}", values).lastrowid or 0
    file = _file_of(db, session, number)
    db.execute("UPDATE sessions SET file=? WHERE number=?", (file, number))
    scrubs.note_session(db, session)


def _file_of(db: sqlite3.Connection, session: Session, number: int) -> int:
    """The number of the file of a session, which becomes its last one; `number` is that of the
    session.
    """
    good = number if session.is_good else None
    row = db.execute(
        "INSERT INTO files (path, last_session, good_session) VALUES (?1, ?2, ?3)"
        " ON CONFLICT (path) DO UPDATE SET last_session=?2, is_gone=0,"
        " good_session=coalesce(?3, good_session) RETURNING id",
        (session.path, number, good),
    ).fetchone()
    return int(row[0])


def under_way(db: sqlite3.Connection) -> list[Session]:
    """The sessions that have no end: those of the daemon that runs, or that has died."""
    return list(_sessions(db, "s.ended IS NULL ORDER BY s.number"))


def recent(db: sqlite3.Connection, count: int) -> list[Session]:
    """The sessions that ended, the last one first."""
    return list(_sessions(db, "s.ended IS NOT NULL ORDER BY s.number DESC LIMIT ?", count))


def of_file(db: sqlite3.Connection, path: bytes, count: int) -> list[Session]:
    """The sessions of a file that ended, the last one first."""
    where = "s.file = (SELECT id FROM files WHERE path=?) AND s.ended IS NOT NULL"
    return list(_sessions(db, f"{where} ORDER BY s.number DESC LIMIT ?", path, count))


def select(
    db: sqlite3.Connection, path: bytes | None, since_ns: int, is_incomplete: bool
) -> Iterator[Session]:
    """The sessions that began at `since_ns` or later, of the file or of all below the folder
    `path`, the last one first.
    """
    where = ["s.begin_ns >= ?"]
    arguments: list[object] = [since_ns]
    if path:
        where.append("s.file IN (SELECT id FROM files WHERE path=? OR (path > ? AND path < ?))")
        arguments += [path, path + b"/", path + b"0"]
    if is_incomplete:
        where.append(f"s.ended IS NOT NULL AND s.ended NOT IN ({_GOOD})")
    yield from _sessions(db, " AND ".join(where) + " ORDER BY s.number DESC", *arguments)


class Habit(NamedTuple):
    """What the good sessions of a file were like."""

    was_stamped: bool | None = None  # one by the same program set its mtime; None if there is none
    shares: tuple[float, ...] = ()  # of its data that changed, the last one first


def habit(db: sqlite3.Connection, path: bytes, program: str, count: int) -> Habit:
    """What the last `count` good sessions of a file were like, and those by `program`."""
    row = db.execute("SELECT id FROM files WHERE path=?", (path,)).fetchone()
    if row is None:
        return Habit()
    where = f"s.file=? AND s.ended IN ({_GOOD}) ORDER BY s.number DESC LIMIT ?"
    shares = tuple(one.changed_share for one in _sessions(db, where, row[0], count))
    # Any of them: one that was called good by mistake must not hide the next.
    found = db.execute(
        "SELECT max(is_stamped) FROM (SELECT is_stamped FROM sessions WHERE file=? AND program=?"
        f" AND ended IN ({_GOOD}) ORDER BY number DESC LIMIT ?)",
        (row[0], program, count),
    ).fetchone()[0]
    return Habit(None if found is None else bool(found), shares)


def _sessions(db: sqlite3.Connection, where: str, *values: object) -> Iterator[Session]:
    for row in db.execute(f"SELECT {_SELECTED} FROM sessions s WHERE {where}", values):
        yield _session(row)


def _session(row: Sequence[Any]) -> Session:
    # By position, as there may be many: 10,000 files have 20,000 to be told of.
    plain = [*row[1:_COUNTERS_AT]]
    plain[_INODE] &= (1 << 64) - 1
    plain[_STAMPED] = bool(plain[_STAMPED])
    if plain[_ENDED] is not None:
        plain[_ENDED] = _ENDINGS[plain[_ENDED]]
    counted = [*row[_COUNTERS_AT:]]
    counted.insert(_READ, 0)
    plain.insert(_BEFORE, Counters(*counted))
    plain.append(row[0])
    return Session(*plain)


def files(db: sqlite3.Connection, least_bytes: int = 0) -> Iterator[File]:
    """The files that are still there, so far as was seen, and had `least_bytes` of size or of
    allocated space after their last session, by path. They come without their ranges, which may
    be long.
    """
    selected = _SELECTED.replace("s.ranges", "x''")
    rows = db.execute(
        f"SELECT f.path, f.good_session, f.known_chunks, {selected} FROM files f"
        " JOIN sessions s ON s.number=f.last_session"
        " WHERE f.is_gone=0 AND max(coalesce(s.allocated_after, 0), coalesce(s.size_after, 0)) >= ?"
        " ORDER BY f.path",
        (least_bytes,),
    )
    for path, good_number, known_chunks, *row in rows:
        last = _session(row)
        good: Session | None = last
        # Of most files the last session is the good one, and none but that is read.
        if good_number != last.number:
            where = f"SELECT {selected} FROM sessions s WHERE s.number=?"
            found = db.execute(where, (good_number,)).fetchone()
            good = None if found is None else _session(found)
        yield File(path, last, good, known_chunks)


def note_known(db: sqlite3.Connection, path: bytes, chunks: int | None) -> None:
    """Note of how many chunks of a file the digest is known; None if none are kept."""
    db.execute("UPDATE files SET known_chunks=? WHERE path=?", (chunks, path))


def note_moved(db: sqlite3.Connection, old: bytes, new: bytes) -> None:
    """Note that what lay at `old`, a file or a folder, lies at `new` now."""
    moved = db.execute("SELECT id FROM files WHERE path=?", (old,)).fetchone()
    if moved is not None:
        replaced = db.execute("SELECT id FROM files WHERE path=?", (new,)).fetchone()
        if replaced is not None:
            db.execute("UPDATE sessions SET file=? WHERE file=?", (moved[0], replaced[0]))
            db.execute("DELETE FROM files WHERE id=?", replaced)
        db.execute("UPDATE files SET path=? WHERE id=?", (new, moved[0]))
    scrubs.note_moved(db, old, new)
    below = (old + b"/", old + b"0")
    if db.execute("SELECT 1 FROM files WHERE path > ? AND path < ?", below).fetchone():
        _move_below(db, old, new)


def _move_below(db: sqlite3.Connection, old: bytes, new: bytes) -> None:
    # What the catalog still has of a folder that was there before is of files that are gone.
    db.execute("DELETE FROM files WHERE path > ? AND path < ?", (new + b"/", new + b"0"))
    rows = db.execute(
        "SELECT id, path FROM files WHERE path > ? AND path < ?", (old + b"/", old + b"0")
    ).fetchall()
    moved = [(new + path[len(old) :], number) for number, path in rows]
    db.executemany("UPDATE files SET path=? WHERE id=?", moved)


def note_exchanged(db: sqlite3.Connection, one: bytes, other: bytes) -> None:
    """Note that two have exchanged their names (RENAME_EXCHANGE)."""
    between = one + b"\0"  # no path has such a byte
    note_moved(db, one, between)
    note_moved(db, other, one)
    note_moved(db, between, other)


def note_removed(db: sqlite3.Connection, paths: Iterable[bytes]) -> None:
    """Note that files are no more. What happened to them stays known."""
    gone = [(path,) for path in paths]
    db.executemany("UPDATE files SET is_gone=1 WHERE path=?", gone)
    db.executemany("DELETE FROM damage WHERE path=?", gone)


def prune(db: sqlite3.Connection, before_ns: int) -> int:
    """Forget sessions that ended before `before_ns`, and those before the last `MAX_SESSIONS`, but
    for the last one of each file that is there, and its last good one; returns how many. To be
    called again if there were many.
    """
    cursor = db.execute(
        "DELETE FROM sessions WHERE number IN (SELECT number FROM sessions"
        " WHERE (end_ns < ? OR number <= (SELECT max(number) FROM sessions) - ?)"
        " AND number NOT IN (SELECT last_session FROM files WHERE is_gone=0)"
        " AND number NOT IN (SELECT good_session FROM files"
        " WHERE is_gone=0 AND good_session IS NOT NULL) ORDER BY number LIMIT ?)",
        (before_ns, MAX_SESSIONS, _MANY),
    )
    if cursor.rowcount < _MANY:
        db.execute(
            "DELETE FROM files WHERE is_gone=1"
            " AND last_session NOT IN (SELECT number FROM sessions)"
        )
    return cursor.rowcount


def life(db: sqlite3.Connection) -> dict[str, int]:
    """The counters of all mounts before, by name."""
    return dict(db.execute("SELECT name, value FROM life"))


def set_life(db: sqlite3.Connection, counters: dict[str, int]) -> None:
    """Note the counters of all mounts up to now."""
    db.executemany("INSERT OR REPLACE INTO life (name, value) VALUES (?, ?)", counters.items())
