"""The file of the catalog: opened to write, to read, made anew where it cannot be used.

Guarantees: a file that is damaged is set aside by another name and never removed; one of a newer
version is left as it is. A kill of the daemon leaves the last transaction whole or not at all; a
power cut may take the last ones, and leaves those before (https://www.sqlite.org/wal.html,
synchronous=NORMAL).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from typing import TYPE_CHECKING
from urllib.parse import quote_from_bytes

from mirrorfs.backing import state_folder
from mirrorfs.backing.paths import show
from mirrorfs.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Sequence

STEM = b"catalog."  # of the name of each file
NAME = STEM + b"sqlite3"
_BESIDE = (b"-wal", b"-shm", b"-journal")
_BUSY_SECONDS = 5.0
_PAGE_BYTES = 1024
_DAMAGED = frozenset({"SQLITE_CORRUPT", "SQLITE_NOTADB"})

# Each brings a catalog from the version that is its place in here to the next one.
_MIGRATIONS: Sequence[str] = (
    """
    CREATE TABLE files (
        id INTEGER PRIMARY KEY,
        path BLOB NOT NULL UNIQUE,
        last_session INTEGER NOT NULL,
        good_session INTEGER,
        is_gone INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE sessions (
        number INTEGER PRIMARY KEY,
        file INTEGER,
        path BLOB NOT NULL,
        begin_ns INTEGER NOT NULL,
        program TEXT NOT NULL,
        uid INTEGER NOT NULL,
        device INTEGER NOT NULL,
        inode INTEGER NOT NULL,
        born_ns INTEGER NOT NULL,
        written_as BLOB,
        end_ns INTEGER,
        ended TEXT,
        size_before INTEGER,
        size_after INTEGER,
        allocated_before INTEGER,
        allocated_after INTEGER,
        received_bytes INTEGER NOT NULL DEFAULT 0,
        written_bytes INTEGER NOT NULL DEFAULT 0,
        unchanged_bytes INTEGER NOT NULL DEFAULT 0,
        punched_bytes INTEGER NOT NULL DEFAULT 0,
        hole_bytes INTEGER NOT NULL DEFAULT 0,
        shared_bytes INTEGER NOT NULL DEFAULT 0,
        failed_bytes INTEGER NOT NULL DEFAULT 0,
        discarded_bytes INTEGER NOT NULL DEFAULT 0,
        write_requests INTEGER NOT NULL DEFAULT 0,
        compared_bytes INTEGER NOT NULL DEFAULT 0,
        freed_bytes INTEGER NOT NULL DEFAULT 0,
        changed_chunks INTEGER NOT NULL DEFAULT 0,
        zeroed_bytes INTEGER NOT NULL DEFAULT 0,
        is_stamped INTEGER NOT NULL DEFAULT 0,
        errors TEXT NOT NULL DEFAULT '',
        unusual TEXT NOT NULL DEFAULT '',
        ranges BLOB NOT NULL DEFAULT x''
    );
    CREATE INDEX sessions_of_file ON sessions (file, number) WHERE file IS NOT NULL;
    CREATE INDEX sessions_under_way ON sessions (number) WHERE ended IS NULL;
    CREATE TABLE life (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
    """,
    """
    ALTER TABLE sessions ADD COLUMN trusted_bytes INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE sessions ADD COLUMN repaired_chunks INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE scrubs (
        number INTEGER PRIMARY KEY,
        below BLOB NOT NULL,
        begin_ns INTEGER NOT NULL,
        end_ns INTEGER NOT NULL,
        ended TEXT,
        files INTEGER NOT NULL DEFAULT 0,
        small_files INTEGER NOT NULL DEFAULT 0,
        busy_files INTEGER NOT NULL DEFAULT 0,
        changed_files INTEGER NOT NULL DEFAULT 0,
        failed_files INTEGER NOT NULL DEFAULT 0,
        read_bytes INTEGER NOT NULL DEFAULT 0,
        learned_chunks INTEGER NOT NULL DEFAULT 0,
        damaged_chunks INTEGER NOT NULL DEFAULT 0,
        unreadable_chunks INTEGER NOT NULL DEFAULT 0,
        well_again_chunks INTEGER NOT NULL DEFAULT 0,
        repaired_chunks INTEGER NOT NULL DEFAULT 0,
        next_path BLOB,
        next_chunk INTEGER NOT NULL DEFAULT 0,
        next_stamp TEXT NOT NULL DEFAULT ''
    );
    CREATE TABLE damage (
        path BLOB PRIMARY KEY,
        inode INTEGER NOT NULL,
        born_ns INTEGER NOT NULL,
        found_ns INTEGER NOT NULL,
        chunks INTEGER NOT NULL,
        repaired_chunks INTEGER NOT NULL DEFAULT 0,
        damaged BLOB NOT NULL,
        unreadable BLOB NOT NULL
    );
    ALTER TABLE files ADD COLUMN known_chunks INTEGER;
    """,
)
VERSION = len(_MIGRATIONS)


class NewerCatalogError(StateError):
    """The catalog was made by a newer mirrorfs."""


def open_to_write(folder_fd: int, folder: bytes) -> tuple[sqlite3.Connection, str]:
    """The catalog in the state folder `folder`, which is also the descriptor `folder_fd`; made if
    there is none. One that is damaged is set aside; returns its new name, too, else nothing.

    Raises NewerCatalogError, OSError (also where the path leads to another folder, as under a mount
    that hides it), and sqlite3.Error.
    """
    _check_place(folder_fd, folder)
    try:
        return _connect(folder_fd, folder), ""
    except sqlite3.DatabaseError as exc:
        if not is_damaged(exc):
            raise
    name = set_aside(folder_fd)
    return _connect(folder_fd, folder), name


def open_beside(folder_fd: int, folder: bytes) -> sqlite3.Connection | None:
    """The catalog in the state folder, to write to it beside a daemon that may have it open; None
    if there is none. One that is damaged is left as it is.

    Raises NewerCatalogError, OSError and sqlite3.Error.
    """
    _check_place(folder_fd, folder)
    try:
        os.stat(NAME, dir_fd=folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return _connect(folder_fd, folder)


def _check_place(folder_fd: int, folder: bytes) -> None:
    # SQLite knows paths alone.
    here, there = os.fstat(folder_fd), os.stat(folder)
    if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
        raise FileNotFoundError(2, "something else is mounted over it")


def _connect(folder_fd: int, folder: bytes) -> sqlite3.Connection:
    # Made here, as SQLite would let others read it.
    os.close(state_folder.open_file(folder_fd, NAME, os.O_RDWR | os.O_CREAT))
    connection = sqlite3.connect(
        os.path.join(folder, NAME),
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise NewerCatalogError(
                f"{show(os.path.join(folder, NAME))}: was made by a newer mirrorfs (version "
                f"{version}, this one knows {VERSION}); nothing is noted there"
            )
        # Small ones: a session changes a few rows in as many places, and each is written twice.
        connection.execute(f"PRAGMA page_size={_PAGE_BYTES}")
        # Not every file system has what WAL needs (mmap of a shared file); then it is a journal.
        connection.execute("PRAGMA journal_mode=WAL").fetchone()
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA temp_store=MEMORY")
        migrate(connection, version)
    except BaseException:
        connection.close()
        raise
    return connection


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring a catalog of `version` up to this one's, in one transaction. Raises sqlite3.Error."""
    if version == VERSION:
        # Of a file that is damaged in its head the version alone can be read.
        connection.execute("SELECT 1 FROM files LIMIT 1").fetchone()
        return
    statements = "".join(_MIGRATIONS[version:])
    connection.executescript(f"BEGIN; {statements} PRAGMA user_version={VERSION}; COMMIT;")


def set_aside(folder_fd: int) -> str:
    """Give a damaged catalog, and what belongs to it, another name; returns that. Raises OSError.

    All connections to it are closed.
    """
    name = f"{STEM.decode()}damaged-{time.strftime('%Y%m%dT%H%M%S')}"
    os.rename(NAME, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
    for suffix in _BESIDE:
        with contextlib.suppress(FileNotFoundError):
            os.rename(
                NAME + suffix,
                os.fsencode(name) + suffix,
                src_dir_fd=folder_fd,
                dst_dir_fd=folder_fd,
            )
    return name


def is_damaged(exc: sqlite3.Error) -> bool:
    """Whether an error says that the file is no catalog, or damaged, rather than that the disk is
    full or fails.
    """
    name = getattr(exc, "sqlite_errorname", "") or ""
    return name.startswith(tuple(_DAMAGED)) or "no such table" in str(exc)


def open_to_read(folder: bytes) -> sqlite3.Connection | None:
    """The catalog in the state folder `folder`, for a command, also while a daemon writes to it;
    None if there is none. Raises StateError, also for one that is damaged or newer.
    """
    path = os.path.join(folder, NAME)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise StateError(f"{show(path)}: is no regular file; remove it, and mount again")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise StateError(f"{show(path)}: {exc.strerror}; run this as its owner") from None
    ways = ["mode=ro"]
    if not os.path.exists(path + _BESIDE[0]):
        # Where nothing can be written, and all is in the file itself.
        ways.append("mode=ro&immutable=1")
    for options in ways:
        try:
            connection = sqlite3.connect(
                f"file:{quote_from_bytes(path)}?{options}", uri=True, timeout=_BUSY_SECONDS
            )
        except sqlite3.Error as exc:  # a folder, above all
            error = exc
            continue
        try:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        except sqlite3.Error as exc:
            connection.close()
            error = exc
            continue
        if version > VERSION:
            connection.close()
            raise NewerCatalogError(
                f"{show(path)}: was made by a newer mirrorfs (version {version}, this one knows "
                f"{VERSION}); use that one"
            )
        if version < VERSION:
            connection.close()
            if not version:
                return None
            raise StateError(
                f"{show(path)}: was made by an older mirrorfs (version {version}); the next mount "
                "brings it up to date"
            )
        return connection
    raise StateError(
        f"{show(path)}: cannot be read ({error}); the next mount sets a damaged one aside"
    )


def signed(number: int) -> int:
    """A number of 64 bits as SQLite has it, with a sign."""
    return number - (1 << 64) if number >= 1 << 63 else number
