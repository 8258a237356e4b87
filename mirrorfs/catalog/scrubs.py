"""The scrubs in the catalog, and the damage that they have found. Written by scrubs, which are
processes of their own, and by the daemon, whose sessions repair.

A row of damage is of one file: which chunks, and how many of them were given anew since. It goes
when all were, when a scrub finds them good, and with the file.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple

from mirrorfs.catalog import ranges
from mirrorfs.catalog.database import signed

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from mirrorfs.catalog.ranges import Ranges
    from mirrorfs.catalog.session import Session

COMPLETE = "complete"
STOPPED = "stopped"  # its time was used up, or a signal came
_KEPT = 1000


class Place(NamedTuple):
    """Where a scrub goes on: the file, the chunk in it, and what tells that it is as it was."""

    path: bytes
    chunk: int = 0
    stamp: str = ""


@dataclass(slots=True)
class Counts:
    """What a scrub has met. Files in use, or that could not be read, were left out; small ones have
    no digests.
    """

    files: int = 0
    small_files: int = 0
    busy_files: int = 0
    changed_files: int = 0  # beside the mount
    failed_files: int = 0
    read_bytes: int = 0
    learned_chunks: int = 0
    damaged_chunks: int = 0
    unreadable_chunks: int = 0
    well_again_chunks: int = 0
    repaired_chunks: int = 0


@dataclass(slots=True)
class Scrub:
    """One round through all below a path; it may take several calls. Times in ns since the
    epoch.
    """

    below: bytes  # the backing folder; empty for all of it
    begin_ns: int
    end_ns: int
    ended: str | None = None  # None while it goes on, or if it was killed
    counts: Counts = field(default_factory=Counts)
    next: Place | None = None  # where to go on
    number: int = 0


class Damage(NamedTuple):
    """Of a file, which is told from others by inode number and time of birth. Ranges of chunks."""

    path: bytes
    inode: int
    born_ns: int
    found_ns: int
    chunks: int
    repaired_chunks: int
    damaged: Ranges
    unreadable: Ranges

    @property
    def left_chunks(self) -> int:
        """How many were not given anew yet."""
        return max(0, self.chunks - self.repaired_chunks)


_COUNTS = [one.name for one in fields(Counts)]
_NAMES = ["number", "below", "begin_ns", "end_ns", "ended", *_COUNTS]
_SELECTED = ", ".join([*_NAMES, "next_path", "next_chunk", "next_stamp"])
_PLAIN = len(_NAMES) - len(_COUNTS)


def last(db: sqlite3.Connection, below: bytes) -> Scrub | None:
    """The last scrub of all below this path; None if there was none."""
    query = f"SELECT {_SELECTED} FROM scrubs WHERE below=? ORDER BY number DESC LIMIT 1"
    row = db.execute(query, (below,)).fetchone()
    return None if row is None else _scrub(row)


def _scrub(row: tuple[Any, ...]) -> Scrub:
    number, below, begin_ns, end_ns, ended = row[:_PLAIN]
    counts = Counts(*row[_PLAIN : len(_NAMES)])
    path, chunk, stamp = row[len(_NAMES) :]
    place = None if path is None else Place(path, chunk, stamp)
    return Scrub(below, begin_ns, end_ns, ended, counts, place, number)


def last_complete_ns(db: sqlite3.Connection) -> int | None:
    """When the last scrub of all of the backing folder was complete; None if none ever was."""
    query = "SELECT max(end_ns) FROM scrubs WHERE below=x'' AND ended=?"
    found: int | None = db.execute(query, (COMPLETE,)).fetchone()[0]
    return found


def note(db: sqlite3.Connection, scrub: Scrub) -> None:
    """Note how far a scrub is, or how it ended; its first note gives it a number."""
    place = scrub.next or Place(b"")
    values: dict[str, Any] = {name: getattr(scrub.counts, name) for name in _COUNTS}
    values |= {"below": scrub.below, "begin_ns": scrub.begin_ns, "end_ns": scrub.end_ns}
    values |= {"ended": scrub.ended, "next_path": None if scrub.next is None else place.path}
    values |= {"next_chunk": place.chunk, "next_stamp": place.stamp}
    if scrub.number:
        names = ", ".join(f"{name}=?" for name in values)
        values["number"] = scrub.number
        db.execute(f"UPDATE scrubs SET {names} WHERE number=?", [*values.values()])
        return
    marks = ", ".join("?" * len(values))
    query = f"INSERT INTO scrubs ({', '.join(values)}) VALUES ({marks})"
    scrub.number = db.execute(query, [*values.values()]).lastrowid or 0
    db.execute("DELETE FROM scrubs WHERE number <= ?", (scrub.number - _KEPT,))


def damage(db: sqlite3.Connection, below: bytes = b"") -> list[Damage]:
    """All that is damaged at this path or below it, by path."""
    where, values = "", tuple[bytes, ...]()
    if below:
        where = " WHERE path=? OR (path > ? AND path < ?)"
        values = below, below + b"/", below + b"0"
    names = "path, inode, born_ns, found_ns, chunks, repaired_chunks, damaged, unreadable"
    rows = db.execute(f"SELECT {names} FROM damage{where} ORDER BY path", values)
    return [
        Damage(
            path,
            inode & (1 << 64) - 1,
            born_ns,
            found_ns,
            chunks,
            repaired,
            ranges.decode(damaged),
            ranges.decode(unreadable),
        )
        for path, inode, born_ns, found_ns, chunks, repaired, damaged, unreadable in rows
    ]


def note_damage(
    db: sqlite3.Connection,
    path: bytes,
    identity: tuple[int, int],
    span: tuple[int, int],
    damaged: Ranges,
    unreadable: Ranges,
) -> None:
    """Note what a scrub has found in the chunks `span` of a file: nothing, or these. `identity` is
    its inode number and time of birth; what was known of another file of that name is forgotten.
    """
    inode, born_ns = identity
    known = [one for one in damage(db, path) if one.path == path]
    before = [one for one in known if (one.inode, one.born_ns) == (inode, born_ns)]
    for one in before:
        damaged = ranges.united(ranges.without(one.damaged, *span), damaged)
        unreadable = ranges.united(ranges.without(one.unreadable, *span), unreadable)
    if not damaged and not unreadable:
        if known:
            db.execute("DELETE FROM damage WHERE path=?", (path,))
        return
    found_ns = min((one.found_ns for one in before), default=time.time_ns())
    db.execute(
        "INSERT OR REPLACE INTO damage (path, inode, born_ns, found_ns, chunks, damaged,"
        " unreadable) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            path,
            signed(inode),
            born_ns,
            found_ns,
            ranges.count(damaged) + ranges.count(unreadable),
            ranges.encode(ranges.bounded(damaged)),
            ranges.encode(ranges.bounded(unreadable)),
        ),
    )


def keep_damage(db: sqlite3.Connection, below: bytes, paths: Iterable[bytes]) -> None:
    """Forget the damage of files at or below a path that are not among `paths`."""
    there = set(paths)
    gone = [(one.path,) for one in damage(db, below) if one.path not in there]
    db.executemany("DELETE FROM damage WHERE path=?", gone)


def note_session(db: sqlite3.Connection, session: Session) -> None:
    """Note what a session has given anew of a damaged file, or that another one has its name."""
    query = "SELECT inode, born_ns FROM damage WHERE path=?"
    row = db.execute(query, (session.path,)).fetchone()
    if row is None or session.written_as is not None:
        return
    if session.inode and row != (signed(session.inode), session.born_ns):
        db.execute("DELETE FROM damage WHERE path=?", (session.path,))
    elif session.repaired_chunks:
        query = "UPDATE damage SET repaired_chunks=repaired_chunks+? WHERE path=?"
        db.execute(query, (session.repaired_chunks, session.path))
        query = "DELETE FROM damage WHERE path=? AND repaired_chunks >= chunks"
        db.execute(query, (session.path,))


def note_moved(db: sqlite3.Connection, old: bytes, new: bytes) -> None:
    """Note that what lay at `old`, a file or a folder, lies at `new` now."""
    if db.execute("SELECT 1 FROM damage LIMIT 1").fetchone() is None:
        return
    db.execute("DELETE FROM damage WHERE path=?", (new,))
    for one in damage(db, old):
        moved = new + one.path[len(old) :]
        db.execute("UPDATE OR REPLACE damage SET path=? WHERE path=?", (moved, one.path))
